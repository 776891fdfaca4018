"""The two grids that a tensor is rounded to, multiples of a step size and powers of two, and the scalars of their ends.

Scalars are `nn.Variable`s of shape () in the units of the tensor that is quantized, except n, which counts bits.

The one pass over a tensor is a compiled loop on a CPU and a compiled kernel on a GPU. Where the kernel cannot be used,
and inside `native_functions`, nnabla's own functions compute.
"""
import types
from collections.abc import Callable, Mapping

import attrs
import nnabla as nn
import nnabla.functions as F
import numpy as np

from common.cpu.elements import Pow2Quantize, UniformQuantize
from common.cpu.powers_of_two import to_power_of_two
from common.gpu import quantizers as gpu
from common.machine.context import wants_native

_SMALLEST, _LARGEST, _LARGEST_POWER = 2.0 ** -149, float(np.finfo(np.float32).max), 2.0 ** 127
Limits = Mapping[str, tuple[float, float]]    # of each scalar: the lowest and the highest value


@attrs.frozen
class Scalar:
    """What is known of a scalar, whatever its quantizer.

    `limits` are its lowest and highest value where a caller names none; `label` says what it is, for plots;
    `is_log` asks for a logarithmic axis there.
    """

    label: str
    limits: tuple[float, float]
    is_log: bool = True


SCALARS: Mapping[str, Scalar] = types.MappingProxyType({
    "d": Scalar("step size d", (2.0 ** -8, 1.0)),    # distance of two levels, used as 2^round(log2 d)
    "xmin": Scalar("smallest magnitude xmin", (2.0 ** -16, 127.0)),    # of powers of two, used as 2^round(log2 xmin)
    "xmax": Scalar("range xmax", (2.0 ** -8, 127.0)),    # largest magnitude, used as a power of two by those
    "n": Scalar("bit width n", (2.0, 8.0), is_log=False),    # used rounded
})
DEFAULT_LIMITS: Limits = types.MappingProxyType({name: scalar.limits for name, scalar in SCALARS.items()})


def limits_of(name: str, limits: Limits | None) -> tuple[float, float]:
    """(lowest, highest) value of a scalar, the default ones where `limits` does not name it.

    Raises
    ------
    ValueError
        `limits` names what is no scalar, or the lowest value is above the highest.
    """
    for given in limits or ():
        if given not in SCALARS:
            raise ValueError(f"limits of {given!r}: the scalars are {', '.join(SCALARS)}")
    lowest, highest = (limits or {}).get(name, DEFAULT_LIMITS[name])
    if not lowest <= highest:
        raise ValueError(f"limits of {name}: the lowest, {lowest}, is above the highest, {highest}")
    return lowest, highest


def clip(name: str, value: nn.Variable, limits: Limits | None) -> nn.Variable:
    """Clip the scalar `value` to its limits. The gradient is 0 at the limits and beyond them."""
    lowest, highest = limits_of(name, limits)
    return F.minimum_scalar(F.maximum_scalar(value, lowest), highest)


def check_scalars(**scalars: nn.Variable) -> None:
    """Raise a ValueError if one of the variables is none, or not of shape ()."""
    for name, value in scalars.items():
        if not isinstance(value, (nn.Variable, nn.NdArray)):
            raise ValueError(f"{name} must be an nn.Variable of shape (), got {value!r}")
        if value.shape != ():
            raise ValueError(f"{name} must be a scalar of shape (), got shape {value.shape}")


# One tensor -------------------------------------------------------------------------------------------------------


def quantize_uniform(x: nn.Variable, d: nn.Variable, xmax: nn.Variable, sign: bool = True) -> nn.Variable:
    """Round `x` to multiples of `d` after clipping to [-xmax, xmax], or [0, xmax] unless `sign`.

    `d` and `xmax`, both > 0 and of shape (), are the step size and the largest magnitude in the units of `x`.

    Returns
    -------
    nn.Variable, shape of `x`
        d round(clip(x) / d), ties away from zero. As in the published code xmax need not be a multiple of d, so
        that the largest level is d round(xmax / d). Gradient to x: 1 strictly inside the range, 0 elsewhere; to d: sum
        of round(c / d) - c / d over the clipped values c; to xmax: +1 at or above xmax, -1 at or below -xmax.

    Raises
    ------
    ValueError
        `d` or `xmax` is not a scalar.

    References
    ----------
    arXiv 1905.11452, equations (1) and (3a).
    """
    check_scalars(d=d, xmax=xmax)
    if not wants_native():
        return UniformQuantize(sign)(x, d, xmax)
    y = gpu.quantize(x, d, xmax, gpu.Settings(kind=gpu.Kind.GIVEN, pow2=False, sign=sign))
    return compose_uniform(x, d, xmax, sign) if y is None else y


def compose_uniform(x: nn.Variable, d: nn.Variable, xmax: nn.Variable, sign: bool) -> nn.Variable:
    """`quantize_uniform` from nnabla's own functions: what other ways to compute are compared with."""
    d, upper = _broadcastable(x, d), _broadcastable(x, xmax)
    above = F.maximum2(x, -upper) if sign else F.maximum_scalar(x, 0)
    return _or_nan(d * F.round(F.minimum2(above, upper) / d), x)


def quantize_pow2(x: nn.Variable, xmin: nn.Variable, xmax: nn.Variable, sign: bool = True,
                  with_zero: bool = False) -> nn.Variable:
    """Round magnitudes of `x` to powers of two between `xmin` and `xmax`, in the log domain.

    `xmin` and `xmax`, powers of two of shape (), are the smallest and the largest magnitude in the units of `x`.
    xmin <= xmax is expected: where they cross, magnitudes between them give xmin + xmax as in the published code.
    Without `sign`, negative values count as 0. Magnitudes below xmin / sqrt(2) become 0 if `with_zero`, otherwise xmin.
    The sign of 0 is +.

    Returns
    -------
    nn.Variable, shape of `x`
        Gradient to x: 2^round(log2 |x|) / |x| for magnitudes in [xmin, xmax), else 0, at x = 0 too; to xmin and xmax:
        the signs of the elements that were rounded to them from outside of the range.

    Raises
    ------
    ValueError
        `xmin` or `xmax` is not a scalar.

    References
    ----------
    arXiv 1905.11452, equations (2) and (4).
    """
    check_scalars(xmin=xmin, xmax=xmax)
    if not wants_native():
        return Pow2Quantize(sign, with_zero)(x, xmin, xmax)
    y = gpu.quantize(x, xmin, xmax, gpu.Settings(kind=gpu.Kind.GIVEN, pow2=True, sign=sign, with_zero=with_zero))
    return compose_pow2(x, xmin, xmax, sign, with_zero) if y is None else y


def compose_pow2(x: nn.Variable, xmin: nn.Variable, xmax: nn.Variable, sign: bool, with_zero: bool) -> nn.Variable:
    """`quantize_pow2` from nnabla's own functions: what other ways to compute are compared with."""
    # All branches are computed, and 0 times infinity in those that do not count would be NaN.
    xmin, xmax = _broadcastable(x, xmin), _broadcastable(x, F.minimum_scalar(xmax, _LARGEST))
    magnitude = F.abs(x) if sign else F.relu(x)
    low, high = F.less(magnitude, xmin), F.greater_equal(magnitude, xmax)
    between = (1 - low) * (1 - high) * F.greater_scalar(magnitude, 0)    # xmin may be 0, too small for float32
    if with_zero:
        low = low * F.greater_equal(magnitude, xmin / np.sqrt(2.))
    # log(0) would turn a gradient of 0 into NaN.
    rounded = to_power_of_two(F.minimum_scalar(F.maximum_scalar(magnitude, _SMALLEST), _LARGEST_POWER))
    y = _fixed(low) * xmin + _fixed(between) * rounded + _fixed(high) * xmax
    return _or_nan(_fixed(F.sign(x)) * y if sign else y, x)


def _or_nan(y, x):
    return F.where(_fixed(F.isnan(x)), x, y)


def _broadcastable(x, scalar):
    # Binary functions broadcast between equal numbers of dimensions only.
    return F.reshape(scalar, (1,) * x.ndim, inplace=False)


def _fixed(mask):
    return mask.apply(need_grad=False)


# What follows from a grid ---------------------------------------------------------------------------------------------


def _uniform_scalars(step_size: float, bits: int, sign: bool) -> dict[str, float]:
    return {"n": bits, "d": step_size, "xmax": step_size * (2 ** (bits - sign) - 1)}


def _pow2_scalars(step_size: float, bits: int, sign: bool) -> dict[str, float]:
    xmax = 2.0 ** np.round(np.log2(step_size * (2 ** (bits - sign) - 1)))
    return {"n": bits, "xmin": xmax / 2.0 ** (2 ** (bits - 1) - 1), "xmax": xmax}


def _multiple(index: np.ndarray, step_size: float) -> np.ndarray:
    return index.astype(np.float32) * np.float32(step_size)


def _power(index: np.ndarray, smallest: float) -> np.ndarray:
    return np.ldexp(smallest, index.astype(np.int64)).astype(np.float32)


@attrs.frozen(eq=False)
class Grid:
    """A kind of levels.

    Attributes
    ----------
    name : str
        In files.
    label, levels : str
        For people: of a quantizer, "uniform", and of its levels, "multiples of a step size".
    smallest : str
        Scalar that is the smallest magnitude but 0.
    max_bits : int
        With more the levels do not fit into float32.
    scalars_for : callable
        `(step_size, bits, sign)` to the scalars by name that give as many levels as the bits allow, of which the
        largest is, or is near, that of a uniform quantizer with `step_size`.
    number_of : callable
        Magnitudes divided by the smallest, float64 array, to the number of each level, counted from the smallest one
        of its sign: from 0, or on the uniform grid from the level 0.
    magnitude_of : callable
        `(numbers, smallest)` to magnitudes, float32 array; the inverse.
    keeps_zero : bool
        0 is no level unless one is kept for it, as tensors without a sign need.
    """

    name: str
    label: str
    levels: str
    smallest: str
    max_bits: int
    scalars_for: Callable[[float, int, bool], dict[str, float]]
    number_of: Callable[[np.ndarray], np.ndarray]
    magnitude_of: Callable[[np.ndarray, float], np.ndarray]
    keeps_zero: bool = False

    def range_for(self, step_size: float, bits: int, sign: bool) -> tuple[float, float]:
        """Smallest and largest magnitude of `scalars_for`."""
        scalars = self.scalars_for(step_size, bits, sign)
        return scalars[self.smallest], scalars["xmax"]

    def settings(self, sign: bool) -> dict[str, bool]:
        """Arguments of a quantizer on this grid: for weights with a sign, for activations without but with a zero."""
        return {"sign": sign, "with_zero": not sign} if self.keeps_zero else {"sign": sign}

    def reserved_bits(self, sign: bool) -> int:
        """Bits of a code that say the sign, or whether it is zero; the others number the level."""
        return sum(self.settings(sign).values())


UNIFORM = Grid(name="uniform", label="uniform", levels="multiples of a step size", smallest="d", max_bits=16,
               scalars_for=_uniform_scalars, number_of=np.rint, magnitude_of=_multiple)
POWER_OF_TWO = Grid(name="pow2", label="power of two", levels="powers of two", smallest="xmin", max_bits=8,
                    scalars_for=_pow2_scalars, number_of=np.log2, magnitude_of=_power, keeps_zero=True)
GRIDS: Mapping[str, Grid] = types.MappingProxyType({grid.name: grid for grid in (UNIFORM, POWER_OF_TWO)})
