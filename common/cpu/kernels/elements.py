"""Loops over the elements of flat arrays; `start` and `stop` count blocks of `BLOCK` elements.

They run over slices from 0: only then does numba know that no index is negative, and use vector instructions.
"""
import numpy as np

from common.cpu.compiling import compile_exact, compile_sums

BLOCK = 4096    # elements whose sums one partial result holds
_CHUNK = 512    # elements of a block that are rounded twice where one of them is close to a border

# Bits of a float32.
_SIGN = np.int32(-0x80000000)
_MAGNITUDE = np.int32(0x7FFFFFFF)
_EXPONENT = np.int32(0x7F800000)
_MANTISSA = np.int32(0x007FFFFF)
_INFINITY = np.int32(0x7F800000)    # larger magnitudes are NaN
_NAN = np.int32(0x7FC00000)
_SMALLEST_NORMAL, _LARGEST_POWER = np.int32(0x00800000), np.int32(0x7F000000)    # 2^-126, 2^127

# The factors of the gradient of 2^(log(a) / log(2)), by which nnabla multiplies one after the other.
_LOG_2, _INVERSE_LOG_2 = np.float32(np.log(2)), np.float32(1 / np.log(2))


def num_blocks(size):
    """Return how many blocks of `BLOCK` elements cover `size` elements."""
    return -(-size // BLOCK)


@compile_exact
def _bounds(start, stop, size):
    return start * BLOCK, min(stop * BLOCK, size)


@compile_exact
def uniform_forward(start, stop, x, y, d, lower, upper):
    """y = d round(clip(x, lower, upper) / d), ties away from zero, and -0 for what rounds to 0 from below."""
    first, last = _bounds(start, stop, x.size)
    x, y = x[first:last], y[first:last]
    for i in range(x.size):
        c = lower if x[i] <= lower else x[i]    # the ends themselves where x equals them: 0 is not -0
        c = upper if c >= upper else c
        v = c / d
        whole = np.trunc(v)
        rest = v - whole
        up = np.float32(1) if rest >= np.float32(0.5) else np.float32(0)
        down = np.float32(1) if rest <= np.float32(-0.5) else np.float32(0)
        y[i] = (whole - (down - up)) * d    # keeps the sign of whole = -0


@compile_sums
def uniform_backward(start, stop, x, y, g, dx, add, d, lower, upper, sums):
    """Write or add dx, and the three sums of each block: for d, above the range, below the range."""
    for block in range(start, stop):
        first, last = _bounds(block, block + 1, x.size)
        xs, ys, gs, dxs = x[first:last], y[first:last], g[first:last], dx[first:last]
        to_d = to_upper = to_lower = np.float32(0)
        for i in range(xs.size):
            c = lower if xs[i] <= lower else xs[i]
            c = upper if c >= upper else c
            inside = gs[i] if (xs[i] > lower) & (xs[i] < upper) else np.float32(0)
            to_d += gs[i] * (ys[i] - c)
            # A range of one point, lower = upper, gives all to `upper`.
            to_upper += gs[i] if c >= upper else np.float32(0)
            to_lower += gs[i] if (xs[i] <= lower) & (c < upper) else np.float32(0)
            dxs[i] = dxs[i] + inside if add else inside
        sums[block, 0] = to_d / d
        sums[block, 1] = to_upper
        sums[block, 2] = to_lower


@compile_exact
def _pow2(x, carry, xmin, xmax, both, prune, signed):
    """Round x as `pow2_forward` does, where `carry` takes mantissas that round up into the exponent."""
    negative = x < 0
    a = np.int32(x & _MAGNITUDE)
    a = np.int32(0) if negative & (not signed) & (a <= _INFINITY) else a
    low, high = (a < xmin) & (a >= prune), a >= xmax
    between = min(np.int32((a + carry) & _EXPONENT), _LARGEST_POWER)
    ends = (both if high else xmin) if low else (xmax if high else np.int32(0))
    magnitude = between if (a >= xmin) & (a < xmax) else ends
    magnitude = _NAN if a > _INFINITY else magnitude
    return magnitude | _SIGN if negative & (a != 0) else magnitude


@compile_exact
def pow2_forward(start, stop, x, y, xmin, xmax, both, prune, signed, carries, lowest, highest):
    """Round magnitudes to powers of two between xmin and xmax, in the bits of float32.

    All arrays and thresholds are the int32 views of float32 values: magnitudes compare as their bits do. `both` is
    what xmin and xmax add up to where a crossed range lets them overlap; magnitudes below `prune` become zero. The last
    three are those of `common.cpu.powers_of_two.Borders`. Subnormal magnitudes between xmin and xmax are left to
    `pow2_forward_subnormal`.
    """
    carry = np.int32(_MANTISSA + 1 - highest)
    begin, end = _bounds(start, stop, x.size)
    for first in range(begin, end, _CHUNK):
        last = min(first + _CHUNK, end)
        xs, ys = x[first:last], y[first:last]
        close = False
        for i in range(xs.size):
            mantissa = xs[i] & _MANTISSA
            close |= (mantissa >= lowest) & (mantissa < highest)
            ys[i] = _pow2(xs[i], carry, xmin, xmax, both, prune, signed)
        if close:    # the table stops the compiler from using vectors, and only 1 of 60,000 mantissas needs it
            for i in range(xs.size):
                own = carries[np.uint32(xs[i] & _MAGNITUDE) >> np.uint32(23)]
                ys[i] = _pow2(xs[i], own, xmin, xmax, both, prune, signed)


@compile_exact
def pow2_forward_subnormal(start, stop, x, y, xmin, xmax, signed, first):
    """Round the subnormal magnitudes between xmin and xmax, in the bits of float32.

    `first` are the smallest magnitudes that become 2^-149, 2^-148, ...; the bits of 2^(-149 + k) are 1 << k.
    """
    limit = min(xmax, _SMALLEST_NORMAL)
    begin, end = _bounds(start, stop, x.size)
    for i in range(begin, end):
        negative = x[i] < 0
        a = np.int32(0) if negative & (not signed) else np.int32(x[i] & _MAGNITUDE)
        if (a >= xmin) & (a < limit):
            power = (np.int32(1) << np.searchsorted(first, a, side="right")) >> 1
            y[i] = power | _SIGN if negative & (a != 0) else power


@compile_sums
def _pow2_sums(x, g, xmin, xmax, prune, signed):
    """Sums of the gradients to xmin and to xmax."""
    to_xmin = to_xmax = np.float32(0)
    for i in range(x.size):
        a = abs(x[i]) if signed else (x[i] if x[i] > 0 else np.float32(0))
        sg = g[i] if (x[i] >= 0) | (not signed) else -g[i]
        to_xmin += sg if (a < xmin) & (a >= prune) else np.float32(0)
        to_xmax += sg if a >= xmax else np.float32(0)
    return to_xmin, to_xmax


@compile_exact
def pow2_backward(start, stop, x, y, g, dx, add, xmin, xmax, prune, signed, sums):
    """Write or add dx, with nnabla's bits, and the two sums of each block: for xmin and for xmax."""
    for block in range(start, stop):
        first, last = _bounds(block, block + 1, x.size)
        xs, ys, gs, dxs = x[first:last], y[first:last], g[first:last], dx[first:last]
        for i in range(xs.size):
            a = abs(xs[i]) if signed else (xs[i] if xs[i] > 0 else np.float32(0))
            between = (a >= xmin) & (a < xmax) & (a > 0)
            # y is +-2^round(log2 a) here, and 2^(log(a) / log(2)) is differentiated.
            slope = gs[i] * ys[i] * _LOG_2 * _INVERSE_LOG_2 / (xs[i] if between else np.float32(1))
            inside = slope if between else np.float32(0)
            dxs[i] = dxs[i] + inside if add else inside
        sums[block, 0], sums[block, 1] = _pow2_sums(xs, gs, xmin, xmax, prune, signed)


@compile_exact
def relu_forward(start, stop, x, y):
    """y = max(x, 0), never -0; NaN stays NaN."""
    first, last = _bounds(start, stop, x.size)
    x, y = x[first:last], y[first:last]
    for i in range(x.size):
        y[i] = np.float32(0) if x[i] <= 0 else x[i]


@compile_exact
def relu_of_sum(start, stop, a, b, y):
    """y = max(a + b, 0), as `relu_forward`."""
    first, last = _bounds(start, stop, a.size)
    a, b, y = a[first:last], b[first:last], y[first:last]
    for i in range(a.size):
        total = a[i] + b[i]
        y[i] = np.float32(0) if total <= 0 else total


@compile_exact
def relu_backward(start, stop, y, g, dx, add):
    """Pass g where y > 0."""
    first, last = _bounds(start, stop, y.size)
    y, g, dx = y[first:last], g[first:last], dx[first:last]
    for i in range(y.size):
        inside = g[i] if y[i] > 0 else np.float32(0)
        dx[i] = dx[i] + inside if add else inside
