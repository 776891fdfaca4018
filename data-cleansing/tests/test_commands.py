"""The commands: what they write, how they go on after an interrupt, and what they say to bad input."""
import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.machine.errors import UsageError
from common.machine.files import make_folder, write_text
from common.runs.config import find_cfg, load_section, section_names
from common.workbench.pages import Page
from common.workbench.testing import content, disturbed, rows_of, script_of
from data_cleansing import cleanse, compare_lists, eval, report, score, train, trial
from data_cleansing.command_line import read_experiment
from data_cleansing.config import Config
from data_cleansing.data.sets import load_data
from data_cleansing.influence import METHODS, walk
from data_cleansing.results.cleaned_lists import read_cleaned
from data_cleansing.results.html_report import cache_sizes
from data_cleansing.results.run_folder import open_run, read_config
from data_cleansing.results.score_files import SIGN, influence_path, read_influence
from data_cleansing.training.parameters import ParameterCache
from data_cleansing.training.record import published_record
from data_cleansing.training.trainer import Trainer

SHORT = ("--side", "8", "--width", "0.1", "-e", "2", "--batch-size", "8", "-nt", "2", "-r", "0", "2", "5",
         "--methods", "final", "--folds", "2", "-c", "cpu")
SINGLE = (*SHORT, "-nt", "1", "-r", "2")
SCRIPT = script_of(cleanse)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with three classes of 14 coloured pictures of 10x12 pixels."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number, name in enumerate(("apple", "<b>plum", "pear")):
        (folder / name).mkdir()
        for k in range(14):
            pixels = rng.integers(0, 120, (12, 10, 3))
            pixels[..., number] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{k:02d}.png")
    return folder


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    """A finished run of cleanse.py with planted errors."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    cleanse.main(["--data-dir", str(pictures), "-o", str(folder), "--flip-labels", "0.2", *SHORT])
    return folder


@pytest.fixture(scope="module")
def single(pictures, tmp_path_factory):
    """A finished run of one trial, to compare with."""
    folder = tmp_path_factory.mktemp("single") / "run"
    cleanse.main(["--data-dir", str(pictures), "-o", str(folder), *SINGLE])
    return folder


@pytest.fixture
def command(run_main):
    """Run a script in this process; returns its exit status, stdout and stderr."""
    return lambda script, *argv: run_main(script.main, *argv)


@pytest.fixture
def refused(command):
    """Run a script that must fail with one line; returns its status and that line."""
    def run(script, *argv):
        status, _, err = command(script, *argv)
        lines = [line for line in err.splitlines() if not line.startswith("warning:")]
        assert status in (1, 2) and len(lines) == 1 and lines[0].startswith("error: "), (status, err)
        return status, lines[0]
    return run


def test_files_have_the_published_names_and_columns(finished):
    table = rows_of(finished / "influence" / "Ours" / "influence_ours_1.csv")
    assert list(table[0]) == ["x:image", "y:label", "influence", "datasource_index"]
    influence = [float(row["influence"]) for row in table]
    assert influence == sorted(influence)
    assert sorted(int(row["datasource_index"]) for row in table) == list(range(28))
    measures = rows_of(finished / "score" / "Random" / "score_delete_worst_5_seed_1.csv")
    assert list(measures[0]) == ["val_loss", "test_loss", "val_accuracy", "test_accuracy"] and len(measures) == 1
    summary = rows_of(finished / "summary" / "summary.csv")
    assert list(summary[0])[:3] == ["method", "seed", "n_drops"]
    assert {(row["method"], row["seed"], row["n_drops"]) for row in summary} == {
        (method, seed, n) for method in ("Ours", "Loss", "Random", "No Removal") for seed in ("0", "1", "mean", "std")
        for n in ("0", "2", "5") if method == "No Removal" or n != "0"}
    assert (finished / "fig" / "result.png").read_bytes().startswith(b"\x89PNG")


def test_means_of_the_summary(finished):
    summary = rows_of(finished / "summary" / "summary.csv")
    chosen = {row["seed"]: float(row["test_loss"]) for row in summary
              if row["method"] == "Ours" and row["n_drops"] == "5"}
    values = [chosen["0"], chosen["1"]]
    assert chosen["mean"] == pytest.approx(np.mean(values)) and chosen["std"] == pytest.approx(np.std(values, ddof=1))


def test_paths_in_lists_lead_to_the_images(finished):
    for path in (finished / "influence" / "Ours" / "influence_ours_0.csv", finished / "cleaned" / "cleaned_0.csv"):
        for row in rows_of(path):
            assert (path.parent / row["x:image"]).is_file() and not row["x:image"].startswith("/")


def test_the_cleaned_list_marks_as_many_labels_as_are_estimated_to_be_wrong(finished):
    estimates = rows_of(finished / "cleaned" / "estimates.csv")
    assert [row["seed"] for row in estimates] == ["0", "1"]
    for estimate in estimates:
        table = rows_of(finished / "cleaned" / f"cleaned_{estimate['seed']}.csv")
        suspects = [row for row in table if row["suggested_label"]]
        assert len(suspects) == int(estimate["estimated_wrong"]) == int(estimate["label"])
        assert sorted(int(row["rank"]) for row in suspects) == list(range(1, len(suspects) + 1))
        assert sorted(int(row["rank"]) for row in table) == list(range(1, 29))
        assert all(row["suggested_label"] != row["y:label"] and row["action"] == "look at" and row["reason"]
                   for row in suspects)
        assert sum(row["action"] == "look at" for row in table) == int(estimate["look_at"])
        joint = rows_of(finished / "cleaned" / f"joint_{estimate['seed']}.csv")
        right = sum(float(row[row["given label"]]) for row in joint)
        assert round(28 - right) == len(suspects)


def test_one_list_has_the_images_of_all_trials(pictures, tmp_path_factory, command):
    folder = tmp_path_factory.mktemp("merged") / "run"
    assert command(cleanse, "--data-dir", pictures, "-o", folder, *SHORT, "-r", "2")[0] == 0
    table, parts = rows_of(folder / "cleaned" / "cleaned.csv"), [read_cleaned(folder, seed) for seed in (0, 1)]
    by_path = {row["x:image"]: row for row in table}
    assert len(by_path) == len(table) and set(by_path) == {row["x:image"] for part in parts for row in part}
    assert [int(row["rank"]) for row in table] == list(range(1, len(table) + 1))
    both = {row["x:image"] for row in parts[0]} & {row["x:image"] for row in parts[1]}
    assert both
    for path in both:
        of_each = [float(row["self_confidence"]) for part in parts for row in part if row["x:image"] == path]
        assert float(by_path[path]["self_confidence"]) == pytest.approx(np.mean(of_each), abs=2e-6)
        assert (folder / "cleaned" / path).is_file()
    assert [row["seed"] for row in rows_of(folder / "cleaned" / "estimates.csv")] == ["0", "1", "all"]
    page = Page(folder / "report.html").data
    scores = [{row["x:image"]: float(row["influence"]) for row in part} for part in parts]
    assert (page["list"], page["file"]) == ("all 2 trials", "marks.csv") and len(page["images"]) == len(table)
    for image in page["images"]:
        row = by_path[f"../{image['path']}"]
        assert str(image["row"]) == row["datasource_index"] and image["reason"] == row["reason"]
        of_each = [part[row["x:image"]] for part in scores if row["x:image"] in part]
        assert image["scores"][page["methods"].index("final")] == pytest.approx(np.mean(of_each), rel=1e-3)


def test_lists_are_compared_where_wrong_labels_were_planted(finished, tmp_path, command):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    status, out, err = command(compare_lists, folder, "-c", "cpu")
    assert (status, err) == (0, "")
    assert ("cleanlab is not installed" in out) == (importlib.util.find_spec("cleanlab") is None)
    rows = {(row["list"], row["seed"]): row for row in rows_of(folder / "list_comparison.csv")}
    assert {(name, seed) for name in ("cleanse.py", "its probabilities alone", "final", "loss", "random")
            for seed in "01"} <= set(rows)
    wrong = load_data(read_config(folder), 1)[3]
    table = read_cleaned(folder, 1)
    marked = np.array([row["suggested_label"] != "" for row in table])
    first = np.argsort([int(row["rank"]) for row in table])[:50]
    row = rows["cleanse.py", "1"]
    assert (int(row["wrong"]), int(row["marked"])) == (6, marked.sum())
    assert float(row["recall"]) == pytest.approx(marked[wrong].mean())
    assert float(row["precision"]) == pytest.approx(wrong[marked].mean())
    assert float(row["precision_at_50"]) == pytest.approx(wrong[first].mean())
    assert all(rows[name, "1"]["marked"] == row["marked"] for name in ("its probabilities alone", "final", "random"))


def test_without_wrong_labels_there_is_nothing_to_compare(single, refused):
    status, line = refused(compare_lists, single)
    assert status == 2 and "no labels were made wrong" in line and "--flip-labels" in line


def test_lists_keep_the_columns_of_influence_files(finished):
    table = rows_of(finished / "cleaned" / "cleaned_1.csv")
    scores = rows_of(finished / "influence" / "Ours" / "influence_ours_1.csv")
    by_row = {row["datasource_index"]: row["influence"] for row in scores}
    assert list(table[0])[:5] == [*scores[0], "action"]
    assert [row["datasource_index"] for row in table] == [str(k) for k in range(28)]
    assert all(row["influence"] == by_row[row["datasource_index"]] for row in table)


def test_a_judgement_of_other_settings_is_not_mixed(finished, tmp_path, refused):
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"folds": 3}))
    status, line = refused(report, tmp_path / "run")
    assert status == 2 and "was judged with folds = 2, not 3" in line


def test_a_damaged_judgement_is_told(finished, tmp_path, refused):
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "training" / "seed_00" / "folds" / "fold_1.npz"
    path.write_bytes(path.read_bytes()[:200])
    assert "fold_1.npz" in refused(report, tmp_path / "run")[1]


def test_planted_errors_are_measured(finished):
    table = rows_of(finished / "detection.csv")
    assert {(row["method"], row["seed"]) for row in table} == {
        (method, seed) for method in ("final", "loss", "random") for seed in "01"}
    assert all(row["wrong"] == "6" and 0 <= float(row["auc"]) <= 1 for row in table)


def test_the_report_needs_nothing_else(finished):
    page = Page(finished / "report.html")
    page.assert_whole(num_scripts=2)
    assert page.addresses() == [] and SIGN in page.source
    assert "<b>plum" not in page.source and "<b>plum" in page.data["classes"]
    estimates = rows_of(finished / "cleaned" / "estimates.csv")[0]
    assert len(page.data["groups"]["to look at"]) == int(estimates["look_at"])
    assert {name: len(rows) for name, rows in page.data["groups"].items() if name != "to look at"} == {
        "worst by final": 24, "best by final": 24, "worst by loss": 24, "best by loss": 24}


def test_the_report_says_of_an_image_what_the_lists_say(finished):
    page = Page(finished / "report.html")
    rows = {int(row["datasource_index"]): row for row in rows_of(finished / "cleaned" / "cleaned_0.csv")}
    scores = read_influence(influence_path(finished, "final", 0), 28)
    for image in page.data["images"]:
        row = rows[image["row"]]
        assert page.data["classes"][image["label"]] == row["y:label"] and str(image["rank"]) == row["rank"]
        suggested = "" if image["suggested"] is None else page.data["classes"][image["suggested"]]
        assert suggested == row["suggested_label"] and image["reason"] == row["reason"]
        assert image["scores"][page.data["methods"].index("final")] == pytest.approx(scores[image["row"]], rel=1e-3)
        assert (finished / image["path"]).is_file()
    assert len({image["row"] for image in page.data["images"]}) == len(page.data["images"])


def test_the_report_says_how_the_stages_were_run_whatever_the_configuration_says(pictures, tmp_path, command):
    train.main(["--data-dir", str(pictures), "-o", str(tmp_path), *SINGLE, "--methods", "every_step", "-c", "cpu"])
    for script, flags in ((score, ("--methods", "final", "--published")), (eval, ("-ra",)), (report, ())):
        status, _, err = command(script, tmp_path, "-c", "cpu", *flags)
        assert (status, err) == (0, "")
    page = Page(tmp_path / "report.html")
    assert "trials 1, scored as published final." in page.source and "After training all epochs again" in page.source
    row = rows_of(tmp_path / "cleaned" / "cleaned_0.csv")[5]
    assert float(row["influence"]) == read_influence(influence_path(tmp_path, "final", 0))[5]


def test_the_number_of_images_bounds_the_report(finished, command, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    command(report, tmp_path / "run", "--num-images", 2)
    groups = Page(tmp_path / "run" / "report.html").data["groups"]
    assert len(groups.pop("to look at")) <= 20 and {len(rows) for rows in groups.values()} == {2}


def test_sizes_of_the_caches(finished):
    sizes = [int(row["bytes"]) for row in rows_of(finished / "cache.csv")]
    assert sizes[0] == 2 * sizes[1] == 2 * 4 * sizes[2]    # 28 images in batches of 8, two epochs
    assert sizes[3] > 3 * sizes[2]


@pytest.mark.parametrize("images, parameters, share, final, every_step, everything", [
    (50000, 307818, "1/1,563", 1231272, 1.932e9, 40e9),    # MNIST
    (40000, 308394, "1/1,250", 1233576, 1.5e9, 30e9),    # CIFAR-10
])
def test_sizes_of_the_paper(images, parameters, share, final, every_step, everything):
    record = published_record(images, epochs=20, batch_size=32, learning_rate=0.05)
    sizes = {name: (what, size) for name, what, size in cache_sizes(parameters, record)}
    assert sizes["final"] == (f"the final ones: {share} of every_step", final)
    # It counts the files, with their headers, and rounds them for CIFAR-10.
    assert sizes["every_step"][1] == pytest.approx(every_step, rel=0.005 if images == 50000 else 0.05)
    assert sizes["all parameters"][1] == pytest.approx(everything, rel=0.05)


def test_stages_one_by_one_give_the_same_files(single, pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages") / "run"
    train.main(["--data-dir", str(pictures), "-o", str(folder), *SINGLE])
    for script in (score, eval, report):
        script.main([str(folder), "-c", "cpu"])
    assert content(folder) == content(single)


@pytest.mark.parametrize("owner, name, call", [
    (Trainer, "step", 6), (Trainer, "step", 10), (walk, "score_step", 3), (trial, "write_csv", 4),
    (ParameterCache, "store", 2)])
def test_an_interrupted_run_goes_on_to_the_same_bits(pictures, single, tmp_path_factory, command, owner, name, call):
    folder = tmp_path_factory.mktemp("again") / "run"    # lists hold paths from there, so it must be as deep
    argv = ["--data-dir", pictures, "-o", folder, *SINGLE]
    with disturbed(owner, name, call, KeyboardInterrupt()):
        assert command(cleanse, *argv)[0] == 130
    status, _, err = command(cleanse, *argv, "--resume")
    assert status == 0, err
    assert content(folder) == content(single)


def test_a_killed_process_goes_on_to_the_same_bits(pictures, single, tmp_path_factory, command):
    folder = tmp_path_factory.mktemp("killed") / "run"
    argv = ["--data-dir", str(pictures), "-o", str(folder), *SINGLE]
    process = subprocess.Popen([sys.executable, str(SCRIPT), *argv], stdout=subprocess.DEVNULL)
    while process.poll() is None and not (folder / "training" / "seed_00" / "log.csv").exists():
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert command(cleanse, *argv, "--resume")[0] == 0
    assert content(folder) == content(single)


def test_a_process_killed_right_after_its_scores_leaves_no_state_for_good(single, tmp_path_factory, command):
    folder = Path(shutil.copytree(single, tmp_path_factory.mktemp("scored") / "run"))
    (folder / "influence" / METHODS["final"].folder / "state_0.npz").touch()
    status, out, err = command(score, folder, "-c", "cpu")
    assert (status, err) == (0, "") and "there already" in out
    assert content(folder) == content(single)


def test_scores_are_followed_by_how_well_they_find_planted_errors(finished, single, tmp_path, command):
    shutil.copytree(finished, tmp_path / "run")
    out = command(score, tmp_path / "run", "-c", "cpu")[1]
    header, *rows = [line.split() for line in out.partition("flipped labels found:")[2].splitlines()]
    assert header[-3:] == ["precision", "at", "wrong"]
    for method, area, *_ in rows[:-1]:
        areas = [float(row["auc"]) for row in rows_of(finished / "detection.csv") if row["method"] == method]
        assert areas and float(area) == pytest.approx(np.mean(areas), abs=6e-4)
    assert "flipped labels" not in command(score, single, "-c", "cpu")[1]


@pytest.mark.slow
def test_trials_in_processes_of_their_own_give_the_same_files(finished, pictures, tmp_path_factory, command):
    folder = tmp_path_factory.mktemp("jobs") / "run"
    status, _, err = command(cleanse, "--data-dir", pictures, "-o", folder, "--flip-labels", "0.2", *SHORT, "--jobs", 2)
    assert status == 0, err
    before, now = content(finished), content(folder)
    assert now.pop("config.json") != before.pop("config.json") and now == before


def _warn(trial):
    warnings.warn("u grew", RuntimeWarning, stacklevel=1)


def test_a_warning_is_one_line(pictures, tmp_path, capsys):
    cfg = Config(dataset="files", data_dir=str(pictures), side=8, width=0.1, n_epochs=1, n_trials=2)
    trial.run_trials(cfg, tmp_path / "run", lambda: None, _warn)
    assert capsys.readouterr().err == "warning: seed 0: u grew\nwarning: seed 1: u grew\n"


def test_an_error_in_a_process_is_one_line(finished, tmp_path, refused):
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"jobs": 2}))
    for final in (tmp_path / "run" / "training").glob("*/final_model.h5"):
        final.unlink()
    assert "not trained to the end" in refused(score, tmp_path / "run")[1]


def test_a_finished_run_is_extended(finished, pictures, tmp_path, command):
    shutil.copytree(finished, tmp_path / "run")
    before = content(tmp_path / "run" / "training")
    status, out, err = command(cleanse, "--data-dir", pictures, "-o", tmp_path / "run", "--flip-labels", "0.2", *SHORT,
                               "--methods", "final", "koh_liang", "-r", "3", "1000", "--resume")
    assert status == 0, err
    assert "1000 images cannot be removed from 28: skipped" in out
    assert (tmp_path / "run" / "score" / "Influence_functions" / "score_delete_worst_3_seed_1.csv").exists()
    assert content(tmp_path / "run" / "training") == before


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_in_both_ways(finished, tmp_path, command, method):
    shutil.copytree(finished, tmp_path / "run")
    scores = []
    for flag in ("false", "true"):
        status, out, err = command(score, tmp_path / "run", "--methods", method, "--published", flag, "--overwrite")
        assert status == 0, err
        assert SIGN in out
        scores.append(read_influence(influence_path(tmp_path / "run", method, 0), 28))
    same = np.array_equal(*scores)
    assert same == (method in ("loss", "random"))


def test_retraining_everything_measures_each_epoch(finished, tmp_path, command):
    shutil.copytree(finished, tmp_path / "run")
    status, line = command(eval, tmp_path / "run", "-ra")[::2]
    assert status == 2 and "retrain_all" in line
    assert command(eval, tmp_path / "run", "-ra", "-r", "2", "--overwrite")[0] == 0
    assert len(rows_of(tmp_path / "run" / "score" / "Ours" / "score_delete_worst_2_seed_0.csv")) == 2


def test_scores_of_other_settings_are_not_mixed(finished, refused):
    status, line = refused(score, finished, "--published")
    assert status == 2 and "was scored with published = False, not True" in line


@pytest.mark.parametrize("changed, says", [
    (("-e", "3"), "n_epochs = 2, not 3"), (("--width", "0.2"), "width = 0.1, not 0.2")])
def test_resume_refuses_another_configuration(finished, pictures, refused, changed, says):
    status, line = refused(cleanse, "--data-dir", pictures, "-o", finished, "--flip-labels", "0.2", *SHORT, *changed,
                           "--resume")
    assert status == 2 and says in line


def test_mpirun_is_refused(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="--jobs"):
        cleanse.main(["--data-dir", str(pictures), "-o", str(tmp_path / "run"), *SINGLE])
    assert not (tmp_path / "run").exists()


def test_an_older_run_is_kept(finished, pictures, refused):
    before = content(finished)
    status, line = refused(cleanse, "--data-dir", pictures, "-o", finished, *SHORT)
    assert status == 2 and "holds a run already" in line and "--overwrite" in line
    assert content(finished) == before


def test_overwrite_starts_anew_and_leaves_other_files(finished, pictures, tmp_path, command):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert command(train, "--data-dir", pictures, "-o", tmp_path / "run", *SHORT, "--overwrite")[0] == 0
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "notes.txt", "training"]


def test_a_kill_while_a_run_is_overwritten_leaves_it_whole_or_gone(tmp_path, monkeypatch):
    """Parts of it would be taken for results of the new run when that is resumed."""
    def be_killed(folder):
        raise KeyboardInterrupt

    cfg, parts = Config(), ("influence", "score", "training")
    open_run(tmp_path, cfg)
    for name in parts:
        for file in ("settings.json", "scores.csv"):
            write_text(make_folder(tmp_path / name) / file, "")
    for left in (parts[1:], parts[2:], ()):
        with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
            killed.setattr(shutil, "rmtree", be_killed)
            open_run(tmp_path, cfg, overwrite=True)
        assert {name: len(list((tmp_path / name).iterdir())) for name in left} == dict.fromkeys(left, 2)
        assert {path.name for path in tmp_path.iterdir() if path.name[0] != "."} == {*left, "config.json"}
    make_folder(tmp_path / "training")
    open_run(tmp_path, cfg, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("config", [None, "{}", '{"model": "of another program"}', "no JSON"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_of_a_run_is_never_removed(tmp_path, config, overwrite):
    write_text(make_folder(tmp_path / "score") / "of a match.txt", "3:2")
    if config is not None:
        write_text(tmp_path / "config.json", config)
    before = content(tmp_path)
    with pytest.raises(UsageError, match="score: is there already, and .* nothing is removed") as caught:
        open_run(tmp_path, Config(), overwrite=overwrite)
    assert "\n" not in str(caught.value) and content(tmp_path) == before


def test_a_link_to_a_folder_is_removed_and_the_folder_stays(tmp_path):
    write_text(make_folder(tmp_path / "elsewhere") / "a.txt", "mine")
    open_run(tmp_path / "run", Config())
    (tmp_path / "run" / "training").symlink_to(tmp_path / "elsewhere")
    open_run(tmp_path / "run", Config(), overwrite=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]
    assert (tmp_path / "elsewhere" / "a.txt").read_text() == "mine"


def test_a_last_step_that_diverges_is_one_line(tmp_path, refused):
    """No later step tells it."""
    status, line = refused(train, "--dataset", "digits", "--n-train", "8", "--batch-size", "8", "--n-epochs", "1",
                           "--n-trials", "1", "--lr", "1e6", "--augment", "false", "--width", "0.1", "-c", "cpu", "-o",
                           tmp_path / "run")
    assert status == 1 and "the loss is nan on images that are not trained on: lower the learning rate" in line
    assert not list((tmp_path / "run").rglob("final_model.h5"))


def test_all_stages_run_from_another_folder(pictures, single, command, own_folder, monkeypatch):
    shutil.copytree(pictures, own_folder / "fruit")
    assert command(train, "--data-dir", "fruit", "-o", "run", *SINGLE)[0] == 0
    shutil.rmtree(own_folder / "run/training/seed_00/parameters")
    (own_folder / "run/training/seed_00/final_model.h5").unlink()
    (own_folder / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert command(train, "--data-dir", "fruit", "-o", "../run", *SINGLE, "--resume")[0] == 0
    for stage in (score, eval):
        status, _, err = command(stage, "../run", "-c", "cpu")
        assert (status, err) == (0, "")
    scores, expected = (read_influence(influence_path(run, "final", 0), 28) for run in (own_folder / "run", single))
    np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize("key, value, says", [("width", 0.2, "another network"), ("lr", 0.1, "lr = 0.05, not 0.1"),
                                              ("flip_labels", 0.4, "another images|images = ")])
def test_a_cache_of_another_training_is_refused(finished, tmp_path, refused, key, value, says):
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    status, line = refused(score, tmp_path / "run")
    assert status == 2 and re.search(says, line)


def test_stages_ask_for_the_one_before(pictures, tmp_path, refused):
    assert "no config.json there" in refused(score, tmp_path)[1]
    train.main(["--data-dir", str(pictures), "-o", str(tmp_path / "run"), *SHORT])
    assert "run score.py first" in refused(eval, tmp_path / "run")[1]
    assert "run score.py first" in refused(report, tmp_path / "run")[1]
    (tmp_path / "run" / "training" / "seed_01" / "final_model.h5").unlink()
    assert "not trained to the end" in refused(score, tmp_path / "run")[1]


def test_damaged_results_are_told(finished, tmp_path, refused):
    shutil.copytree(finished, tmp_path / "run")
    path = influence_path(tmp_path / "run", "final", 0)
    path.write_text(path.read_text()[:300])
    assert "influence_ours_0.csv, line " in refused(eval, tmp_path / "run", "-r", "1")[1]
    (tmp_path / "run" / "config.json").write_text("{")
    assert "config.json: cannot be read as the configuration of a run" in refused(report, tmp_path / "run")[1]


def write_list(path, rows):
    path.write_text("x:image,y:label\n" + "".join(f"{image},{label}\n" for image, label in rows))
    return path


def test_errors_in_the_data(pictures, tmp_path, refused):
    def says(source, *flags):
        return refused(cleanse, "--data-dir", source, "-o", tmp_path / "run", *SHORT, *flags)[1]

    (tmp_path / "empty").mkdir()
    assert "no folders with images" in says(tmp_path / "empty")
    assert "no such" in says(tmp_path / "missing")
    shutil.copytree(pictures / "pear", tmp_path / "one" / "pear")
    assert "two are needed" in says(tmp_path / "one")
    images = sorted((pictures / "pear").iterdir())
    assert "too few" in says(write_list(tmp_path / "few.csv", [(images[0], 0), (images[1], 1)]))
    assert "no such image" in says(write_list(tmp_path / "gone.csv", [("nowhere.png", 1), (images[1], 0)]))
    assert "none of its 2 images can be read" in says(
        write_list(tmp_path / "gone.csv", [("a.png", 1), ("b.png", 0)]), "--damaged", "skip")
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    assert "first line must have" in says(tmp_path / "wrong.csv")
    assert "not a number of images" in says(pictures, "-r", "few")
    assert "8 at least" in says(pictures, "--side", "4")
    assert "n_train = 100: there are only 28 such images" in says(pictures, "--n-train", "100")
    assert "no section" in refused(cleanse, "NOTHING")[1]
    assert "unrecognized" in refused(cleanse, "--flip", "0.1")[1]


def test_corrupt_images_stop_or_are_counted(pictures, tmp_path, refused, command):
    shutil.copytree(pictures, tmp_path / "data")
    (tmp_path / "data" / "pear" / "00.png").write_bytes(b"no image")
    (tmp_path / "data" / "apple" / "00.png").write_bytes(b"")
    argv = ("--data-dir", tmp_path / "data", "-o", tmp_path / "run", *SHORT)
    assert "not an image" in refused(train, *argv)[1]
    status, _, err = command(train, *argv, "--damaged", "skip", "--overwrite")
    assert status == 0 and err.startswith("warning: 2 images cannot be read and are left out, the first: ")


def test_a_class_of_one_image(pictures, tmp_path, command):
    shutil.copytree(pictures, tmp_path / "data")
    for path in sorted((tmp_path / "data" / "pear").iterdir())[1:]:
        path.unlink()
    assert command(cleanse, "--data-dir", tmp_path / "data", "-o", tmp_path / "run", *SHORT)[0] == 0


@pytest.mark.parametrize("labels", [(3, 12), ("cat", "dog")])
def test_lists_with_numbers_and_names(pictures, tmp_path, command, labels):
    rows = [(path, label) for name, label in zip(("pear", "apple"), labels, strict=True)
            for path in sorted((pictures / name).iterdir())]
    source = write_list(tmp_path / "list.csv", rows)
    assert command(cleanse, "--data-dir", source, "--valid-dir", source, "--test-dir", source, "-o", tmp_path / "run",
                   *SHORT)[0] == 0
    table = rows_of(tmp_path / "run" / "cleaned" / "cleaned_0.csv")
    assert len(table) == 28 and {row["y:label"] for row in table} == {str(label) for label in labels}


@pytest.mark.parametrize("section", section_names(find_cfg("cleansing.cfg", "data_cleansing")))
def test_every_section_is_valid(section):
    assert load_section(Config, find_cfg("cleansing.cfg", "data_cleansing"), section).methods


@pytest.mark.parametrize("values, says", [
    ({"keep_every": 2}, "keep_every = 2 is for keep = last or all, not final"),
    ({"damaged": "skip"}, "files, not cifar10"), ({"feature_values": "unit"}, "is for features"),
    ({"test_dir": "x"}, "files, not cifar10")])
def test_what_would_have_no_effect_is_refused(values, says):
    with pytest.raises(ValueError, match=says):
        Config(**values)


def test_a_data_set_chooses_its_section():
    for argv, name in (([], "CIFAR10"), (["-ds", "mnist"], "MNIST"), (["--data-dir", "x"], "FILES"),
                       (["DIGITS"], "DIGITS")):
        assert read_experiment("", argv).name == name
    cfg = read_experiment("", ["-ra", "-nt", "3", "-e", "4", "-r", "7", "9"]).cfg
    assert (cfg.retrain_all, cfg.n_trials, cfg.n_epochs, cfg.removals) == (True, 3, 4, [0, 7, 9])
