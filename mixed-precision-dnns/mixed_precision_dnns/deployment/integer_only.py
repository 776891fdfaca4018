"""ONNX models of networks in which nothing is float: integers from the codes of an image to the sums of the last layer.

Between layers stand codes of 8 bits. Every layer reads them by DequantizeLinear, and QuantizeLinear rounds what comes
out: engines make one kernel for integers of the three. Two nodes are at the ends: the QuantizeLinear that rounds the
image, and the last Gemm, whose sums of integers leave it as floats, the logits. Powers of two are found in a table of
codes.

nnabla rounds halves away from zero, engines to even numbers. Where the quotient of two step sizes can give halves, the
scale of a QuantizeLinear is smaller than the step size by less than any border can notice, and halves become larger.
"""
from collections.abc import Callable

import attrs
import nnabla as nn
import numpy as np
from nnabla.function import Function
from onnx import TensorProto

from common.inference.graph import Graph
from common.inference.onnx_export import Writer
from common.inference.onnx_functions import CONVERTERS
from mixed_precision_dnns.deployment import integer_nodes as nodes
from mixed_precision_dnns.deployment.dyadic import integers_of
from mixed_precision_dnns.deployment.integer_channels import LARGEST_WEIGHT, fit_channels, leaves_16_bits
from mixed_precision_dnns.deployment.integer_nodes import LARGEST_CODE
from mixed_precision_dnns.deployment.roundings import PowerRounding, UniformRounding, power_rounding, uniform_rounding

_STRETCHES = np.concatenate([[0.0], 2.0 ** -np.arange(18, 9, -1)])    # of quotients, that are tried in this order
_SAFE_MARGIN = 2.0 ** -13    # of a level: more than float32 errors of sums of two codes make of it


@attrs.frozen
class Codes:
    """Values in steps, integers from `lowest` to `highest`, stored as uint8 from 0 under `name`."""

    name: str
    step_size: float
    lowest: int
    highest: int

    def read(self, writer: Writer, step_size: float | None = None) -> str:
        """What the codes stand for; `step_size` takes the place of their own."""
        return writer.node("DequantizeLinear", self.name, writer.constant(step_size or self.step_size),
                           writer.constant(-self.lowest, np.uint8))


class IntegerOnlyConverters:
    """Converters of one export.

    `inexact` counts borders of levels, and sums, that kernels have elsewhere, `wide` layers whose sums of two products
    may need more than 16 bits.

    Raises
    ------
    ValueError
        Of a converter: something has no form in integers of 8 bits.
    """

    def __init__(self, graph: Graph) -> None:
        self.inexact = self.wide = 0
        self._graph = graph
        self._codes: dict[nn.Variable, Codes] = {}
        self._results: dict[nn.Variable, str] = {}    # of convolutions, not yet rounded
        ends = [function.outputs[0] for function in graph.functions
                if function.info.type_name in ("Where", "FixedPointQuantize", "Pow2Quantize")]
        self._roundings = {y: rounding for y in ends if (rounding := uniform_rounding(y) or power_rounding(y))}
        self._by_source = {rounding.source: rounding for rounding in self._roundings.values()}
        self.table: dict[str, Callable] = {
            "Convolution": self._convolution, "Affine": self._affine,
            **{kind: self._quantizer(kind) for kind in ("Where", "FixedPointQuantize", "Pow2Quantize")},
            **{kind: self._moved(kind) for kind in ("MaxPooling", "AveragePooling", "Concatenate")}}

    # Quantizers -----------------------------------------------------------------------------------------------------

    def _quantizer(self, kind):
        """Codes, in place of the function of type `kind` that ends a quantizer."""
        def convert(writer, function):
            y = function.outputs[0]
            rounding = self._roundings.get(y)
            if rounding is None:
                return CONVERTERS[kind](writer, function)
            self._codes[y] = (self._powers(writer, rounding) if isinstance(rounding, PowerRounding) else
                              self._rounded(writer, rounding))
            return self._codes[y].read(writer)
        return convert

    def _rounded(self, writer, rounding):
        source = rounding.source
        if source in self._results:
            return _round(writer, self._results[source], rounding, rounding.step_size)
        kind = source.parent.info.type_name if source.parent else None
        if kind == "Add2":
            return self._sum(writer, rounding, source.parent.inputs)
        if kind == "MulScalar" and source.parent.inputs[0].parent.info.type_name == "Sum":
            return self._mean(writer, rounding, source.parent)
        if source.parent is None:
            return _round(writer, writer.name(source), rounding, rounding.step_size)
        raise ValueError(f"{kind}: what is rounded here has no form in integers")

    def _powers(self, writer, rounding):
        """Powers of two by a table of all codes."""
        codes = self._coded(rounding.source)
        levels, borders = rounding.borders()
        values = (np.arange(codes.highest - codes.lowest + 1) + codes.lowest) * codes.step_size
        number = np.searchsorted(borders, values.astype(np.float32), side="right")    # 0 for the level 0
        table = np.concatenate([[0], levels / levels[0]])[number]
        if table.max() > LARGEST_CODE:
            raise ValueError(f"powers of two from {levels[0]:g} to {levels[-1]:g} take more than 8 bits")
        index = writer.node("Cast", codes.name, to=TensorProto.INT32)
        return Codes(writer.node("Gather", writer.constant(table, np.uint8), index), float(levels[0]), 0,
                     int(levels[-1] / levels[0]))

    def _coded(self, variable):
        if variable not in self._codes:
            raise ValueError(f"{variable.parent.info.type_name if variable.parent else 'image'}: floats are read here")
        return self._codes[variable]

    # Layers ---------------------------------------------------------------------------------------------------------

    def _sum(self, writer, rounding, variables):
        terms = [self._coded(variable) for variable in variables]
        values = [np.arange(term.lowest, term.highest + 1) * term.step_size for term in terms]
        unit = self._unit(np.add.outer(*values), rounding)
        return _round(writer, writer.node("Add", *(term.read(writer) for term in terms)), rounding, unit)

    def _mean(self, writer, rounding, scaling):
        """Sum of all pixels, times a number: a mean of codes with another step size."""
        total = scaling.inputs[0].parent
        x, factor = self._coded(total.inputs[0]), scaling.info.args["val"]
        pixels = int(np.prod(total.inputs[0].shape[2:]))
        unit = self._unit(np.arange(x.lowest * pixels, x.highest * pixels + 1) * (x.step_size * factor), rounding)
        floats = x.read(writer, x.step_size * factor * pixels)
        return _round(writer, writer.node("GlobalAveragePool", floats), rounding, unit)

    def _unit(self, values, rounding):
        """Scale of a QuantizeLinear that gives all values, exact in float64, the levels that `rounding` gives them."""
        quotients = np.unique(values / rounding.step_size)
        tried = []
        for stretch in _STRETCHES:
            unit = np.float32(rounding.step_size / (1 + stretch))
            wrong, margin = _judge(quotients, rounding, rounding.step_size / float(unit))
            tried.append((wrong, -margin, float(unit)))
            if wrong == 0 and margin > _SAFE_MARGIN:
                break
        wrong, _, unit = min(tried)
        self.inexact += wrong
        return unit

    def _convolution(self, writer: Writer, function: Function) -> str:
        x, args = self._coded(function.inputs[0]), function.info.args
        integers, step = _weights(writer, function)
        scale, shift, result = writer.absorb(function.outputs[0], 1, 2)
        rounding = self._by_source.get(result)
        if not isinstance(rounding, UniformRounding) or len(function.inputs) > 2:
            raise ValueError("Convolution: no uniform quantizer rounds its result")
        integers = integers * np.where(scale < 0, -1, 1).astype(np.int8).reshape(-1, 1, 1, 1)    # scales are positive
        rows = integers.reshape(len(integers), -1)
        channels = fit_channels(rows, step * np.abs(scale), shift, x.step_size, x.highest, rounding.step_size,
                                (rounding.lowest, rounding.levels), x.lowest, away=True)
        self.inexact += channels.inexact
        self.wide += leaves_16_bits(rows * channels.factors[:, None], x.highest - x.lowest)
        operands = nodes.integer_weights(writer, integers, channels, x.step_size)
        y = writer.node("Conv", x.read(writer), *operands, pads=2 * args["pad"], strides=args["stride"],
                        dilations=args["dilation"], group=args["group"])
        self._results[result] = y
        return y

    def _affine(self, writer: Writer, function: Function) -> str:
        """Last layer: the logits are the sums of integers, times a power of two."""
        x = self._coded(function.inputs[0])
        integers, step = _weights(writer, function)
        integers = integers.reshape(-1, function.outputs[0].shape[1])
        self.wide += leaves_16_bits(integers.T, x.highest - x.lowest)
        unit = x.step_size * step
        bias = np.rint(writer.values(function.inputs[2]).astype(np.float64) / unit)
        rows = attrs.evolve(x, name=writer.reshape(x.name, (-1, len(integers)))).read(writer)
        weights = writer.node("DequantizeLinear", writer.constant(integers, np.int8), writer.constant(step),
                              writer.constant(0, np.int8))
        added = writer.node("DequantizeLinear", writer.constant(bias, np.int32), writer.constant(unit),
                            writer.constant(0, np.int32))
        return writer.node("Gemm", rows, weights, added)

    def _moved(self, kind):
        """Functions that only choose among values and zeros act on codes."""
        def convert(writer, function):
            x, y = self._coded(function.inputs[0]), function.outputs[0]
            name = (nodes.largest_pixel(writer, x.name, function) if kind == "MaxPooling" else
                    nodes.MOVES[kind](writer, x.name, function))
            self._codes[y] = attrs.evolve(x, name=name)
            return self._codes[y].read(writer)
        return convert


def _weights(writer, function):
    """Integers int8 of the weights of a layer, and their step size."""
    integers, step = integers_of(writer.values(function.inputs[1]))
    if np.abs(integers).max() > LARGEST_WEIGHT:
        raise ValueError(f"{function.info.type_name}: weights take more than 8 bits")
    return integers.astype(np.int8), float(step)


def _judge(quotients, rounding, factor):
    """Number of quotients that halves to even round to other levels behind a factor, and the distance from borders."""
    levels = np.clip(np.copysign(np.floor(np.abs(quotients) + 0.5), quotients), rounding.lowest, rounding.levels)
    found = quotients * factor
    inside = (found > rounding.lowest - 1) & (found < rounding.levels + 1)
    distances = np.abs(found - np.floor(found) - 0.5)[inside]
    wrong = np.clip(np.rint(found), rounding.lowest, rounding.levels) != levels
    return int(wrong.sum()), float(distances.min(initial=0.5))


def _round(writer, floats, rounding, unit):
    """Codes of what a kernel returns.

    The highest level is where 8 bits end. What is below the lowest is cut off behind: by LeakyRelu, which engines
    compute by a table of codes.
    """
    zero, scale = writer.constant(LARGEST_CODE - rounding.levels, np.uint8), writer.constant(unit)
    name = writer.node("QuantizeLinear", floats, scale, zero)
    if rounding.levels - rounding.lowest < LARGEST_CODE:
        floats = writer.node("DequantizeLinear", name, scale, zero)
        again = writer.node("LeakyRelu", floats, alpha=float(rounding.signed))
        name = writer.node("QuantizeLinear", again, scale, writer.constant(-rounding.lowest, np.uint8))
    return Codes(name, rounding.step_size, rounding.lowest, rounding.levels)
