"""Which power of two is nearest to a magnitude in the log domain: nnabla's answer, and where it changes.

Float32 logarithms are rounded, so that two levels do not meet at sqrt(2) 2^k, but up to 63 floats away from there. The
places depend on the C library. They are found with nnabla's own functions, once for a process.
"""
import functools
from collections.abc import Callable

import attrs
import nnabla as nn
import nnabla.functions as F
import numpy as np

SMALLEST_EXPONENT, LARGEST_EXPONENT = -149, 127    # of the powers of two that float32 has
_NUM_SUBNORMAL = 23    # of them below the smallest normal number
_MANTISSA_BITS, _BIAS = 23, 127


def log2(value: nn.Variable) -> nn.Variable:
    """Logarithm to base 2, in the two float32 operations of the published code: its ties decide roundings."""
    return F.log(value) / np.log(2.)


def to_power_of_two(value: nn.Variable) -> nn.Variable:
    """Round positive elements to the power of two that is nearest in the log domain, straight through."""
    return 2 ** F.round(log2(value))


@attrs.frozen(eq=False)
class Borders:
    """Where `to_power_of_two` changes on a CPU, in the bits of float32 values.

    Attributes
    ----------
    carries : int32 (256,)
        By the exponent bits of a magnitude: what added to its bits carries into the exponent where it rounds up.
    lowest, highest : int32
        All mantissas below the lowest round down, those from the highest on round up, whatever the exponent.
    subnormal : int32 (24,)
        Smallest magnitudes that become 2^-149, 2^-148, ..., 2^-126.
    """

    carries: np.ndarray
    lowest: np.int32
    highest: np.int32
    subnormal: np.ndarray


@functools.cache
def borders() -> Borders:
    """Find all borders, in less than 0.1 s at the first call."""
    first = _first_magnitudes(np.arange(SMALLEST_EXPONENT, LARGEST_EXPONENT + 1))
    carries = np.zeros(256, np.int32)    # magnitudes above 2^127 stay there, as there is no higher power
    octaves = np.arange(1, LARGEST_EXPONENT + _BIAS)    # exponent bits of the normal numbers below
    mantissas = first[_NUM_SUBNORMAL + octaves] - (octaves << _MANTISSA_BITS)
    carries[octaves] = (1 << _MANTISSA_BITS) - mantissas
    return Borders(carries, np.int32(mantissas.min()), np.int32(mantissas.max()), first[:_NUM_SUBNORMAL + 1])


def first_reaching(levels: np.ndarray, evaluate: Callable[[np.ndarray], np.ndarray],
                   largest: float = float(np.finfo(np.float32).max)) -> np.ndarray:
    """Find the smallest float32 magnitude whose value by a rising function is a level or more, for each level.

    Parameters
    ----------
    levels : float array (n,)
    evaluate : callable
        Magnitudes float32 (n,) to values (n,), element by element; those of `largest` reach all levels.
    largest
        No magnitude above is tried.

    Returns
    -------
    float32 array (n,)
        Found by bisection of the bits of float32 numbers, which are in the order of the numbers.
    """
    below, reached = np.zeros(len(levels), np.int32), np.full(len(levels), largest, np.float32).view(np.int32)
    while (reached - below > 1).any():
        middle = below + (reached - below) // 2
        high = evaluate(middle.view(np.float32)) >= levels
        below, reached = np.where(high, below, middle), np.where(high, middle, reached)
    return reached.view(np.float32)


def _first_magnitudes(exponents):
    """Bits of the smallest magnitude that rounds to 2^k or more, int32, for each k of `exponents`."""
    with nn.context_scope(nn.Context(["cpu:float"], "CpuCachedArray", "0")):
        magnitude = nn.Variable(exponents.shape)
        exponent = F.round(log2(magnitude))
        return first_reaching(exponents, evaluator(magnitude, exponent)).view(np.int32)


def evaluator(x: nn.Variable, y: nn.Variable) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from values of `x` to those of `y`, which depends on nothing else that varies."""
    def evaluate(values):
        x.d = values
        y.forward()
        return y.d
    return evaluate
