"""Quantizers whose step size, range and bit width are learned (arXiv 1905.11452), for any nnabla network.

A quantizer rounds every element of a tensor to a few levels that two scalars describe. Which two is the choice that the
paper is about: `QUANTIZERS` lists the three pairs of the uniform and of the power-of-two quantizer, `STATIC_QUANTIZERS`
the two whose scalars are fixed. Scalars are trained with the weights; rounding is differentiated as the identity
(straight-through).

`limits` maps scalars to (lowest, highest) values, `DEFAULT_LIMITS` where it does not name them. A scalar is clipped to
them in use and gets no gradient at or beyond them.
"""
import types
from collections.abc import Callable, Mapping

import attrs
import nnabla as nn
import nnabla.functions as F
import numpy as np
from nnabla.initializer import ConstantInitializer
from nnabla.parameter import get_parameter_or_create

from common.cpu.powers_of_two import log2, to_power_of_two
from common.gpu import quantizers as gpu
from common.gpu.sizes import Bits
from common.machine.context import wants_gpu_kernels
from common.quantizers.grids import (
    POWER_OF_TWO,
    UNIFORM,
    Grid,
    Limits,
    check_scalars,
    clip,
    limits_of,
    quantize_pow2,
    quantize_uniform,
)

_MOST_OCTAVES = 127.5    # above the 2^7 - 1 that can be, and below 128, of which 2 to the power is infinite
Range = tuple[nn.Variable, nn.Variable]    # smallest magnitude, or step size, and largest magnitude

# Six parametrizations ---------------------------------------------------------------------------------------------
#
# Each turns its two scalars into the two that a tensor is quantized with: d or xmin, and xmax.


def _levels_exponent(n, limits, reserved):
    """N = round(n) less the bits `reserved` for sign and zero: a range holds 2^N levels, or exponents."""
    return F.round(clip("n", n, limits)) - reserved


def _range_of_d_xmax(d, xmax, limits, reserved):
    check_scalars(d=d, xmax=xmax)
    return to_power_of_two(clip("d", d, limits)), clip("xmax", xmax, limits)


def _range_of_d_b(d, n, limits, reserved):
    check_scalars(d=d, n=n)
    d = to_power_of_two(clip("d", d, limits))
    return d, d * (2 ** _levels_exponent(n, limits, reserved) - 1)


def _range_of_b_xmax(n, xmax, limits, reserved):
    check_scalars(n=n, xmax=xmax)
    xmax = clip("xmax", xmax, limits)
    return to_power_of_two(xmax / (2 ** _levels_exponent(n, limits, reserved) - 1)), xmax


def _range_of_xmin_xmax(xmin, xmax, limits, reserved):
    check_scalars(xmin=xmin, xmax=xmax)
    return to_power_of_two(clip("xmin", xmin, limits)), to_power_of_two(clip("xmax", xmax, limits))


def _range_of_pow2_b_xmax(n, xmax, limits, reserved):
    check_scalars(n=n, xmax=xmax)
    xmax = to_power_of_two(clip("xmax", xmax, limits))
    return 2 ** (1 - 2 ** _levels_exponent(n, limits, reserved)) * xmax, xmax


def _range_of_pow2_b_xmin(n, xmin, limits, reserved):
    check_scalars(n=n, xmin=xmin)
    xmin = to_power_of_two(clip("xmin", xmin, limits))
    # Beyond float32 the largest magnitude is a limit. An infinite one would turn gradients of 0 into NaN.
    octaves = F.minimum_scalar(2 ** _levels_exponent(n, limits, reserved) - 1, _MOST_OCTAVES)
    return xmin, 2 ** octaves * xmin


# On a GPU a kernel turns the two scalars into a range, too: how, and which scalars they are.
_IN_KERNEL = {
    _range_of_d_xmax: (gpu.Kind.D_XMAX, ("d", "xmax")),
    _range_of_d_b: (gpu.Kind.D_N, ("d", "n")),
    _range_of_b_xmax: (gpu.Kind.N_XMAX, ("n", "xmax")),
    _range_of_xmin_xmax: (gpu.Kind.XMIN_XMAX, ("xmin", "xmax")),
    _range_of_pow2_b_xmax: (gpu.Kind.POW2_N_XMAX, ("n", "xmax")),
    _range_of_pow2_b_xmin: (gpu.Kind.POW2_N_XMIN, ("n", "xmin")),
}


def _on_gpu(range_of: Callable[..., Range], x, first, second, limits, **settings):
    """Quantize by one kernel; None where that cannot be used."""
    if range_of not in _IN_KERNEL or not wants_gpu_kernels():
        return None
    kind, names = _IN_KERNEL[range_of]
    check_scalars(**dict(zip(names, (first, second), strict=True)))
    a_limits, b_limits = (limits_of(name, limits) for name in names)
    return gpu.quantize(x, first, second, gpu.Settings(kind=kind, limits=(a_limits, b_limits), **settings))


def _uniform(range_of: Callable[..., Range], x, first, second, sign, limits):
    y = _on_gpu(range_of, x, first, second, limits, pow2=False, sign=sign, reserved=int(sign))
    return quantize_uniform(x, *range_of(first, second, limits, sign), sign) if y is None else y


def _pow2(range_of: Callable[..., Range], x, first, second, sign, with_zero, limits):
    reserved = sign + with_zero
    y = _on_gpu(range_of, x, first, second, limits, pow2=True, sign=sign, with_zero=with_zero, reserved=reserved)
    return quantize_pow2(x, *range_of(first, second, limits, reserved), sign, with_zero) if y is None else y


def fixed_point_quantize_d_xmax(x: nn.Variable, d: nn.Variable, xmax: nn.Variable, sign: bool = True,
                                limits: Limits | None = None) -> nn.Variable:
    """`quantize_uniform` with the step size d and the range xmax as scalars: U3, the best of the uniform ones."""
    return _uniform(_range_of_d_xmax, x, d, xmax, sign, limits)


def fixed_point_quantize_d_b(x: nn.Variable, d: nn.Variable, n: nn.Variable, sign: bool = True,
                             limits: Limits | None = None) -> nn.Variable:
    """`quantize_uniform` with the step size d and the bit width n as scalars: U1, xmax = d (2^(n - sign) - 1)."""
    return _uniform(_range_of_d_b, x, d, n, sign, limits)


def fixed_point_quantize_b_xmax(x: nn.Variable, n: nn.Variable, xmax: nn.Variable, sign: bool = True,
                                limits: Limits | None = None) -> nn.Variable:
    """`quantize_uniform` with the bit width n and the range xmax as scalars: U2, d near xmax / (2^(n - sign) - 1).

    As d is rounded to a power of two, the levels can take one bit more than n says.
    """
    return _uniform(_range_of_b_xmax, x, n, xmax, sign, limits)


def pow2_quantize_xmin_xmax(x: nn.Variable, xmin: nn.Variable, xmax: nn.Variable, sign: bool = True,
                            with_zero: bool = False, limits: Limits | None = None) -> nn.Variable:
    """`quantize_pow2` with the smallest and the largest magnitude as scalars: P3, the best power-of-two one."""
    return _pow2(_range_of_xmin_xmax, x, xmin, xmax, sign, with_zero, limits)


def pow2_quantize_b_xmax(x: nn.Variable, n: nn.Variable, xmax: nn.Variable, sign: bool = True, with_zero: bool = False,
                         limits: Limits | None = None) -> nn.Variable:
    """`quantize_pow2` with the bit width n and the largest magnitude as scalars: P1, xmin = 2^(1 - 2^N) xmax.

    N = round(n) less one bit for the sign and one for zero, as far as there are any.
    """
    return _pow2(_range_of_pow2_b_xmax, x, n, xmax, sign, with_zero, limits)


def pow2_quantize_b_xmin(x: nn.Variable, n: nn.Variable, xmin: nn.Variable, sign: bool = True, with_zero: bool = False,
                         limits: Limits | None = None) -> nn.Variable:
    """`quantize_pow2` with the bit width n and the smallest magnitude as scalars: P2, xmax = 2^(2^N - 1) xmin.

    N = round(n) less one bit for the sign and one for zero, as far as there are any.
    """
    return _pow2(_range_of_pow2_b_xmin, x, n, xmin, sign, with_zero, limits)


# Bit widths -------------------------------------------------------------------------------------------------------


def _bits_of_n(scalars, limits, sign, lowest):
    return F.round(clip("n", scalars["n"], limits))


def _bits_of_step_and_range(scalars, limits, sign, lowest):
    levels = F.round(clip("xmax", scalars["xmax"], limits) / to_power_of_two(clip("d", scalars["d"], limits)))
    return F.maximum_scalar(F.ceil(log2(levels + 1) + int(sign)), lowest)


def _bits_of_magnitudes(scalars, limits, sign, lowest):
    # One bit more than the exponents need, for the sign of a weight or the zero of an activation.
    xmin, xmax = (to_power_of_two(clip(name, scalars[name], limits)) for name in ("xmin", "xmax"))
    return F.maximum_scalar(F.ceil(log2(log2(xmax / xmin) + 1) + 1), lowest)


# What a kernel of a GPU computes as well, and of which scalars.
_BITS_IN_KERNEL: Mapping[Callable[..., nn.Variable], tuple[Bits, tuple[str, ...]]] = {
    _bits_of_n: (Bits.OF_N, ("n",)),
    _bits_of_step_and_range: (Bits.OF_STEP_AND_RANGE, ("d", "xmax")),
    _bits_of_magnitudes: (Bits.OF_MAGNITUDES, ("xmin", "xmax")),
}


# Tables -----------------------------------------------------------------------------------------------------------
#
# All that is known of a quantizer stands in its row. Nothing else in the repository spells its name.


@attrs.frozen(kw_only=True)
class Quantizer:
    """A parametrization of a quantizer by two scalars. All its functions are differentiable straight through.

    Attributes
    ----------
    label, colour : str
        In plots and tables: its name in the paper, and a colour that a colour-blind eye tells from those of the same
        grid (Okabe and Ito).
    grid : Grid
    scalars : tuple of str
        Keys of `SCALARS`.
    quantize : callable
        `quantize(x, *scalars, sign=, limits=)`, with `with_zero=` too where `grid.keeps_zero`.
    range : callable
        `range(*scalars, limits, reserved)` is the step size or smallest magnitude, and the largest, with `reserved`
        bits for sign and zero.
    bits : callable
        `bits(scalars by name, limits, sign, lowest)` is the bit width, at least `lowest` (section 3 of the paper).
    is_range : bool
        The scalars are the two ends of a range, the first below the second, rather than a bit width and one of them.
    min_weight_bits : int
        With fewer there is no level beside the sign.
    """

    label: str
    colour: str
    grid: Grid
    scalars: tuple[str, ...]
    quantize: Callable[..., nn.Variable]
    range: Callable[..., Range]
    bits: Callable[[Mapping[str, nn.Variable], Limits | None, bool, float], nn.Variable]
    is_range: bool = False
    min_weight_bits: int = 1

    @property
    def bits_in_kernel(self) -> tuple[Bits, tuple[str, ...]] | None:
        """How a kernel of a GPU tells the bit width, and the scalars that it takes; None where it cannot."""
        return _BITS_IN_KERNEL.get(self.bits)


_BLACK, _BLUE, _RED = "#000000", "#56B4E9", "#D55E00"
QUANTIZERS: Mapping[str, Quantizer] = types.MappingProxyType({
    "parametric_fp_d_b": Quantizer(
        label="U1 (b, d)", colour=_RED, grid=UNIFORM, scalars=("d", "n"), quantize=fixed_point_quantize_d_b,
        range=_range_of_d_b, bits=_bits_of_n, min_weight_bits=2),
    "parametric_fp_b_xmax": Quantizer(
        label="U2 (b, xmax)", colour=_BLUE, grid=UNIFORM, scalars=("n", "xmax"), quantize=fixed_point_quantize_b_xmax,
        range=_range_of_b_xmax, bits=_bits_of_n, min_weight_bits=2),
    "parametric_fp_d_xmax": Quantizer(
        label="U3 (d, xmax)", colour=_BLACK, grid=UNIFORM, scalars=("d", "xmax"), quantize=fixed_point_quantize_d_xmax,
        range=_range_of_d_xmax, bits=_bits_of_step_and_range, is_range=True),
    "parametric_pow2_b_xmax": Quantizer(
        label="P1 (b, xmax)", colour=_BLUE, grid=POWER_OF_TWO, scalars=("n", "xmax"), quantize=pow2_quantize_b_xmax,
        range=_range_of_pow2_b_xmax, bits=_bits_of_n),
    "parametric_pow2_b_xmin": Quantizer(
        label="P2 (b, xmin)", colour=_RED, grid=POWER_OF_TWO, scalars=("n", "xmin"), quantize=pow2_quantize_b_xmin,
        range=_range_of_pow2_b_xmin, bits=_bits_of_n),
    "parametric_pow2_xmin_xmax": Quantizer(
        label="P3 (xmin, xmax)", colour=_BLACK, grid=POWER_OF_TWO, scalars=("xmin", "xmax"),
        quantize=pow2_quantize_xmin_xmax, range=_range_of_xmin_xmax, bits=_bits_of_magnitudes, is_range=True),
})


def _fixed_uniform(x, smallest, largest, bits, sign):
    return F.fixed_point_quantize(x, sign, bits, smallest)


def _fixed_pow2(x, smallest, largest, bits, sign):
    return F.pow2_quantize(x, sign, not sign, bits, int(np.log2(largest)))


@attrs.frozen(kw_only=True)
class StaticQuantizer:
    """A quantizer without scalars: `quantize(x, smallest, largest, bits, sign)` takes numbers, not variables.

    They are those that `Grid.range_for` gives for a step size.
    """

    grid: Grid
    quantize: Callable[[nn.Variable, float, float, int, bool], nn.Variable]


STATIC_QUANTIZERS: Mapping[str, StaticQuantizer] = types.MappingProxyType({
    "fp": StaticQuantizer(grid=UNIFORM, quantize=_fixed_uniform),
    "pow2": StaticQuantizer(grid=POWER_OF_TWO, quantize=_fixed_pow2),
})
QUANTIZER_NAMES = (*STATIC_QUANTIZERS, *QUANTIZERS)


def grid_of(name: str) -> Grid:
    """Grid of a quantizer of either table; ValueError if there is none of this name."""
    if name not in QUANTIZER_NAMES:
        raise ValueError(f"quantizer {name!r}: choose one of {', '.join(QUANTIZER_NAMES)}")
    return (QUANTIZERS.get(name) or STATIC_QUANTIZERS[name]).grid


def range_quantizer(grid: Grid) -> str:
    """Name of the quantizer that is described by the two ends of its range, the best one of its grid in the paper."""
    return next(name for name, quantizer in QUANTIZERS.items() if quantizer.is_range and quantizer.grid is grid)


def fixed_quantizer(grid: Grid) -> str:
    """Name of the quantizer without scalars."""
    return next(name for name, quantizer in STATIC_QUANTIZERS.items() if quantizer.grid is grid)


# With scalars of the current scope --------------------------------------------------------------------------------


def parametric_quantize(name: str, x: nn.Variable, initial: Mapping[str, float], **settings) -> nn.Variable:
    """Quantize by the entry `name` of `QUANTIZERS` with trainable scalars in the parameter scope `name`.

    `initial` has the first value of each scalar; those that exist already keep theirs. `settings` are arguments of its
    `quantize`: `sign`, `limits` and, for power-of-two quantizers, `with_zero`.

    Raises
    ------
    ValueError
        There is no such quantizer, or `initial` lacks one of its scalars.
    """
    if name not in QUANTIZERS:
        raise ValueError(f"quantizer {name!r}: choose one of {', '.join(QUANTIZERS)}")
    quantizer = QUANTIZERS[name]
    missing = [scalar for scalar in quantizer.scalars if scalar not in initial]
    if missing:
        raise ValueError(f"{name}: no initial value of {missing[0]}, one of its scalars {', '.join(quantizer.scalars)}")
    with nn.parameter_scope(name):
        scalars = [get_parameter_or_create(
            scalar, (), ConstantInitializer(initial[scalar]), True)    # pyright: ignore[reportArgumentType]
            for scalar in quantizer.scalars]
    return quantizer.quantize(x, *scalars, **settings)


def _parametric(name: str) -> Callable[..., nn.Variable]:
    quantizer = QUANTIZERS[name]

    def quantize(x, *initial, **settings):
        rest = quantizer.scalars[len(initial):]
        named = {scalar: settings.pop(scalar) for scalar in rest if scalar in settings}
        if len(initial) + len(named) != len(quantizer.scalars):
            raise ValueError(f"{quantize.__name__}: after x the first values of {' and '.join(quantizer.scalars)} are "
                             f"wanted, got {len(initial) + len(named)}")
        return parametric_quantize(name, x, {**dict(zip(quantizer.scalars, initial, strict=False)), **named},
                                   **settings)

    quantize.__name__ = quantize.__qualname__ = f"parametric_{quantizer.quantize.__name__}"
    quantize.__doc__ = (f"`{quantizer.quantize.__name__}` with trainable scalars: the arguments after x are the first "
                        f"values of {' and '.join(quantizer.scalars)}, in this order or by name, of parameters in the "
                        f"scope '{name}'. Others are those of that function, by name.")
    return quantize


parametric_fixed_point_quantize_d_xmax = _parametric("parametric_fp_d_xmax")
parametric_fixed_point_quantize_d_b = _parametric("parametric_fp_d_b")
parametric_fixed_point_quantize_b_xmax = _parametric("parametric_fp_b_xmax")
parametric_pow2_quantize_xmin_xmax = _parametric("parametric_pow2_xmin_xmax")
parametric_pow2_quantize_b_xmax = _parametric("parametric_pow2_b_xmax")
parametric_pow2_quantize_b_xmin = _parametric("parametric_pow2_b_xmin")
