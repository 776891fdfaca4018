"""What the quantizers in a graph of nnabla's functions do: found from the functions that they are composed of."""
from collections.abc import Callable

import attrs
import nnabla as nn
import nnabla.functions as F
import numpy as np
from nnabla.function import Function

from common.cpu.powers_of_two import evaluator, first_reaching
from common.inference.graph import Graph
from common.quantizers.grids import compose_pow2

LARGEST_ACTIVATION = 255    # levels of 8 bits without a sign


@attrs.frozen
class UniformRounding:
    """What a uniform quantizer does: it rounds `source` to multiples of `step_size`, at most `levels` of a sign.

    Halves are rounded away from 0. Unless it is `signed`, what is below 0 becomes 0.
    """

    source: nn.Variable
    step_size: float
    levels: int
    signed: bool = False

    @property
    def lowest(self) -> int:
        """Lowest level, in steps."""
        return -self.levels if self.signed else 0


@attrs.frozen
class PowerRounding:
    """What a power-of-two quantizer of activations does: it rounds `source` to 0 or powers of two in [xmin, xmax].

    `quantize` makes the quantized variable of one with float32 values.
    """

    source: nn.Variable
    xmin: float
    xmax: float
    quantize: Callable[[nn.Variable], nn.Variable]

    def borders(self) -> tuple[np.ndarray, np.ndarray]:
        """Levels above 0 in rising order, float32, and the smallest float32 number that becomes each of them.

        nnabla's own function decides, as float32 logarithms are rounded.
        """
        count = round(np.log2(self.xmax / self.xmin)) + 1
        levels = np.ldexp(self.xmin, np.arange(count)).astype(np.float32)
        magnitude = nn.Variable((count,))
        return levels, first_reaching(levels, evaluator(magnitude, self.quantize(magnitude)), self.xmax)


def uniform_rounding(variable: nn.Variable) -> UniformRounding | None:
    """Return the rounding by a uniform quantizer that `variable` is the result of, None if it is no such result."""
    function = variable.parent
    kind = function.info.type_name if function else None
    if kind == "FixedPointQuantize":
        args = function.info.args
        return UniformRounding(function.inputs[0], args["delta"], 2 ** (args["n"] - args["sign"]) - 1, args["sign"])
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
    levels = int(np.floor(largest / step_size + np.float32(0.5)))
    return UniformRounding(above.inputs[0], float(step_size), levels, above.info.type_name == "Maximum2")


def power_rounding(variable: nn.Variable) -> PowerRounding | None:
    """Return the rounding of activations by a power-of-two quantizer that `variable` is the result of, or None.

    None also where the range is empty, or its smallest level is too small for float32.
    """
    function = variable.parent
    kind = function.info.type_name if function else None
    if kind == "Pow2Quantize":
        return _static_power_rounding(function)
    # The functions of common.quantizers.compose_pow2, from the last to the first.
    total = _parent(function.inputs[2], "Add2") if kind == "Where" else None
    high = total and _parent(total.inputs[1], "Mul2")
    lower = total and _parent(total.inputs[0], "Add2")
    low = lower and _parent(lower.inputs[0], "Mul2")
    if not (high and low):
        return None
    xmin, xmax = (_scalar(product.inputs[1]) for product in (low, high))
    if not 0 < xmin <= xmax:
        return None
    return PowerRounding(function.inputs[1], float(xmin), float(xmax), lambda x: compose_pow2(
        x, F.constant(float(xmin), ()), F.constant(float(xmax), ()), sign=False, with_zero=True))


def _static_power_rounding(function: Function) -> PowerRounding | None:
    args = function.info.args
    if args["sign"] or not args["with_zero"]:
        return None
    xmax = 2.0 ** args["m"]
    return PowerRounding(function.inputs[0], 2.0 ** (1 - 2 ** (args["n"] - 1)) * xmax, xmax, lambda x: F.pow2_quantize(
        x, **{key: args[key] for key in ("sign", "with_zero", "n", "m")}))


def _parent(variable: nn.Variable, *kinds: str) -> Function | None:
    return variable.parent if variable.parent and variable.parent.info.type_name in kinds else None


def _scalar(variable: nn.Variable) -> np.float32:
    if variable.parent is not None:
        variable.forward()
    return np.float32(variable.d.item())


class Activations:
    """Which variables of a graph hold activations on a uniform grid of up to 8 bits."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        found = {function.outputs[0]: uniform_rounding(function.outputs[0]) for function in graph.functions
                 if function.info.type_name in ("Where", "FixedPointQuantize")}
        self._roundings = {y: rounding for y, rounding in found.items()
                           if rounding and rounding.levels <= LARGEST_ACTIVATION}
        self._by_source = {rounding.source: rounding for rounding in self._roundings.values()}

    def rounding_of(self, variable: nn.Variable) -> UniformRounding | None:
        """Return what puts the values of `variable` on a grid, also where they have been moved since; None: nothing."""
        while variable not in self._roundings:
            function = variable.parent
            if function is None or not self.moves(function):
                return None
            variable = function.inputs[0]
        return self._roundings[variable]

    def rounding_at(self, variable: nn.Variable) -> UniformRounding | None:
        """Return the rounding by a quantizer that `variable` is the result of, None if it is no such result."""
        return self._roundings.get(variable)

    def moves(self, function: Function) -> bool:
        """Whether a function only chooses among values and zeros."""
        kind, args = function.info.type_name, function.info.args
        if kind == "Concatenate":
            return all(self._graph.is_constant(v) and not self._graph.values(v).any() for v in function.inputs[1:])
        takes_pixels = kind == "AveragePooling" and set(args["kernel"]) == {1} and not any(args["pad"])
        return takes_pixels or kind == "MaxPooling"

    def rounding_after(self, variable: nn.Variable) -> UniformRounding | None:
        """Return how a quantizer rounds `variable` itself, None if none does."""
        return self._by_source.get(variable)

    def sum_after(self, variable: nn.Variable) -> tuple[nn.Variable, UniformRounding] | None:
        """Where `variable` is only added to another one and the sum is rounded: the other one, and how."""
        users = self._graph.users[variable]
        if len(users) != 1 or users[0].info.type_name != "Add2":
            return None
        rounding = self.rounding_after(users[0].outputs[0])
        other, = [v for v in users[0].inputs if v != variable] or [None]
        return (other, rounding) if other is not None and rounding else None
