"""Locks between processes. The system takes them back from a process that ends, however it does."""
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time into the blocks that name the file `path`, which is made and stays.

    A process that ends, however it does, lets the next one in. Where the file system knows no locks, nobody waits.
    """
    with path.open("w") as stream:
        if sys.platform == "win32":
            _lock_on_windows(stream.fileno())
        else:
            import fcntl

            with contextlib.suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _lock_on_windows(handle):
    import msvcrt

    while True:
        with contextlib.suppress(OSError):    # after ten seconds it gives up waiting
            msvcrt.locking(handle, msvcrt.LK_LOCK, 1)    # pyright: ignore[reportAttributeAccessIssue]
            return


def try_lock(handle: int) -> bool:
    """Lock an open file until it is closed, and tell whether that was possible: not while another process locks it.

    Parameters
    ----------
    handle
        Descriptor of a file that is open for reading and writing.

    Raises
    ------
    OSError
        The file system knows no locks.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)    # pyright: ignore[reportAttributeAccessIssue]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def share_lock(handle: int) -> None:
    """Keep others from locking an open file until it is closed, where the file system knows locks.

    Several processes may do so at once; HDF5 does it with files that it reads. On Windows no file that is open can be
    removed, and nothing is done.
    """
    if sys.platform != "win32":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
