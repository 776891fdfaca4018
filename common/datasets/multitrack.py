"""Songs of several stems, of which any stretch can be read: in audio files or in memory."""
import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np

from common.audio.files import AudioReader
from common.machine.errors import UserError

MIXTURE = "mixture"
_COUNTED = 1 << 18    # frames decoded at once where only that tells how many there are


@attrs.frozen
class FileStem:
    """A stream of an audio file: its first two channels, or its only one on both sides."""

    path: Path = attrs.field(converter=Path)
    stream: int
    sample_rate: int    # Hz
    num_frames: int

    @classmethod
    def probe(cls, path: str | Path, stream: int = 0) -> "FileStem":
        """Look into a file, all through it where its format does not tell the length; errors as of `AudioReader`."""
        with AudioReader(path, stream) as reader:
            return cls(Path(path), stream, reader.sample_rate, reader.num_frames or _count(reader))

    def key(self) -> list[str | int]:
        """Something JSON-able that changes with the content."""
        status = self.path.stat()
        return [self.path.name, self.stream, status.st_size, status.st_mtime_ns]

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[int, int], np.ndarray]]:
        """Yield a function `read(start, num)` of frame numbers that returns float32 (num, 2)."""
        with AudioReader(self.path, self.stream) as reader:
            def read(start, num):
                if start != reader.position:    # in some formats a seek decodes from the beginning
                    reader.seek(start)
                audio = reader.read(num)
                if len(audio) < num:
                    raise UserError(f"{self.path}: ends after {reader.position / self.sample_rate:.2f} s instead of "
                                    f"{self.num_frames / self.sample_rate:.2f} s (truncated, damaged or replaced)")
                return audio[:, :2] if audio.shape[1] > 1 else np.repeat(audio, 2, axis=1)
            yield read


def _count(reader: AudioReader) -> int:
    total = 0
    while block := len(reader.read(_COUNTED)):
        total += block
    return total


@attrs.frozen(eq=False)
class ArrayStem:
    """A stem in memory, float32 or float16 (frames, 2); its methods are those of `FileStem`."""

    audio: np.ndarray
    sample_rate: int    # Hz

    @property
    def num_frames(self) -> int:
        return len(self.audio)

    def key(self) -> str:
        return hashlib.sha256(np.ascontiguousarray(self.audio).data).hexdigest()

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[int, int], np.ndarray]]:
        yield lambda start, num: self.audio[start:start + num].astype(np.float32, copy=False)


@attrs.frozen(eq=False)
class Track:
    """A song.

    Attributes
    ----------
    name
    stems
        Source -> stem, all of one sample rate. The mixture is among them, unless it is their sum.
    """

    name: str
    stems: Mapping[str, FileStem | ArrayStem]

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources, without the mixture."""
        return tuple(source for source in self.stems if source != MIXTURE)

    @property
    def sample_rate(self) -> int:
        return next(iter(self.stems.values())).sample_rate

    @property
    def num_frames(self) -> int:
        """Length of the shortest stem, in samples; what others have beyond it is never read."""
        return min(stem.num_frames for stem in self.stems.values())

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_frames / self.sample_rate

    def read(self, source: str, start: int, num: int) -> np.ndarray:
        """Read `num` samples of a source, or of the mixture, from sample `start` on.

        Parameters
        ----------
        source : str
            One of `sources`, or 'mixture'.
        start, num : int
            0 <= start, start + num <= num_frames.

        Returns
        -------
        float32 (num, 2)
            The mixture is the real one where there is a stem of that name, otherwise the sum of all stems.

        Raises
        ------
        UserError
            A file is damaged or gone.
        """
        with self.open() as read:
            return read(source, start, num)

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[str, int, int], np.ndarray]]:
        """Yield a function like the method `read` that keeps files open, for stretches that follow each other."""
        with contextlib.ExitStack() as stack:
            readers = {}

            def read(source: str, start: int, num: int) -> np.ndarray:
                assert 0 <= start <= start + num <= self.num_frames, (start, num, self.num_frames)
                if source == MIXTURE and MIXTURE not in self.stems:
                    return np.asarray(sum(read(each, start, num) for each in self.sources))
                if source not in readers:
                    readers[source] = stack.enter_context(self.stems[source].open())
                return readers[source](start, num)
            yield read


def pieces(track: Track, sources: Sequence[str], duration: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut a track into consecutive pieces for validation, without overlap.

    An incomplete last piece is dropped, but a track shorter than one piece is a piece as a whole.

    Parameters
    ----------
    track
    sources
    duration
        Of a piece, in seconds, > 0.

    Yields
    ------
    mixture : float32 (1, 2, samples)
        The real mixture, which need not be the sum of the sources.
    targets : float32 (1, sources, 2, samples)
    """
    size = min(max(1, round(duration * track.sample_rate)), track.num_frames)
    with track.open() as read:
        for start in range(0, track.num_frames - size + 1, size):
            mixture = np.ascontiguousarray(read(MIXTURE, start, size).T)
            targets = np.stack([read(source, start, size).T for source in sources])
            yield mixture[np.newaxis], targets[np.newaxis]
