"""The benchmark on a GPU: what computes on the CPU alone is left out. Here the CPU takes the GPU's part."""
import functools

import pytest

from common.layers import recurrent
from common.machine import context
from x_umx import benchmark
from x_umx.config import Config


@pytest.fixture
def gpu(monkeypatch):
    """Graphs are built as on a GPU whose cuDNN has no LSTM, and are small."""
    context.use_context("cpu")
    monkeypatch.setattr(context, "on_gpu", lambda: True)
    monkeypatch.setattr(benchmark, "on_gpu", lambda: True)
    monkeypatch.setattr(recurrent, "_cudnn_has_lstm", lambda: False)
    monkeypatch.setattr(benchmark, "LSTM_SHAPE", (2, 1, 8))
    monkeypatch.setattr(benchmark, "TRAIN_BATCH", 1)
    monkeypatch.setattr(benchmark, "TRAIN_SECONDS", 0.1)
    monkeypatch.setattr(benchmark, "Config", functools.partial(Config, hidden_size=16, nfft=256, nhop=64))


@pytest.mark.usefixtures("gpu")
def test_layers_and_steps_are_measured_by_themselves(capsys):
    both = {f"{what}{by}" for what in ("training", "inference") for by in ("", ", nnabla's functions")}
    assert benchmark.lstm_times(1).keys() == both
    assert list(benchmark.step_times(1)) == ["batch 1 of 0.1 s, ours"]
    assert capsys.readouterr().out.count("left out") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("gpu")
def test_only_nnabla_separates(capsys):
    rows = benchmark.separation(1, 1)
    assert list(rows) == ["1 s, nnabla"] and rows["1 s, nnabla"]["s"] > 0
    assert "onnxruntime: left out" in capsys.readouterr().out
