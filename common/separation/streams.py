"""Signals that come in blocks, at any sample rate, through a separator."""
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from common.audio.files import Resampler
from common.separation.chunks import separate_in_chunks
from common.separation.monitor import Report, part, unobserved

WHOLE_SHARE = 0.95    # of the time that a signal in one piece takes, until its first stems come


class Separating(Protocol):
    """What is used here of a `common.separation.separator.StemSeparator`; its attributes are described there."""

    stems: tuple[str, ...]
    sample_rate: int
    batch_size: int
    chunk_seconds: float | None
    overlap: float

    @property
    def complete(self) -> bool: ...

    @property
    def adds_up(self) -> bool: ...

    def process(self, chunks: np.ndarray) -> np.ndarray: ...

    def separate_whole(self, blocks: Iterable[np.ndarray], folder: str | Path | None = None,
                       report: Report = unobserved) -> Iterator[np.ndarray]: ...


def chunk_length(separator: Separating) -> int | None:
    """Return the samples of a chunk at the rate of the networks; None: signals are separated in one piece."""
    seconds = separator.chunk_seconds
    return None if seconds is None else max(1, round(seconds * separator.sample_rate))


def separate_stream(separator: Separating, blocks: Iterable[np.ndarray], rate: int, channels: int,
                    stems: Sequence[str], folder: str | Path | None = None, frames: int | None = None,
                    report: Report = unobserved) -> Iterator[np.ndarray]:
    """Separate a signal that comes in blocks, at its own sample rate.

    Parameters
    ----------
    separator
    blocks : iterable of numpy.ndarray (n, channels), float32
    rate
        Hz.
    channels
        1 or 2; a single one is used for both sides.
    stems
        Names of those that are wanted.
    folder
        As for `StemSeparator.separate_whole`.
    frames
        How many there are in all, for the report; None: unknown.
    report
        Is told what fraction is done.

    Yields
    ------
    numpy.ndarray (m, stems, channels), float32
        In all at least as many frames as came in.
    """
    stereo = (np.broadcast_to(block, (len(block), 2)) for block in blocks)
    mixture = resampled(stereo, rate, separator.sample_rate, 2)
    length = chunk_length(separator)
    report(0.0)
    if length is None:
        estimates = separator.separate_whole(mixture, folder, part(report, 0.0, WHOLE_SHARE))
        report = part(report, WHOLE_SHARE, 1.0)
    else:
        estimates = separate_in_chunks(mixture, separator.process, length, round(separator.overlap * length),
                                       separator.batch_size)
    estimates = _reporting(estimates, frames and frames * separator.sample_rate / rate, report)
    wanted = [separator.stems.index(stem) for stem in stems]
    estimates = (block[:, wanted] for block in estimates)
    if channels == 1:
        estimates = (block.mean(axis=2, keepdims=True) for block in estimates)
    # Rounding in both directions may have lost a frame or two at a low rate between.
    silence = np.zeros((math.ceil(separator.sample_rate / rate) + 1, len(stems), channels), np.float32)
    width = len(stems) * channels
    flat = (block.reshape(len(block), width) for block in itertools.chain(estimates, [silence]))
    for block in resampled(flat, separator.sample_rate, rate, width):
        yield block.reshape(len(block), len(stems), channels)


def _reporting(blocks: Iterable[np.ndarray], frames: float | None, report: Report) -> Iterator[np.ndarray]:
    """Yield blocks, and report how many of `frames` there were; nothing but 0 as long as their number is unknown."""
    done = 0
    for block in blocks:
        done += len(block)
        report(done / frames if frames else 0.0)
        yield block
    report(1.0)


def resampled(blocks: Iterable[np.ndarray], from_rate: int, to_rate: int, channels: int) -> Iterator[np.ndarray]:
    """Change the rate of a signal (samples, channels) in blocks."""
    resampler = Resampler(from_rate, to_rate, channels)
    for block in blocks:
        yield resampler(block)
    yield resampler(np.empty((0, channels), np.float32), last=True)
