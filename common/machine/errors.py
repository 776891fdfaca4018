"""Errors that are not ours; each is reported in one line."""


class UserError(Exception):
    """Something outside the program is wrong: a file, a network, a diverging run. Exit status 1.

    The message says in one line what is wrong, where, and what to do.
    """

    exit_status = 1


class UsageError(UserError):
    """The command itself is wrong: a flag, a value, a path that does not exist. Exit status 2."""

    exit_status = 2
