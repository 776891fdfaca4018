import pytest

from common import quantizers


@pytest.fixture(params=["compiled", "composed"])
def engine(request, monkeypatch):
    """Both ways to compute: loops on the CPU, and nnabla's functions, which a GPU runs."""
    monkeypatch.setattr(quantizers, "wants_native", lambda: request.param == "composed")
    return request.param
