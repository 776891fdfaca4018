"""What all tests need, and fixtures that those of several papers use."""
import ctypes
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nnabla as nn
import pytest

import common
import d3net  # noqa: F401 - before pytest makes a package of the folder that has this name, too
from common.console import cli
from common.gpu import driver, loading
from common.machine import context

# Its checks say as much as those of a test when they fail.
pytest.register_assert_rewrite("common.workbench.testing")


@pytest.fixture(autouse=True)
def no_parameters():
    """Every test starts and ends without parameters."""
    nn.clear_parameters()
    yield
    nn.clear_parameters()


@pytest.fixture(autouse=True)
def keep_signals():
    """Commands that run in this process set what signals do; every test leaves that as it was."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def no_modules_of_a_test(tmp_path_factory):
    """What a test imports from its own folder is forgotten after it: the next may write a module of the same name."""
    yield
    folder = str(tmp_path_factory.getbasetemp())
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(folder):
            del sys.modules[name]


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Tests leave the user's cache alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SONY_PAPERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def compile_library(tmp_path_factory):
    """Compile a file of `common/tests/data`, which stands in for a library of NVIDIA; returns the path of a library."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler to run the kernels of a GPU with")
    common_folder, folder = Path(common.__file__).parent, tmp_path_factory.mktemp("libraries")

    def compile_to(name):
        library = (folder / name).with_suffix(".so")
        subprocess.run([compiler, "-std=c++20", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-I",
                        str(common_folder / "gpu" / "kernels"), str(common_folder / "tests" / "data" / name), "-o",
                        str(library)], check=True)
        return library

    return compile_to


@pytest.fixture(scope="session")
def emulated_driver(compile_library):
    """A library in the place of a GPU's driver, which runs the kernels of this repository on the arrays of the host."""
    return compile_library("emulated_driver.cpp")


@pytest.fixture
def gpu_kernels(emulated_driver, monkeypatch):
    """Build graphs as on a GPU, of nnabla's functions and of kernels; both then compute on the host."""
    monkeypatch.setattr(driver, "LIBRARY", str(emulated_driver))
    monkeypatch.setattr(loading, "compile_source", lambda path, capability: b"image\0")
    monkeypatch.setattr(context, "on_gpu", lambda: True)
    loading._load.cache_clear()
    with nn.context_scope(nn.Context(["cpu:float"], "CpuCachedArray", "0")):
        yield ctypes.CDLL(str(emulated_driver)).emulated_launches    # counts them
    loading._load.cache_clear()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of downloads, one for each test; it is not there at first."""
    monkeypatch.setenv("SONY_PAPERS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_drawing(monkeypatch):
    """Curves take longer than all the rest of a small training; fixtures of a wider scope draw them."""
    monkeypatch.setattr("common.runs.training.plot_curves", lambda *args: None)


@pytest.fixture
def copy(finished, tmp_path):
    """A copy to write to of the folder of a run, which the fixture `finished` of a test file makes."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture
def run_main(capsys):
    """Run the `main` of a script in this process; returns its exit status, stdout and stderr."""
    def run(main, *arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.run(lambda: main([str(argument) for argument in arguments]))
        return caught.value.code or 0, *capsys.readouterr()
    return run
