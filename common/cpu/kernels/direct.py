"""Convolutions as sums over terms of receptive fields, which lie in memory as `products` reads them.

A tile is some lines of the output of a sample. For a column j of the kernels, the pixels of the input that meet it are
copied as wide as the output, with zeros beside the picture: then the pixels of all lines of the tile are neighbours for
each term. Arrays are (batch, channels, height, width); a geometry is (kernel, pad, stride, dilation) in pixels.
"""
import functools
from collections.abc import Sequence

import attrs
import numpy as np

from common.cpu.compiling import compile_exact
from common.cpu.kernels.products import TERMS, correlate, multiply_fused, multiply_in_order

Geometry = tuple[int, int, int, int]

_CACHED = 1 << 16    # elements of the fields of a tile: they stay in the second-level cache
_ROOM = 64    # elements behind the fields that vectors may reach into


@attrs.frozen
class Tiles:
    """How an output is cut.

    Attributes
    ----------
    number : int
        Tiles of all samples.
    lines : int
        Of the output, that make a tile.
    rows : int
        Of the input, of each phase of the stride, that a tile needs.
    offsets : int64 array (channels k k,), filled up with 0 to a multiple of TERMS
        Where the pixels of each term begin in the fields.
    """

    number: int
    lines: int
    rows: int
    offsets: np.ndarray


@functools.lru_cache(256)
def tiles_of(shape: Sequence[int], channels: int, geometry: Geometry) -> Tiles:
    """Cut an output of `shape` whose input has so many channels."""
    batch, _, height, width = shape
    kernel, _, stride, dilation = geometry
    fit = max(1, _CACHED // (channels * kernel * stride * width))
    lines = -(-height // -(-height // fit))
    rows = lines + (kernel - 1) * dilation // stride
    c, i, j = np.meshgrid(np.arange(channels), np.arange(kernel), np.arange(kernel), indexing="ij")
    offsets = (((c * kernel + j) * stride + i * dilation % stride) * rows + i * dilation // stride) * width
    return Tiles(batch * -(-height // lines), lines, rows, np.pad(offsets.ravel(), (0, -offsets.size % TERMS)))


@compile_exact
def _fill(x, n, first, rows, width, geometry, fields):
    """Copy the rows of sample n that the tile needs whose first line is `first`, (channels, k, stride, rows, width)."""
    kernel, pad, stride, dilation = geometry
    at, size = 0, rows * width
    for c in range(x.shape[1]):
        for j in range(kernel):
            shift = j * dilation - pad
            if stride == 1 and x.shape[3] == width:
                _shift_picture(x[n, c].reshape(-1), (first - pad) * width + shift, width, fields[at:at + size])
                at += size
                begin, end = min(max(0, -shift), width), max(0, min(width, width - shift))
                for line in range(at - size, at, width):
                    for ox in range(line, line + begin):
                        fields[ox] = 0
                    for ox in range(line + end, line + width):
                        fields[ox] = 0
            else:
                for phase in range(stride):
                    for r in range(rows):
                        iy = (first + r) * stride + phase - pad
                        _fill_line(x[n, c], iy, shift, stride, fields[at:at + width])
                        at += width


@compile_exact
def _shift_picture(picture, start, width, target):
    """Copy as many pixels of a flat picture as the target has, from `start` on, and zeros beside the picture."""
    begin = min(max(0, -start), len(target))
    end = max(begin, min(len(target), len(picture) - start))
    target[:begin] = 0
    target[end:] = 0
    inside, source = target[begin:end], picture[start + begin:start + end]
    for k in range(len(inside)):
        inside[k] = source[k]


@compile_exact
def _fill_line(picture, iy, shift, stride, line):
    """Copy the pixels of row `iy`, `stride` apart from column `shift` on, and zeros beside the picture."""
    if iy < 0 or iy >= picture.shape[0]:
        line[:] = 0
        return
    begin = min(max(0, -(shift // stride)), len(line))    # the first column within the picture
    end = max(begin, min(len(line), (picture.shape[1] - 1 - shift) // stride + 1))
    line[:begin] = 0
    line[end:] = 0
    for ox in range(begin, end):
        line[ox] = picture[iy, ox * stride + shift]


@compile_exact
def forward(start, stop, x, w, b, y, add, lines, rows, offsets, in_order, outputs, lanes, geometry):
    """Write or add y = w * x + b for tiles from `start` to `stop`, each of `lines` lines of a sample.

    w is (blocks, terms, outputs), b (blocks * outputs,), filled up with zeros; `outputs` and `lanes` are those of
    `products.tile_shape`. `in_order` rounds after every product and every addition, as nnabla does.
    """
    channels, height, width = y.shape[1:]
    terms = w.shape[1]
    plane, tiles = height * width, (height + lines - 1) // lines
    fields = np.empty(x.shape[1] * geometry[0] * geometry[2] * rows * width + _ROOM, np.float32)
    rest = np.empty(outputs * lanes, np.float32)
    flat_w, flat_y = w.reshape(-1), y.reshape(-1)
    for tile in range(start, stop):
        n, first = tile // tiles, tile % tiles * lines
        _fill(x, n, first, rows, width, geometry, fields)
        pixels = min(lines, height - first) * width
        for block in range(w.shape[0]):
            o = block * outputs
            w_at, at = block * terms * outputs, (n * channels + o) * plane + first * width
            for p in range(0, pixels, lanes):
                whole = p + lanes <= pixels and o + outputs <= channels
                target, place, stride = (flat_y, at + p, plane) if whole else (rest, 0, lanes)
                if in_order:
                    multiply_in_order(fields, p, offsets, flat_w, w_at, terms, b, o, target, place, stride,
                                      add and whole)
                else:
                    multiply_fused(fields, p, offsets, flat_w, w_at, terms, b, o, target, place, stride, add and whole)
                if not whole:
                    _copy(rest, lanes, flat_y, at + p, plane, min(outputs, channels - o), min(lanes, pixels - p), add)


@compile_exact
def _copy(source, source_stride, y, at, stride, outputs, pixels, add):
    for o in range(outputs):
        for p in range(pixels):
            value = source[o * source_stride + p]
            y[at + o * stride + p] = y[at + o * stride + p] + value if add else value


@compile_exact
def _turn(g, n, first, lines, width, turned, stride):
    """Copy lines of sample n of g, (outputs, pixels), as (pixels, `stride`), of which the outputs come first."""
    for o in range(g.shape[1]):
        pixels = g[n, o].reshape(-1)[first * width:(first + lines) * width]
        for p in range(len(pixels)):
            turned[p * stride + o] = pixels[p]


@compile_exact
def backward_weights(start, stop, x, g, dw, lines, rows, offsets, vectors, lanes, geometry):
    """Gradients of weights for groups of tiles, dw (groups, terms, outputs), filled up to whole vectors and TERMS."""
    height, width = g.shape[2:]
    tiles = (height + lines - 1) // lines
    total, stride = g.shape[0] * tiles, dw.shape[2]
    fields = np.zeros(x.shape[1] * geometry[0] * geometry[2] * rows * width + _ROOM, np.float32)
    turned = np.zeros(lines * width * stride, np.float32)
    for group in range(start, stop):
        dw[group] = 0
        sums = dw[group].reshape(-1)
        for tile in range(total * group // len(dw), total * (group + 1) // len(dw)):
            n, first = tile // tiles, tile % tiles * lines
            count = min(lines, height - first)
            _fill(x, n, first, rows, width, geometry, fields)
            _turn(g, n, first, count, width, turned, stride)
            for o in range(0, stride, vectors * lanes):
                width_of_block = min(vectors, (stride - o) // lanes)
                for term in range(0, len(offsets), TERMS):
                    correlate(fields, offsets, term, turned, o, stride, count * width, sums, term * stride + o, stride,
                              width_of_block)
