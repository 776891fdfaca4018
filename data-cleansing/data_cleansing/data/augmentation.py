"""Batches of images as the network takes them: shifted and mirrored at random, and normalized, in one pass.

Shift and mirror image are those of nnabla's `F.image_augmentation` to the last bit. nnabla draws from a Mersenne
Twister that each image seeds anew. Its outputs r1, r2, ... give the shift by r4 and r5, in steps of a thousandth of the
range, and the mirror by the last bit of r6. The shift has fractions of a pixel.
"""
from collections.abc import Sequence

import numpy as np

from common.cpu.compiling import compile_exact
from common.cpu.parallel import run_parallel

PAD = 4    # pixels on each side; the shift is at most as large
_DRAWS = 6    # outputs of the generator up to the last one that is used
_NUM_STATES = 397 + _DRAWS    # words of the generator's state that these outputs depend on
_OPERATIONS = 16    # about as many for each pixel


@compile_exact
def _draw(seed, states, draws):
    """Write the first outputs of MT19937 seeded with `seed` to `draws`, uint32 (_DRAWS,)."""
    states[0] = seed
    for k in range(1, _NUM_STATES):
        before = np.uint64(states[k - 1])
        states[k] = np.uint32((np.uint64(1812433253) * (before ^ (before >> np.uint64(30))) + np.uint64(k))
                              & np.uint64(0xFFFFFFFF))
    for k in range(_DRAWS):
        mixed = (states[k] & np.uint32(0x80000000)) | (states[k + 1] & np.uint32(0x7FFFFFFF))
        twist = np.uint32(0x9908B0DF) if mixed & np.uint32(1) else np.uint32(0)
        y = states[k + 397] ^ (mixed >> np.uint32(1)) ^ twist
        y ^= y >> np.uint32(11)
        y ^= (y << np.uint32(7)) & np.uint32(0x9D2C5680)
        y ^= (y << np.uint32(15)) & np.uint32(0xEFC60000)
        draws[k] = y ^ (y >> np.uint32(18))


@compile_exact
def _place(draw, size, first, weight):
    """Write where the pixels of an axis come from: left (upper) neighbour, and weight of the one after it."""
    shift = np.float32(draw % np.uint32(1001)) * np.float32(0.001) * np.float32(2 * PAD)
    centre = np.float32(size - 1) * np.float32(0.5)
    start = np.float32(shift + centre) - np.float32(centre + PAD)    # nnabla goes by the centre: it rounds there
    for k in range(size):
        source = min(max(np.float32(np.float32(k) + start), np.float32(0)), np.float32(size - 1))    # edges repeat
        first[k] = int(source)
        weight[k] = source - np.float32(first[k])


@compile_exact
def _turn(mirror, first, second, weight, one_minus_weight):
    """Complete what `_place` wrote for the columns: right neighbour, weight of the left one; all reversed to mirror."""
    if mirror:
        first[:], weight[:] = first[::-1].copy(), weight[::-1].copy()
    for k in range(first.size):
        second[k] = min(first[k] + 1, first.size - 1)
        one_minus_weight[k] = np.float32(1) - weight[k]


@compile_exact
def _interpolate(upper, lower, l, r, a, b, mean, std, line):    # noqa: E741
    """Write a line of an image: upper and lower neighbours (2, width) are those to the left and to the right."""
    for x in range(line.size):
        value = ((l[x] * a) * upper[0, x] + (r[x] * a) * upper[1, x] + (l[x] * b) * lower[0, x]
                 + (r[x] * b) * lower[1, x])
        line[x] = (value - mean) / std


@compile_exact
def _augment(start, stop, images, largest, rows, seeds, mean, std, out):
    """Shift, mirror and normalize the images from `start` to `stop` of a batch."""
    height, width = images.shape[2:]
    states, draws = np.empty(_NUM_STATES, np.uint32), np.empty(_DRAWS, np.uint32)
    left, right, right_weight = np.empty(width, np.int64), np.empty(width, np.int64), np.empty(width, np.float32)
    left_weight, plane = np.empty(width, np.float32), np.empty((height, width), np.float32)
    neighbours = np.empty((height, 2, width), np.float32)
    top, bottom_weight = np.empty(height, np.int64), np.empty(height, np.float32)
    for n in range(start, stop):
        _draw(seeds[n], states, draws)
        _place(draws[3], width, left, right_weight)
        _place(draws[4], height, top, bottom_weight)
        _turn(draws[5] & np.uint32(1), left, right, right_weight, left_weight)
        for c in range(images.shape[1]):
            source = images[rows[n], c]
            for y in range(height):
                for x in range(width):
                    plane[y, x] = source[y, x] / largest
            for y in range(height):
                for x in range(width):    # unsigned: numba need not look for negative indices
                    neighbours[y, 0, x] = plane[y, np.uint64(left[x])]
                    neighbours[y, 1, x] = plane[y, np.uint64(right[x])]
            for y in range(height):
                b = bottom_weight[y]
                _interpolate(neighbours[top[y]], neighbours[min(top[y] + 1, height - 1)], left_weight, right_weight,
                             np.float32(1) - b, b, mean[c], std[c], out[n, c, y])


@compile_exact
def _normalize(start, stop, images, largest, rows, mean, std, out):
    """Normalize the images from `start` to `stop` of a batch."""
    for n in range(start, stop):
        for c in range(images.shape[1]):
            for y in range(images.shape[2]):
                for x in range(images.shape[3]):
                    out[n, c, y, x] = (np.float32(images[rows[n], c, y, x] / largest) - mean[c]) / std[c]


def make_batch(images: np.ndarray, rows: np.ndarray, mean: Sequence[float], std: Sequence[float],
               seeds: np.ndarray | None = None) -> np.ndarray:
    """Take images out of a set, augment them or not, and normalize them.

    Parameters
    ----------
    images : uint8 0..255 or float32 in [0, 1], (n, channels, height, width)
    rows : int (batch,), 0..n-1
    mean, std : float (channels,)
    seeds : int (batch,), optional
        0 to 2^32 - 1. Shift every image by up to 4 pixels and mirror it or not, as its seed says: same bits as
        `F.image_augmentation` with `pad=(4, 4)`, and after it one with `flip_lr`, both with that seed. Where the
        shifted image leaves a gap, its edge is repeated.

    Returns
    -------
    float32 (batch, channels, height, width)
    """
    rows = np.asarray(rows, np.int64)
    if rows.size and not 0 <= rows.min() <= rows.max() < len(images):
        raise IndexError(f"rows {rows.min()}..{rows.max()} of {len(images)} images")    # compiled loops do not look
    out = np.empty((len(rows), *images.shape[1:]), np.float32)
    largest = 255.0 if images.dtype == np.uint8 else 1.0    # float64: bytes are divided in it, then rounded
    means, stds = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    if seeds is None:
        run_parallel(_normalize, len(rows), out.size, images, largest, rows, means, stds, out)
    else:
        seeds = np.asarray(seeds).astype(np.uint32)
        run_parallel(_augment, len(rows), out.size * _OPERATIONS, images, largest, rows, seeds, means, stds, out)
    return out
