"""Compiled loops for convolutions by 3 x 3 kernels, stride 1 and any dilation, with half of the products.

Four pixels of a column, each three products away from six pixels of the input, take 6 products instead of 12: the
algorithm F(4, 3) of Winograd, along the height. Along the width the three products are taken as they are, so that all
loops run along neighbours in memory. Six sums, the points, are made of the rows of the input; the products are taken at
each point; and sums of the points are the rows of the output:

    points = FORWARD rows
    products = sum over channels and columns of (KERNELS w) points
    rows = BACKWARD products

What is between memory and product lies in vector registers (`_multiply`), as no compiler does by itself. Arrays are
(channels, height, width), of one picture; `start` and `stop` count tiles.

References
----------
Lavin and Gray, arXiv 1509.09308.
"""
import functools

import numpy as np

from common.cpu.compiling import compile_fused
from common.cpu.kernels import registers

POINTS, TILE = 6, 4    # of a tile: sums, and rows of the output
OUTPUTS = 6    # channels of the output that are computed at once, at most
CHUNK = 64    # pixels of a line that are computed at once, at most
KERNELS = np.array([[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
                    [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]])
# FORWARD: four rows of the six for each point, and their factors.
_ROWS = np.array([[0, 2, 4, 4], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [1, 3, 5, 5]])
_FACTORS = np.array([[4, -5, 1, 0], [-4, -4, 1, 1], [4, -4, -1, 1], [-2, -1, 2, 1], [2, -1, -2, 1], [4, -5, 1, 0]],
                    np.float32)
_BACKWARD = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float32)
_LINE = 16    # numbers of a line of the cache
_STRIDE = OUTPUTS * CHUNK    # from a point to the next
_P1, _P2, _P3, _P4, _P5 = (np.uint64(k * _STRIDE) for k in range(1, POINTS))


@functools.cache
def register_shape() -> tuple[int, int]:
    """Numbers in a vector register, and how many vectors of a line fit in the registers with `OUTPUTS` sums each."""
    lanes, count = registers.vector_registers()
    return lanes, 4 if count == 32 else 2


@registers.written_down
def _multiply(typing_context, points, at, stride, step, u, u_at, channels, products, p_at, outputs, vectors):
    """Sum of u times points over channels and the three columns of a kernel, for some outputs and pixels of a line.

    Parameters
    ----------
    points, at, stride, step
        From element `at` on, a channel every `stride` elements, of which each product takes one `step` further.
    u, u_at
        (channels, 3, OUTPUTS) from element `u_at` on.
    products, p_at
        To be written from element `p_at` on, (outputs, CHUNK).
    outputs, vectors
        1 to OUTPUTS; 1 to `register_shape()[1]`.
    """
    from numba import types

    size = types.int64
    arrays = types.Array(types.float32, 1, "C")
    assert points == u == products == arrays, (points, u, products)
    return types.void(arrays, size, size, size, arrays, size, size, arrays, size, size, size), _write_multiply


def _write_multiply(context, builder, signature, args):
    """Write the code of `_multiply`: a loop over channels for each number of outputs and of vectors."""
    points, at, stride, step, u, u_at, channels, products, p_at, outputs, vectors = args
    pointers = [registers.pointer_to(context, builder, signature.args[k], array, offset)
                for k, array, offset in ((0, points, at), (4, u, u_at), (7, products, p_at))]
    most = register_shape()[1]
    cases = [(k * most + width, functools.partial(_write_loop, builder, pointers, stride, step, channels, k, width))
             for k in range(1, OUTPUTS + 1) for width in range(1, most + 1)]
    registers.choose(builder, cases, builder.add(builder.mul(outputs, outputs.type(most)), vectors))
    return context.get_dummy_value()


def _write_loop(builder, pointers, stride, step, channels, outputs, vectors):
    """Write a loop over channels that keeps its sums in registers, and what stores them."""
    lanes, index = register_shape()[0], stride.type

    def channel(_, moved, sums):
        (column, weights), results = moved, list(sums)
        for tap in range(3):
            pixels = [registers.load(builder, builder.gep(column, [index(v * lanes)]), lanes) for v in range(vectors)]
            for o in range(outputs):
                number = builder.load(builder.gep(weights, [index(tap * OUTPUTS + o)]))
                weight = registers.broadcast(builder, number, lanes)
                for v in range(vectors):
                    product = builder.fmul(pixels[v], weight, flags=("contract",))
                    k = o * vectors + v
                    results[k] = builder.fadd(product, results[k], flags=("contract",))
            column = builder.gep(column, [step])
        return results

    steps = (pointers[0], stride), (pointers[1], index(3 * OUTPUTS))
    results = registers.write_loop(builder, channels, steps, [registers.zeros(lanes)] * (outputs * vectors), channel)
    for k, result in enumerate(results):
        place = index(k // vectors * CHUNK + k % vectors * lanes)
        registers.store(builder, result, builder.gep(pointers[2], [place]))


@registers.written_down
def _prefetch(typing_context, y, at):
    """Bring element `at` of flat y, and its neighbours in memory, into the cache, to be written."""
    from numba import types

    return types.void(y, types.uint64), _write_prefetch


def _write_prefetch(context, builder, signature, args):
    from llvmlite import ir

    data = context.make_array(signature.args[0])(context, builder, args[0]).data
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], ir.FunctionType(
        ir.VoidType(), [byte, number, number, number]))
    pointer = builder.bitcast(builder.gep(data, [args[1]]), byte)
    builder.call(prefetch, [pointer, number(1), number(3), number(1)])    # for writing, to stay, data
    return context.get_dummy_value()


@compile_fused
def _prepare(source, target, scale, shift, rectify):
    """Scale and shift a line, and rectify it."""
    if rectify:
        for i in range(len(target)):
            target[i] = max(source[i] * scale + shift, np.float32(0))
    else:
        for i in range(len(target)):
            target[i] = source[i] * scale + shift


@compile_fused
def _combine(target, a, b, c, d, factors):
    fa, fb, fc, fd = factors[0], factors[1], factors[2], factors[3]
    for i in range(len(target)):
        target[i] = fa * a[i] + fb * b[i] + fc * c[i] + fd * d[i]


@compile_fused
def _to_points(x, first, scale, shift, rectify, row, left, width, dilation, rows, points):
    """Points (POINTS, channels, `width`) of the pixels from column `left` on, of a tile whose output begins at `row`.

    Pixels beside the picture are 0.
    """
    begin, end = max(0, -left), max(0, min(width, x.shape[2] - left))
    for c in range(points.shape[1]):
        for k in range(POINTS):
            y = row + (k - 1) * dilation
            line = rows[k, :width]
            if y < 0 or y >= x.shape[1]:
                line[:] = 0
            else:
                line[:begin] = 0
                line[end:] = 0
                _prepare(x[first + c, y, left + begin:left + end], line[begin:end], scale[c], shift[c], rectify)
        for p in range(POINTS):
            of = _ROWS[p]
            _combine(points[p, c, :width], rows[of[0], :width], rows[of[1], :width], rows[of[2], :width],
                     rows[of[3], :width], _FACTORS[p])


@compile_fused
def _write_row(y, at, count, products, first, factors, bias, add):
    """Write or add, from element `at` of flat y on, a row of an output channel, whose products are from `first` on."""
    f0, f1, f2, f3, f4, f5 = factors[0], factors[1], factors[2], factors[3], factors[4], factors[5]
    q, o, m = np.uint64(at), np.uint64(first), products    # unsigned: no index can count from the end
    if add:
        for i in range(np.uint64(count)):
            y[q + i] += (f0 * m[o + i] + f1 * m[_P1 + o + i] + f2 * m[_P2 + o + i] + f3 * m[_P3 + o + i]
                         + f4 * m[_P4 + o + i] + f5 * m[_P5 + o + i] + bias)
    else:
        for i in range(np.uint64(count)):
            y[q + i] = (f0 * m[o + i] + f1 * m[_P1 + o + i] + f2 * m[_P2 + o + i] + f3 * m[_P3 + o + i]
                        + f4 * m[_P4 + o + i] + f5 * m[_P5 + o + i] + bias)


@compile_fused
def _expect_rows(y, q, channel, step, outputs, rows, count):
    """Let pixels come into the cache while the sums that are to be written there are taken."""
    for o in range(outputs):
        for i in range(rows):
            at = q + o * channel + i * step
            for j in range(0, count, _LINE):
                _prefetch(y, np.uint64(at + j))
            _prefetch(y, np.uint64(at + count - 1))


def num_tiles(height: int, width: int, dilation: int, block: int) -> int:
    """Number of tiles, of TILE rows and `block` columns, that cover an output."""
    rows = -(-height // dilation)    # of the output, as far apart as the dilation
    return -(-rows // TILE) * dilation * -(-width // block)


@compile_fused
def forward(start, stop, x, first, scale, shift, rectify, u, sizes, bias, y, y_first, add, dilation, block, lanes,
            vectors):
    """Write or add, to the channels of y from `y_first` on, the convolution of what channels of x give.

    These are the channels from `first` on, as many as `scale` has: scaled, shifted and, with `rectify`, rectified. The
    outputs are cut into blocks of `sizes` channels, of which u is (blocks, POINTS, channels, 3, OUTPUTS).
    """
    channels, height, width = len(scale), x.shape[1], x.shape[2]
    tiles = ((height + dilation - 1) // dilation + TILE - 1) // TILE
    blocks = (width + block - 1) // block
    room = block + lanes + 2 * dilation
    rows = np.empty((POINTS, room), np.float32)
    points = np.empty((POINTS, channels, room), np.float32)
    products = np.empty(POINTS * _STRIDE, np.float32)
    flat_points, flat_u, flat_y = points.reshape(-1), u.reshape(-1), y.reshape(-1)
    for tile in range(start, stop):
        left = tile % blocks * block
        row = tile // blocks % dilation + tile // blocks // dilation % tiles * TILE * dilation
        if row >= height:
            continue
        columns = min(block, width - left)
        _to_points(x, first, scale, shift, rectify, row, left - dilation,
                   (columns + lanes - 1) // lanes * lanes + 2 * dilation, dilation, rows, points)
        lines = min(TILE, (height - row + dilation - 1) // dilation)
        output = y_first
        for b in range(len(sizes)):
            for i in range(0, columns, lanes * vectors):
                count = min(lanes * vectors, columns - i)
                target = (output * height + row) * width + left + i
                _expect_rows(flat_y, target, height * width, dilation * width, sizes[b], lines, count)
                for p in range(POINTS):
                    _multiply(flat_points, p * channels * room + i, room, dilation, flat_u,
                              (b * POINTS + p) * channels * 3 * OUTPUTS, channels, products, p * _STRIDE, sizes[b],
                              (count + lanes - 1) // lanes)
                for o in range(sizes[b]):
                    for k in range(lines):
                        _write_row(flat_y, target + (o * height + k * dilation) * width, count, products, o * CHUNK,
                                   _BACKWARD[k], bias[output - y_first + o], add)
            output += sizes[b]
