"""The cores of a process."""
import os
import subprocess
import sys

import pytest

from common.machine import cores


@pytest.fixture(autouse=True)
def groups(tmp_path, monkeypatch):
    """The folders in which the kernel tells of control groups; there is none at first."""
    monkeypatch.setattr(cores, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(cores, "_GROUPS", tmp_path / "groups")
    cores._quota.cache_clear()
    yield tmp_path
    cores._quota.cache_clear()


def test_cores_of_the_process_count():
    assert cores.num_threads() == len(os.sched_getaffinity(0))


def test_where_the_system_does_not_tell_all_count(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity")
    assert cores.num_threads() == os.cpu_count()
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert cores.num_threads() == 1


@pytest.mark.parametrize("own, files, threads", [
    ("0::/", {"cpu.max": "250000 100000"}, 3),    # as in a container
    ("0::/", {"cpu.max": "50000 100000"}, 1),
    ("0::/", {"cpu.max": "900000 100000"}, 8),
    ("0::/", {"cpu.max": "max 100000"}, 8),
    ("0::/outer/inner", {"outer/inner/cpu.max": "max 100000", "outer/cpu.max": "200000 100000"}, 2),
    ("0::/docker/1f", {"cpu.max": "200000 100000"}, 2),    # a path outside of the container
    ("4:memory:/\n3:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "350000", "cpu/cpu.cfs_period_us": "100000"}, 4),
    ("3:cpu:/a", {"cpu/a/cpu.cfs_quota_us": "100000", "cpu/a/cpu.cfs_period_us": "50000", "cpu.max": "1 1"}, 2),
    ("3:cpu:/a", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 8),
    ("3:cpuset:/", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ("0::/", {"cpu.max": ""}, 8), ("", {"cpu.max": "100000 100000"}, 8), ("no groups", {}, 8),
])
def test_a_share_of_time_counts_as_so_many_cores(groups, monkeypatch, own, files, threads):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)), raising=False)
    (groups / "own").write_text(own)
    for name, text in files.items():
        (groups / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / "groups" / name).write_text(text + "\n")
    assert cores.num_threads() == threads


@pytest.mark.skipif(not cores.CAN_LIMIT, reason="this system does not keep processes on some of the cores")
def test_a_process_can_be_kept_on_one_core():
    code = "from common.machine import cores; cores.limit_cores(1); print(cores.num_threads())"    # any share is 1, too
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"
