"""Arrays kept on disk, where memory would grow with the length of a song: in files without a name.

They lie in a folder that is given, that of the results, or in the system's folder for temporary files where it is None.
"""
import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path

import numpy as np

from common.machine.errors import UserError
from common.machine.files import TMPDIR_REMEDY, reserve, temporary_place

BLOCK = 1 << 16    # frames


class Spool:
    """Frames of float32 numbers, written one after the other and read anywhere; a context manager.

    Its length is the number of frames, and a slice of it, without a step, an array (frames, *shape).

    Parameters
    ----------
    folder
    shape
        Of a frame.
    """

    def __init__(self, folder: str | Path | None, shape: tuple[int, ...]):
        self.shape, self._folder, self._frames = shape, folder, 0
        with writing_to(folder):
            self._file = _unnamed_file(folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __len__(self) -> int:
        return self._frames

    def __getitem__(self, frames: slice) -> np.ndarray:
        start, stop, _ = frames.indices(len(self))
        frame_bytes = 4 * math.prod(self.shape)
        self._file.seek(start * frame_bytes)
        data = self._file.read(max(0, stop - start) * frame_bytes)
        return np.frombuffer(data, np.float32).reshape(-1, *self.shape)

    def append(self, audio: np.ndarray) -> None:
        """Add float32 audio (n, *shape)."""
        left = np.ascontiguousarray(audio, np.float32).reshape(-1).view(np.uint8).data
        with writing_to(self._folder):
            self._file.seek(0, os.SEEK_END)
            while len(left):
                left = left[self._file.write(left):]
        self._frames += len(audio)

    def recording(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield `blocks` of frames, after adding them."""
        for block in blocks:
            self.append(block)
            yield block

    def blocks(self, frames: int) -> Iterator[np.ndarray]:
        """Yield the first `frames` frames in blocks (n, *shape), all of one length but the last."""
        for start in range(0, frames, BLOCK):
            yield self[start:min(start + BLOCK, frames)]


@contextlib.contextmanager
def array_on_disk(folder: str | Path | None, shape: tuple[int, ...]) -> Iterator[Callable[[], np.ndarray]]:
    """Make an array of float32 numbers, for which there is room on the disk.

    Parameters
    ----------
    folder, shape

    Yields
    ------
    callable
        Returns the array; what was read or written of it is no longer in memory when it is let go.

    Raises
    ------
    UserError
        There is no such room.
    """
    size = 4 * math.prod(shape)
    with contextlib.ExitStack() as stack:
        with writing_to(folder, f"no room for {size >> 20} MB of estimates"):
            file = stack.enter_context(_unnamed_file(folder))
            reserve(file, size)    # a disk that is full later would end the process
        yield lambda: np.memmap(file, np.float32, "r+", shape=shape)


@contextlib.contextmanager
def writing_to(folder: str | Path | None, failure: str = "could not be written") -> Iterator[None]:
    """Turn errors of the disk into a UserError that says what failed, why, and what to do."""
    try:
        yield
    except OSError as error:
        place, remedy = folder, "choose another --out-dir"
        if folder is None:
            place, remedy = temporary_place(), TMPDIR_REMEDY
        raise UserError(f"{place}: {failure} ({error.strerror}); {remedy}") from error


def _unnamed_file(folder: str | Path | None) -> FileIO:
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=folder, buffering=0)
