import contextlib

import pytest

from common.machine.context import native_functions


@pytest.fixture(params=["compiled", "composed"])
def engine(request):
    """Both ways to compute: loops on the CPU, and nnabla's functions, which a GPU runs."""
    with native_functions() if request.param == "composed" else contextlib.nullcontext():
        yield request.param
