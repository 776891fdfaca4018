"""Quantizers whose step size, range and bit width are learned (arXiv 1905.11452), for any nnabla network.

A quantizer rounds every element of a tensor to a few levels that two scalars describe. Which two is the choice that the
paper is about: `QUANTIZERS` lists the three pairs of the uniform and of the power-of-two quantizer, beside the two
fixed ones. Scalars are trained with the weights; rounding is differentiated as the identity (straight-through).

The scalars, each an `nn.Variable` of shape () in the units of x except n:

    d     step size: distance of two levels, used as 2^round(log2 d)
    xmin  smallest magnitude of a power-of-two quantizer, used as 2^round(log2 xmin)
    xmax  largest magnitude, used as a power of two by power-of-two quantizers
    n     bit width, used rounded

`limits` maps scalars to (lowest, highest) values, `DEFAULT_LIMITS` where it does not name them. A scalar is clipped to
them in use and gets no gradient at or beyond them.

The one pass over a tensor is a compiled loop on a CPU, and nnabla's own functions on a GPU.
"""
import types
from collections.abc import Callable

import attrs
import nnabla as nn
import nnabla.functions as F
import numpy as np
from nnabla.initializer import ConstantInitializer
from nnabla.parameter import get_parameter_or_create

from common.cpu.elements import Pow2Quantize, UniformQuantize
from common.machine.context import wants_native

DEFAULT_LIMITS = types.MappingProxyType({"d": (2.0 ** -8, 1.0), "xmin": (2.0 ** -16, 127.0),
                                         "xmax": (2.0 ** -8, 127.0), "n": (2.0, 8.0)})
_SMALLEST, _LARGEST, _LARGEST_POWER = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max), 2.0 ** 127


# Scalars ----------------------------------------------------------------------------------------------------------


def clip(name, value, limits):
    """Clip the scalar `value` to its limits; gradient 0 at and beyond them."""
    lowest, highest = (limits or {}).get(name, DEFAULT_LIMITS[name])
    return F.minimum_scalar(F.maximum_scalar(value, lowest), highest)


def log2(value):
    """Logarithm to base 2, in the two float32 operations of the published code: its ties decide roundings."""
    return F.log(value) / np.log(2.)


def to_power_of_two(value):
    """Round a positive scalar to the power of two that is nearest in the log domain, straight through."""
    return 2 ** F.round(log2(value))


def _levels_exponent(n, limits, reserved):
    """N = round(n) less the bits `reserved` for sign and zero: a range holds 2^N levels, or exponents."""
    return F.round(clip("n", n, limits)) - reserved


# One tensor -------------------------------------------------------------------------------------------------------


def _check_scalars(**scalars):
    for name, value in scalars.items():
        if value.shape != ():
            raise ValueError(f"{name} must be a scalar of shape (), got shape {value.shape}")


def quantize_uniform(x, d, xmax, sign=True):
    """Round `x` to multiples of `d` after clipping to [-xmax, xmax], or [0, xmax] unless `sign`.

    Parameters
    ----------
    x : nn.Variable, any shape
    d, xmax : nn.Variable ()
        Step size and largest magnitude, > 0, in the units of `x`.
    sign : bool
        Keep negative values.

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
    _check_scalars(d=d, xmax=xmax)
    if not wants_native():
        return UniformQuantize(sign)(x, d, xmax)
    return compose_uniform(x, d, xmax, sign)


def compose_uniform(x, d, xmax, sign):
    """`quantize_uniform` from nnabla's own functions, which stay on the device."""
    d, upper = _broadcastable(x, d), _broadcastable(x, xmax)
    lower = -upper if sign else F.constant(0, upper.shape)
    return _or_nan(d * F.round(F.minimum2(F.maximum2(x, lower), upper) / d), x)


def quantize_pow2(x, xmin, xmax, sign=True, with_zero=False):
    """Round magnitudes of `x` to powers of two between `xmin` and `xmax`, in the log domain.

    Parameters
    ----------
    x : nn.Variable, any shape
    xmin, xmax : nn.Variable ()
        Smallest and largest magnitude, powers of two, > 0, in the units of `x`. xmin <= xmax is expected: where they
        cross, magnitudes between them give xmin + xmax as in the published code.
    sign : bool
        Keep the sign, otherwise negative values count as 0.
    with_zero : bool
        Magnitudes below xmin / sqrt(2) become 0, otherwise xmin. The sign of 0 is +.

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
    _check_scalars(xmin=xmin, xmax=xmax)
    if not wants_native():
        return Pow2Quantize(sign, with_zero)(x, xmin, xmax)
    return compose_pow2(x, xmin, xmax, sign, with_zero)


def compose_pow2(x, xmin, xmax, sign, with_zero):
    """`quantize_pow2` from nnabla's own functions, which stay on the device."""
    # All branches are computed, and 0 times infinity in those that do not count would be NaN.
    xmin, xmax = _broadcastable(x, xmin), _broadcastable(x, F.minimum_scalar(xmax, _LARGEST))
    magnitude = F.abs(x) if sign else F.relu(x)
    low, high = F.less(magnitude, xmin), F.greater_equal(magnitude, xmax)
    between = (1 - low) * (1 - high)
    if with_zero:
        low = low * F.greater_equal(magnitude, xmin / np.sqrt(2.))
    # log(0) would turn a gradient of 0 into NaN.
    rounded = 2 ** F.round(log2(F.minimum_scalar(F.maximum_scalar(magnitude, _SMALLEST), _LARGEST_POWER)))
    y = _fixed(low) * xmin + _fixed(between) * rounded + _fixed(high) * xmax
    return _or_nan(_fixed(F.sign(x)) * y if sign else y, x)


def _or_nan(y, x):
    return F.where(_fixed(F.isnan(x)), x, y)


def _broadcastable(x, scalar):
    # Binary functions broadcast between equal numbers of dimensions only.
    return F.reshape(scalar, (1,) * x.ndim, inplace=False)


def _fixed(mask):
    return mask.apply(need_grad=False)


# Six parametrizations ---------------------------------------------------------------------------------------------
#
# Each turns its two scalars into the two that a tensor is quantized with: d or xmin, and xmax.


def _range_of_d_xmax(d, xmax, limits, reserved):
    return to_power_of_two(clip("d", d, limits)), clip("xmax", xmax, limits)


def _range_of_d_b(d, n, limits, reserved):
    _check_scalars(d=d, n=n)
    d = to_power_of_two(clip("d", d, limits))
    return d, d * (2 ** _levels_exponent(n, limits, reserved) - 1)


def _range_of_b_xmax(n, xmax, limits, reserved):
    _check_scalars(n=n, xmax=xmax)
    xmax = clip("xmax", xmax, limits)
    return to_power_of_two(xmax / (2 ** _levels_exponent(n, limits, reserved) - 1)), xmax


def _range_of_xmin_xmax(xmin, xmax, limits, reserved):
    return to_power_of_two(clip("xmin", xmin, limits)), to_power_of_two(clip("xmax", xmax, limits))


def _range_of_pow2_b_xmax(n, xmax, limits, reserved):
    _check_scalars(n=n, xmax=xmax)
    xmax = to_power_of_two(clip("xmax", xmax, limits))
    return 2 ** (1 - 2 ** _levels_exponent(n, limits, reserved)) * xmax, xmax


def _range_of_pow2_b_xmin(n, xmin, limits, reserved):
    _check_scalars(n=n, xmin=xmin)
    xmin = to_power_of_two(clip("xmin", xmin, limits))
    return xmin, 2 ** (2 ** _levels_exponent(n, limits, reserved) - 1) * xmin


def fixed_point_quantize_d_xmax(x, d, xmax, sign=True, limits=None):
    """`quantize_uniform` with the step size d and the range xmax as scalars: U3, the best of the uniform ones."""
    return quantize_uniform(x, *_range_of_d_xmax(d, xmax, limits, sign), sign)


def fixed_point_quantize_d_b(x, d, n, sign=True, limits=None):
    """`quantize_uniform` with the step size d and the bit width n as scalars: U1, xmax = d (2^(n - sign) - 1)."""
    return quantize_uniform(x, *_range_of_d_b(d, n, limits, sign), sign)


def fixed_point_quantize_b_xmax(x, n, xmax, sign=True, limits=None):
    """`quantize_uniform` with the bit width n and the range xmax as scalars: U2, d near xmax / (2^(n - sign) - 1).

    As d is rounded to a power of two, the levels can take one bit more than n says.
    """
    return quantize_uniform(x, *_range_of_b_xmax(n, xmax, limits, sign), sign)


def pow2_quantize_xmin_xmax(x, xmin, xmax, sign=True, with_zero=False, limits=None):
    """`quantize_pow2` with the smallest and the largest magnitude as scalars: P3, the best power-of-two one."""
    return quantize_pow2(x, *_range_of_xmin_xmax(xmin, xmax, limits, sign + with_zero), sign, with_zero)


def pow2_quantize_b_xmax(x, n, xmax, sign=True, with_zero=False, limits=None):
    """`quantize_pow2` with the bit width n and the largest magnitude as scalars: P1, xmin = 2^(1 - 2^N) xmax.

    N = round(n) less one bit for the sign and one for zero, as far as there are any.
    """
    return quantize_pow2(x, *_range_of_pow2_b_xmax(n, xmax, limits, sign + with_zero), sign, with_zero)


def pow2_quantize_b_xmin(x, n, xmin, sign=True, with_zero=False, limits=None):
    """`quantize_pow2` with the bit width n and the smallest magnitude as scalars: P2, xmax = 2^(2^N - 1) xmin.

    N = round(n) less one bit for the sign and one for zero, as far as there are any.
    """
    return quantize_pow2(x, *_range_of_pow2_b_xmin(n, xmin, limits, sign + with_zero), sign, with_zero)


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


# Tables -----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Quantizer:
    """A parametrization of a quantizer by two scalars.

    `quantize(x, *scalars, sign=, limits=)`, with `with_zero=` too if `is_pow2`, takes the scalars in the order of
    `scalars`. `range(*scalars, limits, reserved)` is the step size or smallest magnitude, and the largest, with
    `reserved` bits for sign and zero. `bits(scalars by name, limits, sign, lowest)` is the bit width, at least `lowest`
    (section 3 of the paper). All are differentiable straight through. `is_range`: the scalars are the two ends of a
    range, the first below the second, rather than a bit width and one of them.
    """

    quantize: Callable
    range: Callable
    bits: Callable
    scalars: tuple
    is_pow2: bool = False
    is_range: bool = False


QUANTIZERS = types.MappingProxyType({
    "parametric_fp_d_xmax": Quantizer(fixed_point_quantize_d_xmax, _range_of_d_xmax, _bits_of_step_and_range,
                                      ("d", "xmax"), is_range=True),
    "parametric_fp_d_b": Quantizer(fixed_point_quantize_d_b, _range_of_d_b, _bits_of_n, ("d", "n")),
    "parametric_fp_b_xmax": Quantizer(fixed_point_quantize_b_xmax, _range_of_b_xmax, _bits_of_n, ("n", "xmax")),
    "parametric_pow2_xmin_xmax": Quantizer(pow2_quantize_xmin_xmax, _range_of_xmin_xmax, _bits_of_magnitudes,
                                           ("xmin", "xmax"), is_pow2=True, is_range=True),
    "parametric_pow2_b_xmax": Quantizer(pow2_quantize_b_xmax, _range_of_pow2_b_xmax, _bits_of_n, ("n", "xmax"),
                                        is_pow2=True),
    "parametric_pow2_b_xmin": Quantizer(pow2_quantize_b_xmin, _range_of_pow2_b_xmin, _bits_of_n, ("n", "xmin"),
                                        is_pow2=True),
})


def _fixed_uniform(x, step_size, bitwidth, sign):
    return F.fixed_point_quantize(x, sign, bitwidth, step_size)


def _fixed_pow2(x, step_size, bitwidth, sign):
    xmax = step_size * (2 ** (bitwidth - sign) - 1)
    return F.pow2_quantize(x, sign, not sign, bitwidth, int(np.round(np.log2(xmax))))


# Quantizers without scalars: `quantize(x, step_size, bitwidth, sign)` with numbers, not variables.
STATIC_QUANTIZERS = types.MappingProxyType({"fp": _fixed_uniform, "pow2": _fixed_pow2})


# With scalars of the current scope --------------------------------------------------------------------------------


def parametric_quantize(name, x, initial, **settings):
    """Quantize by the entry `name` of `QUANTIZERS` with trainable scalars in the parameter scope `name`.

    Parameters
    ----------
    name : str
    x : nn.Variable, any shape
    initial : dict
        Initial value of each scalar; those that exist already keep theirs.
    settings
        `sign`, `limits` and, for power-of-two quantizers, `with_zero`.

    Returns
    -------
    nn.Variable, shape of `x`
    """
    quantizer = QUANTIZERS[name]
    with nn.parameter_scope(name):
        scalars = [get_parameter_or_create(scalar, (), ConstantInitializer(initial[scalar]), True)
                   for scalar in quantizer.scalars]
    return quantizer.quantize(x, *scalars, **settings)


def _parametric(name):
    quantizer = QUANTIZERS[name]

    def quantize(x, *initial, **settings):
        return parametric_quantize(name, x, dict(zip(quantizer.scalars, initial, strict=True)), **settings)

    quantize.__name__ = quantize.__qualname__ = f"parametric_{quantizer.quantize.__name__}"
    quantize.__doc__ = (f"`{quantizer.quantize.__name__}` with trainable scalars: the arguments after x are the first "
                        f"values of {' and '.join(quantizer.scalars)}, parameters in the scope '{name}'.")
    return quantize


parametric_fixed_point_quantize_d_xmax = _parametric("parametric_fp_d_xmax")
parametric_fixed_point_quantize_d_b = _parametric("parametric_fp_d_b")
parametric_fixed_point_quantize_b_xmax = _parametric("parametric_fp_b_xmax")
parametric_pow2_quantize_xmin_xmax = _parametric("parametric_pow2_xmin_xmax")
parametric_pow2_quantize_b_xmax = _parametric("parametric_pow2_b_xmax")
parametric_pow2_quantize_b_xmin = _parametric("parametric_pow2_b_xmin")
