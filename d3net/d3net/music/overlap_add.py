"""Overlapping patches of frames through a network of one patch length, and the mean of what comes out."""
from collections.abc import Callable, Iterator, Sequence

import numpy as np


def patch_starts(num_frames: int, patch_length: int, shift: int) -> range:
    """Find where the patches begin that cover a song.

    They begin every `shift` frames, the first `patch_length - shift` frames before the song, so that its beginning is
    covered as often as the rest, and end at the multiple of `patch_length` after the song. These are the patches of
    the published code, except those that would lie behind the song altogether.

    Parameters
    ----------
    num_frames, patch_length, shift : int
        Frames, > 0; `shift` divides `patch_length`.

    Returns
    -------
    range
        First frames of the patches, negative before the song.

    Raises
    ------
    ValueError
        `shift` does not divide `patch_length`.
    """
    if patch_length % shift:
        raise ValueError(f"patches of {patch_length} frames cannot begin every {shift} frames")
    padded = num_frames + patch_length - num_frames % patch_length
    before = patch_length - shift
    return range(-before, min(padded - before, num_frames), shift)


def overlap_add(network: Callable[[np.ndarray], np.ndarray], read: Callable[[int, int], np.ndarray], num_frames: int,
                patch_length: int, shift: int, *, flip: bool = True, batch_size: int = 1) -> Iterator[np.ndarray]:
    """Average the outputs of a network for overlapping patches of a song, in memory for a few patches.

    Each frame is divided by the number of patches that cover it. (The published code divides by
    `patch_length / shift` throughout, which makes up to `shift - 1` frames at the end of some songs too soft.)
    So a network that returns its input gives the song back bit for bit, whatever its length.

    Parameters
    ----------
    network : callable
        Maps a float32 array (patches, patch_length, channels, bins) to one of the same shape; it is called with
        `batch_size` patches, or twice as many with `flip`.
    read : callable
        `read(start, stop)` returns these frames of the song, float32 (stop - start, channels, bins).
    num_frames, patch_length, shift : int
        As for `patch_starts`.
    flip : bool
        Average what the network makes of a patch and of the patch with its channels in reverse order.
    batch_size : int
        Patches that are treated at once.

    Yields
    ------
    float32 array (frames, channels, bins)
        Consecutive blocks of the result, `num_frames` frames in all.
    """
    starts = patch_starts(num_frames, patch_length, shift)
    # Of the frames of the current patch; double precision keeps sums of three and more exact.
    total, count = None, np.zeros((patch_length, 1, 1))
    for first in range(0, len(starts), batch_size):
        group = starts[first:first + batch_size]
        batch = _patches(read, group, num_frames, patch_length, batch_size)
        out = _flip_averaged(network, batch) if flip else network(batch)
        for start, patch in zip(group, out[:len(group)], strict=True):
            if total is None:
                total = np.zeros(patch.shape)
            total += patch
            count += 1
            end = num_frames if start == starts[-1] else min(start + shift, num_frames)
            if end > max(start, 0):    # no later patch covers these frames
                done = slice(max(start, 0) - start, end - start)
                yield (total[done] / count[done]).astype(np.float32)
            for array in (total, count):
                array[:-shift] = array[shift:]
                array[-shift:] = 0


def _patches(read: Callable[[int, int], np.ndarray], starts: Sequence[int], num_frames: int, patch_length: int,
             batch_size: int) -> np.ndarray:
    """Read patches into a batch, zeros where the song has not begun, has ended, or where no patch is left."""
    spans = [(max(start, 0), min(start + patch_length, num_frames)) for start in starts]
    parts = [read(*span) for span in spans]
    batch = np.zeros((batch_size, patch_length, *parts[0].shape[1:]), np.float32)
    for patch, start, (first, last), part in zip(batch, starts, spans, parts, strict=False):
        patch[first - start:last - start] = part
    return batch


def _flip_averaged(network: Callable[[np.ndarray], np.ndarray], batch: np.ndarray) -> np.ndarray:
    one, other = np.split(network(np.concatenate([batch, batch[:, :, ::-1]])), 2)
    return (one + other[:, :, ::-1]) / 2
