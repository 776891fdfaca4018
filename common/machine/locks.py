"""Locks between processes."""
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time into the blocks that name the file `path`, which is made and stays.

    A process that ends, however it does, lets the next one in.
    """
    with path.open("w") as stream:
        if sys.platform == "win32":
            _lock_on_windows(stream.fileno())
        else:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _lock_on_windows(handle):
    import msvcrt

    while True:
        with contextlib.suppress(OSError):    # after ten seconds it gives up waiting
            msvcrt.locking(handle, msvcrt.LK_LOCK, 1)    # pyright: ignore[reportAttributeAccessIssue]
            return
