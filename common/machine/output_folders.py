"""Folders of results that one process at a time writes to."""
import contextlib
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from common.machine.errors import UserError
from common.machine.files import make_folder, remove_leftovers
from common.machine.launching import launched_rank
from common.machine.locks import try_lock

LOCK = ".in-use"    # a file in the folder, as long as a process holds it, or that one which was killed has left


@contextlib.contextmanager
def claimed(folder: str | Path) -> Iterator[Path]:
    """Make a folder of results, and keep other processes from claiming it until the block ends.

    A process that ends, however it does, does not hold it any more. For those of mpirun, rank 0 holds it. Where the
    file system knows no locks, nobody is kept out. Who only reads the folder does not claim it. A folder that is made
    here and stays empty vanishes.

    Yields
    ------
    pathlib.Path
        The folder, without what a killed process had begun to write.

    Raises
    ------
    UserError
        Another process holds the folder, or it cannot be written to.
    """
    folder = Path(folder)
    if launched_rank():
        yield folder
        return
    with vanishing(folder), _held(make_folder(folder) / LOCK):
        remove_leftovers(folder)
        yield folder


@contextlib.contextmanager
def vanishing(folder: str | Path) -> Iterator[None]:
    """Remove a folder, and those above it, that were not there before the block and are empty after it."""
    folder = Path(folder)
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        with contextlib.suppress(OSError):    # there is something in it
            for path in new:
                path.rmdir()


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, which vanishes at the end."""
    handle = _take(path)
    try:
        with contextlib.suppress(OSError):    # on a full disk others learn less
            os.truncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {platform.node()}".encode())
        yield
    finally:
        if sys.platform == "win32":
            os.close(handle)    # what is open cannot be removed there
            with contextlib.suppress(OSError):
                path.unlink()
        else:
            path.unlink(missing_ok=True)    # first: otherwise it might be that of the next one
            os.close(handle)


def _take(path: Path) -> int:
    """Open and lock the file `path`, which may not be there yet; returns its descriptor."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); choose another output folder") from error
        if not _free(handle):
            os.close(handle)
            raise UserError(f"{path.parent}: {_holder(path)} is writing to this folder; wait until it has ended, or "
                            "choose another output folder")
        if _is_at(handle, path):
            return handle
        os.close(handle)    # the one before has just removed it


def _free(handle: int) -> bool:
    try:
        return try_lock(handle)
    except OSError:    # no locks here
        return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    """Who holds the lock file, in words."""
    with contextlib.suppress(OSError, UnicodeDecodeError):    # Windows lets nobody else read it
        return path.read_text()[:200] or "another process"
    return "another process"
