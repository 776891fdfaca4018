"""Work in processes of its own: all of it is done, errors arrive, and nobody works on for a parent that is gone."""
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nnabla as nn
import pytest
from nnabla.function import PythonFunction

from common.console.cli import run
from common.machine.errors import UsageError, UserError
from common.machine.processes import attempts, for_each, in_processes


def _note(folder, item):
    (folder / str(item)).write_text(str(os.getpid()))


def _fail(folder, item):
    if item == 1:
        raise UsageError(f"no {item}")
    time.sleep(30)
    _note(folder, item)


def _fail_or_note(folder, item):
    if item == 1:
        raise UsageError(f"no {item}")
    _note(folder, item)


def _die(folder, item):
    os._exit(7)


def _are_killed(folder, item):
    os.kill(os.getpid(), signal.SIGKILL)


def _print_a_name(item):
    print("na\x1b[31mme", os.fsdecode(b"\xff"))


def _need_too_much(folder, item):
    raise MemoryError


class _Interrupted(PythonFunction):
    """A function of nnabla, in Python, in which the user presses Ctrl-C."""

    @property
    def name(self):
        return "Interrupted"

    def min_outputs(self):
        return 1

    def setup_impl(self, inputs, outputs):
        outputs[0].reset_shape(inputs[0].shape, True)

    def forward_impl(self, inputs, outputs):
        raise KeyboardInterrupt


def _are_interrupted_in_nnabla(item):
    _Interrupted(nn.Context())(nn.Variable((1,))).forward()


def _are_interrupted_in_an_import(item):
    raise ImportError("initialization failed") from KeyboardInterrupt()    # as pybind11 does


def _are_interrupted_as_the_work_ends(item):
    def interrupt(frame, event, argument):
        if event == "return" and frame.f_code.co_name == "_attempt":
            sys.setprofile(None)
            os.kill(os.getpid(), signal.SIGTERM)

    sys.setprofile(interrupt)


def _pieces(count):
    return {f"piece {item}": (item,) for item in range(count)}


@pytest.mark.parametrize("jobs, processes", [(1, 1), (2, 4)])
def test_all_items_are_worked_on(tmp_path, jobs, processes):
    for_each(partial(_note, tmp_path), _pieces(4), jobs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3"]
    pids = {path.read_text() for path in tmp_path.iterdir()}
    assert len(pids) == processes and (str(os.getpid()) in pids) == (jobs == 1)


@pytest.mark.parametrize("at_once", [1, 2])
def test_an_attempt_that_fails_stops_no_other(tmp_path, at_once):
    errors = dict(attempts(partial(_fail_or_note, tmp_path), {f"piece {i}": (i,) for i in range(3)}, at_once))
    assert {name: error and str(error) for name, error in errors.items()} == {
        "piece 0": None, "piece 1": "no 1", "piece 2": None}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "2"]


def test_an_error_arrives_and_ends_the_others(tmp_path):
    with pytest.raises(UsageError, match="no 1"):
        for_each(partial(_fail, tmp_path), _pieces(2), 2)
    assert not list(tmp_path.iterdir())


def test_names_can_be_printed(capfd, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii:strict")
    for_each(_print_a_name, _pieces(2), 2)
    assert capfd.readouterr() == (2 * "na\\x1b[31mme \\xff\n", "")


def test_an_interrupt_as_the_work_ends_is_one(capfd):
    with pytest.raises(KeyboardInterrupt):
        list(in_processes(_are_interrupted_as_the_work_ends, _pieces(1).items(), 1))
    assert capfd.readouterr().err == ""


def test_an_interrupt_while_a_module_loads_is_one(capfd):
    with pytest.raises(KeyboardInterrupt):
        for_each(_are_interrupted_in_an_import, _pieces(2), 2)
    assert "Traceback" not in capfd.readouterr().err


def test_an_interrupt_within_nnabla_is_one(capfd):
    with pytest.raises(SystemError):    # which would be a bug of ours
        _are_interrupted_in_nnabla(0)
    with pytest.raises(KeyboardInterrupt):
        for_each(_are_interrupted_in_nnabla, _pieces(2), 2)
    assert "Traceback" not in capfd.readouterr().err
    with pytest.raises(SystemExit, match="130"):
        run(lambda: _are_interrupted_in_nnabla(0))
    assert capfd.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("work, message", [
    (_die, "piece [01]: its process ended with status 7; this is a bug"),
    (_are_killed, r"piece [01]: its process was killed \(signal 9\), likely for want of memory; run fewer at once"),
    (_need_too_much, "piece [01]: too little memory; run fewer at once")])
def test_a_process_that_fails_is_an_error_of_one_line(work, message, tmp_path):
    with pytest.raises(UserError, match=message):
        for_each(partial(work, tmp_path), _pieces(2), 2)


def test_the_next_piece_is_taken_while_others_are_worked_on(tmp_path):
    def pieces():
        for item in range(3):
            taken.append((item, len(list(tmp_path.iterdir()))))
            yield str(item), (item,)

    taken = []
    ended = list(in_processes(partial(_note, tmp_path), pieces(), 1))
    assert sorted(ended) == [("0", None), ("1", None), ("2", None)]
    assert [item for item, _ in taken] == [0, 1, 2] and taken[2][1] < 2


PRINTING = """
import sys
from common.console import cli
from common.machine.errors import UserError
from common.machine.processes import for_each
def work(how):
    print("x" * 100, flush=how == "at once")
    if how == "before an error":
        raise UserError("no such song")
    if how == "a file":
        open("/nowhere/file")
if __name__ == "__main__":
    cli.run(lambda: for_each(work, {item: (sys.argv[1],) for item in "ab"}, 2))
"""


@pytest.mark.parametrize("how, out, status, line", [
    ("at once", "a full disk", 1, "error: output: No space left on device\n"),
    ("later", "a full disk", 1, "error: output: No space left on device\n"),
    ("before an error", "a full disk", 1, "error: no such song\n"),
    ("a file", "nowhere", 2, "error: /nowhere/file: No such file or directory\n"),
    ("at once", "a closed pipe", 1, ""), ("later", "a closed pipe", 1, "")])
def test_errors_of_the_system_and_lost_output_are_those_of_one_process(tmp_path, how, out, status, line):
    script = tmp_path / "printing.py"
    script.write_text(PRINTING)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe, Path("/dev/full").open("wb") as full:
        stdout = {"a closed pipe": pipe, "a full disk": full, "nowhere": subprocess.DEVNULL}[out]
        done = subprocess.run([sys.executable, str(script), how], stdout=stdout, stderr=subprocess.PIPE, text=True,
                              env=os.environ | {"PYTHONUNBUFFERED": ""})
    assert (done.returncode, done.stderr) == (status, line)


SLOW = """
import sys, time
from pathlib import Path
from common.console import cli
from common.machine.processes import for_each
def work(item):
    Path(sys.argv[1], str(item)).touch()
    time.sleep(3)
    Path(sys.argv[1], f"late{item}").touch()
if __name__ == "__main__":
    cli.run(lambda: for_each(work, {str(item): (item,) for item in range(2)}, 2))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_a_parent_that_is_killed_or_interrupted(tmp_path, number):
    script, out = tmp_path / "slow.py", tmp_path / "out"
    script.write_text(SLOW)
    out.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(out)], stderr=subprocess.PIPE, text=True,
                              start_new_session=True)
    while len(list(out.iterdir())) < 2 and parent.poll() is None:
        time.sleep(0.02)
    if number == signal.SIGINT:    # as a terminal does
        os.killpg(parent.pid, number)
    else:
        parent.kill()
    _, err = parent.communicate(timeout=30)
    assert err == ("interrupted\n" if number == signal.SIGINT else "")
    time.sleep(4)
    assert sorted(path.name for path in out.iterdir()) == ["0", "1"]


INTERRUPTED_IMPORT = """
import sys
from common.machine.processes import in_processes
class Interrupt:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == sys.argv[1]:
            raise KeyboardInterrupt
def work():
    sys.meta_path.insert(0, Interrupt)
    import nnabla
if __name__ == "__main__":
    try:
        list(in_processes(work, [("a", ())], 1))
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize("module", ["nnabla.context", "nnabla.parameter"])
def test_an_interrupt_while_nnabla_loads_is_one(tmp_path, module):
    """Otherwise what nnabla does at the end of a process fails for the first, and crashes for the second."""
    (tmp_path / "script.py").write_text(INTERRUPTED_IMPORT)
    done = subprocess.run([sys.executable, tmp_path / "script.py", module], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
