"""What the separators of all papers share: they turn audio of any length and sample rate into stems."""
import abc
import contextlib
import itertools
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nnabla as nn
import numpy as np

from common.audio.files import Resampler
from common.audio.spool import BLOCK
from common.inference.engines import check_engine
from common.machine.errors import UsageError
from common.machine.threads import NNABLA
from common.separation.chunks import separate_in_chunks


class StemSeparator(abc.ABC):
    """Splits music into stems. A paper's separator derives from it, sets `stems` and `sample_rate`, defines `process`.

    Threads may share one, and make several at a time.

    Parameters
    ----------
    targets
        Names that are to differ.
    chunk_seconds, overlap
        Longer signals are cut into chunks that overlap by this share, and are cross-faded. With None for the former
        they are separated in one piece.
    engine, precision
        See `common.inference.engines`.

    Attributes
    ----------
    stems
        Names of what is returned, in order.
    sample_rate
        At which the networks work, in Hz.
    batch_size
        Chunks that are separated at once.

    Raises
    ------
    UsageError
        A value that is not allowed.
    """

    stems: tuple[str, ...]
    sample_rate: int
    batch_size: int = 1

    def __init__(self, targets: Sequence[str] | None, chunk_seconds: float | None, overlap: float, engine: str,
                 precision: str):
        if chunk_seconds is not None and not 0 < chunk_seconds < math.inf or not 0 <= overlap <= 0.5:
            raise UsageError(f"chunks of {chunk_seconds} s with an overlap of {overlap}: they are to be longer than 0, "
                             "and the overlap from 0 to 0.5")
        if len(set(targets or ())) < len(targets or ()):
            raise UsageError(f"--targets {' '.join(targets or ())}: each may be named once")
        check_engine(engine, precision)
        self.chunk_seconds, self.overlap = chunk_seconds, overlap
        self.engine, self.precision = engine, precision
        self._parameters = OrderedDict()

    @contextlib.contextmanager
    def _scope(self):
        """The parameters of this object, apart from all others; no other thread builds anything meanwhile."""
        with NNABLA, nn.parameter_scope("separator", self._parameters):
            yield

    def settings(self) -> dict[str, Any]:
        """Return what determines the estimates, JSON-able. A subclass adds its weights and options."""
        return {"stems": list(self.stems), "chunk_dur": self.chunk_seconds or 0.0, "overlap": self.overlap,
                "precision": self.precision}

    def separate(self, audio: np.ndarray, sample_rate: int) -> dict[str, np.ndarray]:
        """Split a signal.

        Parameters
        ----------
        audio : float array (samples, channels) or (samples,)
            Mono or stereo.
        sample_rate
            In Hz; any.

        Returns
        -------
        dict of str to float32 array
            The stems, each of the shape of `audio` and at its rate.

        Raises
        ------
        ValueError
            More than two channels, no samples, or samples that are not finite.
        """
        audio = np.asarray(audio, np.float32)
        signal = audio[:, None] if audio.ndim == 1 else audio
        if signal.ndim != 2 or not len(signal) or signal.shape[1] not in (1, 2) or not np.isfinite(signal).all():
            raise ValueError(f"audio of shape {audio.shape}: finite samples (samples, channels) of 1 or 2 channels "
                             "are wanted")
        blocks = (signal[start:start + BLOCK] for start in range(0, len(signal), BLOCK))
        out, done = np.empty((len(self.stems), *signal.shape), np.float32), 0
        for block in separate_stream(self, blocks, sample_rate, signal.shape[1], self.stems):
            block = block[:len(signal) - done]    # there are a few frames too many
            out[:, done:done + len(block)] = block.swapaxes(0, 1)
            done += len(block)
        return {name: stem.reshape(audio.shape) for name, stem in zip(self.stems, out, strict=True)}

    @abc.abstractmethod
    def process(self, chunks: np.ndarray) -> np.ndarray:
        """Separate chunks of one length, each by itself.

        Parameters
        ----------
        chunks : float32 array (batch, samples, 2), at `sample_rate`

        Returns
        -------
        float32 array (batch, stems, samples, 2)
        """

    def separate_whole(self, blocks: Iterable[np.ndarray], folder: str | Path | None = None) -> Iterator[np.ndarray]:
        """Separate a signal in one piece: here all of it is in memory, in a subclass it need not be.

        Parameters
        ----------
        blocks : iterable of float32 array (n, 2), at `sample_rate`
        folder
            Where temporary files go; see `common.audio.spool`.

        Yields
        ------
        float32 array (m, stems, 2)
            In all as many samples as came in.
        """
        signal = np.concatenate(list(blocks))
        if len(signal):
            yield self.process(signal[None])[0].swapaxes(0, 1)


def chunk_length(separator: StemSeparator) -> int | None:
    """Return the samples of a chunk at the rate of the networks; None: signals are separated in one piece."""
    seconds = separator.chunk_seconds
    return None if seconds is None else max(1, round(seconds * separator.sample_rate))


def separate_stream(separator: StemSeparator, blocks: Iterable[np.ndarray], rate: int, channels: int,
                    stems: Sequence[str], folder: str | Path | None = None) -> Iterator[np.ndarray]:
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

    Yields
    ------
    numpy.ndarray (m, stems, channels), float32
        In all at least as many frames as came in.
    """
    stereo = (np.broadcast_to(block, (len(block), 2)) for block in blocks)
    mixture = _resampled(stereo, rate, separator.sample_rate, 2)
    length = chunk_length(separator)
    if length is None:
        estimates = separator.separate_whole(mixture, folder)
    else:
        estimates = separate_in_chunks(mixture, separator.process, length, round(separator.overlap * length),
                                       separator.batch_size)
    wanted = [separator.stems.index(stem) for stem in stems]
    estimates = (block[:, wanted] for block in estimates)
    if channels == 1:
        estimates = (block.mean(axis=2, keepdims=True) for block in estimates)
    # Rounding in both directions may have lost a frame or two at a low rate between.
    silence = np.zeros((math.ceil(separator.sample_rate / rate) + 1, len(stems), channels), np.float32)
    width = len(stems) * channels
    flat = (block.reshape(len(block), width) for block in itertools.chain(estimates, [silence]))
    for block in _resampled(flat, separator.sample_rate, rate, width):
        yield block.reshape(len(block), len(stems), channels)


def _resampled(blocks: Iterable[np.ndarray], from_rate: int, to_rate: int, channels: int) -> Iterator[np.ndarray]:
    resampler = Resampler(from_rate, to_rate, channels)
    for block in blocks:
        yield resampler(block)
    yield resampler(np.empty((0, channels), np.float32), last=True)
