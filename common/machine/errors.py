"""Errors that are not ours; each is reported in one line."""
import errno
import os
from typing import Any

_OF_NAMES = (errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR)    # there can be no such file
_OF_PATHLIB = "Symlink loop", "Could not determine home"    # errors that it makes of names which cannot be
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR)

_LONGEST = 1000    # characters of a message: two paths and a sentence, but no value of any length
_HEAD, _TAIL = 600, 300    # of them, in which a longer one says what is wrong, and what to do


def printable(text: str) -> str:
    r"""Replace what a terminal would act on, line breaks too, and bytes that are not UTF-8 by escapes.

    Examples
    --------
    >>> print(printable("a\x1b[31m\nb\udcff"))
    a\x1b[31m\nb\xff
    """
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char):
    if "\udc80" <= char <= "\udcff":    # how Python holds a byte of a name that is not UTF-8
        return f"\\x{ord(char) - 0xdc00:02x}"
    return char.encode("unicode_escape").decode()


def one_line(text: str) -> str:
    """Return a message as `printable`, without its middle where it is too long: it may quote what somebody wrote.

    Examples
    --------
    >>> one_line("a.cfg: epochs = " + "9" * 5000 + " is no number")[595:639]
    '99999 [4129 characters] 99999999999999999999'
    """
    return _shortened(printable(_shortened(text)))    # escapes are longer than what they stand for


def _shortened(text):
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_HEAD]} [{len(text) - _HEAD - _TAIL} characters] {text[-_TAIL:]}"


class UserError(Exception):
    """Something outside the program is wrong: a file, a network, a diverging run. Exit status 1.

    The message says in one line what is wrong, where, and what to do. As text it is as `one_line` makes it.
    """

    exit_status = 1

    def __str__(self) -> str:
        return one_line(super().__str__())


class UsageError(UserError):
    """The command itself is wrong: a flag, a value, a path that does not exist. Exit status 2."""

    exit_status = 2


class TrainingError(UserError):
    """A training has no result: it diverged, or never met its budget."""


def was_interrupted(error: BaseException) -> bool:
    """Tell whether an error stands for a KeyboardInterrupt.

    nnabla raises a SystemError where one comes within a function written in Python, modules in C an ImportError where
    one comes while they load.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def as_user_error(error: RuntimeError | OSError) -> UserError | None:
    """Return what a user is told of an error of a disk, or of a name that no file can have; None if it is a bug."""
    if isinstance(error, RuntimeError):
        return UsageError(str(error)) if str(error).startswith(_OF_PATHLIB) else None
    if error.filename is None and error.errno not in _OF_DISKS:
        return None
    kind = UsageError if error.errno in _OF_NAMES else UserError
    return kind(f"{_as_text(error.filename) or 'output'}: {error.strerror}")


def _as_text(name: Any) -> Any:
    return os.fsdecode(name) if isinstance(name, (str, bytes, os.PathLike)) else name
