"""The command-line conventions of every script: shared flags, one-line errors, exit statuses."""
import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from common.console.stopping import INTERRUPTED, Stop
from common.console.values import largest
from common.machine.cache import stand_in_for_home
from common.machine.context import CONTEXTS
from common.machine.errors import UsageError, UserError, as_user_error, was_interrupted
from common.machine.launching import launched_rank, launched_size
from common.machine.streams import flush, printing, say

_RANKS = "_runs_on_ranks"    # in what is parsed, until it is looked at
_TURN = 0.5    # seconds that a rank which fails waits for each rank before it, which may have an error to print, too


class _Parser(argparse.ArgumentParser):
    lists: Callable[[], str] | None = None    # what `show_without_arguments` was given
    _bare: bool | None = None                 # whether no argument was given at all

    def __init__(self, *args: Any, needs_arguments: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs)
        self._needs_arguments = needs_arguments

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        if self._bare is None:    # an intermixed parse comes here twice, the second time with what is left
            self._bare = not (sys.argv[1:] if args is None else args)
            if self._bare and self._needs_arguments:
                self.error("no arguments are given")
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        return self._checked(super().parse_args(args, namespace))

    def _checked(self, parsed: argparse.Namespace) -> argparse.Namespace:
        """Refuse several processes, unless `allow_ranks` lets them do this together."""
        allowed = vars(parsed).pop(_RANKS, lambda args: False)
        if launched_size() > 1 and not allowed(parsed):
            jobs = ", with --jobs N for N at a time" if "--jobs" in self._option_string_actions else ""
            raise UsageError(f"mpirun started {launched_size()} processes, and {self.prog} is for one: each would do "
                             f"the same; start without mpirun{jobs}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError`, which is one line; who gave no arguments at all is first told what there is to give."""
        if self._bare:
            print("\n\n".join([(self.description or "").strip(), *([self.lists()] if self.lists else [])]), end="\n\n")
        raise UsageError(f"{message} (see --help)")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Convert what stands behind a flag, and check numbers against the table of limits."""
        values = super()._get_values(action, arg_strings)    # pyright: ignore[reportAttributeAccessIssue]
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, (int, float)) and not abs(value) <= largest(action.dest):
                raise argparse.ArgumentError(action, f"{arg_strings[0]!r} is beyond {largest(action.dest):,}")
        return values

    def parse_intermixed_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:
        """Parse flags with files between them; what comes after `--` are files, though they begin with a dash."""
        words = list(sys.argv[1:] if args is None else args)
        end = words.index("--") if "--" in words else len(words)
        # argparse parses twice here, and takes the words after `--` for flags the second time: names stand in for them.
        stand_ins = {f"\0{index}": word for index, word in enumerate(words[end + 1:])}
        parsed = self._checked(super().parse_intermixed_args([*words[:end], *stand_ins], namespace))
        for name, value in vars(parsed).items():
            if isinstance(value, list):
                setattr(parsed, name, [stand_ins.get(item, item) for item in value])
        return parsed


def parser(doc: str | None, needs_arguments: bool = False, **kwargs: Any) -> argparse.ArgumentParser:
    """Start an argument parser whose help is the docstring `doc` of the script.

    It takes no abbreviations: a misspelt flag must not pass as another one. It raises `UsageError` for a wrong one.
    A call that gives no arguments, but needs some, prints the docstring on stdout before that: its examples have the
    shortest real command, and how long it takes. `needs_arguments` is for a script of which no single argument is
    required, but which cannot do without all of them.
    A script that mpirun starts several times is refused when it has parsed its arguments, but for `allow_ranks`.
    """
    return _Parser(description=doc, needs_arguments=needs_arguments, **kwargs)


def show_without_arguments(arguments: argparse.ArgumentParser, lists: Callable[[], str]) -> None:
    """Let a call that gives no arguments, but needs some, print what `lists` returns below the description."""
    assert isinstance(arguments, _Parser), type(arguments)
    arguments.lists = lists


def allow_ranks(arguments: argparse.ArgumentParser,
                when: Callable[[argparse.Namespace], bool] = lambda args: True) -> None:
    """Let the processes that mpirun starts do together what the parsed arguments ask for, where `when(args)` is true.

    Such a script calls `common.machine.distributed.join_ranks`.
    """
    arguments.set_defaults(**{_RANKS: when})


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
    run_loaded(lambda: main)


def run_loaded(load: Callable[[], Callable[[], int | None]]) -> NoReturn:
    """Do as `run` does with what `load()` returns; an interrupt while it loads modules ends the process at once."""
    stop = Stop()
    stop.install()
    stand_in_for_home()
    with printing():
        status = _status_of(lambda: _with_ranks(lambda: stop.work(load())))
        if status:
            with contextlib.suppress(OSError):    # it may be the error that was told
                flush()
        else:
            status = _status_of(flush)
    sys.exit(status)


def _with_ranks(main):
    if launched_size() == 1:
        return main()
    sys.excepthook = _fail_with_all_ranks
    if status := _status_of(main):
        _end_all_ranks(status)
    return 0


def _status_of(main):
    """Call `main()`, say what fails, and return the exit status."""
    try:
        return main() or 0
    except SystemExit as end:    # of argparse, after --help
        return end.code
    except UserError as error:
        return _complain(error, error.exit_status)
    except KeyboardInterrupt as interrupt:
        return _complain(str(interrupt) or "interrupted", INTERRUPTED)
    except (SystemError, ImportError) as error:
        if not was_interrupted(error):
            raise
        return _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:    # the reader of our output is gone, as with `| head`
        return UserError.exit_status
    except MemoryError:
        return _complain("too little memory; ask for less at once", UserError.exit_status)
    except (RuntimeError, OSError) as error:
        told = as_user_error(error)
        if told is None:
            raise
        return _complain(told, told.exit_status)


def _fail_with_all_ranks(*error):
    """Show the traceback of a bug, as Python does, and end."""
    time.sleep(_TURN * launched_rank())
    sys.__excepthook__(*error)
    _end_all_ranks(UserError.exit_status)


def _end_all_ranks(status):
    """Leave without waiting for the others, which an ordinary exit does; mpirun ends them when it sees the status."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):    # it may be the error that was told
            stream.flush()
    os._exit(status)


def _complain(message, status):
    with contextlib.suppress(UsageError):    # it is the rank that is wrong
        time.sleep(_TURN * launched_rank())    # mpirun ends the others when the first rank fails
    say(f"error: {message}" if status != INTERRUPTED else str(message))
    return status
