"""Random shift and mirror image as nnabla's `F.image_augmentation` makes them, for whole batches and to the last bit.

Nnabla draws from a Mersenne Twister that each image seeds anew. Its outputs r1, r2, ... give the shift by r4 and r5, in
steps of a thousandth of the range, and the mirror by the last bit of r6. The shift has fractions of a pixel.
"""
import numba
import numpy as np

from common.cpu_kernels import run_parallel

PAD = 4    # pixels on each side; the shift is at most as large
_DRAWS = 6    # outputs of the generator up to the last one that is used
_NUM_STATES = 397 + _DRAWS    # words of the generator's state that these outputs depend on
_OPERATIONS = 64    # about as many for each pixel: bilinear interpolation, and the generator's start


@numba.njit(nogil=True, cache=True)
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


@numba.njit(nogil=True, cache=True)
def _place(draw, size, first, weight):
    """Write where the pixels of an axis come from: left (upper) neighbour, and weight of the one after it."""
    shift = np.float32(draw % np.uint32(1001)) * np.float32(0.001) * np.float32(2 * PAD)
    centre = np.float32(size - 1) * np.float32(0.5)
    start = np.float32(shift + centre) - np.float32(centre + PAD)    # nnabla goes by the centre: it rounds there
    for k in range(size):
        source = min(max(np.float32(np.float32(k) + start), np.float32(0)), np.float32(size - 1))    # edges repeat
        first[k] = int(source)
        weight[k] = source - np.float32(first[k])


@numba.njit(nogil=True, cache=True)
def _augment(start, stop, images, seeds, out):
    """Shift and mirror the images from `start` to `stop`."""
    height, width = images.shape[2:]
    states, draws = np.empty(_NUM_STATES, np.uint32), np.empty(_DRAWS, np.uint32)
    left, right_weight = np.empty(width, np.int64), np.empty(width, np.float32)
    top, bottom_weight = np.empty(height, np.int64), np.empty(height, np.float32)
    one = np.float32(1)
    for n in range(start, stop):
        _draw(seeds[n], states, draws)
        _place(draws[3], width, left, right_weight)
        _place(draws[4], height, top, bottom_weight)
        mirror = draws[5] & np.uint32(1)
        for c in range(images.shape[1]):
            for y in range(height):
                upper, lower = images[n, c, top[y]], images[n, c, min(top[y] + 1, height - 1)]
                b, a = bottom_weight[y], one - bottom_weight[y]
                for x in range(width):
                    r, l = right_weight[x], one - right_weight[x]    # noqa: E741
                    here, after = left[x], min(left[x] + 1, width - 1)
                    value = ((l * a) * upper[here] + (r * a) * upper[after] + (l * b) * lower[here]
                             + (r * b) * lower[after])
                    out[n, c, y, width - 1 - x if mirror else x] = value


def augment(images, seeds):
    """Shift every image by up to 4 pixels and mirror it or not, as its seed says.

    Parameters
    ----------
    images : float32 (n, channels, height, width)
    seeds : int (n,), 0 to 2^32 - 1

    Returns
    -------
    float32 (n, channels, height, width)
        Same bits as `F.image_augmentation` with `pad=(4, 4)`, and after it one with `flip_lr`, both with that seed.
        Where the shifted image leaves a gap, its edge is repeated.
    """
    images = np.ascontiguousarray(images, np.float32)
    out = np.empty_like(images)
    run_parallel(_augment, len(images), images.size * _OPERATIONS, images, np.asarray(seeds).astype(np.uint32), out)
    return out
