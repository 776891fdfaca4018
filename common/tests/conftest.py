import contextlib
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
