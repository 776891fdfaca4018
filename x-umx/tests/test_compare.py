"""The comparison at small scale: its table, and trainings of several seeds."""
import json

import pytest

from common.datasets import musdb18, synthetic_music
from common.workbench.testing import disturbed
from x_umx import compare
from x_umx.model import SOURCES

pytestmark = pytest.mark.usefixtures("cache", "own_folder", "no_drawing")


def scores(*values):
    return dict(zip(SOURCES, values, strict=True))


def test_the_table_has_means_and_the_deviation_of_a_training():
    table = compare.format_table({"mixture": [scores(1, 2, 3, 4)],
                                  "X-UMX": [scores(1, 2, 3, 6), scores(3, 2, 3, 8)]}, SOURCES)
    assert table.splitlines()[1].split() == ["mixture", "1.00", "2.00", "3.00", "4.00", "2.50"]
    assert table.splitlines()[2].split()[:4] == ["X-UMX", "2.00", "±", "1.41"]
    assert table.splitlines()[2].split()[-3:] == ["3.50", "±", "0.71"]


def test_x_umx_is_compared_with_the_others_seed_by_seed():
    text = compare.format_differences({
        "mixture": [scores(0, 0, 0, 0)], "UMX": [scores(1, 2, 3, 4), scores(1, 1, 1, 1)],
        "X-UMX": [scores(2, 3, 4, 5), scores(3, 3, 3, 3)]})
    lines = [f"{name}, X-UMX - UMX: +1.50 ± 6.35 dB (95 % confidence), pair by pair +1.00 +2.00"
             for name in (*SOURCES, "mean")]
    assert text.splitlines() == lines


FEW = ("--seeds", "2", "--variants", "xumx", "--samples-per-track", "8", "--epochs", "1", "-c", "cpu")


@pytest.fixture(autouse=True)
def short_songs(monkeypatch):
    monkeypatch.setattr(musdb18, "_computed", lambda root, split, rate: synthetic_music.make_tracks(
        split, num=1, duration=1.5, sample_rate=rate))


def test_each_seed_is_a_training_of_its_own(run_main, own_folder):
    code, out, err = run_main(compare.main, *FEW)
    assert code == 0, err
    found = json.loads((own_folder / "compare/result.json").read_text())
    first, second = found["X-UMX"]
    assert first.keys() == second.keys() == set(SOURCES) and first != second
    assert "±" in out.splitlines()[-1]
    assert [json.loads((own_folder / f"compare/xumx-{seed}/config.json").read_text())["seed"] for seed in (42, 43)] == [
        42, 43]


def test_a_comparison_that_was_interrupted_goes_on_to_the_same_numbers(run_main, own_folder):
    assert run_main(compare.main, *FEW, "-o", "quiet")[0] == 0
    with disturbed(compare, "train_variant", 2, KeyboardInterrupt()):
        assert run_main(compare.main, *FEW, "-o", "stopped")[0] == 130
    expected = json.loads((own_folder / "quiet/result.json").read_text())
    assert len(expected["X-UMX"]) == 2
    assert json.loads((own_folder / "stopped/result.json").read_text())["X-UMX"] == expected["X-UMX"][:1]
    assert run_main(compare.main, *FEW, "-o", "stopped")[0] == 2
    assert run_main(compare.main, *FEW, "-o", "stopped", "--resume")[0] == 0
    assert json.loads((own_folder / "stopped/result.json").read_text()) == expected
