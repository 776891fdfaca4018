"""The layers, compiled and made of nnabla's own functions: the same parameters, outputs and gradients."""
import contextlib
import inspect
import zlib

import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import numpy as np
import pytest

from common.cpu import parallel
from common.cpu.kernels import features as kernels
from common.layers import basic as layers
from common.machine.context import native_functions, on_gpu, wants_native
from common.machine.seeding import seed_everything

ROWS = 2 * kernels.ROWS + 13    # more than two blocks, the last one shorter
COLUMNS = kernels.COLUMNS + 5

# name -> layer of one or several variables, shapes of these
LAYERS = {
    "convolution": (lambda x, w: layers.convolution(x, w, pad=1, stride=2, in_order=True), (2, 3, 5, 6), (4, 3, 3, 3)),
    "convolution, with bias": (layers.convolution, (2, 3, 12, 16), (4, 3, 3, 3), (4,)),
    "batch_normalization": (lambda x: layers.batch_normalization(x, False), (4, 3, 2, 2)),
    "batch_normalization, train": (lambda x: layers.batch_normalization(x, True), (4, 3, 2, 2)),
    "batch_normalization, rectified": (lambda x: layers.batch_normalization(x, True, rectify=True), (4, 3, 5, 7)),
    "normalization_terms, train": (lambda x: sum(
        (v ** (k + 1) for k, v in enumerate(layers.normalization_terms(x, True))), x), (4, 3, 2, 2)),
    "scale_shift_channels": (layers.scale_shift_channels, (4, 3, 2, 5), (1, 3, 1, 1), (1, 3, 1, 1)),
    "relu": (layers.relu, (3, 7)),
    "relu, of a sum": (layers.relu, (3, 7), (3, 7)),
    "thin_out": (lambda x: layers.thin_out(x, 2, 5), (3, 4, 5, 6)),
    "thin_out, of pixels alone": (lambda x: layers.thin_out(x, 2, 4), (3, 4, 6, 6)),
    "thin_out, of channels alone": (lambda x: layers.thin_out(x, 1, 7), (3, 4, 5, 6)),
    "affine": (lambda x: layers.affine(x, 3), (7, ROWS // 7, 5)),
    "affine, one row": (lambda x: layers.affine(x, 1), (1, 4)),
    "affine, many columns": (lambda x: layers.affine(x, 2), (3, COLUMNS)),
    "feature_normalization": (lambda x: layers.feature_normalization(x, False), (7, ROWS // 7, 5)),
    "feature_normalization, train": (lambda x: layers.feature_normalization(x, True), (7, ROWS // 7, 5)),
    "feature_normalization, matrix": (lambda x: layers.feature_normalization(x, True, 0.5, 0.1), (ROWS, 3)),
    "scale_shift": (layers.scale_shift, (7, ROWS // 7, 5), (5,), (5,)),
    "scale_shift, some features": (layers.scale_shift, (ROWS, 2, 9), (4,), (4,)),
    "scale_shift, rectified": (lambda *xs: layers.scale_shift(*xs, rectify=True), (ROWS, 5), (5,), (5,)),
    "scale_shift, some rectified": (lambda *xs: layers.scale_shift(*xs, rectify=True), (2, 3, 2, 9), (4,), (4,)),
    "tanh": (layers.tanh, (ROWS, 3)),
    "average": (layers.average, (4, 3), (4, 3), (4, 3)),
    "average, one": (layers.average, (2, 3)),
}
PARAMETRIC = [name for name in LAYERS if name.startswith(("affine", "batch_", "feature_", "normalization_"))]


def normal(name, *shape, mean=0.0):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return (mean + rng.standard_normal(shape)).astype(np.float32)


def set_parameters():
    """Fill all parameters with values that follow from their names; variances are positive."""
    for name, parameter in nn.get_parameters(grad_only=False).items():
        value = normal(name, *parameter.shape)
        parameter.d = np.abs(value) + 0.5 if name.endswith("var") else value


def build(layer, arrays, native, asked=None):
    """Return the variables of the arrays, and the output of the layer; only input `asked` needs a gradient, or all."""
    inputs = [nn.Variable.from_numpy_array(a).apply(need_grad=asked in (None, k)) for k, a in enumerate(arrays)]
    if not native:
        return inputs, layer(*inputs)
    with native_functions():
        return inputs, layer(*inputs)


def evaluate(layer, arrays, native, present=0.0):
    """Return a dict of the output, of all gradients, added to what is `present`, and of the running statistics."""
    nn.clear_parameters()
    inputs, y = build(layer, arrays, native)
    set_parameters()
    parameters = nn.get_parameters(grad_only=False)
    named = {**{str(k): x for k, x in enumerate(inputs)}, **nn.get_parameters()}
    for variable in named.values():
        variable.g = present
    y.forward(clear_no_need_grad=True)
    result = {"y": y.d.copy()}
    y.backward(nn.NdArray.from_numpy_array(normal("gradient", *y.shape)), clear_buffer=True)
    result |= {f"gradient of {name}": variable.g.copy() for name, variable in named.items()}
    return result | {name: p.d.copy() for name, p in parameters.items() if not p.need_grad}


def arrays_of(name):
    return [normal(f"{name} {k}", *shape) for k, shape in enumerate(LAYERS[name][1:])]


def assert_close(ours, theirs, tolerance=1e-5):
    """Within `tolerance` of the largest element: sums are taken in another order."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=tolerance * np.abs(expected).max(), err_msg=name)


def test_every_layer_is_in_the_table():
    public = {name for name, function in inspect.getmembers(layers, inspect.isfunction)
              if function.__module__ == layers.__name__ and not name.startswith("_")}
    assert {name.split(",")[0] for name in LAYERS} == public


@pytest.mark.parametrize("name", LAYERS)
def test_agrees_with_nnabla(name):
    layer, arrays = LAYERS[name][0], arrays_of(name)
    assert_close(evaluate(layer, arrays, native=False), evaluate(layer, arrays, native=True))


@pytest.mark.parametrize("name", ["batch_normalization", "feature_normalization"])
def test_gradients_are_those_of_the_running_statistics_of_the_forward_pass(name):
    """Another graph of the same parameters may have trained since."""
    layer, arrays = LAYERS[name][0], arrays_of(name)
    (x,), y = build(layer, arrays, native=False)
    set_parameters()
    gamma = nn.get_parameters()["bn/gamma"]
    found = []
    for shift in (0, 5):
        y.forward()
        nn.get_parameters(grad_only=False)["bn/mean"].d += shift
        gamma.g = 0
        y.backward(nn.NdArray.from_numpy_array(normal("gradient", *y.shape)))
        found.append(gamma.g.copy())
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("name", LAYERS)
def test_adds_to_gradients_that_exist(name):
    layer, arrays = LAYERS[name][0], arrays_of(name)
    once, more = (evaluate(layer, arrays, native=False, present=present) for present in (0, 3))
    assert_close({key: value - 3 if key.startswith("gradient") else value for key, value in more.items()}, once)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_two_uses_add_up(name):
    """Variables that are no leaves: the first function that is asked writes, the second adds."""
    def twice(*inputs):
        inputs = [F.mul_scalar(x, 1.5) for x in inputs]
        return LAYERS[name][0](*inputs) - 3 * LAYERS[name][0](*inputs)

    arrays = arrays_of(name)
    assert_close(evaluate(twice, arrays, native=False), evaluate(twice, arrays, native=True), 2e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_leaves_inputs_alone_that_need_no_gradient(name):
    layer, arrays = LAYERS[name][0], arrays_of(name)
    whole = evaluate(layer, arrays, native=False)
    for asked in range(len(arrays)):
        inputs, y = build(layer, arrays, native=False, asked=asked)
        set_parameters()
        for x in inputs:
            x.g = 0
        y.forward()
        y.backward(nn.NdArray.from_numpy_array(normal("gradient", *y.shape)))
        for k, (x, array) in enumerate(zip(inputs, arrays, strict=True)):
            np.testing.assert_array_equal(x.g, whole[f"gradient of {k}"] if k == asked else 0)
            np.testing.assert_array_equal(x.d, array)


@pytest.mark.parametrize("name", LAYERS)
def test_does_not_depend_on_the_number_of_threads(name, monkeypatch):
    monkeypatch.setattr(parallel, "_SMALL", 0)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(parallel, "num_threads", lambda threads=threads: threads)
        results.append(evaluate(LAYERS[name][0], arrays_of(name), native=False))
    assert_close(*results, tolerance=0)


@pytest.mark.parametrize("name", PARAMETRIC)
def test_parameters_begin_as_those_of_nnabla(name):
    """Names, shapes, whether they are learnt, and values to the bit."""
    made = []
    for native in (False, True):
        nn.clear_parameters()
        seed_everything(5)
        build(LAYERS[name][0], arrays_of(name), native)
        made.append({key: (p.d.tolist(), p.need_grad) for key, p in nn.get_parameters(grad_only=False).items()})
    assert made[0] == made[1] and made[0]


def test_affine_begins_with_the_limits_of_glorot():
    layers.affine(nn.Variable((1, 60)), 40)
    w = nn.get_parameters()["affine/W"].d
    assert w.shape == (60, 40) and 0.24 < np.abs(w).max() <= np.sqrt(6 / 100)


@pytest.mark.parametrize("name", LAYERS)
def test_inside_native_functions_nothing_computes_in_python(name):
    def functions(native):
        seen = []
        build(LAYERS[name][0], arrays_of(name), native)[1].visit(lambda function: seen.append(function.name))
        return seen

    assert "Callback" in functions(native=False)
    assert functions(native=True) and "Callback" not in functions(native=True)


def test_native_functions_end_with_their_block():
    assert not wants_native()
    with native_functions():
        with native_functions():
            assert wants_native()
        assert wants_native() and not on_gpu()
    with pytest.raises(KeyError), native_functions():
        raise KeyError
    assert not wants_native()


def run(y):
    y.forward()
    return y.d


def test_running_statistics_follow_those_of_the_batch():
    """The first weighs 0.9 and the variance counts n - 1; a large mean costs no precision."""
    x = normal("x", 7, 5, 3, mean=1000)
    y = run(layers.feature_normalization(nn.Variable.from_numpy_array(x), train=True))
    mean, var = x.astype(np.float64).mean((0, 1)), x.astype(np.float64).var((0, 1))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), atol=1e-3)    # one float32 of 1000 is 6e-5
    parameters = nn.get_parameters(grad_only=False)
    np.testing.assert_allclose(parameters["bn/mean"].d.ravel(), 0.1 * mean, rtol=1e-6)
    np.testing.assert_allclose(parameters["bn/var"].d.ravel(), 0.9 + 0.1 * var * 35 / 34, rtol=1e-6)


def test_without_train_the_running_statistics_stay():
    x = nn.Variable.from_numpy_array(normal("x", 7, 3))
    parameters = evaluate(lambda x: layers.feature_normalization(x, train=False), [x.d], native=False)
    np.testing.assert_array_equal(parameters["bn/mean"].ravel(), normal("bn/mean", 3))
    np.testing.assert_array_equal(parameters["bn/var"].ravel(), np.abs(normal("bn/var", 3)) + np.float32(0.5))


@pytest.mark.parametrize("x", [normal("x", 1, 1, 3), np.full((4, 1, 3), 5, np.float32)], ids=["one row", "constant"])
def test_normalization_of_what_does_not_vary_is_finite(x):
    result = evaluate(lambda x: layers.feature_normalization(x, train=True), [x], native=False)
    assert all(np.isfinite(value).all() for value in result.values())
    np.testing.assert_allclose(result["y"], np.broadcast_to(normal("bn/beta", 3), x.shape), atol=1e-6)


def test_normalization_of_huge_constants_is_finite():
    """E[x^2] - E[x]^2 comes out negative for some."""
    x = np.broadcast_to(np.geomspace(1e7, 1e9, 50), (300, 50)).astype(np.float32)
    result = evaluate(lambda x: layers.feature_normalization(x, train=True), [x], native=False)
    assert all(np.isfinite(value).all() for value in result.values())


def test_gradients_belong_to_the_statistics_of_the_forward_pass():
    """A training step may lie in between."""
    x = nn.Variable.from_numpy_array(normal("x", 7, 3)).apply(need_grad=True)
    y, training = (layers.feature_normalization(x, train) for train in (False, True))
    gradients = []
    for step in (lambda: None, training.forward):
        y.forward()
        step()
        gamma = nn.get_parameters()["bn/gamma"]
        gamma.g = 0
        y.backward(nn.NdArray.from_numpy_array(normal("gradient", 7, 3)))
        gradients.append(gamma.g.copy())
    np.testing.assert_array_equal(*gradients)


def test_tanh_is_exact_to_float32():
    x = np.concatenate([np.linspace(-12, 12, 20001), np.logspace(-30, 1, 1001)])[None].astype(np.float32)
    np.testing.assert_allclose(run(layers.tanh(nn.Variable.from_numpy_array(x))), np.tanh(x.astype(np.float64)),
                               rtol=3e-7)


def test_tanh_of_what_is_no_number():
    x = nn.Variable.from_numpy_array(np.array([[np.nan, np.inf, -np.inf, -1e30, 0.0]], np.float32))
    np.testing.assert_array_equal(run(layers.tanh(x)), [[np.nan, 1, -1, -1, 0]])


def test_features_beyond_the_scale_get_no_gradient():
    x, scale, offset = normal("x", 3, 9), normal("scale", 4), normal("offset", 4)
    gradient = evaluate(layers.scale_shift, [x, scale, offset], native=False)["gradient of 0"]
    assert (gradient[:, 4:] == 0).all() and (gradient[:, :4] != 0).all()


def test_scale_of_more_features_than_there_are_is_refused():
    x, scale = nn.Variable((2, 3)), nn.Variable((5,))
    with pytest.raises(ValueError):
        layers.scale_shift(x, scale, scale)


def test_own_parameters_serve_nnabla():
    """A network that was built one way continues the other way."""
    x = nn.Variable.from_numpy_array(normal("x", 4, 3))
    ours = run(layers.feature_normalization(layers.affine(x, 2), train=False))
    theirs = run(PF.batch_normalization(PF.affine(x, 2, with_bias=False), axes=[1], batch_stat=False))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert len(nn.get_parameters(grad_only=False)) == 5


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("layer, shapes, message", [
    (layers.convolution, [(2, 3, 20, 20), (4, 2, 3, 3)], "w of shape"),
    (layers.convolution, [(2, 3, 20, 20), (4, 3, 3, 1)], "w of shape"),
    (layers.convolution, [(2, 3, 20, 20), (4, 3, 3, 3), (3,)], "b of shape"),
    (layers.convolution, [(3, 20, 20), (4, 3, 3, 3)], "x of shape"),
    (lambda x, w: layers.convolution(x, w, pad=0), [(40, 3, 20, 2), (4, 3, 3, 3)], "a kernel of 3 pixels"),
    (layers.scale_shift_channels, [(2, 3, 4, 4), (1, 2, 1, 1), (1, 3, 1, 1)], "scale of shape"),
    (layers.scale_shift_channels, [(2, 3, 4, 4), (1, 3, 1, 1), (1, 1, 1, 1)], "shift of shape"),
    (layers.relu, [(3, 7), (3, 6)], "other of shape"), (layers.relu, [(3, 7), (1, 7)], "other of shape"),
    (lambda x: layers.thin_out(x, 2, 2), [(2, 3, 4, 4)], "at most 2 channels"),
    (layers.scale_shift, [(3, 7), (5,), (4,)], "offset of shape"),
    (layers.average, [(3, 7), (3, 7), (3, 8)], "a variable of shape")])
def test_shapes_that_do_not_fit_reach_no_loop(layer, shapes, message, native):
    """Compiled loops look at no bounds."""
    with native_functions() if native else contextlib.nullcontext(), pytest.raises(ValueError, match=message):
        layer(*map(nn.Variable, shapes))
