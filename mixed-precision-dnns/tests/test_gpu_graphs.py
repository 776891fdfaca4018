"""What the host does while a GPU trains: it makes no array beyond single elements, and reads no value in a step.

The kernels are run by an emulated driver; their numbers are those of the CPU.
"""
import contextlib

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest

from common.gpu import sizes
from common.machine.context import native_functions, use_context
from common.machine.seeding import seed_everything
from common.quantizers import QUANTIZER_NAMES, QUANTIZERS
from common.workbench.testing import host_arrays
from mixed_precision_dnns.clipping import clip_gradients, clip_values, learned_tensors
from mixed_precision_dnns.config import RELU, Config, ImageNetConfig
from mixed_precision_dnns.imagenet_models import MODELS
from mixed_precision_dnns.network_size import activation_kbytes, weight_kbytes
from mixed_precision_dnns.quantized_network import build_network
from mixed_precision_dnns.train_resnet import build_loss, clipped_update, make_solver

SHAPE, CLASSES = (3, 32, 32), 5


@pytest.fixture(autouse=True)
def cpu():
    use_context("cpu")


def quantized(quantizer):
    """Settings of a network with a budget whose weights and activations are quantized."""
    if quantizer is None:
        return {}
    return {"w_quantize": quantizer, "a_quantize": quantizer + RELU, "target_weight_kbytes": 10.0,
            "target_activation_kbytes": 10.0}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("quantizer", [None, *QUANTIZER_NAMES])
def test_the_host_makes_no_arrays_for_resnets_of_small_images(quantizer, train):
    cfg = Config(**quantized(quantizer))
    with native_functions():
        network = build_network(cfg, 2, train, SHAPE, CLASSES)
        graph = build_loss(cfg, network)
    assert host_arrays(graph.loss, network.weight_kbytes, network.activation_kbytes) == []


@pytest.mark.parametrize("quantizer", [None, "parametric_fp_d_xmax", "parametric_pow2_xmin_xmax"])
@pytest.mark.parametrize("model", MODELS)
def test_the_host_makes_no_arrays_for_networks_of_imagenet(model, quantizer):
    cfg = ImageNetConfig(model=model, **quantized(quantizer))
    with native_functions():
        graphs = [build_loss(cfg, build_network(cfg, 1, train, SHAPE, CLASSES)) for train in (True, False)]
    assert host_arrays(*(graph.loss for graph in graphs)) == []


def test_arrays_of_the_host_are_found():
    x = nn.Variable((2, 3))
    assert host_arrays(x + F.constant(0, (1, 1))) == []
    assert host_arrays(F.relu(x + F.constant(0, (2, 3)))) == [("Constant", (2, 3))]
    network = build_network(Config(), 2, True, SHAPE, CLASSES)    # of functions in Python
    assert {"ReLU", "BatchNormalization"} <= {name for name, _ in host_arrays(network.logits)}


# With kernels ---------------------------------------------------------------------------------------------------------


def number_of_functions(quantizer, budget=None):
    """How many functions the graph of the loss of ResNet-20 has."""
    nn.clear_parameters()
    targets = {"target_weight_kbytes": budget, "target_activation_kbytes": budget} if budget else {}
    cfg = Config(w_quantize=quantizer, a_quantize=quantizer and quantizer + RELU, **targets)
    found = []
    build_loss(cfg, build_network(cfg, 1, True, (3, 8, 8))).loss.visit(found.append)
    return len(found)


@pytest.mark.parametrize("quantizer, composed, kernels, with_budget", [
    (None, 84, 84, None), ("parametric_fp_d_xmax", 766, 105, 111), ("parametric_pow2_xmin_xmax", 1604, 105, 111)])
def test_graphs_with_kernels_are_little_larger_than_those_of_float_networks(quantizer, composed, kernels, with_budget,
                                                                            gpu_kernels):
    """The README has these numbers."""
    assert number_of_functions(quantizer) == kernels
    with native_functions():
        assert number_of_functions(quantizer) == composed
    if with_budget:
        assert number_of_functions(quantizer, budget=10.0) == with_budget


def scalars_of(network_seed, tensors):
    """Give the scalars of tensors values in and beyond their limits, and gradients."""
    rng = np.random.default_rng(network_seed)
    for scalar in (scalar for tensor in tensors for scalar in tensor.scalars.values()):
        scalar.d, scalar.g = np.float32(2.0 ** rng.uniform(-12, 9)), np.float32(rng.normal())
    return [scalar for tensor in tensors for scalar in tensor.scalars.values()]


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("seed", range(3))
def test_one_kernel_clips_as_the_host_does_to_the_last_bit(quantizer, seed, gpu_kernels):
    cfg = Config(**quantized(quantizer), num_layers=32)    # 68 tensors: more than one launch takes
    build_network(cfg, 1, True, SHAPE, CLASSES)
    tensors = learned_tensors(cfg)
    found = []
    for on_gpu in (True, False):
        scalars = scalars_of(seed, tensors)
        before = gpu_kernels()
        with contextlib.nullcontext() if on_gpu else native_functions():
            clip_gradients(tensors)
            clip_values(tensors)
        is_range = QUANTIZERS[quantizer].is_range
        assert gpu_kernels() - before == on_gpu * (2 + 2 * is_range)
        found.append(([float(s.d) for s in scalars], [float(s.g) for s in scalars]))
    assert len(tensors) > 56 and found[0] == found[1]


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("kind, rows, expected_launches", [("max", 56, 6), ("sum", 56, 6), ("max", 10, 18)])
def test_sizes_in_one_function_are_those_of_nnablas_functions(quantizer, kind, rows, expected_launches, gpu_kernels,
                                                              monkeypatch):
    """33 weights and 31 activations, in one launch or in several of fewer rows."""
    monkeypatch.setattr(sizes, "ROWS", rows)
    cfg = Config(**quantized(quantizer), num_layers=32, target_activation_type=kind)
    build_network(cfg, 1, True, SHAPE, CLASSES)
    tensors = learned_tensors(cfg)
    scalars = scalars_of(1, tensors)
    for scalar in scalars[:20]:
        scalar.d = 0.5    # within the limits of all of them
    found = []
    for context in (contextlib.nullcontext(), native_functions()):
        for scalar in scalars:
            scalar.g = 0.25
        with context:
            found_sizes = weight_kbytes(cfg), activation_kbytes(cfg)
        before = gpu_kernels()
        nn.forward_all(found_sizes)
        for size in found_sizes:
            size.backward(3.0)
        found.append(([float(size.d) for size in found_sizes], [float(s.g) for s in scalars], gpu_kernels() - before))
    (ours, gradients, launches), (expected, wanted, _) = found
    assert launches == expected_launches and ours == pytest.approx(expected, rel=1e-6)
    assert any(g != 0.25 for g in wanted)
    np.testing.assert_allclose(gradients, wanted, rtol=1e-5, atol=1e-7)


def test_a_scalar_that_diverged_stays_so(gpu_kernels):
    cfg = Config(**quantized("parametric_fp_d_xmax"))
    build_network(cfg, 1, True, SHAPE, CLASSES)
    tensors = learned_tensors(cfg)
    for scalar in tensors[0].scalars.values():
        scalar.d = np.nan
    clip_values(tensors)
    assert all(np.isnan(scalar.d) for scalar in tensors[0].scalars.values())
    assert all(np.isfinite(scalar.d) for scalar in tensors[1].scalars.values())


def trained(quantizer, steps=2):
    """Values of each step, and all parameters after them."""
    nn.clear_parameters()
    seed_everything(0)
    cfg = Config(**quantized(quantizer), initial_learning_rate=0.01)
    graph = build_loss(cfg, build_network(cfg, 2, True, (3, 8, 8), CLASSES))
    solver, tensors = make_solver(cfg), learned_tensors(cfg)
    rng, values = np.random.default_rng(0), []
    for _ in range(steps):
        image, label = rng.standard_normal((2, 3, 8, 8)).astype(np.float32), rng.integers(0, CLASSES, (2, 1))
        values.append(clipped_update(graph, solver, tensors, cfg, image, label))
    read = [{name: value() for name, value in step.items()} for step in values]
    return read, {name: p.d.copy() for name, p in nn.get_parameters(grad_only=False).items()}


@pytest.mark.parametrize("quantizer", ["parametric_fp_d_xmax", "parametric_pow2_b_xmin"])
def test_a_training_with_kernels_is_that_of_nnablas_functions(quantizer, gpu_kernels):
    values, parameters = trained(quantizer)
    assert gpu_kernels() > 0
    with native_functions():
        expected_values, expected = trained(quantizer)
    assert values[0] == pytest.approx(expected_values[0], rel=1e-6)    # forward passes have equal bits
    for name, array in parameters.items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=2e-3 * max(1, np.abs(array).max()), err_msg=name)
