"""Nodes of ONNX models in which integers stand for weights and activations."""
import attrs
import numpy as np
from nnabla.function import Function
from onnx import TensorProto

from common.inference.onnx_export import Writer
from common.inference.onnx_functions import CONVERTERS
from mixed_precision_dnns.deployment.integer_channels import LARGEST_WEIGHT, Channels
from mixed_precision_dnns.deployment.roundings import PowerRounding, UniformRounding, uniform_rounding

LARGEST_OF_4_BITS = 7    # level of a weight
LARGEST_CODE = 255


@attrs.frozen
class Target:
    """How the result of a convolution is rounded: to codes from `lowest`, stored as 0, to `highest`, times `unit`."""

    unit: float
    lowest: int
    highest: int


def sum_target(rounding: UniformRounding, other: UniformRounding) -> Target | None:
    """Return how to round what is added to activations on the grid of `other` before `rounding` rounds the sum.

    Rounding before is exact where these are multiples of the step size of the sum. None where they are not, as sums
    would lie on borders, which engines round to even numbers; and where 8 bits are too few.
    """
    ratio = other.step_size / rounding.step_size
    # A sum below 0 becomes 0, one above the largest level becomes that.
    lowest, highest = -int(other.levels * ratio), rounding.levels
    if not ratio.is_integer() or highest - lowest > LARGEST_CODE:
        return None
    return Target(rounding.step_size, lowest, highest)


def read_again(writer: Writer, y: str, target: Target) -> str:
    """Round what will be added to activations."""
    unit, zero = writer.constant(target.unit), writer.constant(-target.lowest, np.uint8)
    return writer.node("DequantizeLinear", writer.node("QuantizeLinear", y, unit, zero), unit, zero)


def _stored(writer, integers):
    """Store integers of weights, in 4 bits if they fit."""
    if np.abs(integers).max(initial=0) <= LARGEST_OF_4_BITS:
        return writer.constant_of_4_bits(integers)
    return writer.constant(integers, np.int8)


def float_weights(writer: Writer, integers: np.ndarray, scale: np.ndarray, axis: int) -> str:
    """Integers that a session turns into floats when it is made, times `scale` float64 (channels,) on `axis`.

    Kernels of a convolution, axis 0, go by way of int8: openvino multiplies those with codes as integers, and returns
    floats. A matrix, axis 1, goes by way of int32: openvino would round the inputs of a product with a matrix of int8.
    """
    shape = [-1 if k == axis else 1 for k in range(integers.ndim)]
    wide = writer.node("Cast", _stored(writer, integers), to=TensorProto.INT32 if axis else TensorProto.INT8)
    floats = writer.node("Cast", wide, to=TensorProto.FLOAT)
    return writer.node("Mul", floats, writer.constant(scale.reshape(shape)))


def integer_weights(writer: Writer, integers: np.ndarray, channels: Channels, step_size: float) -> tuple[str, str]:
    """Weights int8 and bias int32 as kernels for integers take them.

    A session multiplies integers of 4 bits by the factors. Those of 8 are stored multiplied: openvino would not do it
    before it runs the network, and would compute with floats.
    """
    factors, zeros = channels.factors.reshape(-1, 1, 1, 1), np.zeros(len(integers))
    if np.abs(integers).max(initial=0) > LARGEST_OF_4_BITS:
        stored = writer.constant(integers * factors, np.int8)
    elif (factors == 1).all():
        stored = writer.node("Cast", writer.constant_of_4_bits(integers), to=TensorProto.INT8)
    else:
        wide = writer.node("Cast", writer.constant_of_4_bits(integers), to=TensorProto.INT32)
        stored = writer.node("Cast", writer.node("Mul", wide, writer.constant(factors, np.int32)), to=TensorProto.INT8)
    weights = writer.node("DequantizeLinear", stored, writer.constant(channels.scales), writer.constant(zeros, np.int8),
                          axis=0)
    bias_scales = writer.constant(channels.scales * np.float32(step_size))
    bias = writer.node("DequantizeLinear", writer.constant(channels.biases, np.int32), bias_scales,
                       writer.constant(zeros, np.int32), axis=0)
    return weights, bias


def powers(writer: Writer, rounding: PowerRounding) -> str:
    """Power-of-two activations by comparison: a logarithm is rounded otherwise in every library."""
    x, y = writer.name(rounding.source), writer.constant(0)
    for level, border in zip(*rounding.borders(), strict=True):
        y = writer.node("Where", writer.node("GreaterOrEqual", x, writer.constant(border)), writer.constant(level), y)
    return y


def is_mean(function: Function) -> bool:
    """Whether a function takes the mean of all pixels."""
    kind, args = function.info.type_name, function.info.args
    return kind == "AveragePooling" and tuple(args["kernel"]) == function.inputs[0].shape[2:]


def average(writer: Writer, function: Function) -> str:
    """Mean of all pixels; openvino would round the results of an AveragePool of codes to codes."""
    return writer.node("GlobalAveragePool", *writer.names(function))


def _every_other_pixel(writer, codes, function):
    strides = function.info.args["stride"]
    ends = function.inputs[0].shape[2:]
    operands = [[0] * len(strides), ends, [2, 3], strides]
    return writer.node("Slice", codes, *(writer.constant(column, np.int64) for column in operands))


def _with_zero_channels(writer, codes, function):
    zeros = [writer.constant(np.zeros(variable.shape), np.uint8) for variable in function.inputs[1:]]
    return writer.node("Concat", codes, *zeros, axis=function.info.args["axis"])


def quantized(writer: Writer, rounding: UniformRounding, x: str) -> str:
    """Codes of floats. Behind a float convolution the limits become part of it."""
    limited = writer.node("Clip", x, writer.constant(0), writer.constant(rounding.levels * rounding.step_size))
    return writer.node("QuantizeLinear", limited, writer.constant(rounding.step_size), writer.constant(0, np.uint8))


def largest_pixel(writer: Writer, x: str, function: Function) -> str:
    """Pool codes or floats `x` as a function pools what they stand for."""
    args = function.info.args
    return writer.node("MaxPool", x, kernel_shape=args["kernel"], strides=args["stride"], pads=2 * args["pad"])


MOVES = {"AveragePooling": _every_other_pixel, "Concatenate": _with_zero_channels}


def weights_rounding(function: Function) -> UniformRounding | None:
    """Return how the weights of a layer have been rounded, None if that takes more than 8 bits or is not uniform."""
    rounding = uniform_rounding(function.inputs[1])
    return rounding if rounding and rounding.levels <= LARGEST_WEIGHT else None


def affine(writer: Writer, function: Function) -> str:
    """Converter of the last layer, which computes with floats."""
    rounding = weights_rounding(function)
    if rounding is None:
        return CONVERTERS["Affine"](writer, function)
    x, weights, bias = function.inputs
    scale, shift, result = writer.absorb(function.outputs[0], 1, 2)
    integers = np.rint(writer.values(weights).reshape(-1, len(scale)) / rounding.step_size).astype(np.int8)
    rows = writer.reshape(writer.name(x), (-1, len(integers)))
    total = writer.constant(writer.values(bias).ravel().astype(np.float64) * scale + shift)
    product = writer.node("Gemm", rows, float_weights(writer, integers, rounding.step_size * scale, 1), total)
    return writer.reshape(product, result.shape)
