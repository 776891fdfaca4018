"""Loops over the elements of flat arrays; `start` and `stop` count blocks of `BLOCK` elements.

They run over slices from 0: only then does numba know that no index is negative, and use vector instructions.
"""
import numpy as np

from common.cpu.compiling import compile_exact, compile_sums

BLOCK = 4096    # elements whose sums one partial result holds

# Bits of a float32.
_SIGN = np.int32(-0x80000000)
_MAGNITUDE = np.int32(0x7FFFFFFF)
_EXPONENT = np.int32(-0x00800000)
_INFINITY = np.int32(0x7F800000)    # larger magnitudes are NaN
_NAN = np.int32(0x7FC00000)
_SQRT_HALF_MANTISSA = np.int32(0x004AFB0C)    # carries a mantissa above sqrt(2) into the exponent


def num_blocks(size):
    """Return how many blocks of `BLOCK` elements cover `size` elements."""
    return -(-size // BLOCK)


@compile_exact
def _bounds(start, stop, size):
    return start * BLOCK, min(stop * BLOCK, size)


@compile_exact
def uniform_forward(start, stop, x, y, d, lower, upper):
    """y = d round(clip(x, lower, upper) / d), ties away from zero."""
    first, last = _bounds(start, stop, x.size)
    x, y = x[first:last], y[first:last]
    for i in range(x.size):
        c = lower if x[i] < lower else x[i]
        c = upper if c > upper else c
        v = c / d
        whole = np.trunc(v)
        rest = v - whole
        up = np.float32(1) if rest >= np.float32(0.5) else np.float32(0)
        down = np.float32(1) if rest <= np.float32(-0.5) else np.float32(0)
        y[i] = (whole + up - down) * d


@compile_sums
def uniform_backward(start, stop, x, y, g, dx, add, d, lower, upper, sums):
    """Write or add dx, and the three sums of each block: for d, above the range, below the range."""
    for block in range(start, stop):
        first, last = _bounds(block, block + 1, x.size)
        xs, ys, gs, dxs = x[first:last], y[first:last], g[first:last], dx[first:last]
        to_d = to_upper = to_lower = np.float32(0)
        for i in range(xs.size):
            c = lower if xs[i] < lower else xs[i]
            c = upper if c > upper else c
            inside = gs[i] if (xs[i] > lower) & (xs[i] < upper) else np.float32(0)
            to_d += gs[i] * (ys[i] - c)
            to_upper += gs[i] if xs[i] >= upper else np.float32(0)
            to_lower += gs[i] if xs[i] <= lower else np.float32(0)
            dxs[i] = dxs[i] + inside if add else inside
        sums[block, 0] = to_d / d
        sums[block, 1] = to_upper
        sums[block, 2] = to_lower


@compile_exact
def pow2_forward(start, stop, x, y, xmin, xmax, both, prune, signed):
    """Round magnitudes to powers of two between xmin and xmax, in the bits of float32.

    All arrays and thresholds are the int32 views of float32 values: magnitudes compare as their bits do. `both` is
    what xmin and xmax add up to where a crossed range lets them overlap; magnitudes below `prune` become zero.
    """
    first, last = _bounds(start, stop, x.size)
    x, y = x[first:last], y[first:last]
    for i in range(x.size):
        negative = x[i] < 0
        a = np.int32(x[i] & _MAGNITUDE)
        a = np.int32(0) if negative & (not signed) & (a <= _INFINITY) else a
        low, high = (a < xmin) & (a >= prune), a >= xmax
        between = max(np.int32((a + _SQRT_HALF_MANTISSA) & _EXPONENT), xmin)    # a subnormal a has no exponent
        ends = (both if high else xmin) if low else (xmax if high else np.int32(0))
        magnitude = between if (a >= xmin) & (a < xmax) else ends
        magnitude = _NAN if a > _INFINITY else magnitude
        y[i] = magnitude | _SIGN if negative & (a != 0) else magnitude


@compile_sums
def pow2_backward(start, stop, x, y, g, dx, add, xmin, xmax, prune, signed, sums):
    """Write or add dx, and the two sums of each block: for xmin and for xmax."""
    for block in range(start, stop):
        first, last = _bounds(block, block + 1, x.size)
        xs, ys, gs, dxs = x[first:last], y[first:last], g[first:last], dx[first:last]
        to_xmin = to_xmax = np.float32(0)
        for i in range(xs.size):
            a = abs(xs[i]) if signed else (xs[i] if xs[i] > 0 else np.float32(0))
            sg = gs[i] if (xs[i] >= 0) | (not signed) else -gs[i]
            between = (a >= xmin) & (a < xmax)
            # y is +-2^round(log2 a) here, so that y / x is the factor of the straight-through gradient.
            inside = gs[i] * ys[i] / (xs[i] if between else np.float32(1)) if between else np.float32(0)
            to_xmin += sg if (a < xmin) & (a >= prune) else np.float32(0)
            to_xmax += sg if a >= xmax else np.float32(0)
            dxs[i] = dxs[i] + inside if add else inside
        sums[block, 0] = to_xmin
        sums[block, 1] = to_xmax


@compile_exact
def relu_forward(start, stop, x, y):
    """y = max(x, 0); NaN stays NaN."""
    first, last = _bounds(start, stop, x.size)
    x, y = x[first:last], y[first:last]
    for i in range(x.size):
        y[i] = np.float32(0) if x[i] < 0 else x[i]


@compile_exact
def relu_backward(start, stop, y, g, dx, add):
    """Pass g where y > 0."""
    first, last = _bounds(start, stop, y.size)
    y, g, dx = y[first:last], g[first:last], dx[first:last]
    for i in range(y.size):
        inside = g[i] if y[i] > 0 else np.float32(0)
        dx[i] = dx[i] + inside if add else inside
