import nnabla as nn
import pytest

from common import quantizers


@pytest.fixture(autouse=True)
def no_parameters():
    """Every test starts and ends without parameters."""
    nn.clear_parameters()
    yield
    nn.clear_parameters()


@pytest.fixture(params=["compiled", "composed"])
def engine(request, monkeypatch):
    """Both ways to compute: loops on the CPU, and nnabla's functions, which a GPU runs."""
    monkeypatch.setattr(quantizers, "wants_native", lambda: request.param == "composed")
    return request.param
