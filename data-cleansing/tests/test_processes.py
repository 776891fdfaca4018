"""Work in processes of its own: all of it is done, errors arrive, and nobody works on for a parent that is gone."""
import os
import subprocess
import sys
import time
from functools import partial

import pytest

from common.machine.errors import UsageError
from data_cleansing.processes import for_each


def _note(folder, item):
    (folder / str(item)).write_text(str(os.getpid()))


def _fail(folder, item):
    if item == 1:
        raise UsageError(f"no {item}")
    time.sleep(30)
    _note(folder, item)


def _die(folder, item):
    os._exit(7)


@pytest.mark.parametrize("jobs, processes", [(1, 1), (2, 4)])
def test_all_items_are_worked_on(tmp_path, jobs, processes):
    for_each(partial(_note, tmp_path), range(4), jobs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3"]
    pids = {path.read_text() for path in tmp_path.iterdir()}
    assert len(pids) == processes and (str(os.getpid()) in pids) == (jobs == 1)


def test_an_error_arrives_and_ends_the_others(tmp_path):
    with pytest.raises(UsageError, match="no 1"):
        for_each(partial(_fail, tmp_path), range(2), 2)
    assert not list(tmp_path.iterdir())


def test_a_process_that_dies_is_told(tmp_path):
    with pytest.raises(Exception, match="ended with status 7"):
        for_each(partial(_die, tmp_path), range(2), 2)


SLOW = """
import sys, time
from pathlib import Path
from data_cleansing.processes import for_each
def work(item):
    Path(sys.argv[1], str(item)).touch()
    time.sleep(3)
    Path(sys.argv[1], f"late{item}").touch()
if __name__ == "__main__":
    for_each(work, range(2), 2)
"""


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    script, out = tmp_path / "slow.py", tmp_path / "out"
    script.write_text(SLOW)
    out.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(out)], stderr=subprocess.DEVNULL)
    while len(list(out.iterdir())) < 2 and parent.poll() is None:
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    time.sleep(4)
    assert sorted(path.name for path in out.iterdir()) == ["0", "1"]
