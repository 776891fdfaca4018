import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import nnabla.solvers as S
import numpy as np
import pytest

from common.machine.errors import UsageError, UserError
from common.runs import training
from common.runs.checkpoint import load_parameters, load_state, save_checkpoint
from common.runs.curves import write_series
from common.runs.readings import read_later, scalar_later
from common.runs.training import BEST, CHECKPOINT, Run
from common.workbench.testing import content

CONFIG = {"learning_rate": 0.1, "name": "tiny"}
PANELS = (("loss", ("loss",)), ("not there", ("accuracy",)))
EPOCHS, STEPS = 3, 4
pytestmark = pytest.mark.usefixtures("no_drawing")    # the test of the files draws


class Batches:
    """Random pairs (x, target) that follow from epoch and step alone."""

    def __len__(self):
        return STEPS

    def epoch(self, epoch, start):
        for step in range(start, STEPS):
            yield np.random.RandomState(100 * epoch + step).randn(2, 5, 3).astype(np.float32)


def start(folder, config=CONFIG, **flags):
    """Build the network from its seed and attach a run to it; return the run and a training step."""
    nn.clear_parameters()
    nn.random.seed(1)
    x, target = nn.Variable((5, 3)), nn.Variable((5, 3))
    loss = F.mean((PF.batch_normalization(PF.affine(x, 3), axes=[1]) - target) ** 2)
    solver = S.Adam(0.01)
    solver.set_parameters(nn.get_parameters())
    run = Run(folder, config, **flags)
    run.attach(solver)

    def step(batch):
        x.d, target.d = batch
        loss.forward()
        solver.zero_grad()
        loss.backward()
        solver.update()
        return float(loss.d)

    return run, step


def train(folder, epochs=EPOCHS, disturb=lambda epoch, step: None, **flags):
    """Train up to an epoch; `disturb` is called before every step."""
    run, step = start(folder, **flags)
    for epoch in run.epochs(epochs):
        for batch in run.steps(Batches()):
            disturb(epoch, run.state["step"])
            run.record(loss=step(batch))
        loss = run.means()["loss"]
        run.keep_best(loss)
        run.finish_epoch({"loss": loss, "rate": 0.5}, PANELS, extra=[epoch])
    return run


def result(run):
    """All that a run has made: values, log and files that must not depend on interruptions."""
    files = {name: (run.folder / name).read_bytes() for name in ("log.csv", "config.json", BEST)}
    return {name: p.d.tolist() for name, p in nn.get_parameters(grad_only=False).items()}, run.state, files


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    try:
        return result(train(tmp_path_factory.mktemp("run")))
    finally:
        nn.clear_parameters()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def set_nan():
    parameter = nn.get_parameters()["affine/W"]
    parameter.d = np.full(parameter.shape, np.nan)


# Files --------------------------------------------------------------------------------------------------------------


def test_a_run_writes_its_files(folder, monkeypatch):
    monkeypatch.undo()
    run = train(folder)
    assert sorted(content(folder)) == [
        "checkpoint/latest.h5", "config.json", "curves.png", "log.csv", "params_best.h5"]
    assert json.loads((folder / "config.json").read_text()) == CONFIG
    lines = (folder / "log.csv").read_text().splitlines()
    assert lines[0] == "epoch,loss,rate"
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3"]
    assert [float(line.split(",")[1]) for line in lines[1:]] == [row["loss"] for row in run.rows]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert run.extras == [[0], [1], [2]]
    assert run.best == min(row["loss"] for row in run.rows)


def test_means_are_those_of_the_epoch(folder):
    losses = []
    run, step = start(folder)
    for _ in run.epochs(2):
        losses.append([])
        for batch in run.steps(Batches()):
            losses[-1].append(step(batch))
            run.record(loss=losses[-1][-1], twice=2 * losses[-1][-1])
        assert run.means() == pytest.approx({"loss": np.mean(losses[-1]), "twice": 2 * np.mean(losses[-1])})
        assert run.last == {"loss": losses[-1][-1], "twice": 2 * losses[-1][-1]}
        run.finish_epoch(run.means(), PANELS)


# Values that are read later -------------------------------------------------------------------------------------------


@pytest.fixture
def reads_later(monkeypatch):
    """Read values as on a GPU, three steps at once; an epoch has four."""
    monkeypatch.setattr(training, "on_gpu", lambda: True)
    monkeypatch.setattr(training, "STEPS_BETWEEN_READS", 3)


def test_values_are_read_together_and_the_means_are_exact(folder, reads_later):
    reads, seen, losses = [], [], []
    run, step = start(folder)
    for batch in run.steps(Batches()):
        losses.append(step(batch))
        run.record(loss=lambda value=losses[-1]: reads.append(value) or value)
        seen.append(len(reads))
    assert seen == [0, 0, 3, 3] and reads == losses    # the last one at the end of the epoch
    total = 0.0
    for loss in losses:
        total += loss
    assert run.means() == {"loss": total / 4} and run.last == {"loss": losses[-1]}


@pytest.mark.parametrize("ask, expected", [(lambda run: run.last, 2.0), (lambda run: run.means(), 1.5),
                                           (lambda run: run.save(), 2.0)])
def test_asking_for_values_reads_them(folder, reads_later, ask, expected):
    run, _ = start(folder)
    for number, _ in enumerate(run.steps(Batches())):
        if number == 2:
            found = ask(run)
            assert expected == (found or run.state["last"])["loss"]
            break
        run.record(loss=lambda number=number: number + 1.0)


def test_what_is_to_be_done_with_values_is_done_when_they_are_read(folder, reads_later):
    run, step = start(folder)
    kept, counts = run.state.setdefault("kept", []), []
    for number, batch in enumerate(run.steps(Batches())):
        run.record(kept.append, loss=step(batch), number=number)
        counts.append(len(kept))
        if number == 1:
            run.save()
            assert load_state(run.checkpoint)["kept"] == kept and len(kept) == 2
    assert counts == [0, 0, 2, 2]
    assert [values["number"] for values in kept] == [0, 1, 2, 3]


def test_a_run_that_reads_later_is_the_same_to_the_last_bit(folder, reads_later, uninterrupted):
    assert result(train(folder)) == uninterrupted


@pytest.mark.parametrize("number", [1, 3])
def test_a_value_that_is_not_finite_is_noticed_with_its_step(folder, reads_later, number):
    run, step = start(folder)
    with pytest.raises(UserError, match=rf"loss is nan in epoch 1, step {number + 1}; nothing was saved yet"):
        for k, batch in enumerate(run.steps(Batches())):
            value = step(batch)
            run.record(loss=lambda k=k, value=value: float("nan") if k == number else value)
    assert not (folder / CHECKPOINT).exists()


def test_an_interrupt_keeps_what_was_not_read(folder, reads_later, uninterrupted):
    def interrupt(epoch, step):
        if (epoch, step) == (1, 1):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(folder, disturb=interrupt)
    assert result(train(folder, resume=True)) == uninterrupted


def test_a_value_is_that_of_its_step_whatever_the_variable_holds_later():
    x = nn.Variable.from_numpy_array(np.float32([1, 2]))
    total = F.sum(x)
    readers = []
    for value in (1.0, 5.0):
        x.d = value
        total.forward()
        readers.append((scalar_later(total), read_later(x)))
    assert [(scalar(), array().tolist()) for scalar, array in readers] == [(2.0, [1, 1]), (10.0, [5, 5])]


# Resuming -----------------------------------------------------------------------------------------------------------


def test_two_runs_give_the_same_bits(folder, uninterrupted):
    assert result(train(folder)) == uninterrupted


@pytest.mark.parametrize("epochs", [1, EPOCHS])
def test_resume_between_epochs_gives_the_same_bits(folder, epochs, uninterrupted):
    train(folder, epochs)
    assert result(train(folder, resume=True)) == uninterrupted


@pytest.mark.parametrize("number, where", [
    (signal.SIGINT, (0, 0)), (signal.SIGINT, (1, 1)), (signal.SIGINT, (2, STEPS - 1)), (signal.SIGTERM, (1, 2))])
def test_resume_within_an_epoch_gives_the_same_bits(folder, where, number, uninterrupted):
    def interrupt(epoch, step):
        if (epoch, step) == where:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt, match=rf"epoch {where[0] + 1} after step {where[1] + 1}; --resume") as caught:
        train(folder, disturb=interrupt)
    assert str(folder) in str(caught.value)
    state = load_state(folder / CHECKPOINT)
    assert (state["epoch"], state["step"]) == (where[0], where[1] + 1)    # the step was finished
    assert result(train(folder, resume=True)) == uninterrupted


def test_resume_after_a_crash_gives_the_same_bits(folder, uninterrupted):
    def crash(epoch, step):
        if (epoch, step) == (1, 2):
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        train(folder, disturb=crash)
    assert result(train(folder, resume=True)) == uninterrupted


def test_resume_without_a_run_starts_one(folder, uninterrupted):
    assert result(train(folder, resume=True)) == uninterrupted


def test_checkpoints_are_written_within_long_epochs(folder, monkeypatch):
    monkeypatch.setattr("common.runs.training._MINUTES_BETWEEN_CHECKPOINTS", 0)

    def crash(epoch, step):
        if (epoch, step) == (0, 3):
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        train(folder, disturb=crash)
    assert load_state(folder / CHECKPOINT)["step"] == 3


def draw(folder, drawn, seed=0, stop=None, **flags):
    """Keep in `drawn` what nnabla draws in each step of two epochs; interrupt the run in step `stop`."""
    run, _ = start(folder, {"seed": seed}, **flags)
    dropped = F.dropout(F.constant(1, (200,)), 0.5)
    for epoch in run.epochs(2):
        for _ in run.steps(Batches()):
            dropped.forward()
            where = epoch, run.state["step"]
            drawn[where] = tuple(dropped.d), nn.random.prng.random_sample(), nn.random.prng.random_sample()
            if where == stop:
                os.kill(os.getpid(), signal.SIGINT)
        run.finish_epoch({"loss": 0.0}, PANELS)


@pytest.mark.parametrize("stop", [(0, 0), (0, 2), (1, 1)])
def test_what_is_drawn_at_random_does_not_depend_on_interruptions(tmp_path, stop):
    alone, interrupted = {}, {}
    draw(tmp_path / "alone", alone)
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "interrupted", interrupted, stop=stop)
    assert len(interrupted) == STEPS * stop[0] + stop[1] + 1
    draw(tmp_path / "interrupted", interrupted, resume=True)
    assert interrupted == alone


def test_what_is_drawn_at_random_is_new_in_every_step_and_for_every_seed(tmp_path):
    drawn = [{}, {}]
    for seed in (0, 1):
        draw(tmp_path / str(seed), drawn[seed], seed)
    masks, *numbers = zip(*drawn[0].values(), *drawn[1].values(), strict=True)
    assert len(set(masks)) == 4 * STEPS
    assert len({*numbers[0], *numbers[1]}) == 8 * STEPS


def test_dropout_leaves_the_same_parameters_after_a_resume(tmp_path):
    def train_with_dropout(folder, stop=None, **flags):
        run, _ = start(folder, **flags)
        x, weight = nn.Variable((5, 3)), run.parameters["affine/W"]
        loss = F.sum(F.dropout(F.affine(x, weight), 0.5) ** 2)
        for epoch in run.epochs(2):
            for batch in run.steps(Batches()):
                x.d = batch[0]
                loss.forward()
                run.solver.zero_grad()
                loss.backward()
                run.solver.update()
                if (epoch, run.state["step"]) == stop:
                    os.kill(os.getpid(), signal.SIGINT)
            run.finish_epoch({"loss": 0.0}, PANELS)
        return weight.d.tolist()

    alone = train_with_dropout(tmp_path / "alone")
    with pytest.raises(KeyboardInterrupt):
        train_with_dropout(tmp_path / "interrupted", stop=(0, 1))
    assert train_with_dropout(tmp_path / "interrupted", resume=True) == alone


# Folders that hold a run --------------------------------------------------------------------------------------------


def test_a_folder_with_a_run_is_refused(folder):
    train(folder, epochs=2)
    before = content(folder)
    with pytest.raises(UsageError, match=r"holds a run already \(epoch 2\); add --resume") as caught:
        Run(folder, CONFIG)
    assert "\n" not in str(caught.value)
    assert content(folder) == before


@pytest.mark.parametrize("config, message", [
    ({**CONFIG, "learning_rate": 0.2}, r"learning_rate = 0\.1, not 0\.2; go on with the former"),
    ({"learning_rate": 0.1}, "name = 'tiny', not None; go on with the former"),
    ({**CONFIG, "seed": 1, "learning_rate": 0.2}, r"learning_rate = 0\.1, not 0\.2 \(and 1 more differences\)"),
])
def test_another_configuration_is_named(folder, config, message):
    train(folder, epochs=1)
    with pytest.raises(UsageError, match=message) as caught:
        Run(folder, config, resume=True)
    assert "\n" not in str(caught.value)


def test_a_run_of_an_earlier_version_has_the_defaults_of_keys_that_it_lacks(folder):
    train(folder, epochs=1)
    later = {"drops": (1, 2), "name": "default"}
    train(folder, epochs=2, config={**CONFIG, "drops": (1, 2)}, resume=True, later=later)
    with pytest.raises(UsageError, match=r"drops = \[1, 2\], not \[3\]; go on with the former"):
        Run(folder, {**CONFIG, "drops": (3,)}, resume=True, later=later)
    with pytest.raises(UsageError, match=r"by another version, with a key 'learning_rate' .*; go on with that version"):
        Run(folder, {"name": "tiny", "drops": (1, 2)}, resume=True, later=later)


def test_a_file_may_have_another_name(folder, tmp_path, monkeypatch):
    (tmp_path / "a.h5").write_text("")
    monkeypatch.chdir(tmp_path)
    train(folder, epochs=1, config={"pretrained": "a.h5", "hparams": "x.yaml"})
    train(folder, epochs=2, config={"pretrained": str(tmp_path / "a.h5"), "hparams": "y.yaml"}, resume=True)
    for other in ("b.h5", None):
        with pytest.raises(UsageError, match="not (another|'b.h5'|None)"):
            Run(folder, {"pretrained": other, "hparams": "x.yaml"}, resume=True)


def test_a_configuration_with_tuples_can_be_resumed(folder):
    config = {"drops": (80, 120)}
    train(folder, epochs=1, config=config)
    train(folder, epochs=2, config=config, resume=True)


@pytest.mark.parametrize("stop", [None, (0, 1), (1, STEPS - 1)])
def test_a_run_becomes_longer_to_the_bits_of_one_that_was_so_from_the_start(tmp_path, stop):
    def interrupt(epoch, step):
        if (epoch, step) == stop:
            os.kill(os.getpid(), signal.SIGINT)

    longer = result(train(tmp_path / "whole", 4, config={**CONFIG, "epochs": 4}))
    with pytest.raises(KeyboardInterrupt) if stop else contextlib.nullcontext():
        train(tmp_path / "short", 2, config={**CONFIG, "epochs": 2}, disturb=interrupt)
    assert result(train(tmp_path / "short", 4, config={**CONFIG, "epochs": 4}, resume=True)) == longer
    assert json.loads((tmp_path / "short" / "config.json").read_text())["epochs"] == 4


def test_a_run_does_not_become_longer_where_its_rates_would_have_been_others(folder):
    drops = {"rate_of": lambda epochs, epoch: 1.0 if epoch < epochs // 2 else 0.1}
    train(folder, 2, config={**CONFIG, "epochs": 4}, **drops)    # before the first drop
    train(folder, 3, config={**CONFIG, "epochs": 6}, resume=True, **drops)
    train(folder, 4, config={**CONFIG, "epochs": 6}, resume=True, **drops)
    with pytest.raises(UsageError, match="of 8 epochs the first 4 would have had others; keep 6") as caught:
        start(folder, {**CONFIG, "epochs": 8}, resume=True, **drops)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="epochs = 6, not 5; go on with the former"):
        start(folder, {**CONFIG, "epochs": 5}, resume=True, **drops)


def test_overwrite_removes_what_was_there_before(folder, uninterrupted, tmp_path):
    weights = tmp_path / "beside.h5"
    train(folder, config={**CONFIG, "learning_rate": 0.2})
    write_series(folder, "Training loss", [1.0])
    for path in (folder / "mine.txt", weights):
        path.write_text("")
    run, _ = start(folder, overwrite=True, weights=[weights])
    assert sorted(content(tmp_path)) == ["run/config.json", "run/mine.txt"]
    assert run.best is None
    assert result(train(folder, overwrite=True)) == uninterrupted


def test_overwrite_keeps_everything_until_a_run_is_attached(folder):
    train(folder, epochs=1)
    Run(folder, CONFIG, overwrite=True)
    assert (folder / BEST).exists()
    assert (folder / CHECKPOINT).exists()


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("config", [{"learning_rate": 0.1, "root": "a", "epochs": 3}, {}, [1]])
def test_a_folder_with_a_configuration_of_something_else_stays_as_it_is(folder, config, flags):
    train(folder, epochs=1)
    (folder / "config.json").write_text(json.dumps(config))
    before = content(folder)
    with pytest.raises(UsageError, match="config.json: is there already, and of no run of this script"):
        start(folder, **flags)
    assert content(folder) == before


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("name", ["log.csv", "curves.png", "loss.series.txt"])
def test_logs_of_no_run_stay_as_they_are(folder, name, flags):
    folder.mkdir()
    (folder / name).write_text("days,of,work")
    with pytest.raises(UsageError, match=f"{name}: is there already, and .* holds no run with its config.json"):
        start(folder, **flags)
    assert content(folder) == {name: b"days,of,work"}


def test_a_damaged_configuration_can_be_overwritten(folder):
    train(folder, epochs=1)
    (folder / "config.json").write_text("{")
    assert start(folder, overwrite=True)[0].best is None


@pytest.mark.parametrize("name", [BEST, "other.h5"])
@pytest.mark.parametrize("resume", [False, True])
def test_weights_without_a_checkpoint_are_not_removed_unasked(folder, name, resume):
    folder.mkdir()
    (folder / name).write_bytes(b"days of work")
    for config in (False, True):    # a finished run whose checkpoint was removed has a log of more than one epoch
        if config:
            (folder / "config.json").write_text(json.dumps(CONFIG))
            (folder / "log.csv").write_text("epoch\n1\n2\n")
        before = content(folder)
        with pytest.raises(UsageError, match=rf"{name}: is there already, and no checkpoint.*--overwrite") as caught:
            start(folder, resume=resume, weights=[folder / "other.h5"])
        assert "\n" not in str(caught.value) and content(folder) == before


def test_a_run_that_stops_before_its_first_checkpoint_can_be_resumed(folder, uninterrupted, monkeypatch):
    with monkeypatch.context() as full, pytest.raises(OSError, match="full"):
        full.setattr(training, "save_checkpoint", mock.Mock(side_effect=OSError("full")))
        train(folder)
    assert (folder / BEST).exists() and not (folder / CHECKPOINT).exists()
    with pytest.raises(UsageError, match="is there already"):
        start(folder)
    assert result(train(folder, resume=True)) == uninterrupted


@pytest.mark.parametrize("now, change", [((5, "a"), "4, and now there are 5"), ((4, "b"), "4, but others")])
def test_other_data_are_refused(folder, now, change):
    train(folder, epochs=1, data={"training songs": (4, "a"), "validation songs": (1, "c")})
    before = content(folder)
    with pytest.raises(UsageError, match=rf"was trained with other training songs \({change}\); go on") as caught:
        start(folder, resume=True, data={"training songs": now, "validation songs": (1, "c")})
    assert "\n" not in str(caught.value) and content(folder) == before
    train(folder, epochs=2, resume=True, data={"training songs": (4, "a"), "validation songs": (1, "c")})


def test_a_checkpoint_of_an_earlier_version_says_nothing_of_data(folder):
    run = train(folder, epochs=1)
    del run.state["data"]
    save_checkpoint(folder / CHECKPOINT, run.parameters, run.solver, run.state)
    train(folder, epochs=2, resume=True, data={"songs": (4, "a")})
    assert load_state(folder / CHECKPOINT)["data"] == {"songs": [4, "a"]}


def test_fewer_ranks_do_no_more_steps_than_an_epoch_has(folder):
    def interrupt(epoch, step):
        if step == STEPS - 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(folder, disturb=interrupt)
    run, _ = start(folder, resume=True)
    loss = run.means()["loss"]
    save_checkpoint(folder / CHECKPOINT, run.parameters, run.solver, {**run.state, "ranks": 2})
    run, _ = start(folder, resume=True)
    assert run.state["step"] == 2 * (STEPS - 1) > STEPS
    assert list(run.steps(Batches())) == []
    assert run.state["step"] == STEPS and run.means()["loss"] == pytest.approx(loss)


def test_resuming_says_where_the_training_is(folder, capsys):
    def interrupt(epoch, step):
        if (epoch, step) == (1, 1):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(folder, disturb=interrupt, resume=True)
    train(folder, resume=True)
    train(folder, resume=True)
    assert capsys.readouterr().out.splitlines() == [
        f"{folder}: no checkpoint to go on from, so the training begins",
        f"{folder}: going on in epoch 2 after step 2", f"{folder}: going on after epoch 3"]


def test_a_damaged_checkpoint_is_one_line(folder):
    train(folder, epochs=1)
    (folder / CHECKPOINT).write_bytes(b"\x89HDF")
    for flags in ({"resume": True}, {}):
        with pytest.raises(UserError, match="cannot be read"):
            Run(folder, CONFIG, **flags)


@pytest.mark.parametrize("state, said", [
    ([], "it holds a list, no fields"), ({"epoch": "1"}, "'epoch' is str, not int"),
    ({"epoch": True}, "'epoch' is bool"), ({"epoch": 1, "step": 0, "sums": {}}, "'last' is missing, not dict")])
def test_the_state_of_another_program_is_one_line(folder, state, said):
    run, _ = start(folder)
    save_checkpoint(folder / CHECKPOINT, nn.get_parameters(), run.solver, state)
    for flags in ({"resume": True}, {}):
        with pytest.raises(UserError, match=f"cannot be read as the checkpoint of a run .{said}"):
            Run(folder, CONFIG, **flags)


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Run(tmp_path / "file", CONFIG)


# Divergence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_ends_the_run(folder, value):
    train(folder, epochs=1)
    before = {name: (folder / name).read_bytes() for name in (CHECKPOINT, BEST)}
    run, step = start(folder, resume=True)
    with pytest.raises(UserError, match=r"loss is (nan|inf) in epoch 2, step 2; the last good state is in") as caught:
        for number, batch in enumerate(run.steps(Batches())):
            run.record(loss=value if number == 1 else step(batch))
    assert "\n" not in str(caught.value)
    assert {name: (folder / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_can_be_required_to_be_finite(folder, value):
    train(folder, epochs=1)
    before = {name: (folder / name).read_bytes() for name in (CHECKPOINT, BEST)}
    run, _ = start(folder, resume=True)
    state = copy.deepcopy(run.state)
    run.require_finite()
    run.require_finite(loss=0.5, valid_loss=np.float32(-1e30))
    with pytest.raises(UserError, match=rf"^valid_loss is {value} in epoch 2, step 1; the last good state is in .*; "
                                        "lower the learning rate$"):
        run.require_finite(loss=0.5, valid_loss=value)
    assert run.state == state    # nothing is recorded
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_divergence_in_the_first_epoch_says_that_nothing_was_saved(folder):
    run, _ = start(folder)
    with pytest.raises(UserError, match="epoch 1, step 1; nothing was saved yet"):
        run.record(loss=float("nan"))


def test_parameters_that_are_not_finite_are_never_saved(folder):
    train(folder, epochs=1)
    before = (folder / CHECKPOINT).read_bytes()
    run, _ = start(folder, resume=True)
    set_nan()
    with pytest.raises(UserError, match="affine/W is not finite in epoch 2"):
        run.save()
    with pytest.raises(UserError, match="affine/W is not finite"):
        run.finish_epoch({"loss": 1.0}, PANELS)
    assert (folder / CHECKPOINT).read_bytes() == before


def test_parameters_that_are_not_finite_are_never_the_best(folder):
    train(folder, epochs=1)
    before = (folder / BEST).read_bytes()
    run, _ = start(folder, resume=True)
    best = run.best
    set_nan()
    with pytest.raises(UserError, match="affine/W is not finite"):
        run.keep_best(-1.0)
    assert (folder / BEST).read_bytes() == before
    assert run.best == best


# Best parameters ----------------------------------------------------------------------------------------------------


def test_only_lower_values_are_better(folder):
    run, step = start(folder)
    weight = nn.get_parameters()["affine/W"]
    kept = []
    for value, filling in ((0.5, 1), (0.5, 2), (0.6, 3), (0.4, 4), (0.0, 5), (0.0, 6)):
        weight.d = filling
        kept.append(run.keep_best(value))
    assert kept == [True, False, False, True, True, False]
    assert run.best == 0
    load_parameters(folder / BEST, {name: p.shape for name, p in run.parameters.items()})
    assert (weight.d == 5).all()


def test_nan_is_never_the_best(folder):
    run, _ = start(folder)
    assert not run.keep_best(float("nan"))
    assert run.keep_best(0.5)
    assert not run.keep_best(float("nan"))
    assert run.best == 0.5


# Interrupts ---------------------------------------------------------------------------------------------------------


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_handlers_are_put_back(folder):
    before = handlers()
    run, step = start(folder)
    during = []
    for _ in run.steps(Batches()):
        during.append(handlers())
    assert all(now != before for now in during)
    assert handlers() == before
    run, _ = start(folder, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        for _ in run.steps(Batches()):
            os.kill(os.getpid(), signal.SIGINT)
    assert handlers() == before


def test_a_second_interrupt_does_not_wait(folder):
    train(folder, epochs=1)
    before, steps = (folder / CHECKPOINT).read_bytes(), []

    def interrupt_twice(epoch, step):
        os.kill(os.getpid(), signal.SIGINT)
        steps.append("first")
        os.kill(os.getpid(), signal.SIGTERM)
        steps.append("second")

    old = handlers()
    with pytest.raises(KeyboardInterrupt, match="the last checkpoint is as it was"):
        train(folder, disturb=interrupt_twice, resume=True)
    assert steps == ["first"]
    assert (folder / CHECKPOINT).read_bytes() == before
    assert handlers() == old


SAVE_FOR_EVER = """
import sys
import nnabla as nn
import nnabla.solvers as S
import numpy as np
from common.runs.checkpoint import save_checkpoint

parameters = {name: nn.Variable((300, 300), need_grad=True) for name in "abc"}
solver = S.Momentum(0.1)
solver.set_parameters(parameters)
number = 0
while True:
    number += 1
    for parameter in parameters.values():
        parameter.d = number
    save_checkpoint(sys.argv[1], parameters, solver, {"number": number})
"""


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    path = tmp_path / "latest.h5"
    process = subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, str(path)], cwd=Path(__file__).parents[2])
    try:
        deadline = time.monotonic() + 60
        while not path.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        numbers = []
        for pause in np.random.RandomState(0).uniform(0, 0.05, 20):
            time.sleep(pause)
            process.send_signal(signal.SIGSTOP)    # what is on the disk now is what a kill would leave
            numbers.append(number_in(path))
            process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        numbers.append(number_in(path))
    finally:
        process.kill()
        process.wait()
    assert numbers == sorted(numbers)
    assert numbers[-1] > numbers[0]


def number_in(path):
    """The number that a checkpoint of `SAVE_FOR_EVER` holds everywhere."""
    number = load_state(path)["number"]
    load_parameters(path, dict.fromkeys("abc", (300, 300)))
    for parameter in nn.get_parameters().values():
        assert (parameter.d == number).all()
    return number
