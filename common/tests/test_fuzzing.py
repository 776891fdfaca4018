"""Damaged copies of every file that a command reads, and whether what counts the failures sees them."""
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from common.workbench.fuzzing import mutant
from common.workbench.testing import run_python

SCRIPT = Path(__file__).parents[2] / "tools" / "fuzz.py"
EACH = 20    # of each format; make fuzz tries five thousand in all
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at the memory of a process as Linux shows it")
FORMATS = '''
import os, pathlib, sys, time, attrs, numpy

SAMPLE = bytes(range(100))

@attrs.frozen
class Format:
    name: str
    read: object
    write: object = lambda path: path.write_bytes(SAMPLE)
    suffix: str = ""
    tokens: tuple = ()

def bad(read):
    """`read`, but for the first file, which is valid."""
    def reading(path):
        if path.read_bytes() != SAMPLE:
            read(path)
    return reading

def refuse(path):
    from common.machine.errors import UserError
    raise UserError("damaged")

def too_much(path):
    from common.machine.errors import UserError
    try:
        raise MemoryError
    except MemoryError as error:
        raise UserError("too large") from error

def hang(path):
    if not (once := pathlib.Path("hung")).exists():    # a worker is replaced each time
        once.touch()
        time.sleep(60)

def die(path):
    if not (once := pathlib.Path("died")).exists():
        once.touch()
        os.abort()

FORMATS = [
    Format("good", bad(refuse)),
    Format("raises", bad(lambda path: {}["x"])),
    Format("dies", bad(die)),
    Format("hangs", bad(hang)),
    Format("allocates", bad(lambda path: numpy.ones(1 << 26, numpy.uint8))),
    Format("fails to allocate", bad(too_much)),
    Format("talks", bad(lambda path: print("a\\nb\\nc", file=sys.stderr))),
]
'''


def counts_of(status, out, err):
    """{format: {count: number}} of what the script printed."""
    assert status in (0, 1), err
    header, *lines = [line for line in out.splitlines() if ": " not in line]
    names = ("tried", "refused", "tracebacks", "hangs", "memory", "messages")
    assert header.split() == " ".join(names).split()
    return {line.rsplit(maxsplit=6)[0].strip(): dict(zip(names, map(int, line.rsplit(maxsplit=6)[1:]), strict=True))
            for line in lines}


@pytest.mark.slow
@only_linux
def test_every_format_is_read_or_refused_in_one_line(tmp_path):
    status, out, err = run_python(SCRIPT, "--each", EACH, cwd=tmp_path)
    counts = counts_of(status, out, err)
    assert status == 0, out
    all_together = counts.pop("all")
    assert all_together["tried"] == EACH * len(counts)
    assert all(found["tried"] == EACH for found in counts.values())
    assert all_together["refused"] > all_together["tried"] / 3    # the mutants do harm; much audio decodes all the same


@pytest.mark.slow
@only_linux
def test_each_failure_is_counted(tmp_path):
    shutil.copy(SCRIPT, tmp_path)
    (tmp_path / "fuzz_formats.py").write_text(FORMATS)
    status, out, err = run_python(tmp_path / "fuzz.py", "--each", 3, "--seconds", 8, "--memory", 50, cwd=tmp_path)
    assert status == 1, err
    found = {name: {event for event, number in counts.items() if number} - {"tried"}
             for name, counts in counts_of(status, out, err).items()}
    assert found == {"good": {"refused"}, "raises": {"tracebacks"}, "dies": {"tracebacks"}, "hangs": {"hangs"},
                     "allocates": {"memory"}, "fails to allocate": {"refused", "memory"},
                     "talks": {"messages"},
                     "all": {"refused", "tracebacks", "hangs", "memory", "messages"}}


def test_mutants_depend_on_their_seed_alone():
    content = bytes(range(256)) * 4 + b"123 4.5"
    made = [[mutant(content, np.random.default_rng(seed), (b"token",)) for seed in range(300)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 290
    assert any(b"token" in other for other in made[0]) and any(len(other) < 500 for other in made[0])


@pytest.mark.parametrize("content", [b"", b"x"])
def test_the_smallest_files_have_mutants(content):
    assert len({mutant(content, np.random.default_rng(seed), (b"token",)) for seed in range(100)}) > 5
