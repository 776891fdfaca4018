"""What other systems than Linux lack: nothing fails at import, and something else is done instead."""
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import pytest

from common.datasets.multitrack import ArrayStem, Track
from common.datasets.spectrogram_statistics import spectrogram_statistics
from common.downloads.fetch import is_fetched
from common.inference import network_cache
from common.machine import memory
from common.machine.cache import CACHE_VARIABLE, cache_dir
from common.machine.errors import UserError
from common.machine.files import UNFINISHED, remove_leftovers, reserve, write_text
from common.machine.locks import locked
from common.machine.output_folders import LOCK, claimed

# Packages of others are imported first: they know their systems themselves.
IMPORT_ALL = """
import importlib, pkgutil, sys, os, signal, time
import av, cv2, h5py, matplotlib.figure, multiprocessing.pool, nnabla.solvers, numba, onnx, onnxruntime, PIL.Image
import nnabla.experimental.parametric_function_class, nnabla.utils.nnp_graph, scipy.fft, scipy.signal, sklearn.datasets
import soundfile, subprocess, tempfile, tqdm
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for owner, names in ((os, "sched_getaffinity sched_setaffinity posix_fallocate sysconf getuid geteuid fork"),
                     (signal, "SIGKILL SIGHUP SIGUSR1 SIGALRM pthread_sigmask alarm"), (time, "tzset")):
    for name in names.split():
        if hasattr(owner, name):
            delattr(owner, name)
packages = ["common", "d3net", "data_cleansing", "mixed_precision_dnns", "out_of_core_training", "x_umx"]
modules = [module.name for package in packages for module in pkgutil.walk_packages(
    importlib.import_module(package).__path__, package + ".") if not module.name.startswith("common.tests")]
for module in modules:
    if not module.endswith("__main__") and module != "common.workbench.testing":
        importlib.import_module(module)
print(len(modules))
"""


def test_all_modules_can_be_imported_without_what_linux_alone_has_and_without_a_home():
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True,
                          env={**os.environ, "HOME": "/proc/none"})    # nobody can write there
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


@pytest.fixture
def homeless(monkeypatch):
    """A user without home, cache and entry in the list of users."""
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])


def test_a_user_without_home_does_without_what_is_only_kept_to_be_faster(homeless):
    assert network_cache.find("key") is None and network_cache.store("key", b"") is None
    assert not is_fetched("http://nowhere/file.h5", "folder")
    song = Track("song", {"a": ArrayStem(np.ones((500, 2), np.float32), 44100)})
    assert spectrogram_statistics([song], 64, 16)[1].min() > 0


def test_a_user_without_home_is_told_where_downloads_may_go(homeless):
    with pytest.raises(UserError, match=f"no such home folder .* set {CACHE_VARIABLE} to"):
        cache_dir()


HOMELESS = """
import pwd, sys
from pathlib import Path
if sys.argv[2] == "none":
    pwd.getpwuid = lambda uid: {}[uid]    # no entry in the list of users
from common.console import cli

def main():
    import matplotlib.figure
    import nnabla
    from openvino_telemetry import Telemetry

    from common.pictures.figures import save_figure

    save_figure(sys.argv[1], matplotlib.figure.Figure())
    Telemetry(app_name="test", app_version="1", tid="none", backend="ga4")
    print(Path.home())

cli.run(main)
"""


@pytest.mark.parametrize("home", ["none", "new", "/proc/none"])
def test_a_command_needs_no_home_and_libraries_say_nothing_of_it(home, tmp_path):
    pytest.importorskip("openvino_telemetry")
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "MPLCONFIGDIR")}
    if home != "none":
        (tmp_path / "new").mkdir()
        environment["HOME"] = str(tmp_path / home)
    done = subprocess.run([sys.executable, "-c", HOMELESS, str(tmp_path / "a.png"), home], capture_output=True,
                          text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "") and (tmp_path / "a.png").exists()
    assert done.stdout.strip() == environment.get("HOME", os.devnull)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 3])
def test_room_on_the_disk_is_taken_by_zeros_where_it_cannot_be_asked_for(size, monkeypatch):
    monkeypatch.delattr("os.posix_fallocate")
    with tempfile.TemporaryFile() as file:
        reserve(file, size)
        file.seek(0)
        assert file.read() == bytes(size)


@pytest.mark.parametrize("system, unit", [("darwin", 1), ("linux", 1024)])
def test_peak_memory_without_proc(system, unit, monkeypatch, tmp_path):
    peak = memory.peak_megabytes()
    monkeypatch.setattr("common.machine.memory._STATUS", tmp_path / "status")
    monkeypatch.setattr("sys.platform", system)
    fake = types.SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: types.SimpleNamespace(ru_maxrss=3 * 2**20))
    monkeypatch.setitem(sys.modules, "resource", fake)
    assert memory.peak_megabytes() == 3 * unit and peak > 10


def test_peak_memory_is_not_a_number_where_nothing_tells(monkeypatch, tmp_path):
    monkeypatch.setattr("common.machine.memory._STATUS", tmp_path / "status")
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory.peak_megabytes() != memory.peak_megabytes()


def test_memory_of_the_machine():
    free, total = memory.machine_memory()
    assert 0 < free < total


def test_a_system_that_does_not_tell_its_memory_is_one_line(monkeypatch):
    monkeypatch.delattr("os.sysconf")
    with pytest.raises(UserError, match="does not tell how much memory"):
        memory.machine_memory()


def test_a_lock_on_windows_is_waited_for_until_it_is_held(tmp_path, monkeypatch):
    tries = iter([OSError("deadlock avoided"), OSError("deadlock avoided"), None])
    calls = []

    def locking(handle, mode, num_bytes):
        calls.append((mode, num_bytes))
        if error := next(tries):
            raise error

    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(LK_LOCK=1, locking=locking))
    with locked(tmp_path / "lock"):
        assert calls == [(1, 1)] * 3


def test_where_there_are_no_locks_nobody_waits(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(38, "Function not implemented")
    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path / "lock"), locked(tmp_path / "lock"):
        pass


@pytest.fixture
def windows(monkeypatch):
    """Windows, as far as files are concerned: what is open is neither renamed nor removed, and locks are others."""
    held = set()

    def refuse_open(path):
        open_files = {link.stat().st_ino for link in Path("/proc/self/fd").iterdir() if link.exists()}
        if path.exists() and path.stat().st_ino in open_files:
            raise PermissionError(13, "The process cannot access the file", str(path))

    def lock(handle, mode, num_bytes):
        file = os.fstat(handle).st_ino
        if file in held:
            raise PermissionError(13, "Permission denied")
        held.add(file)

    def close(handle):
        held.discard(os.fstat(handle).st_ino)
        real_close(handle)

    def only_closed(method):
        def checked(path, *args, **kwargs):
            refuse_open(path)
            return method(path, *args, **kwargs)
        return checked

    real_close = os.close
    for name in ("replace", "unlink"):
        monkeypatch.setattr(Path, name, only_closed(getattr(Path, name)))
    monkeypatch.setattr("os.close", close)
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(LK_NBLCK=2, locking=lock))


@pytest.mark.skipif(sys.platform != "linux", reason="looks at the open files of a process as Linux shows them")
def test_files_appear_and_leftovers_vanish_on_windows(windows, tmp_path):
    for text in ("one", "two"):
        write_text(tmp_path / "a.txt", text)
    (tmp_path / f"{UNFINISHED}dead").touch()
    with (tmp_path / f"{UNFINISHED}alive").open("w"):
        remove_leftovers(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"a.txt", f"{UNFINISHED}alive"}
    assert (tmp_path / "a.txt").read_text() == "two"


@pytest.mark.skipif(sys.platform != "linux", reason="looks at the open files of a process as Linux shows them")
def test_a_folder_is_held_on_windows(windows, tmp_path):
    with claimed(tmp_path):
        with pytest.raises(UserError, match="is writing to this folder"), claimed(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()
    with claimed(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_program_that_imports_a_paper_keeps_its_log():
    """A command silences what libraries print at INFO; a program around this repository decides for itself."""
    code = ("import logging, sys\nimport x_umx.separate\nfrom common.machine.streams import printing\n"
            "with printing():\n    pass\n"
            "logging.basicConfig(level=logging.INFO, stream=sys.stdout, force=True)\n"
            "logging.info('mine')\nlogging.getLogger('matplotlib').warning('too')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "INFO:root:mine\nWARNING:matplotlib:too\n"
