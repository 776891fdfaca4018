"""What the separators of all papers share: from audio to stems, for signals of any length and sample rate."""
import abc
import itertools
import math
from collections import OrderedDict

import nnabla as nn
import numpy as np

from common.audio.files import Resampler
from common.audio.spool import BLOCK
from common.inference.engines import check_engine
from common.machine.errors import UsageError
from common.separation.chunks import separate_in_chunks


class StemSeparator(abc.ABC):
    """Splits music into stems. A paper's separator derives from it, sets `stems` and `sample_rate`, defines `process`.

    Parameters
    ----------
    targets : sequence of str or None
        Names that are to differ.
    chunk_seconds, overlap : float
        Longer signals are cut into chunks that overlap by this share, and are cross-faded. With None for the former
        they are separated in one piece.
    engine, precision : str
        See `common.inference.engines`.

    Attributes
    ----------
    stems : tuple of str
        Names of what is returned, in order.
    sample_rate : int
        At which the networks work, in Hz.
    batch_size : int
        Chunks that are separated at once.

    Raises
    ------
    UsageError
        A value that is not allowed.
    """

    batch_size = 1

    def __init__(self, targets, chunk_seconds, overlap, engine, precision):
        if chunk_seconds is not None and not chunk_seconds > 0 or not 0 <= overlap <= 0.5:
            raise UsageError(f"chunks of {chunk_seconds} s with an overlap of {overlap}: they are to be longer than 0, "
                             "and the overlap from 0 to 0.5")
        if len(set(targets or ())) < len(targets or ()):
            raise UsageError(f"--targets {' '.join(targets)}: each may be named once")
        check_engine(engine, precision)
        self.chunk_seconds, self.overlap = chunk_seconds, overlap
        self.engine, self.precision = engine, precision
        self._parameters = OrderedDict()

    def _scope(self):
        """The parameters of this object, apart from all others."""
        return nn.parameter_scope("separator", self._parameters)

    def separate(self, audio, sample_rate):
        """Split a signal.

        Parameters
        ----------
        audio : array (samples, channels) or (samples,), float
            Mono or stereo.
        sample_rate : int
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
        for block in separate_stream(self, blocks, sample_rate, signal.shape[1], range(len(self.stems)),
                                     self.chunk_seconds, self.overlap, self.batch_size):
            block = block[:len(signal) - done]    # there are a few frames too many
            out[:, done:done + len(block)] = block.swapaxes(0, 1)
            done += len(block)
        return {name: stem.reshape(audio.shape) for name, stem in zip(self.stems, out, strict=True)}

    @abc.abstractmethod
    def process(self, chunks):
        """Separate chunks of one length, each by itself.

        Parameters
        ----------
        chunks : float32 array (batch, samples, 2), at `sample_rate`

        Returns
        -------
        float32 array (batch, stems, samples, 2)
        """

    def separate_whole(self, blocks, folder=None):
        """Separate a signal in one piece: here all of it is in memory, in a subclass it need not be.

        Parameters
        ----------
        blocks : iterable of float32 array (n, 2), at `sample_rate`
        folder : path or None
            For what is laid by on disk; see `common.audio.spool`.

        Yields
        ------
        float32 array (m, stems, 2)
            In all as many samples as came in.
        """
        signal = np.concatenate(list(blocks))
        if len(signal):
            yield self.process(signal[None])[0].swapaxes(0, 1)


def separate_stream(separator, blocks, rate, channels, picked, chunk_seconds, overlap, batch_size=1, folder=None):
    """Separate a signal that comes in blocks, at its own sample rate.

    Parameters
    ----------
    separator : StemSeparator
        Or an object that has as much of it as is used here: `sample_rate`, and `process` or, where there are no
        chunks, `separate_whole`.
    blocks : iterable of numpy.ndarray (n, channels), float32
    rate : int
        Hz.
    channels : int
        1 or 2; a single one is used for both sides.
    picked : sequence of int
        Indices of the stems that are wanted.
    chunk_seconds : float or None
        Length of a chunk; None: the signal is separated in one piece.
    overlap : float
        The share of a chunk that it has in common with the next.
    batch_size : int
        Chunks that are separated at once.
    folder : path or None
        As for `StemSeparator.separate_whole`.

    Yields
    ------
    numpy.ndarray (m, stems, channels), float32
        In all at least as many frames as came in.
    """
    stereo = (np.broadcast_to(block, (len(block), 2)) for block in blocks)
    mixture = _resampled(stereo, rate, separator.sample_rate, 2)
    if chunk_seconds is None:
        stems = separator.separate_whole(mixture, folder)
    else:
        length = max(1, round(chunk_seconds * separator.sample_rate))
        stems = separate_in_chunks(mixture, separator.process, length, round(overlap * length), batch_size)
    stems = (block[:, picked] for block in stems)
    if channels == 1:
        stems = (block.mean(axis=2, keepdims=True) for block in stems)
    # Rounding in both directions may have lost a frame or two at a low rate between.
    silence = np.zeros((math.ceil(separator.sample_rate / rate) + 1, len(picked), channels), np.float32)
    width = len(picked) * channels
    flat = (block.reshape(len(block), width) for block in itertools.chain(stems, [silence]))
    for block in _resampled(flat, separator.sample_rate, rate, width):
        yield block.reshape(len(block), len(picked), channels)


def _resampled(blocks, from_rate, to_rate, channels):
    resampler = Resampler(from_rate, to_rate, channels)
    for block in blocks:
        yield resampler(block)
    yield resampler(np.empty((0, channels), np.float32), last=True)
