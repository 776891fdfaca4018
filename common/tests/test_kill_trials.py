"""The tool that kills runs: what it counts, and that it sees what is wrong."""
import importlib.util
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from common.runs.checkpoint import save_checkpoint
from common.workbench.testing import run_python

SCRIPT = Path(__file__).parents[2] / "tools" / "kill_trials.py"
# Stands for a training: it writes two files, and with `--resume` only the second, if the first is there.
SCRIPT_TEXT = """
import sys
from common.console import cli
from common.machine.files import write_text
from common.machine.output_folders import claimed

def main():
    with claimed(sys.argv[1]) as folder:
        if not ((folder / "a.txt").exists() and "--resume" in sys.argv):
            write_text(folder / "a.txt", "a")
        write_text(folder / "b.txt", {text})

cli.run(main)
"""


@pytest.fixture
def tool(monkeypatch):
    spec = importlib.util.spec_from_file_location("kill_trials", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "kill_trials", module)    # attrs looks there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("text, same, by", [
    ("'b'", True, "KILL"), ("'resumed' if '--resume' in sys.argv else 'b'", False, "TERM")])
def test_it_tells_whether_a_killed_run_ends_alike(tool, tmp_path, monkeypatch, capsys, text, same, by):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT_TEXT.format(text=text))
    monkeypatch.setattr(tool, "CASES", {"one": tool.Case(f"{script} OUT", "--resume")})
    monkeypatch.setattr(tool, "KINDS", ("before a rename", "after a rename"))
    monkeypatch.setattr("sys.argv", ["kill_trials.py", "one", "--kills", "2", "--signal", by])
    assert tool.main() == (0 if same else 1)
    row, *notes = capsys.readouterr().out.splitlines()[1:]
    assert row.split()[:3] == ["one", "2", "2" if same else "0"]
    assert row.endswith("2  1 before a rename, 1 after a rename")
    assert notes == [] if same else [note.split(": ")[1] for note in notes] == ["b.txt", "b.txt"]


def test_all_but_the_speed_is_compared(tool, tmp_path):
    class Solver:
        def get_states(self):
            return {}

    def state_of(extras, best):
        save_checkpoint(tmp_path / "checkpoint" / "latest.h5", {}, Solver(), {"extras": extras, "best": best})
        return tool.products(tmp_path)

    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "Training-time-per-epoch.series.txt").write_text("0 1.5\n")
    found = state_of([1.5], float("nan"))
    assert set(found) == {"checkpoint/latest.h5"}
    assert tool.same(found, state_of([2.5], float("nan"))) and not tool.same(found, state_of([1.5], 0))
    assert not tool.same(state_of([{"d": 1}], 0), state_of([{"d": 2}], 0))    # what was learned in each epoch
    with h5py.File(tmp_path / "checkpoint" / "latest.h5", "a") as file:
        file["parameters/w"] = np.float32([1, 2])
    found = tool.products(tmp_path)
    with h5py.File(tmp_path / "checkpoint" / "latest.h5", "a") as file:
        file["parameters/w"][0] = np.nextafter(np.float32(1), np.float32(2))
    assert not tool.same(found, tool.products(tmp_path))


@pytest.mark.slow
def test_a_killed_training_ends_alike():
    status, out, err = run_python(SCRIPT, "out-of-core", "--kills", "1")
    assert (status, err) == (0, ""), out
    assert out.splitlines()[1].split()[:3] == ["out-of-core", "1", "1"]
