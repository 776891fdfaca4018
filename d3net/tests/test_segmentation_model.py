"""The segmentation network: published parameters, reference numbers, training steps, engines."""
import gzip
import importlib.util
import json
from pathlib import Path

import attrs
import nnabla as nn
import nnabla.functions as F
import nnabla.solvers as S
import numpy as np
import pytest

from common.inference.engines import compile_network
from common.machine.context import native_functions
from common.workbench.testing import same_arrays
from d3net.hyperparameters import load_segmentation
from d3net.segmentation_model import backbone, d3net_segmentation

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("name", ["D3Net-S", "D3Net-L", "tiny"])
def test_parameters_are_the_published_ones(name, functions):
    with gzip.open(DATA / "manifests.json.gz", "rt") as file:
        manifest = json.load(file)[f"seg {name}"]
    d3net_segmentation(nn.Variable((1, 3, 64, 64)), load_segmentation(name), test=functions == "native")
    found = {name: [list(p.shape), p.need_grad] for name, p in nn.get_parameters(grad_only=False).items()}
    assert found == manifest


@pytest.mark.parametrize("name, seed, height, width", [("S", 6, 64, 128), ("L", 7, 64, 64)])
def test_agrees_with_the_reference(name, seed, height, width, fill):
    x = np.random.RandomState(seed).randn(1, 3, height, width).astype(np.float32)
    y = d3net_segmentation(nn.Variable.from_numpy_array(x), load_segmentation(f"D3Net_{name}"))
    fill(seed)
    y.forward(clear_no_need_grad=True)
    with np.load(DATA / "seg_networks.npz") as stored:
        assert np.array_equal(x[0, :, :2, :4], stored[f"{name}_x_head"])
        np.testing.assert_allclose(y.d[:, :, ::4, ::4], stored[f"{name}_prob"], rtol=0, atol=2e-6)
        certain = stored[f"{name}_margin_gt_1e-3"]
        assert np.array_equal(y.d.argmax(1)[certain], stored[f"{name}_argmax"][certain])


@pytest.mark.parametrize("engine", ["nnabla", "onnxruntime", "openvino"])
def test_engines_agree_on_odd_sizes(engine, fill):
    if importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    x = np.random.default_rng(0).standard_normal((1, 3, 33, 47)).astype(np.float32)

    def build(image):
        return d3net_segmentation(image, load_segmentation("D3Net_S"))

    with native_functions():
        y = build(nn.Variable.from_numpy_array(x))
    fill(6)
    y.forward(clear_no_need_grad=True)
    result, = compile_network(build, [x.shape], engine)(x)
    assert y.shape == (1, 19, 33, 47)
    assert np.abs(result - y.d).max() < 1e-4 * y.d.max()
    np.testing.assert_allclose(result.sum(1), 1, atol=1e-5)


# S normalizes 8 values per channel on its coarsest scale: with nnabla's functions, noise of 2e-7 in the image moves
# norms of gradients by 0.8 %, the values after a step by 5e-4, and the loss of the next step by 1.4 %.
@pytest.mark.parametrize("name, seed, shape, later, gradients, values", [
    ("tiny", 9, (64, 96), 1e-3, 2e-3, 1e-4), ("S", 8, (64, 64), 0.03, 0.03, 1e-3)])
def test_training_steps_agree_with_the_reference(name, seed, shape, later, gradients, values, functions, fill):
    hparams = load_segmentation("tiny" if name == "tiny" else "D3Net_S")
    image, label = reference_batch(seed, *shape)
    logits = d3net_segmentation(nn.Variable.from_numpy_array(image), hparams, test=False)
    loss = F.mean(F.softmax_cross_entropy(logits, nn.Variable.from_numpy_array(label), axis=1))
    parameters = fill(seed)
    solver = S.Momentum(hparams.lr, hparams.momentum)
    solver.set_parameters(nn.get_parameters())
    with np.load(DATA / f"seg_train_{name}.npz") as stored:
        assert np.array_equal(label[0, 0, :2], stored["label_first_rows"])
        for step, wanted in enumerate(stored["losses"]):
            solver.set_learning_rate(
                (hparams.lr - hparams.min_lr) * (1 - step / 10) ** hparams.power + hparams.min_lr)
            loss.forward(clear_no_need_grad=True)
            assert float(loss.d) == pytest.approx(wanted, rel=later if step else 1e-4)
            solver.zero_grad()
            loss.backward(clear_buffer=True)
            if step == 0:
                wanted = dict(zip(stored["grad_norm_names"], stored["grad_norms"], strict=True))
                norms = {name: np.linalg.norm(p.g) for name, p in nn.get_parameters().items()}
                assert norms == pytest.approx(wanted, rel=gradients, abs=1e-4 * max(wanted.values()))
            solver.weight_decay(hparams.weight_decay)
            solver.update()
            if step == 0:
                check_values(parameters, stored, values)


def reference_batch(seed, height, width):
    rng = np.random.RandomState(seed)
    image = rng.randn(2, 3, height, width).astype(np.float32)
    label = rng.randint(0, 19, (2, 1, height // 8, width // 8)).repeat(8, 2).repeat(8, 3)
    label[rng.rand(2, 1, height, width) < 0.1] = -1
    return image, label


def check_values(parameters, stored, tolerance):
    for key in stored:
        name = key.removeprefix("after1:")
        if name != key:
            scale = np.abs(stored[key]).max()
            atol = scale * (tolerance if parameters[name].need_grad else max(1e-5, tolerance / 10))
            np.testing.assert_allclose(parameters[name].d, stored[key], rtol=0, atol=atol)


def test_recomputing_changes_no_gradient(gradients):
    image, label = reference_batch(0, 32, 64)
    found = []
    for recompute in (False, True):
        nn.clear_parameters()
        logits = d3net_segmentation(nn.Variable.from_numpy_array(image), load_segmentation("tiny"), False, recompute)
        loss = F.mean(F.softmax_cross_entropy(logits, nn.Variable.from_numpy_array(label), axis=1))
        found.append(gradients(loss))
    assert same_arrays(*found)


def test_without_dilation_pixels_see_less_of_the_image(fill):
    """How many pixels of the image a logit depends on."""
    seen = []
    for dilation in (True, False):
        nn.clear_parameters()
        hparams = attrs.evolve(load_segmentation("tiny"), dilation=[dilation] * 4, n_blocks=[1] * 4)
        x = nn.Variable.from_numpy_array(np.random.default_rng(0).standard_normal((1, 3, 256, 256)), need_grad=True)
        with nn.parameter_scope("backbone"):
            tap = backbone(x, hparams)[0]
        fill(0)
        pick = np.zeros(tap.shape, np.float32)
        pick[0, :, 32, 32] = 1
        x.grad.zero()
        tap.forward()
        tap.backward(pick)
        seen.append(np.count_nonzero(x.g))
    assert seen[0] > 1.5 * seen[1]


def test_initial_values_are_those_of_the_published_training():
    nn.random.seed(0)
    d3net_segmentation(nn.Variable((1, 3, 32, 32)), load_segmentation("D3Net_S"))
    parameters = nn.get_parameters()
    assert parameters["decode_head/convs/0/conv/conv/W"].d.std() == pytest.approx(0.01, rel=0.02)
    w = parameters["backbone/dense4/d2_block/block0/d2block/initial_layer/init_layer/bottle_neck/conv1/conv/W"].d
    assert np.abs(w).max() == pytest.approx(np.sqrt(6 / (9 * (w.shape[0] + w.shape[1]))), rel=0.01)
