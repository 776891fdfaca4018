"""The cores of a process."""
import os
import subprocess
import sys

import pytest

from common.machine import cores


def test_cores_of_the_process_count():
    assert cores.num_threads() == len(os.sched_getaffinity(0))


def test_where_the_system_does_not_tell_all_count(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity")
    assert cores.num_threads() == os.cpu_count()
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert cores.num_threads() == 1


@pytest.mark.skipif(not cores.CAN_LIMIT, reason="this system does not keep processes on some of the cores")
def test_a_process_can_be_kept_on_one_core():
    code = "from common.machine import cores; cores.limit_cores(1); print(cores.num_threads())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"
