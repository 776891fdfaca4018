"""ONNX models that run on integers in sessions with default settings, for `common.inference.onnx_export`.

Weights of uniform levels of up to 8 bits are stored as integers, of 4 bits where that is enough, and activations are
rounded by QuantizeLinear. Where a convolution reads integers, and what comes out is rounded, too, or added to integers
and then rounded, its bias is an integer of 32 bits: onnxruntime and openvino take kernels for integers, which round
as nnabla does (see `integer_channels`). Elsewhere, in the first layer, grouped convolutions, sums without a quantizer
and the last layer, weights become float32 when a session is made. Powers of two keep their values as constants if they
are weights, and are found by comparison with the borders of levels if they are activations.
"""
from collections.abc import Callable

import attrs
import nnabla as nn
import numpy as np
from nnabla.function import Function
from onnx import ModelProto, TensorProto

from common.inference import onnx_export
from common.inference.graph import Graph
from common.inference.onnx_export import Writer
from common.inference.onnx_functions import CONVERTERS
from common.machine.context import native_functions
from mixed_precision_dnns.deployment import integer_nodes as nodes
from mixed_precision_dnns.deployment.integer_channels import fit_channels, leaves_16_bits
from mixed_precision_dnns.deployment.integer_nodes import LARGEST_CODE, Target
from mixed_precision_dnns.deployment.integer_only import IntegerOnlyConverters
from mixed_precision_dnns.deployment.onnx_network import INPUT, OUTPUT
from mixed_precision_dnns.deployment.roundings import Activations, UniformRounding, power_rounding
from mixed_precision_dnns.finished_run import FinishedRun

OPSET = 21    # the first with integers of 4 bits


class IntegerConverters:
    """Converters of one export.

    `inexact` counts borders of levels that integers could not meet, `wide` layers whose sums of two products may need
    more than 16 bits. `codes` are the integers that stand for activations.
    """

    def __init__(self, activations: Activations) -> None:
        self.inexact = self.wide = 0
        self.codes: dict[nn.Variable, str] = {}
        self._integer: set[nn.Variable] = set()    # what kernels for integers return, to be rounded
        self._activations = activations
        self.table = {"Convolution": self._convolution, "Affine": nodes.affine, "Add2": self._sum,
                      "Where": self._activation("Where"),
                      "FixedPointQuantize": self._activation("FixedPointQuantize"),
                      "Pow2Quantize": self._activation("Pow2Quantize"), "MaxPooling": self._moved("MaxPooling"),
                      "AveragePooling": self._moved("AveragePooling"), "Concatenate": self._moved("Concatenate")}

    def _grid(self, variable: nn.Variable) -> UniformRounding:
        """What activations that have codes have been rounded by."""
        rounding = self._activations.rounding_of(variable)
        assert rounding is not None
        return rounding

    def _activation(self, kind: str) -> Callable:
        """Quantizer of activations, in place of the function of type `kind` that ends it."""
        def convert(writer, function):
            y = function.outputs[0]
            rounding = self._activations.rounding_at(y)
            if rounding is None:
                powers = power_rounding(y)
                return CONVERTERS[kind](writer, function) if powers is None else nodes.powers(writer, powers)
            if rounding.source in self._integer:
                self.codes[y] = self._rounded(writer, rounding)
            else:
                self.codes[y] = nodes.quantized(writer, rounding, writer.name(rounding.source))
            return self._floats(writer, y)
        return convert

    def _rounded(self, writer, rounding):
        """Codes of activations that kernels for integers return.

        The largest code is where 8 bits end. What is below 0 is cut off behind, by LeakyRelu with a slope of 0: it is a
        table of 256 codes in onnxruntime, where Clip takes longer than a convolution.
        """
        zero = writer.constant(LARGEST_CODE - rounding.levels, np.uint8)
        codes = writer.node("QuantizeLinear", writer.name(rounding.source),
                            writer.constant(rounding.step_size), zero)
        if rounding.levels == LARGEST_CODE:
            return codes
        floats = writer.node("DequantizeLinear", codes, writer.constant(rounding.step_size), zero)
        return writer.node("QuantizeLinear", writer.node("LeakyRelu", floats, alpha=0.0),
                           writer.constant(rounding.step_size), writer.constant(0, np.uint8))

    def _target(self, writer, variable):
        """How to round the result of a convolution, None if it is to stay float."""
        rounding = self._activations.rounding_after(variable)
        if rounding is not None:
            return Target(rounding.step_size, 0, rounding.levels)
        found = self._activations.sum_after(variable)
        other = self._activations.rounding_of(found[0]) if found else None
        return nodes.sum_target(found[1], other) if found and other else None

    def _moved(self, kind: str) -> Callable:
        """Functions that only move activations act on their codes."""
        def convert(writer, function):
            x, y = function.inputs[0], function.outputs[0]
            if x not in self.codes or not self._activations.moves(function):
                is_mean = nodes.is_mean(function)
                return nodes.average(writer, function) if is_mean else CONVERTERS[kind](writer, function)
            if kind == "MaxPooling":
                self.codes[y] = self._codes_of_largest(writer, function)
            else:
                self.codes[y] = nodes.MOVES[kind](writer, self.codes[x], function)
            return self._floats(writer, y)
        return convert

    def _codes_of_largest(self, writer, function):
        """Codes behind a pooling: of floats, where there are any, as onnxruntime pools those faster.

        It would move QuantizeLinear in front of the pooling, but not the limits of the range.
        """
        x = function.inputs[0]
        rounding = self._activations.rounding_at(x)
        if rounding is None or rounding.source in self._integer:
            return nodes.largest_pixel(writer, self.codes[x], function)
        return nodes.quantized(writer, rounding, nodes.largest_pixel(writer, writer.name(rounding.source), function))

    def _floats(self, writer, variable):
        """What codes stand for, where it is computed with as floats.

        Behind DequantizeLinear, onnxruntime would round the float weights of a convolution by itself.
        """
        return writer.node("Mul", writer.node("Cast", self.codes[variable], to=TensorProto.FLOAT),
                           writer.constant(self._grid(variable).step_size))

    def _read(self, writer, variable):
        """What codes stand for, where kernels for integers take the codes."""
        return writer.node("DequantizeLinear", self.codes[variable], writer.constant(self._grid(variable).step_size),
                           writer.constant(0, np.uint8))

    def _sum(self, writer: Writer, function: Function) -> str:
        if function.outputs[0] not in self._integer:
            return CONVERTERS["Add2"](writer, function)
        return writer.node("Add", *(self._read(writer, variable) if variable in self.codes else writer.name(variable)
                                    for variable in function.inputs))

    def _convolution(self, writer: Writer, function: Function) -> str:
        rounding = nodes.weights_rounding(function)
        if rounding is None or len(function.inputs) > 2:
            return CONVERTERS["Convolution"](writer, function)
        x, args = function.inputs[0], function.info.args
        integers = np.rint(writer.values(function.inputs[1]) / rounding.step_size).astype(np.int8)
        scale, shift, result = writer.absorb(function.outputs[0], 1, 2)
        affine = rounding.step_size * scale, shift
        target = self._target(writer, result) if x in self.codes and args["group"] == 1 else None
        operands = (self._float_operands(writer, x, integers, affine) if target is None else
                    self._integer_operands(writer, x, integers, affine, target))
        y = writer.node("Conv", *operands, pads=2 * args["pad"], strides=args["stride"], dilations=args["dilation"],
                        group=args["group"])
        return y if target is None else self._rounded_later(writer, y, result, target)

    def _float_operands(self, writer, x, integers, affine):
        if x in self.codes:    # openvino multiplies them as integers
            self.wide += leaves_16_bits(integers.reshape(len(integers), -1), self._grid(x).levels)
        return writer.name(x), nodes.float_weights(writer, integers, affine[0], 0), writer.constant(affine[1])

    def _integer_operands(self, writer, x, integers, affine, target):
        scale, shift = affine
        source = self._grid(x)
        # Negative scales turn the integers around.
        integers = integers * np.where(scale < 0, -1, 1).astype(np.int8).reshape(-1, 1, 1, 1)
        rows = integers.reshape(len(integers), -1)
        channels = fit_channels(rows, np.abs(scale), shift, source.step_size, source.levels, target.unit,
                                (target.lowest, target.highest))
        self.inexact += channels.inexact
        self.wide += leaves_16_bits(rows * channels.factors[:, None], source.levels)
        return self._read(writer, x), *nodes.integer_weights(writer, integers, channels, source.step_size)

    def _rounded_later(self, writer, y, result, target):
        """Result of a kernel for integers: a quantizer, or what adds it to activations, will round it."""
        if target.lowest == 0:
            self._integer.add(result)
            return y
        total, = (user.outputs[0] for user in writer.users[result])
        self._integer.add(total)
        return nodes.read_again(writer, y, target)


@attrs.frozen
class ExportedModel:
    """A model, and what of it does not hold everywhere.

    Attributes
    ----------
    model
    inexact : int
        Borders of levels that integers could not meet.
    wide : int
        Layers that a CPU without VNNI may compute wrongly: sums of two products may need more than 16 bits.
    """

    model: ModelProto
    inexact: int
    wide: int


def export_network(run: FinishedRun, batch_size: int) -> ExportedModel:
    """Export the network for testing of the current parameter scope.

    The model goes from `image`, float32 (batch_size, channels, height, width), to `logits`, float32 (batch_size,
    classes).
    """
    with native_functions():
        network = run.build(batch_size)
    ends = {INPUT: network.image}, {OUTPUT: network.logits}
    graph = Graph(*ends)
    converters = IntegerOnlyConverters(graph) if run.cfg.all_integer else IntegerConverters(Activations(graph))
    model = onnx_export.export(*ends, converters=converters.table, opset=OPSET)
    return ExportedModel(model, converters.inexact, converters.wide)


def integer_share(model: ModelProto) -> float:
    """Share of the elements of a model's constants that are stored as integers of 4 or 8 bits."""
    kinds = TensorProto.INT4, TensorProto.INT8, TensorProto.FLOAT
    sizes = {kind: sum(np.prod(constant.dims, dtype=int) for constant in model.graph.initializer
                       if constant.data_type == kind) for kind in kinds}
    return 1 - sizes[TensorProto.FLOAT] / max(1, sum(sizes.values()))
