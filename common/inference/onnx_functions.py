"""The nnabla functions of this repository in terms of ONNX, for `common.inference.onnx_export`.

Functions and arguments that no network here needs are missing. Functions that act in another way in training (dropout,
statistics of a batch) cannot be exported.
"""
from typing import Any

import numpy as np
from nnabla.function import Function
from onnx import TensorProto

from common.inference.graph import batch_scale_shift

LSTM_GATES = [0, 3, 1, 2]    # nnabla: input, forget, cell, output; ONNX: input, output, forget, cell


# Scale and shift that a function applies, as arrays that broadcast: (writer, function, its variable input) -> (a, b).


def _normalization(writer, function, variable):
    return batch_scale_shift(writer, function)


def _operand(writer, function, variable):
    """Values of the other input of a function of two."""
    first, second = function.inputs
    return writer.values(second if first == variable else first)


def _difference(writer, function, variable):
    sign = 1 if function.inputs[0] == variable else -1
    return sign, -sign * _operand(writer, function, variable)


SCALE_SHIFT = {
    "BatchNormalization": _normalization,
    "Mul2": lambda *args: (_operand(*args), 0),
    "Add2": lambda *args: (1, _operand(*args)),
    "Sub2": _difference,
    "MulScalar": lambda writer, function, variable: (function.info.args["val"], 0),
    "AddScalar": lambda writer, function, variable: (1, function.info.args["val"]),
}


# Converters: (writer, function) -> name of the output, or list of names.


def _simple(kind):
    """The same function of ONNX, of the same inputs."""
    return lambda writer, function: writer.node(kind, *writer.names(function))


def _with_scalar(kind, first=False):
    """A function of two of ONNX, whose second (or first) operand is a number."""
    def convert(writer, function):
        operands = [writer.name(function.inputs[0]), writer.constant(function.info.args["val"])]
        return writer.node(kind, *(reversed(operands) if first else operands))
    return convert


def _with_arguments(kind, **renamed):
    """The same function of ONNX, which has nnabla's arguments under other names: ONNX's = nnabla's."""
    def convert(writer, function):
        args = function.info.args
        return writer.node(kind, *writer.names(function), **{key: args[value] for key, value in renamed.items()})
    return convert


def _expect(function, **expected):
    """Refuse arguments that no network here uses."""
    for key, value in expected.items():
        if function.info.args[key] != value:
            raise ValueError(f"{function.name}: {key} = {function.info.args[key]!r} has no ONNX form here")


def _affine(writer, function):
    x, y = function.inputs[0], function.outputs[0]
    base = function.info.args["base_axis"]
    scale, shift, result = writer.absorb(y, base, y.ndim)
    weights = writer.values(function.inputs[1]).reshape(-1, len(scale)) * scale
    rows = writer.reshape(writer.name(x), (-1, len(weights)))
    bias = writer.constant(_bias(writer, function) * scale + shift)
    return writer.reshape(writer.node("Gemm", rows, writer.constant(weights), bias), result.shape)


def _bias(writer, function):
    """Bias of an affine or a convolution: an array (channels,), or 0."""
    return writer.values(function.inputs[2]).ravel().astype(np.float64) if len(function.inputs) > 2 else 0.


def _convolution(kind, output_axis):
    """Convolutions, whose weights have the channels of the output on an axis."""
    def convert(writer, function):
        _expect(function, base_axis=1, channel_last=False)
        args, weights = function.info.args, writer.values(function.inputs[1])
        scale, shift, _ = writer.absorb(function.outputs[0], 1, 2)
        shape = [-1 if axis == output_axis else 1 for axis in range(weights.ndim)]
        return writer.node(kind, writer.name(function.inputs[0]), writer.constant(weights * scale.reshape(shape)),
                          writer.constant(_bias(writer, function) * scale + shift), pads=2 * args["pad"],
                          strides=args["stride"], dilations=args["dilation"], group=args["group"])
    return convert


def _deconvolution(writer, function):
    _expect(function, group=1, output_padding=[0] * len(function.info.args["pad"]))
    return _convolution("ConvTranspose", output_axis=1)(writer, function)


def _batch_normalization(writer, function):
    x = writer.name(function.inputs[0])
    scale, shift = (writer.constant(a) for a in batch_scale_shift(writer, function))
    return writer.node("Add", writer.node("Mul", x, scale), shift)


def _lstm(writer, function):
    """One node per layer; h and c of the end have no form."""
    x, h, c, first, *further = function.inputs
    if writer.values(h).any() or writer.values(c).any():
        raise ValueError(f"{function.name}: only initial states of zero have an ONNX form here")
    layers = [writer.values(first)]
    if function.info.args["num_layers"] > 1:
        layers.extend(writer.values(further.pop(0)))
    bias = writer.values(further[0]) if further else np.zeros((len(layers), *first.shape[:3]))
    (frames, batch, _), (directions, _, hidden, _) = x.shape, first.shape
    name = writer.name(x)
    for weights, b in zip(layers, bias, strict=True):    # (directions, 4, hidden, features + hidden), without the last
        weights, b = (a[:, LSTM_GATES].reshape(directions, 4 * hidden, -1) for a in (weights, b))
        b = np.concatenate([b, np.zeros_like(b)], axis=1)[..., 0]    # of inputs, and of states
        y = writer.node("LSTM", name, *map(writer.constant, (weights[..., :-hidden], weights[..., -hidden:], b)),
                       hidden_size=hidden, direction="bidirectional" if directions == 2 else "forward")
        y = writer.node("Transpose", y, perm=(0, 2, 1, 3))    # (frames, batch, directions, hidden)
        name = writer.reshape(y, (frames, batch, directions * hidden))
    return name


def _pooling(kind, **renamed):
    def convert(writer, function):
        _expect(function, channel_last=False, ignore_border=True)
        args = function.info.args
        attributes = {key: int(args[value]) for key, value in renamed.items()}
        return writer.node(kind, *writer.names(function), kernel_shape=args["kernel"], strides=args["stride"],
                          pads=2 * args["pad"], **attributes)
    return convert


def _mean(writer, function):
    return writer.node("ReduceMean", *writer.names(function), axes=function.info.args["axes"],
                      keepdims=int(function.info.args["keep_dims"]))


def _sum(writer, function):
    return writer.node("ReduceSum", *writer.names(function), writer.constant(function.info.args["axes"], np.int64),
                      keepdims=int(function.info.args["keep_dims"]))


def _reshape(writer, function):
    return writer.reshape(*writer.names(function), function.outputs[0].shape)


def _broadcast(writer, function):
    return writer.node("Expand", *writer.names(function), writer.constant(function.outputs[0].shape, np.int64))


def _slice(writer, function):
    args, shape = function.info.args, function.inputs[0].shape
    cuts = [(start, stop, axis, step) for axis, (start, stop, step, size)
            in enumerate(zip(args["start"], args["stop"], args["step"], shape, strict=True))
            if (start, stop, step) != (0, size, 1)]
    operands = [writer.constant(column, np.int64) for column in zip(*cuts, strict=True)]
    return writer.node("Slice" if cuts else "Identity", *writer.names(function), *operands)


def _split(writer, function):
    axis, (x,) = function.info.args["axis"], writer.names(function)
    return [writer.node("Gather", x, writer.constant(k, np.int64), axis=axis) for k in range(len(function.outputs))]


def _stack(writer, function):
    axis = writer.constant([function.info.args["axis"]], np.int64)
    return writer.node("Concat", *(writer.node("Unsqueeze", x, axis) for x in writer.names(function)),
                      axis=function.info.args["axis"])


def _interpolate(writer, function):
    return _resize(writer, function, writer.constant(function.outputs[0].shape, np.int64))


def interpolate_to_variable(writer: Any, function: Function) -> str:
    """An interpolation whose size is not that of the graph, but that of a variable: for inputs of any size."""
    x, = writer.names(function)
    same_size = writer.name(writer.written_of_size(function.outputs[0].shape[2:]))
    shape = writer.node("Shape", x, start=0, end=2), writer.node("Shape", same_size, start=2, end=4)
    return _resize(writer, function, writer.node("Concat", *shape, axis=0))


def _resize(writer, function, sizes):
    _expect(function, mode="linear", align_corners=False, half_pixel=True, channel_last=False)
    return writer.node("Resize", *writer.names(function), "", "", sizes, mode="linear",
                       coordinate_transformation_mode="half_pixel")


def _batch_matmul(writer, function):
    _expect(function, transpose_a=False, transpose_b=False)
    return writer.node("MatMul", *writer.names(function))


def _as_float(kind):
    """A function of ONNX whose output is boolean, as 0 and 1."""
    def convert(writer, function):
        return writer.node("Cast", writer.node(kind, *writer.names(function)), to=TensorProto.FLOAT)
    return convert


def _exceeds(writer, function):
    x, = writer.names(function)
    exceeds = writer.node("Greater", x, writer.constant(function.info.args["val"]))
    return writer.node("Cast", exceeds, to=TensorProto.FLOAT)


def _where(writer, function):
    condition, yes, no = writer.names(function)
    return writer.node("Where", writer.node("Cast", condition, to=TensorProto.BOOL), yes, no)


def _sign(writer, function):
    """-1 below 0, 1 from 0 on."""
    _expect(function, alpha=1.0)
    x, = writer.names(function)
    one = writer.constant(1)
    return writer.node("Where", writer.node("Less", x, writer.constant(0)), writer.constant(-1), one)


def _round(writer, function):
    return _rounded(writer, *writer.names(function))


def _rounded(writer, x):
    """Round with ties away from zero, as nnabla does; ONNX would take them to even numbers."""
    magnitude = writer.node("Abs", x)
    whole = writer.node("Floor", magnitude)
    rest = writer.node("Sub", magnitude, whole)    # exact, unlike magnitude + 0.5
    up = writer.node("Cast", writer.node("GreaterOrEqual", rest, writer.constant(0.5)), to=TensorProto.FLOAT)
    return writer.node("Mul", writer.node("Sign", x), writer.node("Add", whole, up))


def _fixed_point_quantize(writer, function):
    args = function.info.args
    xmax, step_size = (2 ** (args["n"] - args["sign"]) - 1) * args["delta"], writer.constant(args["delta"])
    clipped = writer.node("Clip", *writer.names(function), *map(writer.constant, (-xmax * args["sign"], xmax)))
    return writer.node("Mul", _rounded(writer, writer.node("Div", clipped, step_size)), step_size)


def _pow2_quantize(writer, function):
    _expect(function, sign=False, with_zero=True)    # of activations; weights are constants
    x, = writer.names(function)
    xmax = 2.0 ** function.info.args["m"]
    xmin = 2.0 ** (1 - 2 ** (function.info.args["n"] - 1)) * xmax
    clipped = writer.node("Clip", x, *map(writer.constant, (xmin, xmax)))
    exponent = _rounded(writer, writer.node("Div", writer.node("Log", clipped), writer.constant(np.log(2))))
    pruned = writer.node("Less", x, writer.constant(xmin / np.sqrt(2)))
    return writer.node("Where", pruned, writer.constant(0), writer.node("Pow", writer.constant(2), exponent))


CONVERTERS = {
    "Affine": _affine,
    "Convolution": _convolution("Conv", output_axis=0),
    "Deconvolution": _deconvolution,
    "BatchNormalization": _batch_normalization,
    "LSTM": _lstm,
    "BatchMatmul": _batch_matmul,
    "AveragePooling": _pooling("AveragePool", count_include_pad="including_pad"),
    "MaxPooling": _pooling("MaxPool"),
    "GlobalAveragePooling": _simple("GlobalAveragePool"),
    "Interpolate": _interpolate,
    "Mean": _mean,
    "Sum": _sum,
    "Softmax": _with_arguments("Softmax", axis="axis"),
    "Identity": _simple("Identity"),
    "ReLU": _simple("Relu"),
    "Sigmoid": _simple("Sigmoid"),
    "Tanh": _simple("Tanh"),
    "Abs": _simple("Abs"),
    "Log": _simple("Log"),
    "Sign": _sign,
    "Round": _round,
    "FixedPointQuantize": _fixed_point_quantize,
    "Pow2Quantize": _pow2_quantize,
    "IsNaN": _as_float("IsNaN"),
    "Add2": _simple("Add"),
    "AddN": _simple("Sum"),
    "Sub2": _simple("Sub"),
    "Mul2": _simple("Mul"),
    "Div2": _simple("Div"),
    "Maximum2": _simple("Max"),
    "Minimum2": _simple("Min"),
    "Less": _as_float("Less"),
    "GreaterEqual": _as_float("GreaterOrEqual"),
    "GreaterScalar": _exceeds,
    "Where": _where,
    "AddScalar": _with_scalar("Add"),
    "MulScalar": _with_scalar("Mul"),
    "PowScalar": _with_scalar("Pow"),
    "MaximumScalar": _with_scalar("Max"),
    "MinimumScalar": _with_scalar("Min"),
    "RSubScalar": _with_scalar("Sub", first=True),
    "RDivScalar": _with_scalar("Div", first=True),
    "RPowScalar": _with_scalar("Pow", first=True),
    "Concatenate": _with_arguments("Concat", axis="axis"),
    "Stack": _stack,
    "Split": _split,
    "Slice": _slice,
    "Reshape": _reshape,
    "Transpose": _with_arguments("Transpose", perm="axes"),
    "Broadcast": _broadcast,
}
