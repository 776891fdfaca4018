"""The benchmark: the search, a dry run on a CPU from end to end, the published points, and what is refused."""
import json

import nnabla as nn
import pytest

from common.machine.context import use_context
from common.workbench.testing import assert_one_line, rows_of
from out_of_core_training import benchmark, models
from out_of_core_training.comparison import figure
from out_of_core_training.comparison.search import largest
from out_of_core_training.comparison.trial import Trial, run_trial
from out_of_core_training.planner import plan

SMALL = ("--image-size", 32, "--width", 0.125, "-c", "cpu")


@pytest.mark.parametrize("first", [1, 3, 64])
@pytest.mark.parametrize("limit", [0, 1, 2, 37, 63, 64, 100])
def test_the_search_finds_the_largest(first, limit):
    asked = []

    def works(number):
        asked.append(number)
        return number <= limit

    assert largest(works, first, limit=100) == limit
    assert len(asked) == len(set(asked)) <= 14
    assert max(asked) <= 100


@pytest.mark.parametrize("first", [1, 90, 100, 1000, 4000])
@pytest.mark.parametrize("limit", [0, 1, 20, 95, 97, 1000, 4000])
def test_the_search_stops_near_the_limit(first, limit):
    found = largest(lambda number: number <= limit, first, 4000, share=0.03)
    assert limit / 1.04 - 1 <= found <= limit


def test_the_search_needs_few_tries_from_a_good_guess():
    asked = []
    largest(lambda number: asked.append(number) or number <= 810, 830, 4096, share=0.03)
    assert len(asked) <= 4


def test_the_expected_batch_is_the_planners():
    setting = benchmark.Setting(memory="8MB", image_size="32", width=0.125, recompute="none", context="cpu",
                                device_id="0")
    use_context("cpu")
    for mode in figure.MODES:
        assert abs(benchmark.expected_batch(setting, "resnet50", mode)
                   - largest(lambda batch, mode=mode: setting.attempt("resnet50", mode, batch).fits)) <= 1


def test_batches_to_measure():
    assert benchmark.batches_up_to(11) == [1, 2, 4, 8, 11]
    assert benchmark.batches_up_to(0) == []


def test_published_points():
    counts = {network: [len(figure.PUBLISHED[network][mode]) for mode in figure.MODES] for network in figure.PUBLISHED}
    assert counts == {"densenet121": [6, 10, 16], "pix2pixhd": [2, 5, 8], "deeplabv3plus": [3, 7, 9]}
    ratios = {network: max(curves["virtual"]) / max(curves["in-core"]) for network, curves in figure.PUBLISHED.items()}
    assert ratios == pytest.approx({"densenet121": 2.25, "pix2pixhd": 7, "deeplabv3plus": 10.7}, abs=0.05)


@pytest.fixture
def in_this_process(monkeypatch):
    """Starting processes takes seconds each."""
    def attempt(setting, network, mode, batch, iterations=0):
        nn.clear_parameters()
        use_context("cpu")
        return run_trial(Trial(network=network, mode=mode, batch_size=batch, iterations=iterations,
                               memory=setting.memory, image_size=setting.image_size, width=setting.width))
    monkeypatch.setattr(benchmark.Setting, "attempt", attempt)


@pytest.mark.slow
def test_a_dry_run(run_main, in_this_process, tmp_path):
    status, out, err = run_main(benchmark.main, "resnet50", *SMALL, "--memory", "8MB", "--iterations", 1,
                                "-o", tmp_path)
    assert status == 0, err
    assert "dry run" in out
    results = json.loads((tmp_path / "benchmark.json").read_text())
    assert results["dry_run"]
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    for mode in ("in-core", "scheduler"):    # what the search found is the last batch that fits
        needs = []
        for batch in (results["largest_batch"]["resnet50"][mode] + more for more in (0, 1)):
            nn.clear_parameters()
            network = models.build("resnet50", batch, 32, width=0.125)
            needed = plan(network.steps, network.typed_inputs)
            needs.append(needed.in_core_bytes if mode == "in-core" else needed.minimum_budget)
        assert needs[0] <= 8e6 < needs[1]
    largest_batch = results["largest_batch"]["resnet50"]
    assert largest_batch["in-core"] < largest_batch["scheduler"] == largest_batch["virtual"]
    rows = rows_of(tmp_path / "benchmark.csv")
    assert [(row["mode"], int(row["batch_size"])) for row in rows] == [
        (mode, batch) for mode in figure.MODES for batch in benchmark.batches_up_to(largest_batch[mode])]
    assert all(float(row["images_per_second"]) > 0 for row in rows)


def test_batches_that_are_given_are_measured_up_to_the_first_that_does_not_fit(run_main, in_this_process, tmp_path):
    status, out, err = run_main(benchmark.main, "resnet50", *SMALL, "--memory", "8MB", "--iterations", 1, "--modes",
                                "in-core", "--batches", 2000, 1, 1000, "-o", tmp_path)
    assert status == 0, err
    assert "batch 1000: needs" in out and "batch 2000" not in out
    assert json.loads((tmp_path / "benchmark.json").read_text())["largest_batch"] == {"resnet50": {"in-core": 1}}
    assert [row["batch_size"] for row in rows_of(tmp_path / "benchmark.csv")] == ["1"]


def test_a_try_in_a_process_of_its_own():
    setting = benchmark.Setting(memory="8MB", image_size="32", width=0.125, recompute="none", context="cpu",
                                device_id="0")
    assert (setting.attempt("resnet50", "scheduler", 1, iterations=1).seconds or 0) > 0
    assert "needs" in (setting.attempt("resnet50", "in-core", 1000).reason or "")


@pytest.mark.parametrize("flags, words", [
    (("resnet51", "--memory", "1GB"), ("resnet51", "densenet121")), (("resnet50",), ("--memory",)),
    (("resnet50", "--memory", "much"), ("much",)), (("resnet50", "--memory", "0"), ("0",)),
    (("pix2pixhd", "--memory", "1GB", "--image-size", "100"), ("100", "multiple of 32")),
    (("resnet50", "--memory", "1GB", "--width", "0"), ("width",)), (("resnet50", "--batches", "0"), ("'0'",))])
def test_bad_input_is_one_line(flags, words, run_main, tmp_path):
    result = run_main(benchmark.main, *flags, "-c", "cpu", "-o", tmp_path / "results")
    assert_one_line(result, 2, *words)
    assert not (tmp_path / "results").exists()


def test_former_results_are_replaced_only_if_asked_to(run_main, tmp_path):
    (tmp_path / benchmark.RESULTS).write_text("of hours on a GPU")
    flags = ("resnet50", *SMALL, "--memory", "8MB", "--batches", "1", "--iterations", 1, "--modes", "in-core",
             "-c", "cpu", "-o", tmp_path)
    assert_one_line(run_main(benchmark.main, *flags), 2, str(tmp_path), "--overwrite")
    assert (tmp_path / benchmark.RESULTS).read_text() == "of hours on a GPU"
    assert run_main(benchmark.main, *flags, "--overwrite")[0] == 0
    assert json.loads((tmp_path / benchmark.RESULTS).read_text())["dry_run"]
