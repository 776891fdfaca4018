"""Errors that are not ours; each is reported in one line."""


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


class UserError(Exception):
    """Something outside the program is wrong: a file, a network, a diverging run. Exit status 1.

    The message says in one line what is wrong, where, and what to do. As text it is `printable`.
    """

    exit_status = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class UsageError(UserError):
    """The command itself is wrong: a flag, a value, a path that does not exist. Exit status 2."""

    exit_status = 2


class TrainingError(UserError):
    """A training has no result: it diverged, or never met its budget."""


def was_interrupted(error: BaseException) -> bool:
    """Tell whether a SystemError stands for a KeyboardInterrupt, as nnabla's does in a function written in Python."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    return cause is not None
