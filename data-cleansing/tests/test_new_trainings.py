"""Removal judged by new trainings: pairs, what is resumed, and both protocols side by side."""
import itertools
import json
import shutil

import nnabla as nn
import numpy as np
import pytest

from common.machine.errors import UserError
from common.machine.files import make_folder, write_csv
from common.workbench.testing import content, disturbed, rows_of
from data_cleansing import eval, new_trainings, planted_noise, score, train
from data_cleansing.config import Config
from data_cleansing.new_trainings import num_measured, train_anew
from data_cleansing.results import paired
from data_cleansing.results.accuracy import NONE
from data_cleansing.results.paired import NEW, REPLAY, compare, pairs_of
from data_cleansing.results.score_files import MEASURES, new_training_path
from data_cleansing.training.record import NOT_AUGMENTED, new_record, published_record
from data_cleansing.training.trainer import Trainer
from data_cleansing.trial import Trial

SMALL = ("--dataset", "digits", "--side", "8", "--width", "0.1", "-e", "2", "--batch-size", "16", "-nt", "2",
         "--n-train", "48", "--n-valid", "16", "--n-test", "40", "--jobs", "1", "-c", "cpu", "--methods", "loss",
         "-r", "5")
JUDGE = ("--new-trainings", "2", "-c", "cpu")


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A run that was trained and scored."""
    folder = tmp_path_factory.mktemp("scored") / "run"
    train.main([*SMALL, "-o", str(folder)])
    score.main([str(folder), "-c", "cpu"])
    return folder


@pytest.fixture(scope="module")
def judged(scored, tmp_path_factory):
    """That run, its removals judged by new trainings, too."""
    folder = shutil.copytree(scored, tmp_path_factory.mktemp("judged") / "run")
    eval.main([str(folder), *JUDGE])
    return folder


@pytest.fixture
def run(scored, tmp_path):
    """A copy of that run, to be judged."""
    return shutil.copytree(scored, tmp_path / "run")


@pytest.fixture
def command(run_main):
    """Run a script in this process; returns its exit status, stdout and stderr."""
    return lambda script, *argv: run_main(script.main, *argv)


@pytest.fixture
def trial(tmp_path):
    cfg = Config(dataset="digits", side=8, width=0.1, n_epochs=3, batch_size=16, n_train=60, n_valid=30, n_test=60)
    return Trial(cfg, tmp_path / "run", seed=1)


def parameters():
    return {name: parameter.d.copy() for name, parameter in nn.get_parameters(grad_only=False).items()}


def test_trainings_of_one_number_are_pairs(trial):
    """Nothing removed: the same bits, whatever was trained before; another number: other first values and order."""
    rows, before = train_anew(trial, 0), parameters()
    train_anew(trial, 0, {1, 5})
    assert train_anew(trial, 0, frozenset()) == rows
    for name, values in parameters().items():
        np.testing.assert_array_equal(values, before[name])
    assert train_anew(trial, 1) != rows
    assert len(rows) == num_measured(3) == 2


def test_new_trainings_start_from_values_of_their_own(trial, monkeypatch):
    starts = []
    monkeypatch.setattr(Trainer, "run", lambda trainer, *_: starts.append(trainer.layout.values()))
    scored = trial.layout.values()
    for number, without in ((0, ()), (0, {3}), (1, ())):
        train_anew(trial, number, without)
    first, second, other = starts[::3]
    np.testing.assert_array_equal(first, second)
    assert (first != other).any() and (first != scored).any() and (other != scored).any()


def test_images_left_out_are_gone_and_the_others_keep_their_order_and_augmentation():
    whole, part = (new_record(25, 3, 5, 0.1, seed=7, without=without) for without in ((), {0, 4, 22, 11, 12}))
    assert part.num_images == 25 and part.num_steps == 3 * 4
    kept = ~np.isin(whole.rows, [0, 4, 22, 11, 12])
    np.testing.assert_array_equal(part.rows, whole.rows[kept])
    np.testing.assert_array_equal(part.seeds, whole.seeds[kept])
    assert all(sorted(rows) == sorted(set(range(25)) - {0, 4, 22, 11, 12}) for rows in part.rows.reshape(3, 20))
    assert (new_record(25, 3, 5, 0.1, seed=8).rows != whole.rows).any()
    assert (whole.rows != published_record(25, 3, 5, 0.1).rows).any()
    assert set(new_record(25, 1, 5, 0.1, seed=7, augment=False).seeds) == {NOT_AUGMENTED}


@pytest.mark.parametrize("num_images, steps, size", [(20, 4, 5), (24, 4, 5), (5, 1, 5), (3, 1, 3)])
def test_new_trainings_take_full_batches(num_images, steps, size):
    """After a small batch the accuracy is lower by points; the number of images removed must not decide on that."""
    record = new_record(num_images, 3, 5, 0.1, seed=7)
    assert record.num_steps == 3 * steps and set(np.diff(record.bounds)) == {size}
    whole = new_record(num_images, 3, num_images, 0.1, seed=7).rows.reshape(3, -1)    # all of each epoch in one batch
    np.testing.assert_array_equal(record.rows.reshape(3, -1), whole[:, :steps * size])


@pytest.mark.parametrize("n_epochs, measured", [(1, 1), (2, 1), (3, 2), (20, 10)])
def test_the_last_half_of_the_epochs_is_measured(n_epochs, measured):
    assert num_measured(n_epochs) == measured


def test_both_protocols_are_reported_side_by_side(judged):
    table = rows_of(judged / "summary" / "paired_differences.csv")
    assert tuple(table[0]) == paired.HEADER
    assert {(row["protocol"], row["against"], row["method"], row["n_drops"], row["pairs"]) for row in table} == {
        (protocol, *compared, "5", "2") for protocol, compared in itertools.product(
            (REPLAY, NEW), [(NONE, "loss"), (NONE, "random"), ("random", "loss")])}
    assert (judged / "fig" / "paired_differences.png").read_bytes().startswith(b"\x89PNG")
    text = paired.format_table(paired.compare_run(judged))
    assert "replay, loss against random" in text and "new trainings, loss against nothing removed" in text
    assert "fewer than 8 pairs" in text
    before = np.mean([[float(row["test_accuracy"]) for row in rows_of(new_training_path(judged, None, 0, seed, number))]
                      for seed in (0, 1) for number in (0, 1)])
    assert f"\nnew trainings, nothing removed: test accuracy {before:.2%}\n" in text


def test_differences_follow_from_the_files(judged):
    """The mean over the measured epochs and over the trainings of a trial; then pairs of trials."""
    def accuracy(method, removed, seed):
        return np.mean([[float(row["test_accuracy"]) for row in rows_of(path)] for path in (
            new_training_path(judged, method, removed, seed, number) for number in (0, 1))])

    expected = [accuracy("loss", 5, seed) - accuracy(None, 0, seed) for seed in (0, 1)]
    row = next(row for row in rows_of(judged / "summary" / "paired_differences.csv")
               if (row["protocol"], row["against"], row["method"]) == (NEW, NONE, "loss"))
    assert float(row["difference"]) == pytest.approx(np.mean(expected), abs=1e-12)


@pytest.mark.slow
def test_processes_of_their_own_give_the_same_files(run, judged, command):
    path = run / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"jobs": 2}))
    assert command(eval, run, *JUDGE)[0] == 0
    before, now = content(judged), content(run)
    assert now.pop("config.json") != before.pop("config.json") and now == before


@pytest.mark.parametrize("owner, name, call", [(Trainer, "step", 31), (new_trainings, "write_csv", 3)])
def test_an_interrupted_judgement_goes_on_to_the_same_bits(run, judged, command, owner, name, call):
    with disturbed(owner, name, call, KeyboardInterrupt()):
        assert command(eval, run, *JUDGE)[0] == 130
    done = set(content(run / "new_trainings"))
    assert done and done < set(content(judged / "new_trainings"))
    assert command(eval, run, *JUDGE)[0] == 0
    assert content(run) == content(judged)


def test_more_new_trainings_are_added(run, judged, command):
    assert command(eval, run, "-c", "cpu")[0] == 0 and not (run / "new_trainings").exists()
    assert command(eval, run, "--new-trainings", 1, "-c", "cpu")[0] == 0
    first = content(run / "new_trainings")
    assert command(eval, run, *JUDGE)[0] == 0
    assert first.items() < content(run / "new_trainings").items() and content(run) == content(judged)


def test_new_scores_take_the_judgement_of_the_old_ones_away(judged, tmp_path, command):
    run = shutil.copytree(judged, tmp_path / "run")
    assert command(score, run, "--methods", "loss", "--overwrite", "-c", "cpu")[0] == 0
    assert not new_training_path(run, "loss", 5, 0, 0).exists() and new_training_path(run, None, 0, 0, 0).exists()


def test_planted_noise(tmp_path, command):
    argv = (*SMALL, "-e", "1", "-nt", "1", *JUDGE, "--noise", "0.2", "0", "-o", tmp_path / "planted")
    status, out, err = command(planted_noise, *argv)
    assert status == 0, err
    assert "20 % wrong labels:" in out and "0 % wrong labels:" in out
    table = rows_of(tmp_path / "planted" / "planted_noise.csv")
    assert {(row["wrong_labels"], row["protocol"]) for row in table} == set(
        itertools.product(("20 % wrong labels", "0 % wrong labels"), (REPLAY, NEW)))
    before = content(tmp_path / "planted")
    assert command(planted_noise, *argv)[0] == 2    # it is there
    assert command(planted_noise, *argv, "--resume")[0] == 0 and content(tmp_path / "planted") == before
    status, out, _ = command(planted_noise, *argv[:-5], "--noise", "0.1", "0.2", *argv[-2:])
    assert status == 2 and "10 % wrong labels" not in out    # it is refused before anything is trained


@pytest.mark.parametrize("share", ["-1", "1", "some"])
def test_a_share_that_is_none(share, command, tmp_path):
    status, _, err = command(planted_noise, *SMALL, "--noise", share, "-o", tmp_path / "planted")
    assert status == 2 and share in err and len(err.splitlines()) == 1


def test_a_share_that_is_named_twice_is_planted_once():
    assert planted_noise.shares_of(["0.2", "0", "0.20"]) == [0.2, 0.0]


def test_of_several_trials_each_is_a_pair_and_of_one_each_training():
    one = {(NONE, 0): {3: {0: 0.5, 1: 0.6}}, ("final", 5): {3: {0: 0.7, 1: 0.9}}}
    assert pairs_of(one) == {(NONE, 0): {0: 0.5, 1: 0.6}, ("final", 5): {0: 0.7, 1: 0.9}}
    several = {(NONE, 0): {3: {0: 0.5, 1: 0.6}, 4: {0: 0.2}}, ("final", 5): {3: {0: 0.7}, 4: {0: 0.4}}}
    assert pairs_of(several) == {(NONE, 0): {3: pytest.approx(0.55), 4: 0.2}, ("final", 5): {4: 0.4}}


def test_comparisons_take_the_pairs_that_both_have():
    accuracies = {(NONE, 0): {0: 0.5, 1: 0.5, 2: 0.4}, ("final", 5): {0: 0.6, 1: 0.8}, ("random", 5): {1: 0.7, 2: 0.7}}
    against_none = {c.method: c for c in compare(accuracies, NEW, NONE)}
    assert against_none["final"].difference.mean == pytest.approx(0.2)
    assert against_none["random"].difference.mean == pytest.approx(0.25)
    (only,) = compare(accuracies, NEW, "random")
    assert only.method == "final" and only.difference.pairs == 1 and only.difference.mean == pytest.approx(0.1)
    assert "" in only.row() and not only.is_significant


def test_a_damaged_file_is_told(tmp_path):
    path = new_training_path(tmp_path, None, 0, 0, 0)
    make_folder(path.parent)
    write_csv(path, MEASURES, [(1, 1, "x", 1)])
    with pytest.raises(UserError, match="training_0.csv"):
        paired.compare_run(tmp_path)


def test_without_results_there_is_nothing_to_compare(tmp_path):
    assert paired.summarize(tmp_path) == []
    assert "none yet" in paired.format_table([])
