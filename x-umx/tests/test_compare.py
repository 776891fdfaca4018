"""The comparison at small scale: its table, and trainings of several seeds."""
import json

import pytest

from common.datasets import musdb18, synthetic_music
from x_umx import compare
from x_umx.model import SOURCES

pytestmark = pytest.mark.usefixtures("cache", "own_folder", "no_drawing")


def scores(*values):
    return dict(zip(SOURCES, values, strict=True))


def test_the_table_has_means_and_the_deviation_of_a_training():
    table = compare.format_table({"mixture": [scores(1, 2, 3, 4)],
                                  "X-UMX": [scores(1, 2, 3, 6), scores(3, 2, 3, 8)]}, SOURCES)
    assert table.splitlines()[1].split() == ["mixture", "1.00", "2.00", "3.00", "4.00", "2.50"]
    assert table.splitlines()[2].split()[:4] == ["X-UMX", "2.00", "+-", "1.41"]
    assert table.splitlines()[2].split()[-3:] == ["3.50", "+-", "0.71"]


def test_each_seed_is_a_training_of_its_own(monkeypatch, run_main, own_folder):
    monkeypatch.setattr(musdb18, "_computed", lambda root, split, rate: synthetic_music.make_tracks(
        split, num=1, duration=1.5, sample_rate=rate))
    code, out, err = run_main(compare.main, "--seeds", "2", "--variants", "xumx", "--samples-per-track", "8",
                              "--epochs", "1", "-c", "cpu")
    assert code == 0, err
    found = json.loads((own_folder / "compare/result.json").read_text())
    first, second = found["X-UMX"]
    assert first.keys() == second.keys() == set(SOURCES) and first != second
    assert "+-" in out.splitlines()[-1]
    assert [json.loads((own_folder / f"compare/xumx-{seed}/config.json").read_text())["seed"] for seed in (42, 43)] == [
        42, 43]
