import threading

import pytest

from common.quantizers import grids


@pytest.fixture(params=["compiled", "composed"])
def engine(request, monkeypatch):
    """Both ways to compute: loops on the CPU, and nnabla's functions, which a GPU runs."""
    monkeypatch.setattr(grids, "wants_native", lambda: request.param == "composed")
    return request.param


@pytest.fixture
def started():
    """Threads whose names begin in some way and that run since the test began; others may still be ending theirs."""
    before = set(threading.enumerate())
    return lambda name: [thread for thread in threading.enumerate()
                         if thread.name.startswith(name) and thread not in before]
