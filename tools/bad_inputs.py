"""Call the commands of all papers with bad arguments and bad files, and count what should not happen.

    python tools/bad_inputs.py [--every 1] [--kinds NAME ...]

All but the first count should be 0: tracebacks, wrong exit statuses, more than two lines or a long one on stderr, calls
that run for longer than --seconds, files left unfinished, and more than --megabytes of memory. Each call is a process
of its own, a fork that has the modules at hand, in a folder with the files. What fails is listed. Linux only.
"""
import argparse
import contextlib
import functools
import importlib
import io
import multiprocessing
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn
from unittest import mock

import attrs
from bad_input_cases import COMMANDS, Case, cases, write_files

from common.console import cli
from common.console.tables import align
from common.console.values import positive_int
from common.machine.cores import num_threads
from common.machine.errors import printable

TOP = Path(__file__).resolve().parents[1]
COUNTS = ("tried", "tracebacks", "wrong status", "lines", "hangs", "half files", "memory")
LINES, LENGTH = 2, 1000    # of what a call may say, and of each line


@attrs.frozen
class Limits:
    """What a call may take."""

    seconds: int
    megabytes: int


def main(argv: Sequence[str] | None = None) -> int:
    """Make the calls, print the table, and return 1 if a count is not 0."""
    parser = cli.parser(__doc__)
    parser.add_argument("--every", type=positive_int, default=1, metavar="N",
                        help="make only each N-th call (default: 1)")
    parser.add_argument("--kinds", nargs="+", metavar="NAME", help="of the calls (default: all)")
    parser.add_argument("--seconds", type=positive_int, default=120, metavar="N",
                        help="that a call may take; machines do other things, too (default: %(default)s)")
    parser.add_argument("--megabytes", type=positive_int, default=1024, metavar="N",
                        help="that a call may have in memory (default: %(default)s)")
    parser.add_argument("--jobs", type=positive_int, default=num_threads(), metavar="N",
                        help="calls at a time (default: %(default)s)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        shown = run_all(Path(folder), args, Limits(args.seconds, args.megabytes))
    print(align([["", *COUNTS], *shown]))
    return int(any(int(number) for row in shown for number in row[2:]))


def run_all(folder: Path, args: argparse.Namespace, limits: Limits) -> list[list[str]]:
    """Make the calls, print those that fail, and return the rows of the table."""
    (folder / "files").mkdir()
    write_files(folder / "files", _environment({}, "/nosuch"))
    calls = [case for case in cases(help_of) if not args.kinds or case.kind in args.kinds][::args.every]
    counts: dict[str, Counter[str]] = {}
    # Workers have one thread, and what they fork starts with all modules at hand; nothing has computed yet.
    with multiprocessing.get_context("fork").Pool(args.jobs, signal.signal, (signal.SIGTERM, signal.SIG_DFL)) as pool:
        results = pool.imap(functools.partial(run, folder=folder, limits=limits), enumerate(calls))
        for case, (faults, text) in zip(calls, results, strict=True):
            counts.setdefault(case.kind, Counter()).update(["tried", *faults])
            if faults:
                print(printable(f"{', '.join(faults)}: {case}"), printable(text[-300:]), sep="\n    ", flush=True)
    counts["all"] = sum(counts.values(), Counter())
    return [[kind, *(str(count[name]) for name in COUNTS)] for kind, count in counts.items()]


def main_of(command: str) -> Callable[[Sequence[str] | None], int | None]:
    """Return the `main` of a command of `COMMANDS`, as its script calls it."""
    script = Path(command.split()[0])
    return importlib.import_module(f"{script.parent.name.replace('-', '_')}.{script.stem}").main


def help_of(command: str) -> str:
    """Return what a command prints for --help."""
    out = io.StringIO()
    with mock.patch.dict(os.environ, COLUMNS="200"), contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main_of(command)([*command.split()[1:], "--help"])
    return out.getvalue()


def run(numbered: tuple[int, Case], folder: Path, limits: Limits) -> tuple[list[str], str]:
    """Make a call; returns the names of what went wrong, of `COUNTS`, and what it printed on stderr."""
    number, case = numbered
    home = folder / str(number)
    shutil.copytree(folder / "files", home, symlinks=True, copy_function=os.link, ignore=lambda *_: ["fifo"])
    os.mkfifo(home / "fifo")
    before = set(home.rglob("*"))
    status, megabytes, late = _call(case, home, limits.seconds)
    text = (home / "stderr").read_text(encoding="utf-8", errors="backslashreplace")
    new = [path for path in home.rglob("*") if path not in before and path.name not in ("stderr", "stdout")]
    faults = {
        "tracebacks": "Traceback (most recent call last)" in text or status < 0 and not late,
        "wrong status": not late and status not in case.statuses,
        "lines": text.count("\n") > LINES or any(len(line) > LENGTH for line in text.splitlines()),
        "hangs": late,
        "half files": not late and any(_is_half(path) for path in new),
        "memory": megabytes > limits.megabytes,
    }
    shutil.rmtree(home)
    return [name for name, there in faults.items() if there], f"status {status}, {megabytes:.0f} MB: {text.strip()}"


def _is_half(path):
    return path.is_file() and (path.name.startswith(".") or path.suffix == ".part" or not path.stat().st_size)


def _call(case: Case, home: Path, seconds: int) -> tuple[int, float, bool]:
    """Return exit status, peak memory in MB, and whether it had to be killed."""
    if not (process := os.fork()):
        _become(case, home)
    end = time.monotonic() + seconds
    while (ended := os.wait4(process, os.WNOHANG))[0] == 0 and time.monotonic() < end:
        time.sleep(0.005)
    if late := ended[0] == 0:
        os.killpg(process, signal.SIGKILL)
        ended = os.wait4(process, 0)
    return os.waitstatus_to_exitcode(ended[1]), ended[2].ru_maxrss / 1024, late


def _become(case: Case, home: Path) -> NoReturn:
    """Turn this process, a fork, into the call."""
    os.setsid()
    os.chdir(home)
    for number, name in enumerate((os.devnull, "stdout", "stderr")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")    # noqa: SIM115, PTH123 - to the end
    os.environ.update(_environment(case.variables, str(home / "cache")))
    script, *arguments = (os.fsdecode(word) for word in case.argv)
    command = [sys.executable, str(TOP / script), *arguments]
    status = 1
    try:
        if case.redirection:
            os.execvp("bash", ["bash", "-c", f"exec {shlex.join(command)} {case.redirection}"])
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.argv = command[1:]
        cli.run(lambda: main_of(script)(None))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else status
    except BaseException:    # noqa: BLE001 - a bug, to be counted
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()    # cli.run has flushed both, unless a bug came between
        os._exit(status)


def _environment(variables: Mapping[str, str], cache: str) -> dict[str, str]:
    path = os.pathsep.join(str(TOP / name) for name in ("", *sorted({command.split("/")[0] for command in COMMANDS})))
    return {**os.environ, "PYTHONPATH": path, "SONY_PAPERS_CACHE": cache, **variables}


if __name__ == "__main__":
    cli.run(main)
