"""A corrected copy of the extension's library, and reductions that are tried before a GPU counts as working."""
import hashlib
import os
import shutil
import subprocess
import sys

import pytest

from common.console import correct_cuda
from common.machine import cuda_extension, reductions
from common.machine.cache import remembered
from common.machine.cuda_extension import corrected_library, digest_of, load_corrected_library
from common.machine.errors import UserError
from common.machine.fatbin import wrong_masks
from common.tests.test_fatbin import entry, fatbin, kernels, library

TRAP = "sum: an illegal instruction was encountered"
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The path of a library with wrong masks, as if pip had installed it; this module knows it."""
    folder = tmp_path / "site" / "nnabla_ext" / "cuda"
    folder.mkdir(parents=True)
    path = folder / "libnnabla_cuda-120_8.so"
    path.write_bytes(library(fatbin(entry(kernels(), 80), entry(kernels(), 90))))
    monkeypatch.setattr(cuda_extension, "installed_library", lambda: path)
    monkeypatch.setattr(reductions, "installed_library", lambda: path)
    right = bytearray(path.read_bytes())
    for at in wrong_masks(bytes(right)):
        right[at + 3] = 0xFF
    monkeypatch.setattr(cuda_extension, "CORRECTED", {sha256(path.read_bytes()): sha256(right)})
    return path


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_the_command_writes_a_corrected_copy_and_leaves_the_library_alone(installed, cache, run_main):
    before = installed.read_bytes()
    assert corrected_library() is None
    status, out, err = run_main(correct_cuda.main)
    copy = corrected_library()
    assert copy is not None and copy.is_relative_to(cache) and copy.name == installed.name
    assert (status, out, err) == (0, f"corrected copy: {copy}\n", "")
    assert installed.read_bytes() == before
    assert len(wrong_masks(before)) == 3 and wrong_masks(copy.read_bytes()) == []


def test_a_copy_that_is_there_is_kept(installed, run_main):
    run_main(correct_cuda.main)
    copy = corrected_library()
    before = copy.stat()
    assert run_main(correct_cuda.main)[0] == 0
    assert (copy.stat().st_ino, copy.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_unknown_library_is_left_alone_in_one_line(installed, cache, run_main):
    installed.write_bytes(installed.read_bytes() + b"\0")
    status, out, err = run_main(correct_cuda.main)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert str(installed) in err and "nothing was done" in err
    assert not list(cache.rglob("*.so")) and corrected_library() is None


def test_without_the_extension_one_line_says_how_to_install_it(monkeypatch, run_main):
    monkeypatch.setattr(cuda_extension, "installed_library", lambda: None)
    status, _, err = run_main(correct_cuda.main)
    assert status == 1 and err.count("\n") == 1 and "pip install -r requirements-cuda.txt" in err


def test_a_damaged_copy_is_not_loaded_and_is_made_anew(installed, run_main):
    run_main(correct_cuda.main)
    copy = corrected_library()
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-1] + b"?")
    assert corrected_library() is None
    assert run_main(correct_cuda.main)[0] == 0
    assert corrected_library() == copy and copy.read_bytes() == whole


def test_a_copy_that_comes_out_wrong_is_not_kept(installed, cache, monkeypatch, run_main):
    monkeypatch.setattr(cuda_extension, "CORRECTED", {digest_of(installed): "0" * 64})
    status, _, err = run_main(correct_cuda.main)
    assert status == 1 and "came out wrong" in err
    assert not list(cache.rglob("*.so"))


def test_the_digest_follows_a_change_of_the_file(tmp_path):
    path = tmp_path / "library.so"
    path.write_bytes(b"one")
    assert digest_of(path) == digest_of(path) == sha256(b"one")
    path.write_bytes(b"other")
    assert digest_of(path) == sha256(b"other")


@pytest.mark.parametrize("content", ["", "[]", '{"key": 1}', "\0"])
def test_a_damaged_memory_is_made_anew(content, cache):
    (cache / "cuda").mkdir(parents=True)
    (cache / "cuda" / "memory.json").write_text(content)
    assert remembered("cuda/memory.json", "key", lambda: "value") == "value"
    assert remembered("cuda/memory.json", "key", lambda: pytest.fail("it was remembered")) == "value"
    assert remembered("cuda/memory.json", "other key", lambda: "other value") == "other value"
    assert remembered("cuda/memory.json", "key", lambda: pytest.fail("it was remembered")) == "value"


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_modules_of_the_extension_get_the_copy(installed, monkeypatch):
    """The loader takes the library that has the name already, also where another lies beside the module."""
    def build(path, source, *flags):
        path.parent.mkdir(parents=True, exist_ok=True)
        command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", path, *flags]
        subprocess.run(command, input=source, text=True, check=True)

    copy, module = cuda_extension._place_of_copy(installed), installed.parent / "init.so"
    for path, version in ((installed, 1), (copy, 2)):
        build(path, f"int version(void) {{ return {version}; }}", f"-Wl,-soname,{installed.name}")
    build(module, "int version(void); int ask(void) { return version(); }", f"-L{installed.parent}",
          f"-l:{installed.name}", "-Wl,-rpath,$ORIGIN")
    script = f"""
import ctypes, sys
from pathlib import Path
from common.machine import cuda_extension
cuda_extension.corrected_library = lambda: Path({str(copy)!r}) if sys.argv[1] == "corrected" else None
cuda_extension.load_corrected_library()
print(ctypes.CDLL({str(module)!r}).ask())
"""
    for which, version in (("wheel", "1"), ("corrected", "2")):
        done = subprocess.run([sys.executable, "-c", script, which], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [version]


def test_without_a_copy_nothing_is_loaded(installed):
    load_corrected_library()    # the synthetic library is not one that could be loaded


@pytest.fixture
def trials(installed, monkeypatch):
    """Let a trial end as the list `outcomes` says, one after the other."""
    outcomes = []

    def run(command, **kwargs):
        assert command[1:] == ["-m", "common.machine.gpu_trial", "0"]
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return subprocess.CompletedProcess(command, *outcome)

    monkeypatch.setattr(reductions.subprocess, "run", run)
    return outcomes


def test_a_trial_that_succeeds_is_not_made_again(trials):
    trials.append((0, "", ""))
    for _ in range(3):
        reductions.check_reductions("0")
    assert not trials


def test_a_trap_is_told_with_the_command_and_remembered(trials):
    trials.append((1, f"noise\n{TRAP}\n", ""))
    for _ in range(2):
        with pytest.raises(reductions.BrokenReductionsError) as caught:
            reductions.check_reductions("0")
        assert str(caught.value) == (f"nnabla's reductions fail on this GPU ({TRAP}): "
                                     "run 'python -m common.console.correct_cuda' once, or use -c cpu")


def test_the_corrected_copy_is_tried_anew(trials, run_main):
    trials += [(1, TRAP, ""), (1, TRAP, "")]
    with pytest.raises(reductions.BrokenReductionsError, match="correct_cuda"):
        reductions.check_reductions("0")
    run_main(correct_cuda.main)
    with pytest.raises(reductions.BrokenReductionsError) as caught:    # the command has been run: it is no advice
        reductions.check_reductions("0")
    assert str(caught.value) == f"nnabla's reductions fail on this GPU ({TRAP}): use -c cpu"
    assert not trials


@pytest.mark.parametrize("change", ["_driver", "_device"])
def test_another_driver_or_gpu_is_tried_anew(change, trials, monkeypatch):
    trials += [(0, "", ""), (1, TRAP, "")]
    reductions.check_reductions("0")
    monkeypatch.setattr(reductions, change, lambda *args: "another")
    with pytest.raises(reductions.BrokenReductionsError):
        reductions.check_reductions("0")


@pytest.mark.parametrize("outcome, words", [
    ((1, "out of memory\n", ""), "out of memory"),
    ((1, "", "Traceback\nOSError: no\n"), "OSError: no"),
    ((-11, "", ""), "a trial ended with status -11"),
    (subprocess.TimeoutExpired("trial", 300), "a trial did not end in 300 seconds"),
])
def test_another_failure_is_not_remembered(outcome, words, trials):
    trials += [outcome, (0, "", "")]
    with pytest.raises(RuntimeError, match=words) as caught:
        reductions.check_reductions("0")
    assert not isinstance(caught.value, reductions.BrokenReductionsError)
    reductions.check_reductions("0")
    assert not trials


def test_no_cache_is_no_obstacle(trials, monkeypatch):
    monkeypatch.setattr("common.machine.cache.cache_dir", lambda: (_ for _ in ()).throw(UserError("no home")))
    monkeypatch.setattr(cuda_extension, "cache_dir", lambda: (_ for _ in ()).throw(UserError("no home")))
    trials += [(0, "", "")] * 2
    for _ in range(2):
        reductions.check_reductions("0")
    assert not trials and os.environ["SONY_PAPERS_CACHE"]
