"""Every function that can be exported, against nnabla's own forward pass; onnxruntime runs the models."""
import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import numpy as np
import onnx
import onnxruntime
import pytest

from common import quantizers
from common.inference.graph import fingerprint
from common.inference.onnx_export import export
from common.inference.onnx_functions import CONVERTERS
from common.layers import basic as layers
from common.machine.context import native_functions

IMAGE = (2, 4, 6, 6)


def normal(*shape, seed=0):
    return np.random.RandomState(seed).randn(*shape).astype(np.float32)


def constant(*shape, seed=1):
    return nn.Variable.from_numpy_array(normal(*shape, seed=seed))


def randomize(seed=0):
    """Give all parameters values that no default hides behind; variances are positive."""
    rng = np.random.RandomState(seed)
    for name, parameter in nn.get_parameters(grad_only=False).items():
        values = rng.randn(*parameter.shape) * 0.3
        parameter.d = np.abs(values) + 0.5 if name.endswith("var") else values


def both(build, *arrays, single=True):
    """Return the outputs of `build` by nnabla and by onnxruntime, and the model."""
    inputs = {f"in{k}": nn.Variable.from_numpy_array(array) for k, array in enumerate(arrays)}
    with native_functions():
        built = build(*inputs.values())
    outputs = {f"out{k}": v for k, v in enumerate([built] if single else built)}
    nn.forward_all(list(outputs.values()))
    model = export(inputs, outputs)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    theirs = session.run(list(outputs), dict(zip(inputs, arrays, strict=True)))
    return [v.d for v in outputs.values()], theirs, model


def assert_same(build, *arrays, single=True):
    ours, theirs, model = both(build, *arrays, single=single)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5 * np.abs(a[np.isfinite(a)]).max())
    return model


def kinds(model):
    return [node.op_type for node in model.graph.node if node.op_type != "Identity"]


def positive(x):
    return F.abs(x) + 0.1


# Levels away from ties, and beyond both ends: rounding must not hang on the last bit.
LEVELS = np.array([-9, -2.1, -1.5, -0.5, -0.3, 0, 0.2, 0.5, 0.6, 1.5, 2.5, 3.3, 100], np.float32)

# Name of the case -> (function of variables, arrays). The name begins with nnabla's type of the function.
CASES = {
    "Affine": (lambda x: F.affine(x, constant(36, 5), base_axis=2), normal(*IMAGE)),
    "Affine bias": (lambda x: F.affine(x, constant(3, 2, 5), constant(2, 5)), normal(4, 3)),
    "Convolution": (lambda x: F.convolution(x, constant(5, 4, 3, 3)), normal(*IMAGE)),
    "Convolution all": (lambda x: F.convolution(x, constant(6, 2, 3, 3), constant(6), pad=(2, 3), stride=(1, 2),
                                                dilation=(2, 1), group=2), normal(*IMAGE)),
    "Convolution 1d": (lambda x: F.convolution(x, constant(5, 4, 3), pad=(1,)), normal(2, 4, 9)),
    "Deconvolution": (lambda x: F.deconvolution(x, constant(4, 3, 2, 2), constant(3), stride=(2, 2)), normal(*IMAGE)),
    "Deconvolution pad": (lambda x: F.deconvolution(x, constant(4, 3, 3, 3), pad=(1, 0), dilation=(1, 2)),
                          normal(*IMAGE)),
    "BatchNormalization": (lambda x: PF.batch_normalization(x, batch_stat=False), normal(*IMAGE)),
    "BatchNormalization last axis": (lambda x: PF.batch_normalization(x, axes=[2], batch_stat=False),
                                     normal(5, 2, 7)),
    "BatchMatmul": (F.batch_matmul, normal(2, 3, 4), normal(2, 4, 5)),
    "AveragePooling": (lambda x: F.average_pooling(x, (2, 2)), normal(2, 3, 7, 6)),
    "AveragePooling pad": (lambda x: F.average_pooling(x, (3, 3), (2, 1), pad=(1, 1)), normal(*IMAGE)),
    "AveragePooling own": (lambda x: F.average_pooling(x, (3, 3), (2, 2), pad=(1, 1), including_pad=False),
                           normal(*IMAGE)),
    "MaxPooling": (lambda x: F.max_pooling(x, (3, 3), (2, 2), pad=(1, 1)), normal(*IMAGE) - 9),
    "GlobalAveragePooling": (F.global_average_pooling, normal(*IMAGE)),
    "Interpolate": (lambda x: F.interpolate(x, output_size=(11, 13), mode="linear", align_corners=False,
                                            half_pixel=True), normal(*IMAGE)),
    "Interpolate down": (lambda x: F.interpolate(x, output_size=(4, 3), mode="linear", align_corners=False,
                                                 half_pixel=True), normal(*IMAGE)),
    "Mean": (lambda x: F.mean(x, axis=1), normal(*IMAGE)),
    "Mean kept": (lambda x: F.mean(x, axis=(2, 3), keepdims=True), normal(*IMAGE)),
    "Mean all": (F.mean, normal(*IMAGE)),
    "Sum": (lambda x: F.sum(x, axis=(0, 2)), normal(*IMAGE)),
    "Sum kept": (lambda x: F.sum(x, axis=1, keepdims=True), normal(*IMAGE)),
    "Softmax": (lambda x: F.softmax(x, axis=1), normal(*IMAGE)),
    "Identity": (F.identity, normal(3)),
    "ReLU": (F.relu, normal(*IMAGE)),
    "Sigmoid": (F.sigmoid, normal(*IMAGE)),
    "Tanh": (F.tanh, normal(*IMAGE)),
    "Abs": (F.abs, normal(*IMAGE)),
    "Log": (lambda x: F.log(positive(x)), normal(*IMAGE)),
    "Sign": (F.sign, LEVELS),
    "Round": (F.round, LEVELS),
    "Round above": (F.round, np.array([0.49999997, 8388609, -8388609], np.float32)),
    "FixedPointQuantize": (lambda x: F.fixed_point_quantize(x, False, 3, 0.5), LEVELS),
    "FixedPointQuantize sign": (lambda x: F.fixed_point_quantize(x, True, 3, 0.5), LEVELS),
    "Pow2Quantize": (lambda x: F.pow2_quantize(x, False, True, 3, 1), LEVELS),
    "IsNaN": (F.isnan, np.array([1, np.nan, np.inf], np.float32)),
    "Add2": (lambda x, y: x + y, normal(*IMAGE), normal(2, 1, 6, 1, seed=2)),
    "AddN": (F.add_n, normal(3, 2), normal(3, 2, seed=2), normal(3, 2, seed=3)),
    "Sub2": (lambda x, y: x - y, normal(1, 4), normal(3, 4, seed=2)),
    "Mul2": (lambda x, y: x * y, normal(3, 4), normal(3, 1, seed=2)),
    "Div2": (lambda x, y: x / positive(y), normal(3, 4), normal(3, 4, seed=2)),
    "Maximum2": (F.maximum2, normal(3, 4), normal(3, 4, seed=2)),
    "Minimum2": (F.minimum2, normal(3, 4), normal(3, 4, seed=2)),
    "GreaterScalar": (lambda x: F.greater_scalar(x, 2), np.array([1, 2, 3], np.float32)),
    "Less": (F.less, np.array([1, 2, 3], np.float32), np.array([2, 2, 2], np.float32)),
    "GreaterEqual": (F.greater_equal, np.array([1, 2, 3], np.float32), np.array([2, 2, 2], np.float32)),
    "Where": (lambda c, x, y: F.where(F.less(c, y), x, y), normal(9), normal(9, seed=2), normal(9, seed=3)),
    "AddScalar": (lambda x: x - 1.5, normal(3)),
    "MulScalar": (lambda x: x / 3, normal(3)),
    "PowScalar": (lambda x: positive(x) ** 0.5, normal(3)),
    "MaximumScalar": (lambda x: F.maximum_scalar(x, 0.1), normal(9)),
    "MinimumScalar": (lambda x: F.minimum_scalar(x, 0.1), normal(9)),
    "RSubScalar": (lambda x: 1 - x, normal(3)),
    "RDivScalar": (lambda x: 2 / positive(x), normal(3)),
    "RPowScalar": (lambda x: 2 ** x, normal(3)),
    "Concatenate": (lambda x, y: F.concatenate(x, y, axis=1), normal(2, 3, 4), normal(2, 5, 4)),
    "Stack": (lambda x, y: F.stack(x, y, axis=1), normal(2, 3), normal(2, 3, seed=2)),
    "Split": (lambda x: F.split(x, axis=1)[1], normal(2, 3, 4)),
    "Slice": (lambda x: x[:, 1:3, ::2, -2:], normal(*IMAGE)),
    "Slice whole": (lambda x: F.slice(x, stop=(2, 3)), normal(2, 3)),
    "Slice one": (lambda x: x[:, 1], normal(2, 3, 4)),
    "Reshape": (lambda x: F.reshape(x, (8, -1)), normal(*IMAGE)),
    "Transpose": (lambda x: F.transpose(x, (2, 0, 3, 1)), normal(*IMAGE)),
    "Broadcast": (lambda x: F.broadcast(x, (2, 4, 3)), normal(1, 4, 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_function(case):
    build, *arrays = CASES[case]
    with nn.parameter_scope("network"):
        build(*(nn.Variable(array.shape) for array in arrays))
        randomize()
        assert_same(build, *arrays)


def test_every_converter_has_a_case():
    assert {case.split()[0] for case in CASES} | {"LSTM"} == set(CONVERTERS)


def lstm_parameters(features, hidden, layers, directions, biased=True):
    first = constant(directions, 4, hidden, features + hidden)
    further = constant(layers - 1, directions, 4, hidden, (directions + 1) * hidden, seed=2) if layers > 1 else None
    return first, further, constant(layers, directions, 4, hidden, seed=3) if biased else None


@pytest.mark.parametrize("frames, batch, layers, directions, biased", [
    (5, 2, 1, 1, True), (5, 2, 1, 2, True), (4, 1, 3, 2, True), (1, 3, 2, 1, True), (4, 2, 2, 2, False)])
def test_lstm(frames, batch, layers, directions, biased):
    parameters = lstm_parameters(3, 4, layers, directions, biased)

    def build(x):
        state = F.constant(0, (layers, directions, batch, 4))
        return F.lstm(x, state, state, *parameters, num_layers=layers, bidirectional=directions == 2,
                      training=False)[0]
    model = assert_same(build, normal(frames, batch, 3))
    assert kinds(model).count("LSTM") == layers


def test_states_of_an_lstm_are_refused():
    x = nn.Variable((5, 2, 3))
    zero, one = (F.constant(value, (1, 1, 2, 4)) for value in (0, 1))
    y, h, _ = F.lstm(x, zero, zero, *lstm_parameters(3, 4, 1, 1), training=False)
    with pytest.raises(ValueError, match="LSTM: this output"):
        export({"x": x}, {"y": y, "h": h})
    with pytest.raises(ValueError, match="initial states of zero"):
        export({"x": x}, {"y": F.lstm(x, zero, one, *lstm_parameters(3, 4, 1, 1), training=False)[0]})


# What follows an affine or a convolution -------------------------------------------------------------------------


def normalized(x):
    return PF.batch_normalization(x, axes=[x.ndim - 1], batch_stat=False)


FOLDED = {
    "affine": (lambda x: normalized(PF.affine(x, 6, base_axis=2)), (5, 2, 3), ["Reshape", "Gemm", "Reshape"]),
    "through a reshape": (lambda x: 3 * (F.reshape(normalized(PF.affine(x, 6, base_axis=2)), (5, 2, 2, 3))
                                        * constant(1, 1, 1, 3) - constant(1, 1, 2, 1)) + 0.5, (5, 2, 3),
                          ["Reshape", "Gemm", "Reshape"]),
    "convolution": (lambda x: constant(1, 5, 1, 1) - PF.batch_normalization(
        PF.convolution(x, 5, (3, 3), with_bias=False), batch_stat=False), IMAGE, ["Conv"]),
    "deconvolution": (lambda x: PF.batch_normalization(PF.deconvolution(x, 5, (2, 2)), batch_stat=False), IMAGE,
                      ["ConvTranspose"]),
    "grouped": (lambda x: PF.batch_normalization(PF.convolution(x, 6, (3, 3), group=2), batch_stat=False), IMAGE,
                ["Conv"]),
}


@pytest.mark.parametrize("case", FOLDED)
def test_scales_and_offsets_become_part_of_the_weights(case):
    build, shape, expected = FOLDED[case]
    build(nn.Variable(shape))
    randomize()
    assert kinds(assert_same(build, normal(*shape))) == expected


NOT_FOLDED = {
    "used twice": lambda h: h + normalized(h),
    "by pixel": lambda h: h * constant(5, 1, 1),
    "among frames": lambda h: F.reshape(h, (10, 6)) * constant(10, 1),
    "broadcast": lambda h: F.reshape(h, (5, 2, 1, 6)) * constant(1, 1, 4, 1),
    "two variables": lambda h: h * F.tanh(h),
}


@pytest.mark.parametrize("case", NOT_FOLDED)
def test_what_is_not_by_channel_stays(case):
    def build(x):
        return NOT_FOLDED[case](PF.affine(x, 6, base_axis=2))
    build(nn.Variable((5, 2, 3)))
    randomize()
    assert_same(build, normal(5, 2, 3))


def test_an_output_in_the_middle_keeps_its_values():
    def build(x):
        h = PF.affine(x, 6, base_axis=2)
        return h, normalized(h)
    build(nn.Variable((5, 2, 3)))
    randomize()
    assert_same(build, normal(5, 2, 3), single=False)


# Constants ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", quantizers.QUANTIZERS)
def test_quantized_weights_are_constants_and_activations_are_computed(name):
    grid = quantizers.QUANTIZERS[name].grid
    initial = grid.scalars_for(0.25, bits=4, sign=True)

    def build(x):
        w = quantizers.parametric_quantize(name, constant(3, 4), initial)
        return quantizers.parametric_quantize(name, F.affine(x, w), initial, **grid.settings(sign=False))
    model = assert_same(build, normal(5, 3))
    assert kinds(model).count("Gemm") == 1
    assert [tuple(t.dims) for t in model.graph.initializer if np.prod(t.dims) > 3].count((3, 4)) == 1


def test_a_shared_parameter_is_stored_once():
    w = constant(40, 40)
    model = assert_same(lambda x: F.concatenate(x * w, w, axis=0), normal(40, 40))
    assert [tuple(t.dims) for t in model.graph.initializer].count((40, 40)) == 1


def test_export_takes_the_values_of_now():
    build = layers.relu
    x = nn.Variable((1, 3))
    with native_functions():
        y = build(PF.affine(x, 2))
    before = export({"x": x}, {"y": y})
    randomize()
    assert before != export({"x": x}, {"y": y})


# Errors ------------------------------------------------------------------------------------------------------------


def refused(build, *shape):
    x = nn.Variable(shape)
    export({"x": x}, {"y": build(x)})


@pytest.mark.parametrize("build, message", [
    (lambda x: F.dropout(x, 0.5), "^Dropout: this function has no ONNX form"),
    (lambda x: F.relu(layers.relu(x)), r"^ReLU: this function is Python .* native_functions\(\)"),
    (PF.batch_normalization, "statistics of the batch"),
    (lambda x: F.affine(x, F.reshape(x, (36, 8), inplace=False), base_axis=2), "Affine.*constant"),
    (lambda x: F.max_pooling(x, (2, 2), ignore_border=False), "ignore_border = False"),
    (lambda x: F.interpolate(x, output_size=(9, 9), mode="nearest"), "mode = 'nearest'"),
])
def test_what_has_no_form_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        refused(build, *IMAGE)


# Fingerprint -------------------------------------------------------------------------------------------------------


def digest(build, shape=(2, 3)):
    x = nn.Variable(shape)
    with native_functions():
        return fingerprint({"x": x}, {"y": build(x)})


def test_fingerprint_is_of_the_content():
    def build(x):
        return F.relu(F.affine(x, constant(3, 4)) + F.affine(x, constant(3, 4, seed=2)))
    assert digest(build) == digest(build)


@pytest.mark.parametrize("other", [
    lambda x: F.affine(F.relu(x), constant(3, 4)),
    lambda x: F.affine(F.relu(x), constant(3, 4, seed=2) + 1),
    lambda x: F.affine(F.tanh(x), constant(3, 4, seed=2)),
    lambda x: F.affine(F.relu(x) * 2, constant(3, 4, seed=2)),
    lambda x: F.affine(F.relu(x) * 3, constant(3, 4, seed=2)),
    lambda x: F.affine(F.relu(x), constant(3, 4, seed=2) * 0, constant(4)),
    lambda x: F.affine(F.relu(x) + x, constant(3, 4, seed=2)),
    lambda x: F.affine(x + F.relu(x), constant(3, 4, seed=2)),
])
def test_fingerprint_tells_networks_apart(other):
    assert digest(other) != digest(lambda x: F.affine(F.relu(x), constant(3, 4, seed=2)))


def test_fingerprint_tells_shapes_apart():
    assert digest(F.relu, (2, 3)) != digest(F.relu, (3, 2))
