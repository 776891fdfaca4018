"""The command-line conventions of every script: shared flags, one-line errors, exit statuses."""
import argparse
import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from common.machine.context import CONTEXTS
from common.machine.errors import UsageError, UserError
from common.machine.launching import launched_rank, launched_size

INTERRUPTED = 130
_TURN = 0.5    # seconds that a rank which fails waits for each rank before it, which may have an error to print, too


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # One line, as for every other error of the user's making; argparse would print the usage before it.
        raise UsageError(f"{message} (see --help)")


def parser(doc: str | None, **kwargs: Any) -> argparse.ArgumentParser:
    """Start an argument parser whose help is the docstring `doc` of the script.

    It takes no abbreviations: a misspelt flag must not pass as another one. It raises `UsageError` for a wrong one.
    """
    return _Parser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs)


def add_context_flags(arguments: argparse.ArgumentParser) -> None:
    """Add `--context/-c` and `--device-id/-d`, to be passed to `common.machine.context.use_context`."""
    arguments.add_argument("--context", "-c", choices=CONTEXTS, default="auto",
                           help="where to compute; auto takes the GPU if there is a working one (default: %(default)s)")
    arguments.add_argument("--device-id", "-d", "--gpu", default="0", metavar="N",
                           help="which GPU (default: %(default)s)")


def add_run_flags(arguments: argparse.ArgumentParser) -> None:
    """Add the flags of a training run: `--output/-o`, `--resume`, `--overwrite`."""
    arguments.add_argument("--output", "-o", metavar="DIR",
                           help="where results go (default: a folder named like the experiment)")
    existing = arguments.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true",
                          help="go on with the run in the output folder, as if it had never stopped")
    existing.add_argument("--overwrite", action="store_true", help="start anew where a run was before")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call `main()` and leave the process with the status that the conventions ask for.

    0 done, 1 failed while working, 2 wrong arguments, 130 interrupted. An error of the user's making is one line on
    stderr; a bug of ours keeps its traceback.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if launched_size() > 1:
        sys.excepthook = _fail_with_all_ranks
    try:
        status = main()
    except UserError as error:
        status = _complain(error, error.exit_status)
    except KeyboardInterrupt as interrupt:
        status = _complain(str(interrupt) or "interrupted", INTERRUPTED)
    except BrokenPipeError:    # the reader of our output is gone, as with `| head`
        sys.stdout = None
        status = UserError.exit_status
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR,
                               errno.ENOTDIR):
            raise
        status = _complain(f"{error.filename or 'output'}: {error.strerror}", UserError.exit_status)
    if status and launched_size() > 1:
        _end_all_ranks(status)
    sys.exit(status)


def _fail_with_all_ranks(*error):
    """Show the traceback of a bug, as Python does, and end."""
    time.sleep(_TURN * launched_rank())
    sys.__excepthook__(*error)
    _end_all_ranks(UserError.exit_status)


def _end_all_ranks(status):
    """Leave without waiting for the others, which an ordinary exit does; mpirun ends them when it sees the status."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(status)


def _complain(message, status):
    time.sleep(_TURN * launched_rank())    # mpirun ends the others when the first rank fails
    print(f"error: {message}" if status != INTERRUPTED else message, file=sys.stderr)
    return status
