import contextlib
import os
import subprocess
import sys
import threading

import pytest

from common.machine.context import native_functions, use_context
from common.machine.errors import UsageError


@pytest.fixture(params=["compiled", "composed", "kernels"])
def engine(request):
    """All ways to compute: loops on the CPU, nnabla's functions, and the kernels of a GPU, emulated here."""
    if request.param == "kernels":
        request.getfixturevalue("gpu_kernels")
    with native_functions() if request.param == "composed" else contextlib.nullcontext():
        yield request.param


@pytest.fixture
def run_on(tmp_path):
    """Run a program with the loops that numba compiles for a processor by its name in LLVM; returns what it prints.

    Its features are those that LLVM knows: without `NUMBA_CPU_FEATURES` they would be those of this processor.
    """
    def run(cpu, program):
        # Machine code of other processors stays out of the folder with that of this one.
        environment = {**os.environ, "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
        return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True,
                              check=True).stdout
    return run


@pytest.fixture(params=["haswell", "nehalem"])
def run_on_older_cpu(request, run_on):
    """Run a program as on a processor with AVX2, and as on one without AVX; returns what it prints."""
    return lambda program: run_on(request.param, program)


@pytest.fixture
def started():
    """Threads whose names begin in some way and that run since the test began; others may still be ending theirs."""
    before = set(threading.enumerate())
    return lambda name: [thread for thread in threading.enumerate()
                         if thread.name.startswith(name) and thread not in before]


@pytest.fixture
def gpu():
    """Compute on the GPU; skip the test where there is none, with the reason."""
    try:
        use_context("cudnn")
    except UsageError as error:
        pytest.skip(str(error))
    yield
    use_context("cpu")
