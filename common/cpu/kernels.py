"""Compiled loops over float32 arrays, for the functions where nnabla is slow on a CPU.

A kernel treats the elements, samples or groups from `start` to `stop` and releases the interpreter's lock, so that
`run_parallel` can give every core a range. Partial sums belong to ranges of fixed size, never to threads: results do
not depend on the number of cores.
"""
import functools
import importlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import threadpoolctl

from common.cpu.compiling import compile_exact, compile_sums
from common.machine.cores import num_threads

BLOCK = 4096    # elements whose sums one partial result holds
TILE = 256    # output pixels that a convolution treats at once: its columns stay in the cache
GROUPS = 8    # partial sums of a weight gradient
_SMALL = 1 << 18    # operations below which handing out work costs more than it saves

# Bits of a float32.
_SIGN = np.int32(-0x80000000)
_MAGNITUDE = np.int32(0x7FFFFFFF)
_EXPONENT = np.int32(-0x00800000)
_INFINITY = np.int32(0x7F800000)    # larger magnitudes are NaN
_NAN = np.int32(0x7FC00000)
_SQRT_HALF_MANTISSA = np.int32(0x004AFB0C)    # carries a mantissa above sqrt(2) into the exponent


@functools.cache
def _workers():
    # The kernels call SciPy's BLAS from every thread; its own threads on top would fight over the cores.
    importlib.import_module("scipy.linalg.cython_blas")    # only a library that is loaded can be limited
    threadpoolctl.threadpool_limits(1, user_api="blas")
    return ThreadPoolExecutor(max(1, num_threads() - 1), thread_name_prefix="kernel")


def run_parallel(kernel, num, operations, *args):
    """Call `kernel(start, stop, *args)` over `range(num)`, one range per core.

    Parameters
    ----------
    kernel : compiled function
    num : int
        Units of work: samples, blocks or groups.
    operations : int
        Elements, or products, in all; little work stays on the calling thread.
    """
    workers = _workers()
    threads = min(num_threads(), num)
    if threads < 2 or operations < _SMALL:
        kernel(0, num, *args)
        return
    edges = [num * k // threads for k in range(threads + 1)]
    waiting = [workers.submit(kernel, start, stop, *args) for start, stop in zip(edges[1:-1], edges[2:], strict=True)]
    kernel(0, edges[1], *args)
    for future in waiting:
        future.result()


def num_blocks(size):
    """Return how many blocks of `BLOCK` elements cover `size` elements."""
    return -(-size // BLOCK)


# Arrays are flat; `start` and `stop` count blocks. Loops run over slices from 0: only then does numba know that no
# index is negative, and use vector instructions.


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


# Arrays are (batch, channels, height, width) or (batch, channels, pixels); `start` and `stop` count samples.


@compile_exact
def channel_moments(start, stop, x, mean, var):
    """Mean and variance, as E[x^2] - E[x]^2, of the channels from `start` to `stop`; x is (batch, channels, pixels).

    In the order and precision of nnabla: a quantizer behind turns a difference in the last bit into a whole level.
    """
    count = np.float32(x.shape[0] * x.shape[2])
    for c in range(start, stop):
        first = second = np.float32(0)
        for n in range(x.shape[0]):
            for i in range(x.shape[2]):
                first += x[n, c, i]
                second += x[n, c, i] * x[n, c, i]
        mean[c] = first / count
        var[c] = max(second / count - mean[c] * mean[c], np.float32(0))


@compile_exact
def normalize_channels(start, stop, x, mean, std, beta, gamma, y):
    """y = (x - mean) gamma / std + beta by channel, rounded as nnabla does; x and y are (batch, channels, pixels)."""
    for n in range(start, stop):
        for c in range(x.shape[1]):
            for i in range(x.shape[2]):
                y[n, c, i] = (x[n, c, i] - mean[c]) * gamma[c] / std[c] + beta[c]


@compile_sums
def channel_products(start, stop, x, g, mean, sums):
    """Sums of g and of g (x - mean) for every sample and channel; arrays are (batch, channels, pixels)."""
    for n in range(start, stop):
        for c in range(x.shape[1]):
            first = second = np.float32(0)
            for i in range(x.shape[2]):
                first += g[n, c, i]
                second += g[n, c, i] * (x[n, c, i] - mean[c])
            sums[n, c, 0] = first
            sums[n, c, 1] = second


@compile_exact
def combine_channels(start, stop, g, x, from_g, from_x, offset, dx, add):
    """dx = from_g g + from_x x + offset, each factor one number for a channel; arrays are (batch, channels, pixels)."""
    for n in range(start, stop):
        for c in range(x.shape[1]):
            for i in range(x.shape[2]):
                v = from_g[c] * g[n, c, i] + from_x[c] * x[n, c, i] + offset[c]
                dx[n, c, i] = dx[n, c, i] + v if add else v


# Convolutions are products with receptive fields laid out as columns (channels k k, pixels). Slices would cost more
# here than they gain: a line is short, and each slice counts a reference.


@compile_exact
def _unfold(x, columns, first, kernel, pad, stride, height, width):
    """Fill columns with the receptive fields of whole lines of the output, from line `first` on.

    Lines are counted through the batch, `height` for each sample; those beyond its end are left as zeros.
    """
    for c in range(x.shape[1]):
        for i in range(kernel):
            for j in range(kernel):
                row = (c * kernel + i) * kernel + j
                for line in range(columns.shape[1] // width):
                    n, iy = (first + line) // height, (first + line) % height * stride + i - pad
                    if n >= x.shape[0] or iy < 0 or iy >= x.shape[2]:
                        for ox in range(width):
                            columns[row, line * width + ox] = 0
                    else:
                        for ox in range(width):
                            ix = ox * stride + j - pad
                            inside = (ix >= 0) & (ix < x.shape[3])
                            columns[row, line * width + ox] = x[n, c, iy, ix] if inside else np.float32(0)


@compile_exact
def _fold(columns, x, n, kernel, pad, stride, width):
    """Add every entry of `columns`, those of one sample, to the pixel of x[n] that `_unfold` took it from."""
    for c in range(x.shape[1]):
        for i in range(kernel):
            for j in range(kernel):
                row = (c * kernel + i) * kernel + j
                for oy in range(columns.shape[1] // width):
                    iy = oy * stride + i - pad
                    if (iy >= 0) & (iy < x.shape[2]):
                        for ox in range(width):
                            ix = ox * stride + j - pad
                            if (ix >= 0) & (ix < x.shape[3]):
                                x[n, c, iy, ix] += columns[row, oy * width + ox]


@compile_exact
def _multiply_in_order(w, columns, product):
    """product = w columns, every sum in the order of its terms and rounded after each, as nnabla does.

    That order forbids fused operations and vector sums, hence BLAS. Here the vectors run along the pixels, and a pass
    takes eight terms.
    """
    product[:] = 0
    eights = w.shape[1] // 8 * 8
    for k in range(0, eights, 8):
        for o in range(w.shape[0]):
            w0, w1, w2, w3 = w[o, k], w[o, k + 1], w[o, k + 2], w[o, k + 3]
            w4, w5, w6, w7 = w[o, k + 4], w[o, k + 5], w[o, k + 6], w[o, k + 7]
            for p in range(columns.shape[1]):
                a = product[o, p] + w0 * columns[k, p]
                a = a + w1 * columns[k + 1, p]
                a = a + w2 * columns[k + 2, p]
                a = a + w3 * columns[k + 3, p]
                a = a + w4 * columns[k + 4, p]
                a = a + w5 * columns[k + 5, p]
                a = a + w6 * columns[k + 6, p]
                product[o, p] = a + w7 * columns[k + 7, p]
    for k in range(eights, w.shape[1]):
        for o in range(w.shape[0]):
            for p in range(columns.shape[1]):
                product[o, p] += w[o, k] * columns[k, p]


def tile_lines(width):
    """How many lines of `width` pixels make a tile of about `TILE` pixels."""
    return max(1, TILE // width)


def num_tiles(y):
    """Number of tiles that cover the lines of an output (batch, channels, height, width)."""
    return -(-y.shape[0] * y.shape[2] // tile_lines(y.shape[3]))


@compile_exact
def convolution_forward(start, stop, x, w, y, kernel, pad, stride, lines, in_order, add):
    """Write y = w * x, or add it, over tiles of `lines` lines from `start` to `stop`; w is (outputs, channels k k).

    `in_order` gives nnabla's result to the last bit. Gradients need not have it, and go faster.
    """
    outputs, height, width = y.shape[1:]
    columns = np.empty((w.shape[1], lines * width), np.float32)
    product = np.empty((outputs, lines * width), np.float32)
    for tile in range(start, stop):
        _unfold(x, columns, tile * lines, kernel, pad, stride, height, width)
        if in_order:
            _multiply_in_order(w, columns, product)
        else:
            np.dot(w, columns, product)
        for line in range(min(lines, y.shape[0] * height - tile * lines)):
            n, oy = (tile * lines + line) // height, (tile * lines + line) % height
            for o in range(outputs):
                for ox in range(width):
                    v = product[o, line * width + ox]
                    y[n, o, oy, ox] = y[n, o, oy, ox] + v if add else v


@compile_exact
def convolution_backward_weights(start, stop, x, g, dw, kernel, pad, stride, lines):
    """Gradient of the weights, one partial sum (outputs, channels k k) for each group from `start` to `stop`."""
    outputs, height, width = g.shape[1:]
    tiles = -(-g.shape[0] * height // lines)
    columns = np.empty((dw.shape[2], lines * width), np.float32)
    pixels = np.empty((outputs, lines * width), np.float32)
    product = np.empty((outputs, dw.shape[2]), np.float32)
    for group in range(start, stop):
        dw[group] = 0
        for tile in range(tiles * group // GROUPS, tiles * (group + 1) // GROUPS):
            _unfold(x, columns, tile * lines, kernel, pad, stride, height, width)
            _unfold(g, pixels, tile * lines, 1, 0, 1, height, width)
            np.dot(pixels, columns.T, product)
            dw[group] += product


@compile_exact
def convolution_backward_data(start, stop, w_transposed, g, dx, add, kernel, pad, stride):
    """Write or add the gradient of the input for samples `start` to `stop`; w_transposed is (channels k k, outputs)."""
    height, width = g.shape[2:]
    columns = np.empty((w_transposed.shape[0], height * width), np.float32)
    for n in range(start, stop):
        np.dot(w_transposed, g[n].reshape(g.shape[1], height * width), columns)
        if not add:
            dx[n] = 0
        _fold(columns, dx, n, kernel, pad, stride, width)
