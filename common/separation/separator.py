"""What the separators of all papers share: they turn audio of any length and sample rate into stems."""
import abc
import contextlib
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import nnabla as nn
import numpy as np

from common.audio.headers import RATES
from common.audio.spool import BLOCK
from common.console.values import is_number
from common.inference.engines import check_engine
from common.machine.errors import UsageError
from common.machine.output_folders import vanishing
from common.machine.threads import NNABLA
from common.separation.flags import OutputFormat, StemRequest
from common.separation.monitor import Monitor, Report, unobserved
from common.separation.song import separate_song, stem_names, stem_targets
from common.separation.streams import separate_stream
from common.separation.track_names import DEFAULT, check_distinct, check_template


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
        if chunk_seconds is not None and not (is_number(chunk_seconds) and 0 < chunk_seconds < math.inf) \
                or not (is_number(overlap) and 0 <= overlap <= 0.5):
            raise UsageError(f"chunks of {chunk_seconds} s with an overlap of {overlap}: they are to be longer than 0, "
                             "and the overlap from 0 to 0.5")
        if isinstance(targets, str) or not isinstance(targets, (Collection, type(None))):
            raise UsageError(f"targets {targets!r}: a list of names is wanted, as [{targets!r}]")
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

    @property
    def complete(self) -> bool:
        """Whether the stems are all of the mixture, so that they may be made to add up to it."""
        return False

    @property
    def adds_up(self) -> bool:
        """Whether they do already, all but for what the filter adds to its divisors."""
        return False

    def separate(self, audio: np.ndarray, sample_rate: int,
                 on_progress: Callable[[float, float], object] | None = None,
                 cancel: threading.Event | None = None) -> dict[str, np.ndarray]:
        """Split a signal.

        Parameters
        ----------
        audio : float array (samples, channels) or (samples,)
            Mono or stereo; full scale is 1.
        sample_rate
            In Hz, from 1000 to 1,000,000.
        on_progress, cancel
            As of `common.separation.monitor.Monitor`.

        Returns
        -------
        dict of str to float32 array
            The stems, each of the shape of `audio` and at its rate.

        Raises
        ------
        ValueError
            More than two channels, no samples, samples that are integers or not finite; another sample rate; a
            function or an event that is none.
        CancelledError
            `cancel` was set.
        """
        if not is_number(sample_rate) or not RATES[0] <= sample_rate <= RATES[-1]:
            raise ValueError(f"a sample rate of {sample_rate!r} Hz; from {RATES[0]} to {RATES[-1]} Hz can be separated")
        report = Monitor(on_progress, cancel)
        audio = _as_float32(audio)
        signal = audio[:, None] if audio.ndim == 1 else audio
        if signal.ndim != 2 or not len(signal) or signal.shape[1] not in (1, 2) or not np.isfinite(signal).all():
            raise ValueError(f"audio of shape {audio.shape}: finite samples (samples, channels) of 1 or 2 channels "
                             "are wanted")
        blocks = (signal[start:start + BLOCK] for start in range(0, len(signal), BLOCK))
        out, done = np.empty((len(self.stems), *signal.shape), np.float32), 0
        for block in separate_stream(self, blocks, sample_rate, signal.shape[1], self.stems, frames=len(signal),
                                     report=report):
            block = block[:len(signal) - done]    # there are a few frames too many
            out[:, done:done + len(block)] = block.swapaxes(0, 1)
            done += len(block)
        return {name: stem.reshape(audio.shape) for name, stem in zip(self.stems, out, strict=True)}

    def separate_file(self, path: str | Path, out_dir: str | Path = "stems", *, filename: str = DEFAULT,
                      output: OutputFormat | None = None, start: float = 0.0, duration: float | None = None,
                      two_stems: str | None = None, mixture_consistency: bool | None = None,
                      on_progress: Callable[[float, float], object] | None = None,
                      cancel: threading.Event | None = None) -> dict[str, Path]:
        """Separate a file, in memory that does not grow with its length, and write its stems.

        Parameters
        ----------
        path
        out_dir, filename, start, duration, two_stems, mixture_consistency
            As of `common.separation.flags.StemRequest`.
        output
            Format of the files; None: WAV.
        on_progress, cancel
            As of `common.separation.monitor.Monitor`.

        Returns
        -------
        dict of str to pathlib.Path
            The file of each stem. They have the rate, channels, depth and tags of the input as far as the format can.

        Raises
        ------
        UsageError, UserError
            As `common.separation.song.separate_song`; a file name or a stem that is not allowed.
        CancelledError
            After an error or `cancel`, none of the files has been written or changed that was not complete before.
        """
        path, track = Path(path), PurePosixPath(Path(path).stem)
        try:
            check_template(filename)
        except ValueError:
            raise UsageError(f"{filename!r} is no template of file names: it is to have {{stem}} in it") from None
        request = StemRequest(tracks={path: track}, out_dir=str(out_dir), filename=filename, start=start,
                              duration=duration, two_stems=two_stems, output=output or OutputFormat(),
                              mixture_consistency=mixture_consistency)
        targets = stem_targets(stem_names(self, request), request, path, track)
        check_distinct([(path, targets.values())], filename)
        with vanishing(out_dir):
            separate_song(self, path, targets, request, Monitor(on_progress, cancel))
        return targets

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

    def separate_whole(self, blocks: Iterable[np.ndarray], folder: str | Path | None = None,
                       report: Report = unobserved) -> Iterator[np.ndarray]:
        """Separate a signal in one piece: here all of it is in memory, in a subclass it need not be.

        Parameters
        ----------
        blocks : iterable of float32 array (n, 2), at `sample_rate`
        folder
            Where temporary files go; see `common.audio.spool`.
        report
            Is told what fraction of the work before the first stems is done.

        Yields
        ------
        float32 array (m, stems, 2)
            In all as many samples as came in.
        """
        signal = np.concatenate(list(blocks))
        if len(signal):
            yield self.process(signal[None])[0].swapaxes(0, 1)


def _as_float32(audio: np.ndarray) -> np.ndarray:
    """Return samples as float32, infinite where it cannot hold them; ValueError if they are no floating-point numbers.

    Integers would be taken for music thousands of times too loud, which networks do not know.
    """
    audio = np.asarray(audio)
    if audio.dtype.kind != "f":
        raise ValueError(f"audio of type {audio.dtype}: floating-point samples of full scale 1 are wanted; divide "
                         "integers by the largest that they can be")
    with np.errstate(over="ignore"):
        return audio.astype(np.float32, copy=False)
