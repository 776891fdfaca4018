"""ONNX models whose quantizers are QuantizeLinear and DequantizeLinear, for `common.inference.onnx_export`.

Weights of uniform levels of up to 8 bits are stored as integers with a scale for each channel, into which batch
normalization goes. Everything else (powers of two, more bits) keeps its form: weights are constants with their
quantized values, activations are computed as nnabla computes them.
"""
from collections.abc import Callable

import attrs
import nnabla as nn
import numpy as np
from onnx import ModelProto, TensorProto

from common.inference import onnx_export
from common.inference.onnx_functions import CONVERTERS
from common.machine.context import native_functions
from mixed_precision_dnns.deployment.onnx_network import INPUT, OUTPUT
from mixed_precision_dnns.finished_run import FinishedRun

LARGEST_WEIGHT, LARGEST_ACTIVATION = 127, 255    # levels that 8 bits hold, with and without a sign


@attrs.frozen
class UniformRounding:
    """What a uniform quantizer does: it rounds `source` to multiples of `step_size`, at most `levels` of a sign."""

    source: nn.Variable
    step_size: float
    levels: int


def uniform_rounding(variable: nn.Variable) -> UniformRounding | None:
    """Return the rounding by a uniform quantizer that `variable` is the result of, None if it is no such result."""
    function = variable.parent
    kind = function.info.type_name if function else None
    if kind == "FixedPointQuantize":
        args = function.info.args
        return UniformRounding(function.inputs[0], args["delta"], 2 ** (args["n"] - args["sign"]) - 1)
    if kind != "Where":
        return None
    # The functions of common.quantizers.compose_uniform, from the last to the first.
    product = _parent(function.inputs[2], "Mul2")
    rounded = product and _parent(product.inputs[1], "Round")
    ratio = rounded and _parent(rounded.inputs[0], "Div2")
    below = ratio and _parent(ratio.inputs[0], "Minimum2")
    above = below and _parent(below.inputs[0], "Maximum2", "MaximumScalar")    # with and without a sign
    if not (ratio and below and above):
        return None
    step_size, largest = (_scalar(variable) for variable in (ratio.inputs[1], below.inputs[1]))
    return UniformRounding(above.inputs[0], float(step_size), int(np.floor(largest / step_size + np.float32(0.5))))


def _parent(variable, *kinds):
    return variable.parent if variable.parent and variable.parent.info.type_name in kinds else None


def _scalar(variable):
    if variable.parent is not None:
        variable.forward()
    return np.float32(variable.d.item())


def _activation(kind: str) -> Callable:
    """Quantizer of activations, in place of the function of type `kind` that ends it."""
    def convert(writer, function):
        rounding = uniform_rounding(function.outputs[0])
        if rounding is None or rounding.levels > LARGEST_ACTIVATION:
            return CONVERTERS[kind](writer, function)
        x, scale = writer.name(rounding.source), writer.constant(rounding.step_size)
        # Integers end at 255; fewer levels need a limit of their own.
        x = writer.node("Clip", x, writer.constant(0), writer.constant(rounding.levels * rounding.step_size))
        zero = writer.constant(0, np.uint8)
        return writer.node("DequantizeLinear", writer.node("QuantizeLinear", x, scale, zero), scale, zero)
    return convert


def _integer_weights(writer, weights, rounding, scale, axis):
    """Store weights as integers with a scale for each channel on `axis`; returns the name of what they stand for.

    `scale` float64 (channels,) multiplies the channels. Negative scales turn the integers around.
    """
    shape = [-1 if k == axis else 1 for k in range(weights.ndim)]
    integers = np.rint(weights / rounding.step_size) * np.sign(scale).reshape(shape)
    steps, zeros = writer.constant(np.abs(scale) * rounding.step_size), writer.constant(np.zeros(len(scale)), np.int8)
    return writer.node("DequantizeLinear", writer.constant(integers, np.int8), steps, zeros, axis=axis)


def _weights_rounding(function):
    rounding = uniform_rounding(function.inputs[1])
    return rounding if rounding and rounding.levels <= LARGEST_WEIGHT else None


def _convolution(writer, function):
    rounding = _weights_rounding(function)
    if rounding is None:
        return CONVERTERS["Convolution"](writer, function)
    args, weights = function.info.args, writer.values(function.inputs[1])
    scale, shift, _ = writer.absorb(function.outputs[0], 1, 2)
    return writer.node("Conv", writer.name(function.inputs[0]), _integer_weights(writer, weights, rounding, scale, 0),
                       writer.constant(shift), pads=2 * args["pad"], strides=args["stride"],
                       dilations=args["dilation"], group=args["group"])


def _affine(writer, function):
    rounding = _weights_rounding(function)
    if rounding is None:
        return CONVERTERS["Affine"](writer, function)
    x, weights, bias = function.inputs
    scale, shift, result = writer.absorb(function.outputs[0], 1, 2)
    matrix = writer.values(weights).reshape(-1, len(scale))
    rows = writer.reshape(writer.name(x), (-1, len(matrix)))
    total = writer.constant(writer.values(bias).ravel().astype(np.float64) * scale + shift)
    product = writer.node("Gemm", rows, _integer_weights(writer, matrix, rounding, scale, 1), total)
    return writer.reshape(product, result.shape)


QUANTIZED_CONVERTERS = {"Convolution": _convolution, "Affine": _affine, "Where": _activation("Where"),
                        "FixedPointQuantize": _activation("FixedPointQuantize")}


def export_network(run: FinishedRun, batch_size: int) -> ModelProto:
    """Export the network for testing of the current parameter scope.

    Returns
    -------
    onnx.ModelProto
        From `image`, float32 (batch_size, channels, height, width), to `logits`, float32 (batch_size, classes).
    """
    with native_functions():
        network = run.build(batch_size)
    return onnx_export.export({INPUT: network.image}, {OUTPUT: network.logits}, converters=QUANTIZED_CONVERTERS)


def integer_share(model: ModelProto) -> float:
    """Share of the elements of a model's constants that are stored as integers of 8 bits."""
    sizes = {kind: sum(np.prod(constant.dims, dtype=int) for constant in model.graph.initializer
                       if constant.data_type == kind) for kind in (TensorProto.INT8, TensorProto.FLOAT)}
    return sizes[TensorProto.INT8] / max(1, sum(sizes.values()))
