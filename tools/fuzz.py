"""Read damaged and hostile copies of files as the commands do, and count what should not happen.

    python tools/fuzz.py [--mutants 5000 | --each N] [--formats NAME ...] [--seed 0]
    python tools/fuzz.py --one NAME NUMBER        # this mutant alone, with its traceback

All but the first two should be 0. A process that dies counts as a traceback. Linux only.
"""
import argparse
import os
import select
import subprocess
import sys
import tempfile
import traceback
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from fuzz_formats import FORMATS, Format

from common.console import cli
from common.console.tables import align
from common.console.values import int_from_0, positive_int
from common.machine.errors import UsageError, UserError
from common.workbench.fuzzing import mutant

COUNTS = ("tried", "refused", "tracebacks", "hangs", "memory", "messages")
LINES = 2
BY_NAME = {format.name: format for format in FORMATS}


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz what the flags say; returns 1 if a count is not 0."""
    parser = cli.parser(__doc__)
    parser.add_argument("--mutants", type=positive_int, default=5000, help="of all formats together (default: 5000)")
    parser.add_argument("--each", type=positive_int, help="mutants of each format instead")
    parser.add_argument("--formats", nargs="+", choices=BY_NAME, default=list(BY_NAME), metavar="NAME",
                        help=f"of {', '.join(BY_NAME)} (default: all)")
    parser.add_argument("--seed", type=int_from_0, default=0, help="of the damage (default: 0)")
    parser.add_argument("--seconds", type=positive_int, default=30,
                        help="that one file may take; machines do other things, too (default: %(default)s)")
    parser.add_argument("--memory", type=positive_int, default=1024, metavar="MB",
                        help="that reading one file may take beyond what the process has (default: %(default)s)")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "NUMBER"), help="read one mutant, without catching anything")
    parser.add_argument("--worker", metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        return work(Path(args.worker), args.seed, args.memory)
    if args.one:
        return read_one(*args.one, seed=args.seed)
    each = args.each or -(-args.mutants // len(args.formats))
    tasks = [(name, number) for name in args.formats for number in range(each)]
    counts = fuzz(tasks, args.seconds, ["--seed", str(args.seed), "--memory", str(args.memory)])
    print(align([["", *COUNTS], *([name, *map(str, values)] for name, values in counts.items())]))
    return int(any(sum(values[2:]) for values in counts.values()))


def read_one(name: str, number: str, seed: int) -> int:
    """Read one mutant in this process, and show what it does."""
    if name not in BY_NAME:
        raise UsageError(f"--one {name}: there are {', '.join(BY_NAME)}")
    with tempfile.TemporaryDirectory() as folder:
        sample = Sample(BY_NAME[name], Path(folder))
        print(sample.read_mutant(int(number), seed))
    return 0


# Counts -----------------------------------------------------------------------------------------------------------


def fuzz(tasks: Sequence[tuple[str, int]], seconds: int, flags: Sequence[str]) -> dict[str, list[int]]:
    """Return {name of a format: COUNTS} of its mutants, and print a line for each that should not be."""
    totals = {name: Counter() for name, _ in tasks}
    for (name, number), events in outcomes(list(tasks), seconds, flags):
        totals[name].update(["tried", *(event for event, _ in events)])
        for event, detail in events:
            if event != "refused":
                print(f"{name} {number}: {event}: {detail}", flush=True)
    counts = {name: [total[event] for event in COUNTS] for name, total in totals.items()}
    return counts | {"all": [sum(column) for column in zip(*counts.values(), strict=True)]}


Events = list[tuple[str, str]]    # names of COUNTS, and details


def outcomes(tasks: list[tuple[str, int]], seconds: int, flags: Sequence[str]
             ) -> Iterator[tuple[tuple[str, int], Events]]:
    """Yield each task with its events and their details; a worker, which gets `flags`, is replaced if it hangs or dies.
    """
    while tasks:
        with tempfile.TemporaryDirectory() as folder, subprocess.Popen(
                [sys.executable, __file__, "--worker", folder, *flags], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as worker:
            assert worker.stdin and worker.stdout
            while tasks:
                name, number = tasks[0]
                worker.stdin.write(f"{number} {name}\n".encode())
                worker.stdin.flush()
                answered = bool(select.select([worker.stdout], [], [], seconds)[0])
                line = worker.stdout.readline().decode() if answered else ""
                yield tasks.pop(0), _events(line, answered, seconds)
                if not line:
                    worker.kill()
                    break
            worker.stdin.close()


def _events(line: str, answered: bool, seconds: int) -> Events:
    if not answered:
        return [("hangs", f"nothing after {seconds} seconds")]
    if not line:
        return [("tracebacks", "the process died")]
    return [(event, detail) for event, _, detail in
            (part.partition("\t") for part in line.rstrip("\n").split("\v") if part)]


# The process that reads -------------------------------------------------------------------------------------------


class Sample:
    """A valid file of a format, and mutants in its place."""

    def __init__(self, format: Format, folder: Path):
        self.format, self.path = format, folder / f"sample{format.suffix}"
        folder.mkdir(exist_ok=True)
        format.write(self.path)
        self.content = self.path.read_bytes()
        format.read(self.path)    # the format's own errors must not pass for refusals

    def read_mutant(self, number: int, seed: int) -> object:
        """Read mutant `number`, which depends on the name of the format and the seed alone."""
        rng = np.random.default_rng((seed, zlib.crc32(self.format.name.encode()), number))
        self.path.write_bytes(mutant(self.content, rng, self.format.tokens))
        return self.format.read(self.path)


def work(folder: Path, seed: int, memory: int) -> int:
    """Read the mutants that stdin names, and answer with a line for each."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    messages = (folder / "messages").open("a+b")
    os.dup2(messages.fileno(), 1)
    os.dup2(messages.fileno(), 2)    # of libraries, too
    samples = {}
    for line in sys.stdin:
        number, name = line.rstrip("\n").split(" ", 1)
        if name not in samples:
            samples[name] = Sample(BY_NAME[name], folder / str(len(samples)))
        events = _read(samples[name], int(number), seed, memory, messages)
        answers.write("\v".join(f"{event}\t{detail}" for event, detail in events) + "\n")
        answers.flush()
    return 0


def _read(sample: Sample, number: int, seed: int, memory: int, messages: BinaryIO) -> Events:
    events, said = [], ""
    os.ftruncate(messages.fileno(), 0)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")    # forget the highest memory so far
    try:
        sample.read_mutant(number, seed)
    except UserError as error:
        said = str(error)
        events.append(("refused", _one_line(said)))
        if _of_memory(error):
            events.append(("memory", _one_line(said)))
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        events.append(("tracebacks", _one_line(f"{type(error).__name__}: {error} in {where.name}")))
    sys.stdout.flush()
    sys.stderr.flush()
    if (used := _memory("VmHWM") - before) > memory << 20:
        events.append(("memory", f"{used >> 20} MB"))
    written = os.pread(messages.fileno(), 1 << 16, 0).decode(errors="replace")
    if len((written.rstrip("\n") + "\n" + said).strip("\n").splitlines()) > LINES:
        events.append(("messages", _one_line(written + said)))
    return events


def _memory(field: str) -> int:
    """Bytes of memory of this process, as Linux calls them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def _of_memory(error: BaseException | None) -> bool:
    """Tell whether an allocation failed; somebody else's machine may have had the memory."""
    return error is not None and (isinstance(error, MemoryError) or _of_memory(error.__cause__ or error.__context__))


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:300]


if __name__ == "__main__":
    cli.run(main)
