"""Separation of signals of any length: overlapping chunks of one length, cross-faded."""
from collections.abc import Callable, Iterable, Iterator

import numpy as np


def separate_in_chunks(blocks: Iterable[np.ndarray], process: Callable[[np.ndarray], np.ndarray], chunk_length: int,
                       overlap_length: int, batch_size: int = 1) -> Iterator[np.ndarray]:
    """Separate a signal that comes in blocks, in memory for a few batches of chunks.

    Chunks begin every `chunk_length - overlap_length` samples; the last is moved back to end where the signal ends. A
    shorter signal is one chunk of its own length. Where chunks overlap, the result is their mean, weighted by how far a
    sample lies from the end of its chunk; so if `process` returned its input, the input would come back bit for bit.

    Parameters
    ----------
    blocks : iterable of numpy.ndarray (n, channels), float32, any n
    process : callable
        Maps (batch, chunk, channels) to (batch, stems, chunk, channels), both float32.
    chunk_length, overlap_length : int
        Samples, overlap_length < chunk_length.
    batch_size : int
        Chunks that are processed at once; there may be fewer at the end.

    Yields
    ------
    numpy.ndarray (m, stems, channels), float32
        In all as many samples as came in; nothing for an empty signal.
    """
    assert 0 <= overlap_length < chunk_length and batch_size > 0, (chunk_length, overlap_length, batch_size)
    done, mean, weight = 0, None, np.empty(0, np.float32)    # of the samples from `done` to the end of the last chunk
    for starts, chunks in _batches(blocks, chunk_length, chunk_length - overlap_length, batch_size):
        fade = _fade(chunks.shape[1], overlap_length)
        stems = np.moveaxis(process(chunks), 1, 2)    # (batch, chunk, stems, channels)
        assert stems.shape[:2] == chunks.shape[:2], (stems.shape, chunks.shape)
        for start, chunk in zip(starts, stems, strict=True):
            if mean is None:
                mean = np.empty((0, *chunk.shape[1:]), np.float32)
            if start > done:    # no later chunk begins before this one
                yield mean[:start - done]
                mean, weight, done = mean[start - done:], weight[start - done:], start
            shared = len(mean)
            weight = weight + fade[:shared]
            # A step from the mean so far towards the chunk: none at all where they are equal.
            mean += (fade[:shared] / weight)[:, None, None] * (chunk[:shared] - mean)
            mean, weight = np.concatenate([mean, chunk[shared:]]), np.concatenate([weight, fade[shared:]])
    if mean is not None:
        yield mean


def _batches(blocks: Iterable[np.ndarray], chunk_length: int, hop_length: int,
             batch_size: int) -> Iterator[tuple[list[int], np.ndarray]]:
    """Cut a signal into chunks.

    Yields
    ------
    list of int
        Where the chunks begin, in ascending order.
    numpy.ndarray (at most batch_size, chunk, channels), float32
    """
    parts: list[np.ndarray] = []
    first, end = 0, 0    # the samples from `first` to `end` are at hand
    start = 0    # of the next chunk
    for block in blocks:
        parts.append(block)
        end += len(block)
        while end >= start + (batch_size - 1) * hop_length + chunk_length:
            signal = _joined(parts)
            starts = [start + i * hop_length for i in range(batch_size)]
            yield starts, _cut(signal, first, starts, chunk_length)
            start += batch_size * hop_length
            # The last chunk of the signal will begin after this batch's last, though maybe before `start`.
            parts, first = [signal[start - hop_length - first:]], start - hop_length
    starts = list(range(start, end - chunk_length + 1, hop_length))
    last = max(0, end - chunk_length)
    if end and last > start + (len(starts) - 1) * hop_length:    # not so if a chunk ends there already
        starts.append(last)
    if starts:
        yield starts, _cut(_joined(parts), first, starts, chunk_length)


def _joined(parts):
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _cut(signal, first, starts, length):
    return np.stack([signal[start - first:][:length] for start in starts])


def _fade(length, overlap_length):
    """Return the weights of the samples of a chunk: 1 but for a linear slope of `overlap_length` at both ends, > 0."""
    from_end = np.minimum(np.arange(length), np.arange(length)[::-1]) + 1
    return np.minimum(1, from_end / (overlap_length + 1)).astype(np.float32)
