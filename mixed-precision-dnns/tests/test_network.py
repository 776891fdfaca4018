"""The network against its published parameters, and the laws of sizes, budgets and one training step."""
import functools
import json
import math
from pathlib import Path

import attrs
import nnabla as nn
import numpy as np
import pytest
from nnabla.parameter import get_parameter_or_create

from common.machine.context import use_context
from common.machine.seeding import seed_everything
from common.quantizers import QUANTIZERS
from common.quantizers.layers import LIMIT_MARGIN
from common.runs.checkpoint import load_parameters, parameter_shapes, save_parameters
from common.runs.config import load_section, section_names
from mixed_precision_dnns.clipping import clip_gradients, clip_values, learned_tensors
from mixed_precision_dnns.config import Config, weight_quantization
from mixed_precision_dnns.evaluation import top_errors
from mixed_precision_dnns.network_size import QuantizedTensor, activation_kbytes, quantized_tensors, weight_kbytes
from mixed_precision_dnns.quantized_network import build_network
from mixed_precision_dnns.starting_weights import is_quantizer_parameter
from mixed_precision_dnns.train_resnet import build_loss, clipped_update, make_solver

HERE = Path(__file__).parent
FILES = {family: HERE.parent / f"train_resnet_quant_{family}.cfg" for family in ("fp", "pow2")}
MANIFESTS = json.loads((HERE / "data" / "manifests.json").read_text())
TRAINABLE = {20: 269722, 32: 464154, 44: 658586, 56: 853018, 110: 1727962}
SMALL = (3, 8, 8)    # the smallest image that leaves something to normalize in the last group
U3 = Config(w_quantize="parametric_fp_d_xmax", a_quantize="parametric_fp_d_xmax_relu")


@pytest.fixture(autouse=True)
def cpu():
    use_context("cpu")
    seed_everything(0)


@pytest.fixture(scope="module")
def float_weights(tmp_path_factory):
    """Weights of a float network that has not been trained."""
    use_context("cpu")
    seed_everything(1)
    nn.clear_parameters()
    build_network(Config(), 2, train=True, image_shape=SMALL)
    path = tmp_path_factory.mktemp("float") / "params_best.h5"
    save_parameters(path)
    nn.clear_parameters()
    return path


def all_sections():
    return [(family, section) for family, path in FILES.items() for section in section_names(path)]


def small_network(cfg, batch=2, train=True):
    return build_network(cfg, batch, train, SMALL)


def small_graph(cfg):
    return build_loss(cfg, small_network(cfg))


def some_batch(batch=2, seed=0):
    """Image (batch, 3, 8, 8) and label (batch, 1)."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((batch, *SMALL), dtype=np.float32), rng.integers(0, 10, (batch, 1))


def start_from(weights, cfg):
    load_parameters(weights, parameter_shapes(lambda: small_network(cfg)), optional=is_quantizer_parameter)


def value(variable):
    variable.forward()
    return float(variable.d)


# Parameters -------------------------------------------------------------------------------------------------------


def manifest_config(name):
    """Configuration of `resnet<depth>/<section>[/shortcut_<type>]`."""
    depth, section, *shortcut = name.split("/")
    overrides = {"num_layers": depth.removeprefix("resnet")}
    if shortcut:
        overrides["shortcut_type"] = shortcut[0].removeprefix("shortcut_")
    return load_section(Config, FILES["pow2" if "POW2" in section else "fp"], section, overrides)


@pytest.mark.parametrize("name", MANIFESTS)
def test_parameters_are_the_published_ones(name):
    build_network(manifest_config(name), 1, train=True)
    found = {key: {"shape": list(p.shape), "need_grad": p.need_grad}
             for key, p in nn.get_parameters(grad_only=False).items()}
    assert found == MANIFESTS[name]


def test_the_graph_for_testing_makes_the_same_parameters():
    train = parameter_shapes(lambda: small_network(U3, train=True))
    assert parameter_shapes(lambda: small_network(U3, train=False)) == train


def test_counts_close_over_the_depths_that_exist():
    assert list(TRAINABLE) == [int(depth) for depth in attrs.fields_dict(Config)["num_layers"].metadata["allowed"]
                               .removeprefix("one of ").split(", ")]


@pytest.mark.parametrize("num_layers", TRAINABLE)
def test_number_of_trainable_parameters(num_layers):
    small_network(Config(num_layers=num_layers))
    assert sum(p.size for p in nn.get_parameters().values()) == TRAINABLE[num_layers]


def test_number_of_weights_and_activations():
    build_network(Config(), 1, train=True)
    sizes = {kind: [t.numel for t in quantized_tensors(Config()) if t.kind == kind]
             for kind in ("weights", "bias", "activations")}
    assert (len(sizes["weights"]), sum(sizes["weights"] + sizes["bias"])) == (20, 268346)
    assert sizes["activations"] == [16384] * 7 + [8192] * 6 + [4096] * 6
    assert sum(sizes["activations"]) == 188416


# With no residual and the image as first features, nothing is left of the network but its shortcuts.
@pytest.mark.parametrize("shortcut_type, convolutions", [("", 0), ("b", 2), ("c", 9)])
def test_shortcut_takes_every_second_pixel_and_appends_zeros(shortcut_type, convolutions):
    cfg = Config(shortcut_type=shortcut_type)
    network = small_network(cfg, train=False)
    parameters, found = nn.get_parameters(grad_only=False), 0
    for name, p in parameters.items():
        if name.endswith("basicblock2/bn/gamma"):
            p.d = 0
        if name == "conv1/quantized_conv/W":
            p.d = np.pad(np.eye(16, 3)[:, :, None, None], ((0, 0), (0, 0), (1, 1), (1, 1)))
        if name.endswith("shortcut_conv/quantized_conv/W"):
            p.d, found = np.eye(*p.shape[:2])[:, :, None, None], found + 1
    image, _ = some_batch()
    network.image.d = image
    network.logits.forward()
    features = np.maximum(image[:, :, ::4, ::4], 0).mean((2, 3))    # (batch, 3)
    weight, bias = parameters["fc/quantized_affine/W"].d, parameters["fc/quantized_affine/b"].d
    np.testing.assert_allclose(network.logits.d, features @ weight[:3] + bias, atol=1e-4)
    assert found == convolutions


def test_scale_layer_multiplies_the_logits():
    network = small_network(Config(scale_layer=True), train=False)
    network.image.d, _ = some_batch()
    network.logits.forward()
    before = network.logits.d.copy()
    nn.get_parameters()["fc/scale_layer"].d = 3
    network.logits.forward()
    np.testing.assert_allclose(network.logits.d, 3 * before, rtol=1e-6)


# Experiments ------------------------------------------------------------------------------------------------------


@functools.cache
def float_shapes():
    return parameter_shapes(lambda: small_network(Config()))


@functools.cache
def first_step(cfg, weights):
    """Losses of a training step, and the parameters after it that are not finite or were not changed."""
    nn.clear_parameters()
    seed_everything(0)
    if weights:
        load_parameters(weights, float_shapes(), optional=is_quantizer_parameter)
    graph, solver, tensors = small_graph(cfg), make_solver(cfg), learned_tensors(cfg)
    clip_values(tensors)
    before = {name: p.d.copy() for name, p in nn.get_parameters().items()}
    losses = {name: read() for name, read in clipped_update(graph, solver, tensors, cfg, *some_batch()).items()}
    parameters = nn.get_parameters()
    return (losses, [name for name, p in parameters.items() if not np.isfinite(p.d).all()],
            [name for name, p in parameters.items() if name.endswith("/W") and np.array_equal(p.d, before[name])])


@pytest.mark.parametrize("family, section", all_sections())
def test_every_experiment_builds_and_takes_a_step(family, section, float_weights):
    cfg = load_section(Config, FILES[family], section)
    weights = float_weights if cfg.weightfile else None
    losses, not_finite, unchanged = first_step(
        attrs.evolve(cfg, weightfile=None, initial_learning_rate=0.01), weights)
    assert all(math.isfinite(loss) for loss in losses.values()), losses
    assert not not_finite and not unchanged


@pytest.mark.parametrize("optimizer, name", [(None, "Momentum"), ("momentum", "Momentum"), ("adam", "Adam")])
def test_solver(optimizer, name):
    small_network(Config())
    solver = make_solver(Config(optimizer=optimizer, initial_learning_rate=0.02))
    assert solver.name == name and solver.learning_rate() == pytest.approx(0.02)
    assert sorted(solver.get_parameters()) == sorted(nn.get_parameters())


def test_a_quantized_network_starts_from_float_weights_and_the_other_way_round(float_weights, tmp_path):
    start_from(float_weights, U3)
    small_network(U3)
    loaded = {name: p.d.copy() for name, p in nn.get_parameters(grad_only=False).items()}
    save_parameters(tmp_path / "quantized.h5")
    nn.clear_parameters()
    start_from(float_weights, Config())
    for name, p in nn.get_parameters(grad_only=False).items():
        np.testing.assert_array_equal(loaded[name], p.d)
    nn.clear_parameters()
    start_from(tmp_path / "quantized.h5", Config())
    assert not any(is_quantizer_parameter(name) for name in nn.get_parameters(grad_only=False))
    small_network(Config())


# Budgets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key, loss, size", [
    ("target_weight_kbytes", "weights_over_budget", "weight_kbytes"),
    ("target_activation_kbytes", "activations_over_budget", "activation_kbytes")])
def test_loss_of_a_budget_is_a_squared_hinge(key, loss, size):
    cfg = Config(w_quantize="fp", a_quantize="fp_relu")
    kbytes = value(getattr(small_network(cfg), size))
    for target, excess in ((2, 0), (1, 0), (0.5, 0.5), (0.25, 0.75), (-1, 0)):
        graph = small_graph(attrs.evolve(cfg, **{key: target * kbytes}))
        assert value(getattr(graph, loss)) == pytest.approx((excess * kbytes) ** 2, rel=1e-5), target


def test_a_budget_that_is_met_pulls_at_no_scalar():
    graph = small_graph(attrs.evolve(U3, target_weight_kbytes=1000))
    scalars = [s for t in learned_tensors(U3) for s in t.scalars.values()]
    for scalar in scalars:
        scalar.grad.zero()
    graph.weights_over_budget.forward()
    graph.weights_over_budget.backward()
    assert all(float(scalar.g) == 0 for scalar in scalars)


def test_loss_adds_up():
    cfg = attrs.evolve(U3, target_weight_kbytes=10, target_activation_kbytes=0.1, initial_cost_lambda2=0.5,
                       initial_cost_lambda3=3)
    graph = small_graph(cfg)
    graph.network.image.d, graph.label.d = image, label = some_batch()
    graph.loss.forward()
    values = {name: read() for name, read in graph.values(label).items()}
    assert values["loss2"] > 0 and values["loss3"] > 0
    assert values["loss"] == pytest.approx(values["loss1"] + 0.5 * values["loss2"] + 3 * values["loss3"], rel=1e-6)
    logits = graph.network.logits.d.astype(np.float64)
    cross_entropy = np.log(np.exp(logits).sum(1)) - np.take_along_axis(logits, graph.label.d.astype(int), 1)[:, 0]
    assert values["loss1"] == pytest.approx(cross_entropy.mean(), rel=1e-5)


@pytest.mark.parametrize("weight_target, activation_target, within", [
    (-1, -1, True), (0, 0, True), (70, -1, True), (69.9, -1, False), (-1, 8, True), (-1, 7.9, False), (70, 8, True),
    (70, 7.9, False), (69.9, 8, False)])
def test_within_budget(weight_target, activation_target, within):
    cfg = attrs.evolve(U3, target_weight_kbytes=weight_target, target_activation_kbytes=activation_target)
    assert cfg.within_budget(70, 8) == within


def pulled(cfg, kind):
    """Scopes of the activations whose scalars all get a gradient from the size; the others must get none."""
    size, names = activation_kbytes(cfg, kind), []
    tensors = [t for t in quantized_tensors(cfg) if t.kind == "activations"]
    for scalar in (s for t in tensors for s in t.scalars.values()):
        scalar.grad.zero()
    size.forward()
    size.backward()
    for tensor in tensors:
        gradients = [float(s.g) != 0 for s in tensor.scalars.values()]
        assert all(gradients) == any(gradients)
        names += [tensor.name] if all(gradients) else []
    return names


def test_budget_for_the_largest_activation_pulls_at_the_first_of_the_largest():
    small_network(U3)
    assert pulled(U3, "max") == ["conv1"]    # seven tie
    nn.get_parameters()["res1/layer2/Aquant/parametric_fp_d_xmax/xmax"].d = 5
    assert pulled(U3, "max") == ["res1/layer2"]
    assert len(pulled(U3, "sum")) == 19


def test_unknown_kind_of_activation_size():
    small_network(U3)
    with pytest.raises(ValueError, match="'max' or 'sum', got 'mean'"):
        activation_kbytes(U3, "mean")


# One step ---------------------------------------------------------------------------------------------------------


def tensor_with(quantizer, **scalars):
    cfg = Config(w_quantize=quantizer, w_bitwidth=2, w_bitwidth_max=4, w_stepsize_max=1, w_xmax_max=16)
    variables = {}
    for name in QUANTIZERS[quantizer].scalars:
        variables[name] = nn.Variable((), need_grad=True)
        variables[name].d = scalars[name]
    return QuantizedTensor("W", "weights", 10, weight_quantization(cfg), variables)


def clipped_values(quantizer, **scalars):
    tensor = tensor_with(quantizer, **scalars)
    clip_values([tensor])
    return {name: float(scalar.d) for name, scalar in tensor.scalars.items()}


@pytest.mark.parametrize("quantizer, smallest", [("parametric_fp_d_xmax", "d"), ("parametric_pow2_xmin_xmax", "xmin")])
def test_ranges_are_kept_in_order(quantizer, smallest):
    eps = LIMIT_MARGIN
    for before, after in (((0.25, 2), (0.25, 2)), ((0.5, 0.25), (0.25 - eps, 0.5 + eps)),
                          ((0.5, 0.5), (0.5 - eps, 0.5 + eps))):
        clipped = clipped_values(quantizer, **{smallest: before[0], "xmax": before[1]})
        assert tuple(clipped.values()) == pytest.approx(after, abs=1e-7)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("far", [-1e3, 0, 1e3])
def test_scalars_are_kept_strictly_inside_of_their_limits(quantizer, far):
    limits = tensor_with(quantizer, **dict.fromkeys(QUANTIZERS[quantizer].scalars, 1)).spec.limits
    for name, scalar in clipped_values(quantizer, **dict.fromkeys(QUANTIZERS[quantizer].scalars, far)).items():
        assert limits[name][0] < scalar < limits[name][1]


def test_scalars_inside_of_their_limits_are_left_alone():
    assert clipped_values("parametric_fp_b_xmax", n=3.25, xmax=0.75) == {"n": 3.25, "xmax": 0.75}


def test_a_fixed_number_of_bits_ends_just_below():
    cfg = attrs.evolve(U3, w_quantize="parametric_fp_b_xmax", w_bitwidth=2, w_bitwidth_max=2)
    n = nn.Variable((), need_grad=True)
    n.d = 2
    tensor = QuantizedTensor("W", "weights", 1, weight_quantization(cfg), {"n": n, "xmax": nn.Variable(())})
    clip_values([tensor])
    assert float(n.d) == np.float32(2 - LIMIT_MARGIN) and value(tensor.bits()) == 2


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_gradients_of_ranges_alone_are_clipped_to_their_smallest_value(quantizer):
    names = QUANTIZERS[quantizer].scalars
    tensor = tensor_with(quantizer, **dict(zip(names, (0.25, 2), strict=True)))
    for gradients, clipped in (((0.1, -0.2), (0.1, -0.2)), ((7, -7), (0.25, -0.25)), ((-3, 1), (-0.25, 0.25))):
        for name, gradient in zip(names, gradients, strict=True):
            tensor.scalars[name].g = gradient
        clip_gradients([tensor])
        expected = clipped if QUANTIZERS[quantizer].is_range else gradients
        assert [float(tensor.scalars[name].g) for name in names] == pytest.approx(list(expected))


def change_of_ranges(cfg):
    """Largest change of a scalar of a range in one step, in units of its smallest value."""
    nn.clear_parameters()
    graph, solver, tensors = small_graph(cfg), make_solver(cfg), learned_tensors(cfg)
    before = [(float(t.scalars["d"].d), [float(s.d) for s in t.scalars.values()]) for t in tensors]
    clipped_update(graph, solver, tensors, cfg, *some_batch())
    return max(abs(float(s.d) - old) / smallest for t, (smallest, values) in zip(tensors, before, strict=True)
               for s, old in zip(t.scalars.values(), values, strict=True))


def test_gradients_are_clipped_where_there_is_a_budget():
    cfg = attrs.evolve(U3, initial_learning_rate=0.5, initial_cost_lambda2=100)
    assert change_of_ranges(attrs.evolve(cfg, weight_decay=50)) > 1
    assert change_of_ranges(attrs.evolve(cfg, weight_decay=50, target_weight_kbytes=10)) <= 0.5 + 1e-3


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_no_step_leaves_the_limits(quantizer):
    cfg = Config(w_quantize=quantizer, initial_learning_rate=100)
    graph, solver, tensors = small_graph(cfg), make_solver(cfg), learned_tensors(cfg)
    clipped_update(graph, solver, tensors, cfg, *some_batch())
    for tensor in tensors:
        for name, scalar in tensor.scalars.items():
            assert tensor.spec.limits[name][0] < float(scalar.d) < tensor.spec.limits[name][1]


def quantized(parameters, name):
    """Values of the weight `name` on the levels of U3, by the definition."""
    w, d, xmax = (parameters[key].d.astype(np.float64) for key in (
        name, *(f"{name}quant/parametric_fp_d_xmax/{scalar}" for scalar in ("d", "xmax"))))
    d = 2.0 ** np.round(np.log2(d))
    c = np.clip(w, -xmax, xmax) / d
    return d * np.sign(c) * np.floor(np.abs(c) + 0.5)


def test_quantized_weights_are_those_of_the_last_graph_that_was_computed():
    train, test = small_graph(U3), small_network(U3, train=False)
    solver, tensors, parameters = make_solver(U3), learned_tensors(U3), nn.get_parameters(grad_only=False)
    names = [name for name in parameters if name.endswith(("/W", "/b"))]
    before = {name: quantized(parameters, name) for name in names}
    clipped_update(train, solver, tensors, U3, *some_batch())
    for name in names:
        np.testing.assert_allclose(parameters[f"{name}_q"].d, before[name], atol=1e-6)
    top_errors(test.predict, [some_batch()], (1,))
    for name in names:
        np.testing.assert_allclose(parameters[f"{name}_q"].d, quantized(parameters, name), atol=1e-6)
    assert any(not np.array_equal(parameters[f"{name}_q"].d, before[name]) for name in names)


def test_the_rest_of_a_smaller_batch_does_not_count():
    network = small_network(Config(), batch=4, train=False)
    image, label = some_batch(7)
    wrong = 0
    for k in range(7):
        network.image.d = image[k]
        network.logits.forward()
        wrong += int(network.logits.d[0].argmax() != label[k, 0])
    assert top_errors(network.predict, [(image[:4], label[:4]), (image[4:], label[4:])], (1,)) == [wrong / 7]
    right = network.logits.d[:3].argmax(1)[:, None]
    assert top_errors(network.predict, [(image[4:], right)], (1,)) == [0]
    assert top_errors(network.predict, [(image[4:], (right + 1) % 10)], (1,)) == [1]


# Where a user stands ----------------------------------------------------------------------------------------------


def test_sizes_name_what_is_of_another_network():
    with pytest.raises(ValueError, match="no tensors of a network .* build it first"):
        weight_kbytes(U3)
    small_network(U3)
    own = nn.get_parameters(grad_only=False)
    expected = value(weight_kbytes(U3))
    get_parameter_or_create("mine/W", (3, 3))
    with pytest.raises(ValueError, match="mine/W has no mine/Wquant/.*/d: give `parameters`"):
        weight_kbytes(U3)
    assert value(weight_kbytes(U3, own)) == expected


def test_activations_have_the_size_of_the_images_that_the_network_was_built_for_last():
    sizes = []
    for image_shape in (SMALL, (3, 16, 16), SMALL):
        build_network(U3, 2, train=False, image_shape=image_shape)
        sizes.append(value(activation_kbytes(U3, "sum")))
    assert sizes == [sizes[0], 4 * sizes[0], sizes[0]]


def test_a_network_is_built_the_same_where_functions_compute_at_once():
    for mode in (False, True):
        nn.clear_parameters()
        seed_everything(0)
        with nn.auto_forward(mode):
            small_network(U3)
            statistics = [p.d.copy() for name, p in nn.get_parameters(grad_only=False).items() if "/bn/" in name]
        assert {float(v) for array in statistics for v in array.ravel()} == {0.0, 1.0}, mode
