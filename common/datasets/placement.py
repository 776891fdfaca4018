"""The compiled loop that makes a batch of images in one pass over the pixels."""
import numpy as np

from common.cpu.compiling import compile_exact


@compile_exact
def _place(images, index, table, offsets, flips, pad, out):
    """Write to `out`, float32 (batch, channels, height, width), what `make_batch` returns."""
    height, width = images.shape[2:]
    out[:] = 0
    for example in range(len(index)):
        source, target = images[index[example]], out[example]    # (channels, height, width)
        if flips[example]:
            target = target[:, :, ::-1]
        down, right = offsets[example, 0] - pad, offsets[example, 1] - pad    # of the crop in the image
        first = min(max(0, -right), width)    # of the columns of the crop that the image covers
        last = max(first, min(width, width - right))
        for channel in range(len(source)):
            for y in range(max(0, -down), min(height, height - down)):
                # Slices counted from 0: only then does numba know that no index is negative.
                pixels = source[channel, y + down, first + right:last + right]
                values = target[channel, y, first:last]
                for x in range(len(pixels)):
                    values[x] = table[pixels[x]]


def make_batch(images: np.ndarray, index: np.ndarray, table: np.ndarray, offsets: np.ndarray, flips: np.ndarray,
               pad: int) -> np.ndarray:
    """Gather, normalize, pad, crop and flip in one pass.

    Parameters
    ----------
    images : uint8 (n, channels, height, width), contiguous
    index : int64 (batch,), 0..n-1
    table : float32 (256,)
        Normalized value of each byte.
    offsets : int64 (batch, 2), 0..2*pad
        Of the crop in the padded image, in y and x.
    flips : bool (batch,)
        Swap left and right of the crop.

    Returns
    -------
    float32 (batch, channels, height, width)
        The caller's own.
    """
    out = np.empty((len(index), *images.shape[1:]), dtype=np.float32)
    _place(images, index, table, offsets, flips, pad, out)
    return out
