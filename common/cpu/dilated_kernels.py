"""Compiled loops for convolutions with dilation, as products with receptive fields laid out as columns.

As in `common.cpu.kernels`: `start` and `stop` count tiles, groups or samples of fixed size, so that sums do not depend
on the number of cores. Arrays are (batch, channels, height, width); a geometry is (kernel, pad, stride, dilation) in
pixels.
"""
import numpy as np

from common.cpu.compiling import compile_exact, compile_sums

GROUPS = 8    # partial sums of a weight gradient, at most
_CACHED = 1 << 17    # elements of the columns of a tile: they stay in the second-level cache
_FEWEST, _MOST = 64, 2048    # pixels of a tile


def tile_lines(shape, terms):
    """How many lines make a tile of an output of `shape`, each of whose pixels is a sum of `terms` products."""
    batch, _, height, width = shape
    share = batch * height * width // (2 * GROUPS)    # enough tiles for all cores
    pixels = min(max(min(_CACHED // terms, share), _FEWEST), _MOST)
    return max(1, pixels // width)


def num_tiles(shape, lines):
    """Number of tiles of `lines` lines that cover an output of `shape`."""
    return -(-shape[0] * shape[2] // lines)


@compile_exact
def _inside(size, width, shift, stride):
    """Return the range of pixels o < width for which 0 <= o stride + shift < size."""
    first = max(0, -(shift // stride)) if shift < 0 else 0
    last = min(width, (size - 1 - shift) // stride + 1) if shift < size else 0
    return min(first, width), max(last, min(first, width))


@compile_exact
def _unfold(x, columns, first, lines, height, width, geometry):
    """Fill columns (channels k k, lines width) with the receptive fields of lines of the output, from `first` on.

    Lines are counted through the batch, `height` for each sample.
    """
    kernel, pad, stride, dilation = geometry
    for c in range(x.shape[1]):
        for i in range(kernel):
            for j in range(kernel):
                row = columns[(c * kernel + i) * kernel + j]
                left, right = _inside(x.shape[3], width, j * dilation - pad, stride)
                for line in range(lines):
                    n, iy = (first + line) // height, (first + line) % height * stride + i * dilation - pad
                    target = row[line * width:(line + 1) * width]
                    if iy < 0 or iy >= x.shape[2] or left == right:
                        target[:] = 0
                    else:
                        target[:left] = 0
                        target[right:] = 0
                        source = x[n, c, iy]
                        if stride == 1:
                            shift = left + j * dilation - pad
                            target[left:right] = source[shift:shift + right - left]
                        else:
                            for ox in range(left, right):
                                target[ox] = source[ox * stride + j * dilation - pad]


@compile_exact
def forward(start, stop, x, w, b, y, add, lines, geometry):
    """Write or add y = w * x + b over tiles of `lines` lines; w is (outputs, channels k k)."""
    outputs, height, width = y.shape[1:]
    for tile in range(start, stop):
        first = tile * lines
        count = min(lines, y.shape[0] * height - first)
        columns = np.empty((w.shape[1], count * width), np.float32)
        _unfold(x, columns, first, count, height, width, geometry)
        product = np.dot(w, columns)
        for o in range(outputs):
            for line in range(count):
                n, oy = (first + line) // height, (first + line) % height
                source, target = product[o, line * width:(line + 1) * width], y[n, o, oy]
                if add:
                    for ox in range(width):
                        target[ox] += source[ox] + b[o]
                else:
                    for ox in range(width):
                        target[ox] = source[ox] + b[o]


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
    for group in range(start, stop):
        db[group] = 0
        start_of_group = tiles * group // len(dw)
        for tile in range(start_of_group, tiles * (group + 1) // len(dw)):
            first = tile * lines
            count = min(lines, total - first)
            columns = np.empty((dw.shape[2], count * width), np.float32)
            pixels = np.empty((outputs, count * width), np.float32)
            _unfold(x, columns, first, count, height, width, geometry)
            _unfold(g, pixels, first, count, height, width, (1, 0, 1, 1))
            if tile == start_of_group:
                np.dot(pixels, columns.T, dw[group])
            else:
                dw[group] += np.dot(pixels, columns.T)
            _sum_rows(pixels, db[group])


@compile_exact
def backward_data(start, stop, w_transposed, g, dx, add, geometry):
    """Write or add the gradient of the input for samples `start` to `stop`; w_transposed is (channels k k, outputs)."""
    kernel, pad, stride, dilation = geometry
    height, width = g.shape[2:]
    for n in range(start, stop):
        columns = np.dot(w_transposed, g[n].reshape(g.shape[1], height * width))
        if not add:
            dx[n] = 0
        for c in range(dx.shape[1]):
            for i in range(kernel):
                for j in range(kernel):
                    row = columns[(c * kernel + i) * kernel + j]
                    left, right = _inside(dx.shape[3], width, j * dilation - pad, stride)
                    for oy in range(height):
                        iy = oy * stride + i * dilation - pad
                        if (iy >= 0) & (iy < dx.shape[2]):
                            for ox in range(left, right):
                                dx[n, c, iy, ox * stride + j * dilation - pad] += row[oy * width + ox]
