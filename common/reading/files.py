"""Regular files alone, of a bounded size, and every failure to decode one as an error of one line.

A file from outside may be a pipe that nobody writes to, may promise more than any memory holds, and makes decoders
raise what they like. All readers of such files are built on the two context managers of this module.
"""
import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from common.machine.errors import UsageError, UserError

LIMIT = 1 << 34    # bytes of any file; most readers allow far less
REMEDY = "copy or make it again"
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
          (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))
_REASON = 100    # characters of a decoder's own words that a message repeats


def open_regular(path: str | Path, what: str = "a file", missing: str | None = None) -> BinaryIO:
    """Open a regular file to read its bytes.

    It is opened without waiting, and looked at once it is open: no other can take its place in between.

    Parameters
    ----------
    path
    what
        It should be, with its article; for the error.
    missing
        The whole message where there is no such file; it says what to do.

    Raises
    ------
    UsageError
        There is no such file, or it is a folder, a pipe, a socket or a device.
    UserError
        It cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(missing or f"{path}: no such file") from error
    except (OSError, ValueError) as error:    # ValueError: a null byte in the name
        kind = _kind(path) if getattr(error, "errno", None) in (errno.ENXIO, errno.EISDIR, errno.EACCES) else None
        if kind:
            raise UsageError(f"{path}: {kind}, not {what}") from error
        raise UserError(f"{path}: cannot be read ({_why(error)})") from error
    if kind := _kind(handle):
        os.close(handle)
        raise UsageError(f"{path}: {kind}, not {what}")
    return os.fdopen(handle, "rb")


def _kind(path: int | str | Path) -> str | None:
    """Say what is no regular file; None for a regular one, or where nothing can be said."""
    try:
        mode = os.stat(path).st_mode    # noqa: PTH116 - of an open file, too
    except OSError:
        return None
    return next((name for test, name in _KINDS if test(mode)), None)


@contextlib.contextmanager
def reading(path: str | Path, what: str, remedy: str = REMEDY, limit: int = LIMIT,
            missing: str | None = None) -> Iterator[BinaryIO]:
    """Open a regular file of at most `limit` bytes; whatever goes wrong in the block is an error of one line.

    The block should hold no more than the decoding: a mistake of ours in it would be called damage.

    Parameters
    ----------
    path
    what
        It should be, with its article, such as "a list of images".
    remedy
        What to do about a damaged one.
    limit
        Bytes; checked before any is read.
    missing
        As for `open_regular`.

    Raises
    ------
    UsageError
        As `open_regular`.
    UserError
        As `open_regular` and `decoding`, or the file is too large.
    """
    with open_regular(path, what, missing) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise UserError(f"{path}: {size} bytes, more than the {limit} that {what} may have: refused")
        with decoding(path, what, remedy):
            yield stream


@contextlib.contextmanager
def decoding(name: str | Path, what: str, remedy: str = REMEDY) -> Iterator[None]:
    """Turn whatever a decoder raises in the block into a UserError that names the file; see `reading`.

    Only a UserError, which says more, passes as it is.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:    # decoders raise what they like: struct.error, IndexError, RecursionError, ...
        raise UserError(f"{name}: cannot be read as {what} ({_why(error)}); {remedy}") from error


def _why(error: BaseException) -> str:
    """Say in one short line, of printable characters, why something failed."""
    words = (error.strerror if isinstance(error, OSError) else None) or str(error)
    first = words.strip().partition("\n")[0].rstrip(":")[:_REASON]
    printable = "".join(c if c.isprintable() else "?" for c in first)
    return printable or ("too large" if isinstance(error, MemoryError) else type(error).__name__)


def read_bytes(path: str | Path, what: str, limit: int, remedy: str = REMEDY, missing: str | None = None) -> bytes:
    """Read a whole file into memory; parameters and errors are those of `reading`."""
    with reading(path, what, remedy, limit, missing) as stream:
        content = stream.read(limit + 1)    # it may have grown
        if len(content) > limit:
            raise UserError(f"{path}: more than the {limit} bytes that {what} may have: refused")
        return content


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a regular file, in hexadecimal digits; errors are those of `reading`."""
    digest = hashlib.sha256()
    with reading(path, "a file") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
