"""The script that calls all commands with bad inputs: a part of its calls, and what it finds fault with."""
import importlib
import sys
import time
from pathlib import Path

import pytest

from common.workbench.testing import run_python

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def tool(monkeypatch):
    """The module of the script; forks of this process are its calls."""
    monkeypatch.syspath_prepend(str(TOOLS))
    yield importlib.import_module("bad_inputs")
    for name in ("bad_inputs", "bad_input_cases"):
        del sys.modules[name]


def test_a_part_of_the_bad_inputs_is_refused():
    status, out, err = run_python(TOOLS / "bad_inputs.py", "--every", 37)
    assert status == 0, out + err
    name, tried, *faults = out.splitlines()[-1].split()
    assert name == "all" and int(tried) > 30 and set(faults) == {"0"}


def _half_file(_):
    Path(".weights-x7.h5").touch()
    return 2


@pytest.mark.parametrize("main, fault", [
    (lambda _: 2, None), (lambda _: 0, "wrong status"), (lambda _: 1 / 0, "tracebacks"),
    (lambda _: print("1\n2\n3", file=sys.stderr) or 2, "lines"),
    (lambda _: print("x" * 1001, file=sys.stderr) or 2, "lines"), (lambda _: time.sleep(60), "hangs"),
    (_half_file, "half files")])
def test_faults_are_found(tool, tmp_path, monkeypatch, main, fault):
    (tmp_path / "files").mkdir()
    monkeypatch.setattr(tool, "main_of", lambda script: main)
    case = tool.Case("kind", ("x-umx/separate.py",), statuses=(2,))
    limits = tool.Limits(seconds=1 if fault == "hangs" else 100, megabytes=1 << 20)
    faults, _ = tool.run((0, case), tmp_path, limits)
    assert fault in faults if fault else not faults


def test_memory_is_measured(tool, tmp_path, monkeypatch):
    (tmp_path / "files").mkdir()
    monkeypatch.setattr(tool, "main_of", lambda script: lambda _: 2 if b"a" * (100 << 20) else 0)
    case = tool.Case("kind", ("x-umx/separate.py",), statuses=(2,))
    _, text = tool.run((0, case), tmp_path, tool.Limits(100, 1 << 20))
    here = next(int(line.split()[1]) >> 10 for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith("VmRSS"))
    assert int(text.split()[2]) > here / 2 + 50
    assert tool.run((1, case), tmp_path, tool.Limits(100, 1))[0] == ["memory"]


def test_every_command_is_called(tool):
    scripts = {f"{path.parent.name}/{path.name}" for path in TOOLS.parent.glob("*/*.py")
               if "commands" not in path.name and "__main__ import launch" in path.read_text()}
    assert {command.split()[0] for command in tool.COMMANDS} == scripts
    assert len(tool.cases(tool.help_of)) > 1000
