"""The benchmark on a GPU: what computes on the CPU alone is left out. Here the CPU takes the GPU's part."""
import nnabla.functions as F
import pytest

from common.machine import context
from d3net import benchmark


@pytest.fixture
def gpu(monkeypatch):
    context.use_context("cpu")
    monkeypatch.setattr(context, "on_gpu", lambda: True)
    monkeypatch.setattr(benchmark, "on_gpu", lambda: True)


@pytest.mark.usefixtures("gpu")
def test_only_nnabla_computes(capsys):
    assert list(benchmark.engines(F.relu, (1, 2, 3), 1)) == ["nnabla's functions"]
    assert "onnxruntime, openvino: left out" in capsys.readouterr().out


@pytest.mark.usefixtures("gpu")
def test_a_step_is_measured_by_itself(monkeypatch):
    monkeypatch.setattr(benchmark, "STEP_IMAGES", (1, 3, 32, 32))
    rows = benchmark.training_step(1)
    assert list(rows) == ["ours"] and rows["ours"]["s"] > 0
