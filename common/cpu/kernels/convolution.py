"""Compiled loops for convolutions, as products with receptive fields laid out as columns.

`start` and `stop` count tiles, groups or samples of fixed size, so that sums do not depend on the number of cores.
Arrays are (batch, channels, height, width); a geometry is (kernel, pad, stride, dilation) in pixels. Tiles are lines of
the output, counted through the batch.
"""
from collections.abc import Sequence

import numpy as np

from common.cpu.compiling import compile_exact, compile_sums

GROUPS = 8    # partial sums of a weight gradient, at most
_ORDERED = 256    # pixels of a tile of the gradients of convolutions whose outputs are summed in order
_CACHED = 1 << 17    # elements of the columns of a tile for BLAS: they stay in the second-level cache
_FEWEST, _MOST = 64, 2048    # pixels of a tile for BLAS


def tile_lines(shape: Sequence[int], terms: int, in_order: bool = False) -> int:
    """How many lines make a tile of an output of `shape`, each of whose pixels is a sum of `terms` products."""
    batch, _, height, width = shape
    share = batch * height * width // (2 * GROUPS)    # enough tiles for all cores
    pixels = _ORDERED if in_order else min(max(min(_CACHED // terms, share), _FEWEST), _MOST)
    return max(1, pixels // width)


def num_tiles(shape: Sequence[int], lines: int) -> int:
    """Number of tiles of `lines` lines that cover an output of `shape`."""
    return -(-shape[0] * shape[2] // lines)


@compile_exact
def _matrix(memory, rows, columns):
    """Contiguous matrix at the beginning of a flat array."""
    return memory[:rows * columns].reshape(rows, columns)


@compile_exact
def _unfold(x, columns, first, lines, height, width, geometry):
    """Fill columns (channels k k, lines width) with the receptive fields of lines of the output, from `first` on.

    Lines are counted through the batch, `height` for each sample.
    """
    kernel, pad, stride, dilation = geometry
    for c in range(x.shape[1]):
        for i in range(kernel):
            for j in range(kernel):
                row = (c * kernel + i) * kernel + j
                for line in range(lines):
                    n, iy = (first + line) // height, (first + line) % height * stride + i * dilation - pad
                    if iy < 0 or iy >= x.shape[2]:
                        for ox in range(width):
                            columns[row, line * width + ox] = 0
                    else:
                        for ox in range(width):
                            ix = ox * stride + j * dilation - pad
                            inside = (ix >= 0) & (ix < x.shape[3])
                            columns[row, line * width + ox] = x[n, c, iy, ix] if inside else np.float32(0)


@compile_exact
def _fold(columns, x, n, width, geometry):
    """Add every entry of `columns`, those of one sample, to the pixel of x[n] that `_unfold` takes it from."""
    kernel, pad, stride, dilation = geometry
    for c in range(x.shape[1]):
        for i in range(kernel):
            for j in range(kernel):
                row = (c * kernel + i) * kernel + j
                for oy in range(columns.shape[1] // width):
                    iy = oy * stride + i * dilation - pad
                    if (iy >= 0) & (iy < x.shape[2]):
                        for ox in range(width):
                            ix = ox * stride + j * dilation - pad
                            if (ix >= 0) & (ix < x.shape[3]):
                                x[n, c, iy, ix] += columns[row, oy * width + ox]


@compile_exact
def forward(start, stop, x, w, b, y, add, lines, geometry):
    """Write or add y = w * x + b over tiles of `lines` lines; w is (outputs, channels k k)."""
    outputs, height, width = y.shape[1:]
    field_memory = np.empty(w.shape[1] * lines * width, np.float32)
    product_memory = np.empty(outputs * lines * width, np.float32)
    for tile in range(start, stop):
        first = tile * lines
        count = min(lines, y.shape[0] * height - first)
        columns = _matrix(field_memory, w.shape[1], count * width)
        product = _matrix(product_memory, outputs, count * width)
        _unfold(x, columns, first, count, height, width, geometry)
        np.dot(w, columns, product)
        for o in range(outputs):
            for line in range(count):
                n, oy = (first + line) // height, (first + line) % height
                for ox in range(width):
                    value = product[o, line * width + ox] + b[o]
                    y[n, o, oy, ox] = y[n, o, oy, ox] + value if add else value


@compile_sums
def _sum_rows(pixels, db):
    for o in range(pixels.shape[0]):
        total = np.float32(0)
        for p in range(pixels.shape[1]):
            total += pixels[o, p]
        db[o] += total


@compile_exact
def backward_weights(start, stop, x, g, dw, db, lines, geometry):
    """Gradients of weights and biases, a partial sum (outputs, channels k k) and (outputs,) for each group."""
    outputs, height, width = g.shape[1:]
    total = g.shape[0] * height
    tiles = -(-total // lines)
    field_memory = np.empty(dw.shape[2] * lines * width, np.float32)
    pixel_memory = np.empty(outputs * lines * width, np.float32)
    product = np.empty((outputs, dw.shape[2]), np.float32)
    for group in range(start, stop):
        dw[group], db[group] = 0, 0
        for tile in range(tiles * group // len(dw), tiles * (group + 1) // len(dw)):
            first = tile * lines
            count = min(lines, total - first)
            columns = _matrix(field_memory, dw.shape[2], count * width)
            pixels = _matrix(pixel_memory, outputs, count * width)
            _unfold(x, columns, first, count, height, width, geometry)
            _unfold(g, pixels, first, count, height, width, (1, 0, 1, 1))
            np.dot(pixels, columns.T, product)
            dw[group] += product
            _sum_rows(pixels, db[group])


@compile_exact
def backward_data(start, stop, w_transposed, g, dx, add, geometry):
    """Write or add the gradient of the input for samples `start` to `stop`; w_transposed is (channels k k, outputs)."""
    height, width = g.shape[2:]
    columns = np.empty((w_transposed.shape[0], height * width), np.float32)
    for n in range(start, stop):
        np.dot(w_transposed, g[n].reshape(g.shape[1], height * width), columns)
        if not add:
            dx[n] = 0
        _fold(columns, dx, n, width, geometry)
