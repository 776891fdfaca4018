"""A trained network in integer arithmetic alone: what kernels for integers are compared with.

Weights and activations are integers, accumulators are exact. Step sizes are powers of two, so a level is found by a
shift. What is no integer, the scale and shift of a normalization, becomes one with as many bits as 64 have room for.
NumPy's integers compute all of it; floats only say which integers the parameters are.
"""
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import attrs
import nnabla as nn
import numpy as np
from nnabla.function import Function
from numpy.lib.stride_tricks import sliding_window_view

from common.inference.graph import Graph
from common.inference.onnx_functions import SCALE_SHIFT
from common.machine.context import native_functions
from mixed_precision_dnns.deployment.dyadic import integers_of
from mixed_precision_dnns.deployment.roundings import PowerRounding, power_rounding, uniform_rounding
from mixed_precision_dnns.finished_run import FinishedRun

PIXEL = Fraction(1, 255)    # a pixel of 8 bits, p, is the value (2 p - 255) / 255
_LARGEST_BITS, _BIAS_BITS = 61, 20


@attrs.frozen
class Integers:
    """`values` int64 (batch, ...) stand for themselves times `scale`; `bound` is the largest magnitude that they have.
    """

    values: np.ndarray
    scale: Fraction
    bound: int

    def on(self, scale: Fraction) -> "Integers":
        """Return the same on a grid that is finer by a power of two."""
        shift = _exponent(self.scale / scale)
        return Integers(self.values << shift, scale, self.bound << shift)


class IntegerNetwork:
    """The network of a run, with the parameters of the current scope.

    Raises
    ------
    ValueError
        A layer without an integer form: one whose input or weights are float.
    """

    def __init__(self, run: FinishedRun) -> None:
        with native_functions():
            network = run.build(1)
        self._graph = Graph({"image": network.image}, {"logits": network.logits})
        self._image, self._logits, self._shape = network.image, network.logits, run.image_shape

    def predict(self, pixels: np.ndarray) -> Integers:
        """Logits (n, classes) of images uint8 (n, channels, height, width)."""
        assert pixels.dtype == np.uint8 and pixels.shape[1:] == self._shape, (pixels.dtype, pixels.shape)
        found = {self._image: Integers(2 * pixels.astype(np.int64) - 255, PIXEL, 255)}
        return self._compute(self._logits, found)

    def _compute(self, variable: nn.Variable, found: dict[nn.Variable, Integers]) -> Integers:
        if variable not in found:
            function = variable.parent
            kind = function.info.type_name
            rounding = uniform_rounding(variable) or power_rounding(variable)
            if rounding is not None:
                round_to = _powers if isinstance(rounding, PowerRounding) else _levels
                found[variable] = round_to(self._compute(rounding.source, found), rounding)
            elif kind in _FUNCTIONS:
                inputs = [self._compute(x, found) for x in function.inputs if not self._graph.is_constant(x)]
                found[variable] = _FUNCTIONS[kind](self._graph, function, *inputs)
            else:
                raise ValueError(f"{kind}: this function has no integer form")
        return found[variable]


def _exponent(ratio: Fraction) -> int:
    """Exponent of a power of two."""
    exponent = ratio.numerator.bit_length() - ratio.denominator.bit_length()
    if ratio != Fraction(2) ** exponent:
        raise ValueError(f"a ratio of {ratio} where integers need a power of two")
    return exponent


# Quantizers ---------------------------------------------------------------------------------------------------------


def _levels(x, rounding):
    """Round to multiples of a step size, halves away from zero: a shift, but for the 255 of an image."""
    step = Fraction(rounding.step_size)
    ratio = x.scale / step
    magnitudes = (2 * ratio.numerator * np.abs(x.values) + ratio.denominator) // (2 * ratio.denominator)
    rounded = np.where(x.values < 0, -magnitudes, magnitudes)
    return Integers(np.clip(rounded, rounding.lowest, rounding.levels), step, rounding.levels)


def _powers(x, rounding):
    """Count the borders that are reached; level 2^k xmin is the integer 2^k."""
    levels, borders = rounding.borders()
    first = [-(-Fraction(float(border)) // x.scale) for border in borders]
    count = np.searchsorted(np.array(first, np.int64), x.values, side="right")
    return Integers(np.where(count > 0, np.int64(1) << np.maximum(count - 1, 0), 0), Fraction(rounding.xmin),
                    1 << (len(levels) - 1))


# Layers -------------------------------------------------------------------------------------------------------------


def _windows(padded, kernel, stride):
    """Places of a kernel: a view (batch, channels, out_height, out_width, kernel_height, kernel_width)."""
    axes: Any = (2, 3)    # the stubs of this NumPy know of one alone
    views = sliding_window_view(padded, tuple(kernel), axis=axes)
    return views[:, :, ::stride[0], ::stride[1]]


def _convolution(graph: Graph, function: Function, x: Integers) -> Integers:
    args = function.info.args
    if x.bound >= 1 << _LARGEST_BITS:
        raise ValueError("Convolution: one takes floats, which no quantizer has rounded")
    weights, step = integers_of(graph.values(function.inputs[1]))
    pad, stride, group = args["pad"], args["stride"], args["group"]
    padded = np.pad(x.values, ((0, 0), (0, 0), (pad[0], pad[0]), (pad[1], pad[1])))
    windows = _windows(padded, weights.shape[2:], stride)
    batch, channels, height, width = windows.shape[:4]
    columns = windows.reshape(batch, group, channels // group, height * width, -1).transpose(0, 1, 2, 4, 3)
    columns = columns.reshape(batch, group, -1, height * width)
    rows = weights.reshape(group, len(weights) // group, -1)
    bound = x.bound * int(np.abs(weights).reshape(len(weights), -1).sum(1).max())
    kind = np.int32 if bound < 2 ** 31 else np.int64    # of the accumulators
    sums = rows.astype(kind) @ columns.astype(kind)    # (batch, group, outmaps of a group, pixels)
    return Integers(sums.astype(np.int64).reshape(batch, -1, height, width), x.scale * step, bound)


def _affine(graph: Graph, function: Function, x: Integers) -> Integers:
    weights, step = integers_of(graph.values(function.inputs[1]))
    scale = x.scale * step / 2 ** _BIAS_BITS
    bias = np.rint(graph.values(function.inputs[2]).astype(np.float64) / float(scale)).astype(np.int64)
    sums = x.values.reshape(len(x.values), -1) @ weights.reshape(-1, len(bias))
    bound = x.bound * int(np.abs(weights).sum(0).max()) << _BIAS_BITS
    return Integers((sums << _BIAS_BITS) + bias, scale, bound + int(np.abs(bias).max()))


def _by_channel(graph: Graph, function: Function, x: Integers) -> Integers:
    """Multiply and add constants of each channel; those that are no integers are rounded to what there is room for."""
    variable, = (v for v in function.inputs if not graph.is_constant(v))
    scale, shift = (np.asarray(a, np.float64) for a in SCALE_SHIFT[function.info.type_name](graph, function, variable))
    exact = _by_integers(x, scale, shift)
    if exact is not None:
        return exact
    factors = scale * float(x.scale)
    largest = max(float(np.abs(factors).max()) * x.bound, float(np.abs(shift).max()), 2.0 ** -64)
    bits = _LARGEST_BITS - 1 - int(np.ceil(np.log2(largest)))
    values = x.values * np.rint(np.ldexp(factors, bits)).astype(np.int64)
    return Integers(values + np.rint(np.ldexp(shift, bits)).astype(np.int64), Fraction(2) ** -bits, 1 << _LARGEST_BITS)


def _by_integers(x, scale, shift):
    """The same where all constants are multiples of powers of two and the result has room, else None."""
    try:
        factors, unit = integers_of(scale)
    except ValueError:
        return None
    added = shift / float(x.scale * unit)
    bound = x.bound * int(np.abs(factors).max()) + float(np.abs(added).max())
    if bound >= 2 ** _LARGEST_BITS or (added != np.rint(added)).any():
        return None
    return Integers(x.values * factors + added.astype(np.int64), x.scale * unit, int(bound))


def _sum(graph: Graph, function: Function, *inputs: Integers) -> Integers:
    if len(inputs) == 1:
        return _by_channel(graph, function, *inputs)
    scale = min(x.scale for x in inputs)
    a, b = (x.on(scale) for x in inputs)
    return Integers(a.values + b.values, scale, a.bound + b.bound)


def _average(graph: Graph, function: Function, x: Integers) -> Integers:
    """Take every other pixel, or sum all."""
    kernel, stride = function.info.args["kernel"], function.info.args["stride"]
    if set(kernel) == {1}:
        return Integers(x.values[:, :, ::stride[0], ::stride[1]], x.scale, x.bound)
    assert x.values.shape[2:] == tuple(kernel), (x.values.shape, kernel)
    pixels = kernel[0] * kernel[1]
    return Integers(x.values.sum((2, 3), keepdims=True), x.scale / pixels, x.bound * pixels)


def _total(graph: Graph, function: Function, x: Integers) -> Integers:
    """Sum of all pixels."""
    assert list(function.info.args["axes"]) == [2, 3], function.info.args
    return Integers(x.values.sum((2, 3), keepdims=True), x.scale, x.bound * int(np.prod(x.values.shape[2:])))


def _largest(graph: Graph, function: Function, x: Integers) -> Integers:
    args = function.info.args
    pad, stride = args["pad"], args["stride"]
    padded = np.pad(x.values, ((0, 0), (0, 0), (pad[0], pad[0]), (pad[1], pad[1])))    # activations are 0 or more
    windows = _windows(padded, args["kernel"], stride)
    return Integers(windows.max((-2, -1)), x.scale, x.bound)


def _with_zeros(graph: Graph, function: Function, x: Integers) -> Integers:
    count = sum(v.shape[1] for v in function.inputs[1:])
    return Integers(np.pad(x.values, ((0, 0), (0, count), (0, 0), (0, 0))), x.scale, x.bound)


_FUNCTIONS: dict[str, Callable[..., Integers]] = {
    "Convolution": _convolution, "Affine": _affine, "BatchNormalization": _by_channel, "Mul2": _by_channel,
    "MulScalar": _by_channel, "Add2": _sum, "Sum": _total, "AveragePooling": _average, "MaxPooling": _largest,
    "Concatenate": _with_zeros}
