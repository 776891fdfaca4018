"""The benchmark: its parts, and what is left out on a GPU, whose part the CPU takes here."""
import json

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
    assert list(benchmark.engines("relu", F.relu, (1, 2, 3), 1)) == ["relu, nnabla's functions"]
    assert "onnxruntime, openvino: left out" in capsys.readouterr().out


@pytest.mark.usefixtures("gpu")
def test_a_step_is_measured_by_itself(monkeypatch):
    monkeypatch.setattr(benchmark, "STEP_IMAGES", (1, 3, 32, 32))
    rows = benchmark.training_step(1)
    assert list(rows) == ["1 images of 32 x 32, ours"] and min(row["s"] for row in rows.values()) > 0


def test_parts_are_measured_alone(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(benchmark, "IMAGE", (1, 3, 32, 64))
    benchmark.main(["--only", "scene", "--rounds", "1", "-c", "cpu", "-o", str(tmp_path / "numbers.json")])
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert list(numbers) == ["scene"]
    names = {"32 x 64, nnabla's functions", "32 x 64, nnabla", "32 x 64, onnxruntime"}
    assert names <= numbers["scene"].keys() and all(row["s"] > 0 for row in numbers["scene"].values())
    assert "vocals" not in capsys.readouterr().out


def test_an_engine_that_is_not_to_be_had_is_left_out_in_a_line(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "PUBLISHED", benchmark.TINY)
    rows = benchmark.separation(1, {"": {"engine": "nnabla"}, ", --precision bf16": {"precision": "bf16"}})
    assert list(rows) == ["1 s"] and rows["1 s"]["real-time factor"] == rows["1 s"]["s"] > 0
    assert ", --precision bf16: left out: --precision bf16: only openvino computes with it" in capsys.readouterr().out
