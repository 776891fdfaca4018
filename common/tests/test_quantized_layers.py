import math

import attrs
import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest

from common.quantizers import QUANTIZER_NAMES, QUANTIZERS, SCALARS, STATIC_QUANTIZERS, UNIFORM
from common.quantizers.layers import (
    LIMIT_MARGIN,
    SUM_BITS,
    Quantization,
    on_grid_of_sums,
    quantized_activation,
    quantized_affine,
    quantized_convolution,
    step_size_for,
)
from common.runs import checkpoint

WEIGHTS = Quantization(quantizer=None, sign=True, bitwidth=4, bitwidth_min=2, bitwidth_max=8, stepsize=2.0 ** -3,
                       stepsize_min=2.0 ** -8, stepsize_max=1, xmin_min=2.0 ** -16, xmin_max=127, xmax_min=2.0 ** -8,
                       xmax_max=127)
ACTIVATIONS = attrs.evolve(WEIGHTS, sign=False, bitwidth_min=1, xmin_min=2.0 ** -14, xmin_max=255, xmax_max=255)
IMAGE = np.random.RandomState(0).randn(2, 3, 5, 5).astype(np.float32)

every_quantizer = pytest.mark.parametrize("name", QUANTIZER_NAMES)
parametric = pytest.mark.parametrize("name", QUANTIZERS)
static = pytest.mark.parametrize("name", STATIC_QUANTIZERS)


def weights(name, **changes):
    return attrs.evolve(WEIGHTS, quantizer=name, **changes)


def activations(name, **changes):
    return attrs.evolve(ACTIVATIONS, quantizer=name, **changes)


def parameters():
    return nn.get_parameters(grad_only=False)


def shapes():
    return {name: p.shape for name, p in parameters().items()}


def scalars_in(scope):
    """Values of the quantizer scalars whose names begin with `scope`, by the last part of the name."""
    return {name.rsplit("/", 1)[1]: float(p.d) for name, p in parameters().items()
            if name.startswith(scope) and p.shape == () and name.rsplit("/", 1)[1] in SCALARS}


def image():
    return nn.Variable.from_numpy_array(IMAGE)


def forward(y):
    y.forward(clear_buffer=True)
    return y.d.copy()


def quantized(w, name, scope):
    """What the quantizer makes of the array `w`, with the scalars that stand in `scope`."""
    variable = nn.Variable.from_numpy_array(w)
    spec = weights(name)
    with nn.parameter_scope(scope):
        scalars = [parameters()[f"{name}/{s}"] for s in QUANTIZERS[name].scalars]
    return forward(QUANTIZERS[name].quantize(variable, *scalars, sign=True, limits=spec.limits))


# Names --------------------------------------------------------------------------------------------------------------


@every_quantizer
def test_parameters_of_a_convolution(name):
    y = quantized_convolution(image(), 4, 3, weights(name), pad=1, stride=2)
    assert y.shape == (2, 4, 3, 3)
    scalars = QUANTIZERS[name].scalars if name in QUANTIZERS else ()
    assert shapes() == {"quantized_conv/W": (4, 3, 3, 3), "quantized_conv/W_q": (4, 3, 3, 3),
                        **{f"quantized_conv/Wquant/{name}/{s}": () for s in scalars}}
    assert [n for n, p in parameters().items() if not p.need_grad] == ["quantized_conv/W_q"]


@every_quantizer
def test_parameters_of_an_affine_layer(name):
    y = quantized_affine(image(), 7, weights(name))
    assert y.shape == (2, 7)
    scalars = QUANTIZERS[name].scalars if name in QUANTIZERS else ()
    assert shapes() == {"quantized_affine/W": (75, 7), "quantized_affine/b": (7,), "quantized_affine/W_q": (75, 7),
                        "quantized_affine/b_q": (7,),
                        **{f"quantized_affine/{w}quant/{name}/{s}": () for w in "Wb" for s in scalars}}
    limit = 75 ** -0.5
    assert 0.9 * limit < np.abs(parameters()["quantized_affine/W"].d).max() <= limit
    assert np.abs(parameters()["quantized_affine/b"].d).max() <= limit


@every_quantizer
def test_parameters_of_an_activation(name):
    y = quantized_activation(image(), activations(name))
    assert y.shape == IMAGE.shape
    scalars = QUANTIZERS[name].scalars if name in QUANTIZERS else ()
    assert shapes() == {"Asize": (), **{f"Aquant/{name}/{s}": () for s in scalars}}


@pytest.mark.parametrize("name", [None, *QUANTIZER_NAMES])
def test_asize_counts_the_elements_of_a_sample(name):
    quantized_activation(image(), activations(name))
    assert parameters()["Asize"].d == 3 * 5 * 5
    assert not parameters()["Asize"].need_grad


def test_without_a_quantizer_layers_are_float():
    y = quantized_convolution(image(), 4, 3, weights(None))
    z = quantized_affine(y, 7, weights(None))
    a = quantized_activation(image(), activations(None))
    assert sorted(shapes()) == ["Asize", "quantized_affine/W", "quantized_affine/b", "quantized_conv/W"]
    w, b = (parameters()[f"quantized_affine/{key}"].d for key in "Wb")
    np.testing.assert_allclose(forward(z), forward(y).reshape(2, -1) @ w + b, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(forward(a), np.maximum(IMAGE, 0))


@every_quantizer
def test_quantized_activations_are_never_negative(name):
    assert forward(quantized_activation(image(), activations(name))).min() == 0


# Quantized weights --------------------------------------------------------------------------------------------------


@parametric
def test_every_graph_stores_the_quantized_weights_that_it_used(name):
    # The published code stores those of the training graph alone, so that they lag one step behind.
    graphs = [quantized_affine(image(), 7, weights(name)) for _ in ("train", "test")]
    before = set(parameters())
    rng = np.random.RandomState(1)
    for graph in (*graphs, *graphs):
        for key in "Wb":
            parameter = parameters()[f"quantized_affine/{key}"]
            parameter.d = rng.randn(*parameter.shape)
        y = forward(graph)
        w, b = (quantized(parameters()[f"quantized_affine/{key}"].d, name, f"quantized_affine/{key}quant")
                for key in "Wb")
        np.testing.assert_array_equal(parameters()["quantized_affine/W_q"].d, w)
        np.testing.assert_array_equal(parameters()["quantized_affine/b_q"].d, b)
        np.testing.assert_allclose(y, IMAGE.reshape(2, -1) @ w + b, rtol=1e-5, atol=1e-4)
    assert set(parameters()) == before


@static
def test_every_graph_stores_the_statically_quantized_weights_that_it_used(name):
    graphs = [quantized_convolution(image(), 4, 1, weights(name)) for _ in ("train", "test")]
    w = parameters()["quantized_conv/W"]
    stored = []
    for graph, scale in zip((*graphs, *graphs), (0.8, 0.3, 0.5, 0.1), strict=True):
        w.d = scale * np.linspace(-1, 1, w.size).reshape(w.shape)
        y = forward(graph)
        w_q = parameters()["quantized_conv/W_q"].d.copy()
        assert np.abs(w_q - w.d).max() <= (0.125 / 2 if name == "fp" else 0.5 * scale)
        np.testing.assert_allclose(y, np.einsum("oi,bihw->bohw", w_q[:, :, 0, 0], IMAGE), rtol=1e-5, atol=1e-5)
        stored.append(w_q)
    assert not any(np.array_equal(a, b) for a, b in zip(stored, stored[1:], strict=False))


@every_quantizer
def test_gradients_reach_weights_through_the_stored_values(name):
    y = quantized_convolution(image(), 4, 3, weights(name))
    w = parameters()["quantized_conv/W"]
    for parameter in parameters().values():
        parameter.g = 0
    y.forward(clear_no_need_grad=True)
    y.backward(clear_buffer=True)
    assert np.isfinite(w.g).all()
    assert np.count_nonzero(w.g) > w.size / 2


# First values -------------------------------------------------------------------------------------------------------


def expected_scalars(step_size, bitwidth, sign, limits):
    """First values of all four scalars, for the uniform and for the power-of-two quantizers."""
    xmax = step_size * (2 ** (bitwidth - 1) - 1 if sign else 2 ** bitwidth - 1)
    uniform = {"n": bitwidth, "d": step_size, "xmax": xmax}
    xmax = 2.0 ** round(math.log2(xmax))
    ends = {"xmin": xmax / 2 ** (2 ** (bitwidth - 1) - 1), "xmax": xmax}
    clipped = {s: min(max(v, limits[s][0] + 1e-5), limits[s][1] - 1e-5) for s, v in ends.items()}
    return uniform, {"n": bitwidth, **clipped}


def assert_scalars(scope, name, expected):
    found, expected = scalars_in(scope), expected[QUANTIZERS[name].grid is not UNIFORM]
    assert set(found) == set(QUANTIZERS[name].scalars)
    assert found == pytest.approx({s: expected.get(s, found[s]) for s in found}, rel=1e-6)


@pytest.mark.parametrize("bitwidth", [2, 4, 8])
@parametric
def test_first_values_follow_from_the_configuration(name, bitwidth):
    spec, a_spec = weights(name, bitwidth=bitwidth), activations(name, bitwidth=bitwidth)
    quantized_convolution(image(), 4, 3, spec)
    quantized_activation(image(), a_spec)
    assert_scalars("quantized_conv/Wquant", name, expected_scalars(2.0 ** -3, bitwidth, True, spec.limits))
    assert_scalars("Aquant", name, expected_scalars(2.0 ** -3, bitwidth, False, a_spec.limits))


def test_first_values_of_four_bits_in_numbers():
    for name in ("parametric_fp_d_xmax", "parametric_pow2_xmin_xmax"):
        with nn.parameter_scope(name):
            quantized_convolution(image(), 4, 3, weights(name))
            quantized_activation(image(), activations(name))
    assert scalars_in("parametric_fp_d_xmax/quantized_conv") == {"d": 0.125, "xmax": 0.875}
    assert scalars_in("parametric_fp_d_xmax/Aquant") == {"d": 0.125, "xmax": 1.875}
    assert scalars_in("parametric_pow2_xmin_xmax/quantized_conv") == {"xmin": 2.0 ** -7, "xmax": 1}
    assert scalars_in("parametric_pow2_xmin_xmax/Aquant") == {"xmin": 2.0 ** -6, "xmax": 2}


def set_weights(name, shape, largest):
    values = np.linspace(-largest, largest / 2, int(np.prod(shape))).reshape(shape)
    nn.parameter.set_parameter(name, nn.Variable.from_numpy_array(values.astype(np.float32)).apply(need_grad=True))


# 0.9 / 7 = 0.129 and 0.9 / 15 = 0.06: the power of two below up to 4 bits, the one above from 5 bits on.
@pytest.mark.parametrize("bitwidth, step_size", [(2, 0.5), (4, 0.125), (5, 0.0625), (8, 2.0 ** -7)])
@parametric
def test_first_values_follow_from_weights_that_exist(name, bitwidth, step_size):
    set_weights("quantized_conv/W", (4, 3, 3, 3), 0.9)
    set_weights("quantized_affine/W", (75, 7), 0.9)
    spec = weights(name, bitwidth=bitwidth)
    quantized_convolution(image(), 4, 3, spec)
    quantized_affine(image(), 7, spec)
    expected = expected_scalars(step_size, bitwidth, True, spec.limits)
    for scope in ("quantized_conv/Wquant", "quantized_affine/Wquant", "quantized_affine/bquant"):
        assert_scalars(scope, name, expected)


@pytest.mark.parametrize("bitwidth", range(2, 9))
@pytest.mark.parametrize("largest", [1e-3, 0.3, 1.0, 70.0])
def test_step_size_spreads_the_levels_over_the_weights(bitwidth, largest):
    exponent = math.log2((largest + 2.0 ** -23) / (2 ** (bitwidth - 1) - 1))
    expected = 2.0 ** (math.floor(exponent) if bitwidth <= 4 else math.ceil(exponent))
    assert step_size_for(np.asarray([0.1 * largest, -largest], np.float32), bitwidth) == expected


def test_step_size_of_zeros_is_finite():
    assert 0 < step_size_for(np.zeros(3, np.float32), 4) < 1e-6


def test_power_of_two_ends_keep_a_margin_from_their_limits():
    quantized_convolution(image(), 4, 3, weights("parametric_pow2_xmin_xmax", bitwidth=8))    # 1 / 2^127 is too small
    first = scalars_in("quantized_conv/Wquant")
    assert first["xmin"] == np.float32(2.0 ** -16 + LIMIT_MARGIN)
    set_weights("big/quantized_conv/W", (4, 3, 3, 3), 3000)
    with nn.parameter_scope("big"):
        quantized_convolution(image(), 4, 3, weights("parametric_pow2_xmin_xmax"))
    assert scalars_in("big/quantized_conv/Wquant")["xmax"] == np.float32(127 - LIMIT_MARGIN)


@parametric
def test_scalars_that_were_loaded_are_kept(name, tmp_path):
    quantized_affine(image(), 7, weights(name))
    for parameter in parameters().values():
        parameter.d = parameter.d * 1.25
    expected = {key: p.d.copy() for key, p in parameters().items()}
    all_shapes = shapes()
    checkpoint.save_parameters(tmp_path / "w.h5")
    nn.clear_parameters()
    checkpoint.load_parameters(tmp_path / "w.h5", all_shapes)
    quantized_affine(image(), 7, weights(name))
    for key, parameter in parameters().items():
        np.testing.assert_array_equal(parameter.d, expected[key])


# Static step sizes --------------------------------------------------------------------------------------------------


def grow(factor):
    w = parameters()["quantized_conv/W"]
    w.d = w.d * factor


def lowest_level(graph):
    """The quantized value of a weight beyond the range."""
    forward(graph)
    return parameters()["quantized_conv/W_q"].d.min()


LOWEST = {"fp": -7, "pow2": -8}    # levels of 4 bits, in units of the step size


@static
def test_static_step_size_is_the_same_in_all_graphs(name):
    train = quantized_convolution(image(), 4, 3, weights(name))
    grow(8)
    test = quantized_convolution(image(), 4, 3, weights(name))
    np.testing.assert_array_equal(forward(test), forward(train))
    assert lowest_level(train) == lowest_level(test) == 0.125 * LOWEST[name]


@static
def test_static_step_size_can_be_derived_anew_by_every_graph(name):
    spec = weights(name, recompute_step_size=True)
    set_weights("quantized_conv/W", (4, 3, 3, 3), 0.9)
    train = quantized_convolution(image(), 4, 3, spec)
    assert lowest_level(train) == 0.125 * LOWEST[name]
    grow(8)
    test = quantized_convolution(image(), 4, 3, spec)
    assert lowest_level(test) == LOWEST[name]


@pytest.mark.parametrize("recompute", [False, True])
@static
def test_static_step_size_is_saved_with_the_weights(name, recompute, tmp_path):
    set_weights("quantized_conv/W", (4, 3, 3, 3), 0.9)
    quantized_convolution(image(), 4, 3, weights(name))
    grow(8)
    all_shapes = shapes()
    checkpoint.save_parameters(tmp_path / "w.h5")
    nn.clear_parameters()
    checkpoint.load_parameters(tmp_path / "w.h5", all_shapes)
    after = quantized_convolution(image(), 4, 3, weights(name, recompute_step_size=recompute))
    assert lowest_level(after) == (1 if recompute else 0.125) * LOWEST[name]


@static
def test_static_step_size_of_float_weights_follows_from_them(name, tmp_path):
    quantized_convolution(image(), 4, 3, weights(None))
    w = parameters()["quantized_conv/W"]
    w.d = np.linspace(-0.9, 0.9, w.size).reshape(w.shape)
    float_shapes = shapes()
    checkpoint.save_parameters(tmp_path / "w.h5")
    nn.clear_parameters()
    checkpoint.load_parameters(tmp_path / "w.h5", float_shapes)
    assert lowest_level(quantized_convolution(image(), 4, 3, weights(name))) == 0.125 * LOWEST[name]


# The limits of xmax, [2^-8, 127] for weights and [2^-8, 255] for activations, less a margin, round to these powers.
@pytest.mark.parametrize("largest, exponent", [(1e-4, -8), (0.003, -8), (0.9, 0), (30.0, 5), (500.0, 7)])
def test_static_powers_of_two_of_weights_stay_within_the_limits_of_xmax(largest, exponent):
    set_weights("quantized_conv/W", (4, 3, 3, 3), largest)
    spec = weights("pow2", bitwidth=3)
    forward(quantized_convolution(image(), 4, 3, spec))
    w = nn.Variable.from_numpy_array(parameters()["quantized_conv/W"].d)
    np.testing.assert_array_equal(parameters()["quantized_conv/W_q"].d,
                                  forward(F.pow2_quantize(w, True, False, 3, exponent)))
    with nn.parameter_scope("quantized_conv"):
        assert forward(spec.smallest("W")) == 2.0 ** (exponent - 3)


@pytest.mark.parametrize("stepsize, exponent", [(2.0 ** -14, -8), (2.0 ** -3, 1), (32.0, 8)])
def test_static_powers_of_two_of_activations_stay_within_the_limits_of_xmax(stepsize, exponent):
    spec = activations("pow2", stepsize=stepsize)
    x = np.concatenate([np.zeros(1), np.geomspace(2.0 ** -20, 2.0 ** 12, 999)])[np.newaxis].astype(np.float32)
    y = forward(quantized_activation(nn.Variable.from_numpy_array(x), spec))
    assert y.max() == 2.0 ** exponent and y[y > 0].min() == 2.0 ** (exponent - 7) == forward(spec.smallest("A"))


@static
def test_bias_is_quantized_with_the_step_size_of_its_matrix(name):
    set_weights("quantized_affine/W", (75, 7), 0.9)
    set_weights("quantized_affine/b", (7,), 100)
    forward(quantized_affine(image(), 7, weights(name)))
    assert parameters()["quantized_affine/b_q"].d.min() == 0.125 * LOWEST[name]


@every_quantizer
def test_all_levels_are_multiples_of_the_smallest(name):
    set_weights("quantized_conv/W", (4, 3, 3, 3), 0.9)
    quantize = quantized_convolution(image(), 4, 3, weights(name))
    with nn.parameter_scope("quantized_conv"):
        smallest = weights(name).smallest("W")
    forward(quantize)
    smallest.forward()
    levels = parameters()["quantized_conv/W_q"].d / smallest.d
    assert (levels == np.rint(levels)).all() and np.abs(levels[levels != 0]).min() >= 1 and len(np.unique(levels)) > 2


def test_what_is_added_to_sums_lies_on_their_grid():
    """Steps of 1/4; halves away from zero; integers of 24 bits at most."""
    b = nn.Variable.from_numpy_array(np.array([0.1, 0.125, -0.125, 0.8, 9e9, -9e9], np.float32), need_grad=True)
    y = on_grid_of_sums(b, "shift", F.constant(0.25, ()))
    y.forward()
    largest = (2 ** (SUM_BITS - 1) - 1) / 4
    assert y.d.tolist() == parameters()["shift_q"].d.tolist() == [0, 0.25, -0.25, 0.75, largest, -largest]
    assert parameters()["shiftquant/step"].d == 0.25
    b.g = 0
    y.backward(1)
    assert b.g.tolist() == [1, 1, 1, 1, 0, 0]


@every_quantizer
def test_a_bias_on_the_grid_of_the_sums_has_no_quantizer(name):
    set_weights("quantized_affine/b", (7,), 0.3)
    forward(quantized_affine(image(), 7, weights(name), step=F.constant(2 ** -6, ())))
    assert not any("bquant/" in key and "step" not in key for key in parameters())
    step = float(parameters()["quantized_affine/bquant/step"].d)
    with nn.parameter_scope("quantized_affine"):
        smallest = weights(name).smallest("W")
    smallest.forward()
    assert step == smallest.d * 2 ** -6
    integers = parameters()["quantized_affine/b_q"].d / step
    assert (integers == np.rint(integers)).all() and integers.any()
