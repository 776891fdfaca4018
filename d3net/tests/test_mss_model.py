"""The music network: published parameters, reference numbers, training steps, engines."""
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

from common.inference.engines import REQUIREMENTS, compile_network
from d3net.hyperparameters import load_mss, save_hyper_parameters
from d3net.mss_model import TARGETS, D3NetMSS

DATA = Path(__file__).parent / "data"


def network(target):
    return D3NetMSS(load_mss(target), target)


def reference_input(seed, batch, frames):
    return (20 * np.abs(np.random.RandomState(seed).randn(batch, frames, 2, 2049))).astype(np.float32)


def worst(value, wanted):
    return np.abs(value - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("target", [*TARGETS, "tiny"])
def test_parameters_are_the_published_ones(target, functions):
    with gzip.open(DATA / "manifests.json.gz", "rt") as file:
        manifest = json.load(file)[f"mss {target}"]
    network(target)(nn.Variable((1, 16, 2, 2049)), test=functions == "native")
    found = {name: [list(p.shape), p.need_grad] for name, p in nn.get_parameters(grad_only=False).items()}
    assert found == manifest


def test_the_graph_has_a_third_fewer_functions_than_that_of_the_published_code():
    count = 0

    def add(function):
        nonlocal count
        count += 1

    network("vocals")(nn.Variable((1, 16, 2, 2049))).visit(add)
    assert count == 1014    # published: 1613


@pytest.mark.parametrize("target, seed, batch, frames", [("other", 3, 1, 16), ("tiny", 4, 2, 32)])
def test_agrees_with_the_reference(target, seed, batch, frames, functions, fill):
    x = reference_input(seed, batch, frames)
    y = network(target)(nn.Variable.from_numpy_array(x))
    fill(seed)
    y.forward(clear_no_need_grad=True)
    with np.load(DATA / "mss_networks.npz") as stored:
        wanted, (total, largest, _) = stored[f"{target}_y"], stored[f"{target}_sum"]
        assert np.array_equal(x[0, :2, :, :8], stored[f"{target}_x_head"])
    assert worst(y.d[:, ::2 if frames > 16 else 1, :, ::4], wanted) < 1e-5
    assert y.d.sum(dtype=np.float64) == pytest.approx(total, rel=1e-5)
    assert y.d.max() == pytest.approx(largest, rel=1e-5)


def test_upper_bins_are_those_of_the_mixture(fill):
    x = reference_input(0, 1, 8)
    y = network("tiny")(nn.Variable.from_numpy_array(x))
    fill(0)
    y.forward()
    assert np.array_equal(y.d[..., 1600:], x[..., 1600:])
    assert (y.d >= 0).all()


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "winograd"])
def test_engines_agree(engine, fill):
    if engine in REQUIREMENTS and importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    x = reference_input(1, 1, 16)
    build = network("drums")
    build(nn.Variable(x.shape))
    fill(1)
    y, = compile_network(build, [x.shape], engine)(x)
    with np.load(DATA / "mss_networks.npz") as stored:    # nnabla's
        assert worst(y[..., ::4], stored["drums_y"]) < 1e-5


@pytest.mark.slow
def test_training_steps_agree_with_the_reference(functions, fill):
    rng = np.random.RandomState(7)
    mixture = (0.1 * rng.randn(2, 2, 33792)).astype(np.float32)
    target = (0.5 * mixture + 0.02 * rng.randn(2, 2, 33792)).astype(np.float32)
    magnitudes = nn.Variable.from_numpy_array(_magnitudes(mixture))
    loss = F.mean(F.squared_error(network("tiny")(magnitudes, test=False),
                                  nn.Variable.from_numpy_array(_magnitudes(target))))
    parameters = fill(7)
    solver = S.Adam(1e-3)
    solver.set_parameters(nn.get_parameters())
    with np.load(DATA / "mss_train.npz") as stored:
        for step, wanted in enumerate(stored["losses"]):
            loss.forward(clear_no_need_grad=True)
            assert float(loss.d) == pytest.approx(wanted, rel=1e-3)
            solver.zero_grad()
            loss.backward(clear_buffer=True)
            if step == 0:
                _check_gradients(stored)
            solver.weight_decay(1e-4)
            solver.update()
            if step == 0:
                _check_values(parameters, stored)


def _magnitudes(audio):
    """(batch, channels, samples) to (batch, 32 frames, channels, bins)."""
    batch, channels, samples = audio.shape
    x = nn.Variable.from_numpy_array(audio.reshape(batch * channels, samples))
    real, imag = F.stft(x, 4096, 1024, 4096, "hanning", center=True, pad_mode="reflect")
    nn.forward_all([real, imag])
    magnitude = np.sqrt(real.d**2 + imag.d**2).reshape(batch, channels, 2049, -1)
    return magnitude.transpose(0, 3, 1, 2)[:, :32]


def _check_gradients(stored):
    wanted = dict(zip(stored["grad_norm_names"], stored["grad_norms"], strict=True))
    norms = {name: np.linalg.norm(p.g) for name, p in nn.get_parameters().items()}
    assert norms == pytest.approx(wanted, rel=2e-3, abs=1e-4 * max(wanted.values()))


def _check_values(parameters, stored):
    for key in stored:
        name = key.removeprefix("after1:")
        if name != key:
            error = np.abs(parameters[name].d - stored[key])
            if not parameters[name].need_grad:
                assert error.max() < 1e-5 * np.abs(stored[key]).max()
            else:
                # Adam's first step is 1e-3 times the sign of the gradient: where rounding decides on that, it is open.
                assert (error > 1e-4).mean() < 1e-3 and error.max() < 2.1e-3


def test_statistics_standardize_the_input_of_graphs_that_exist():
    net = network("tiny")
    x = reference_input(1, 1, 8)
    inputs = nn.Variable.from_numpy_array(x)
    y = net(inputs)
    mean, std = np.linspace(1, 2, 2049), np.linspace(3, 1, 2049)
    inputs.d = (x - mean) / std
    y.forward()
    wanted = y.d[..., :1600].copy()
    net.set_statistics(mean, std)
    inputs.d = x
    y.forward()
    assert worst(y.d[..., :1600], wanted) < 1e-4


def test_all_bins_may_be_one_band(tmp_path, fill):
    tiny = load_mss("tiny")
    bands = ("num_init_features", "num_layer_blocks", "dens_k", "b_n_blocks", "comp_rates")
    save_hyper_parameters(tmp_path / "one.yaml", attrs.evolve(
        tiny, band_split_idxs=(), **{key: getattr(tiny, key)[1:] for key in bands}))
    x = reference_input(1, 1, 8)
    one = D3NetMSS(load_mss(tmp_path / "one.yaml"), "vocals")(nn.Variable.from_numpy_array(x))
    parameters = fill(1)
    assert {name.split("/")[2] for name in parameters if "/dense_band/" in name} == {"0"}
    one.forward()
    assert one.shape == x.shape
    assert one.d[..., :1600].std() > 0.01 and np.isfinite(one.d).all()


def test_a_mask_is_what_the_magnitudes_are_multiplied_by():
    net = network("tiny")
    x = reference_input(1, 1, 8)
    magnitudes, masked = (D3NetMSS(attrs.evolve(net.hparams, mask=mask), net.target)(nn.Variable.from_numpy_array(x))
                          for mask in (False, True))
    for output in (magnitudes, masked):
        output.forward()
    np.testing.assert_allclose(masked.d[..., :1600], magnitudes.d[..., :1600] * x[..., :1600], rtol=1e-5)
    np.testing.assert_array_equal(masked.d[..., 1600:], x[..., 1600:])


def test_statistics_may_come_before_the_graph():
    net = network("tiny")
    net.set_statistics(np.full(2049, 2.), np.full(2049, 3.))
    net(nn.Variable((1, 4, 2, 2049)))
    parameters = nn.get_parameters()
    assert parameters["tiny/in_offset"].shape == parameters["tiny/in_scale"].shape == (1, 1, 1, 2049)
    assert (parameters["tiny/in_offset"].d == 2).all() and (parameters["tiny/in_scale"].d == 3).all()


def test_initial_values_are_those_of_the_published_training():
    nn.random.seed(0)
    network("other")(nn.Variable((1, 16, 2, 2049)))
    parameters = nn.get_parameters()
    w = parameters["other/dense_full/bottleneck_block/initial_block/initial_layer/bottleneck/conv1/conv/W"].d
    assert w.std() == pytest.approx(np.sqrt(2 / (9 * w.shape[1] + w.shape[0])), rel=0.02)
    assert not any(p.d.any() for name, p in parameters.items() if name.endswith("conv/b"))
    assert (parameters["other/decode_scale"].d == 1).all() and (parameters["other/decode_bias"].d == 1).all()
    up = parameters["other/dense_full/us_layers/upsample0/upsample/transconv/deconv/W"].d
    assert np.abs(up).max() <= np.sqrt(6 / (4 * 2 * len(up)))    # nnabla's uniform distribution


@pytest.mark.parametrize("shape", [(1, 6, 2, 2049), (1, 8, 1, 2049), (1, 8, 2, 1025)])
def test_spectrograms_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="2 channels, 2049 bins and multiples of 4 frames"):
        network("tiny")(nn.Variable(shape))
