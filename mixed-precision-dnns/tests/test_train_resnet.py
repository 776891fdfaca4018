"""The command: what a run writes, how it goes on after an interrupt, and what it says to bad input."""
import contextlib
import itertools
import json
import math
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import nnabla as nn
import numpy as np
import pytest
from matplotlib.image import imread

from common.machine.context import use_context, wants_fast_gradients
from common.machine.errors import UsageError
from common.out_of_core import InCore
from common.quantizers.layers import step_size_for
from common.runs.checkpoint import load_parameters, load_state, parameter_shapes, save_parameters
from common.runs.config import from_dict
from common.workbench.testing import (
    assert_one_line,
    assert_same_files,
    content,
    disturbed,
    parameters_in,
    rows_of,
    run_python,
    run_without_packages,
    same_parameters,
    script_of,
)
from mixed_precision_dnns import data, epoch_logs, evaluation, train_resnet
from mixed_precision_dnns.config import Config
from mixed_precision_dnns.data import load_data
from mixed_precision_dnns.quantized_network import QuantizedNetwork, build_network
from mixed_precision_dnns.starting_weights import load_starting_weights

SCRIPT = script_of(train_resnet)
WQ, WQ_INIT = "PARAMETRIC_FP_WQ_DELTA_XMAX", "PARAMETRIC_FP_WQ_DELTA_XMAX_INIT"
WAQ = "PARAMETRIC_FP_WAQ_DELTA_XMAX"
SHORT = ("--batch-size", "2", "--steps-per-epoch", "2", "--epochs", "2", "-c", "cpu")
TRAIN, TEST = 40, 9    # images of the data set in conftest.py


@pytest.fixture
def command(cifar, run_main):
    """Run the command in this process; returns its exit status, stdout and stderr."""
    def run(experiment, output, *flags, short=SHORT, data_dir=cifar):
        where = () if data_dir is None else ("--data-dir", data_dir)
        return run_main(train_resnet.main, experiment, "--output", output, *short, *where, *flags)
    return run


def train(experiment, output, cifar, *flags):
    train_resnet.main([experiment, "--output", str(output), *SHORT, "--data-dir", str(cifar), *flags])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cifar):
    """Folder of a run of two epochs with quantized weights and activations; not to be written to."""
    folder = tmp_path_factory.mktemp("runs") / WAQ
    train(WAQ, folder, cifar)
    return folder


@pytest.fixture(scope="module")
def float_run(tmp_path_factory, cifar):
    """Folder DEFAULT of a run of the float network; not to be written to."""
    folder = tmp_path_factory.mktemp("float") / "DEFAULT"
    train("DEFAULT", folder, cifar, "--epochs", "1", "--steps-per-epoch", "1")
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / WAQ))


def assert_same_run(a, b):
    assert_same_files(a, b, ("params_best.h5", "checkpoint/latest.h5"), ("log.csv", "results.csv", "result.json"))


# What a run writes ------------------------------------------------------------------------------------------------


def test_one_epoch_on_digits_writes_all_files(command, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "VALIDATION_BATCH", 60)
    code, out, err = command(WQ, tmp_path / "run", "--dataset", "digits", "--target-weight-kbytes", 200, "--epochs", 1,
                             "--held-out", 0.01, data_dir=None)
    assert (code, err) == (0, "")
    assert set(content(tmp_path / "run")) == {
        "config.json", "log.csv", "results.csv", "curves.png", "params_best.h5", "checkpoint/latest.h5", "layers.json",
        "layers.csv", "result.json", *(f"res_{scalar}_{kind}.csv" for scalar in ("d", "max") for kind in "wb")}
    assert "epoch 1/1: loss" in out and "test error" in out.splitlines()[-1]


def test_configuration_reads_back(finished, cifar):
    cfg = from_dict(Config, json.loads((finished / "config.json").read_text()), "config.json")
    assert cfg == Config(w_quantize="parametric_fp_d_xmax", a_quantize="parametric_fp_d_xmax_relu", batch_size=2,
                         initial_learning_rate=0.03, steps_per_epoch=2, epochs=2, data_dir=str(cifar))


def test_log_of_the_published_format(finished):
    header, *lines = (finished / "results.csv").read_text().splitlines()
    assert header == "iter,train_err,val_err,loss,loss1,loss2,loss3"
    columns = ("train_error", "valid_error", "loss", "loss1", "loss2", "loss3")
    log = rows_of(finished / "log.csv")
    assert [row["epoch"] for row in log] == ["1", "2"] and len(lines) == 2
    for steps, line, row in zip((2, 4), lines, log, strict=True):
        assert line == ",".join(f"{value:10.8f}" for value in (steps, *(float(row[column]) for column in columns)))


@pytest.mark.parametrize("name, kind, scalar, num", [
    ("res_d_w", "/W", "Wquant/parametric_fp_d_xmax/d", 20), ("res_max_w", "/W", "Wquant/parametric_fp_d_xmax/xmax", 20),
    ("res_d_b", "/b", "bquant/parametric_fp_d_xmax/d", 1), ("res_max_b", "/b", "bquant/parametric_fp_d_xmax/xmax", 1),
    ("res_d_a", "/Asize", "Aquant/parametric_fp_d_xmax/d", 19),
    ("res_max_a", "/Asize", "Aquant/parametric_fp_d_xmax/xmax", 19)])
def test_values_of_the_scalars_in_the_published_format(name, kind, scalar, num, finished):
    rows = [line.split(",") for line in (finished / f"{name}.csv").read_text().splitlines()]
    assert [(int(index), int(epoch)) for index, epoch, _ in rows] == list(itertools.product(range(num), range(2)))
    last = parameters_in(finished / "checkpoint/latest.h5")
    with h5py.File(finished / "params_best.h5") as file:
        index = {parameter: file[parameter].attrs["index"] for parameter in last}
    scalars = sorted((parameter for parameter in last if parameter.endswith(scalar)), key=index.get)
    assert [float(value) for _, epoch, value in rows if epoch == "1"] == pytest.approx(
        [float(last[parameter]) for parameter in scalars], abs=1e-8)


def test_best_parameters_are_those_of_the_network(finished):
    cfg = Config(w_quantize="parametric_fp_d_xmax", a_quantize="parametric_fp_d_xmax_relu")
    shapes = parameter_shapes(lambda: build_network(cfg, 1, train=False))
    assert {name: value.shape for name, value in parameters_in(finished / "params_best.h5").items()} == shapes
    nn.load_parameters(str(finished / "params_best.h5"))
    assert nn.get_parameters(grad_only=False).keys() == shapes.keys()


def test_result_describes_the_best_parameters(finished):
    result, rows = (json.loads((finished / name).read_text()) for name in ("result.json", "layers.json"))
    assert result["valid_error"] == min(float(row["valid_error"]) for row in rows_of(finished / "log.csv"))
    assert len(rows) == len(rows_of(finished / "layers.csv")) == 40
    kbytes = [row["kbytes"] for row in rows if row["kind"] != "activations"]
    assert result["weight_kbytes"] == pytest.approx(sum(kbytes))
    assert all(math.isfinite(value) for value in result.values())
    cfg = from_dict(Config, json.loads((finished / "config.json").read_text()), "config.json")
    _, valid, test = load_data(cfg)
    load_parameters(finished / "params_best.h5", {n: p.shape for n, p in parameters_in(
        finished / "params_best.h5").items()})
    net = data.build_network_for(cfg, test, train=False)
    errors = [evaluation.top_errors(net.predict, part, (1,))[0] for part in (valid, test)]
    assert errors == [result["valid_error"], result["test_error"]]


# Where a run starts -----------------------------------------------------------------------------------------------


def test_a_run_starts_from_the_float_run_beside_its_output(command, float_run, tmp_path, monkeypatch):
    shutil.copytree(float_run, tmp_path / "DEFAULT")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    kept = content(tmp_path / "DEFAULT")
    flags = ("--pretrain", "--initial-learning-rate", 1e-12, "--epochs", 1, "--steps-per-epoch", 1)
    code, out, err = command(WQ_INIT, tmp_path / "run", *flags)
    assert (code, err) == (0, "") and "first DEFAULT" not in out    # there is nothing to train before
    assert content(tmp_path / "DEFAULT") == kept
    before, after = (parameters_in(tmp_path / name / "params_best.h5") for name in ("DEFAULT", "run"))
    for name in before:
        if name.endswith(("/W", "/b", "/beta", "/gamma")):
            np.testing.assert_allclose(after[name], before[name], rtol=0, atol=1e-6)


def test_fixed_step_sizes_follow_from_the_weights_of_the_run_before_and_not_from_its_bits(cifar, tmp_path):
    narrow, wide = (Config(w_quantize="fp", w_bitwidth=bits, batch_size=2, data_dir=str(cifar)) for bits in (2, 4))
    batches = load_data(narrow)[0]
    data.build_network_for(narrow, batches, train=True)
    save_parameters(tmp_path / "two_bits.h5")
    nn.clear_parameters()
    load_starting_weights(tmp_path / "two_bits.h5", wide, batches)
    data.build_network_for(wide, batches, train=True)
    parameters = nn.get_parameters(grad_only=False)
    weights = [name for name in parameters if name.endswith("/W")]
    assert len(weights) == 20 and all(
        parameters[f"{name}_q"].info.step_size == step_size_for(parameters[name].d, 4) for name in weights)


def test_without_the_float_run_one_line_names_the_command(command, tmp_path):
    result = command(WQ_INIT, tmp_path / "run")
    assert_one_line(result, 2, "DEFAULT/params_best.h5", f"'train_resnet.py DEFAULT --output {tmp_path / 'DEFAULT'}'",
                    "--pretrain")
    assert not list(tmp_path.iterdir())


def test_weights_and_data_are_found_from_another_folder(command, finished, cifar, own_folder, monkeypatch):
    shutil.copytree(cifar, own_folder / "images")
    for name in ("float", "elsewhere"):
        (own_folder / name).mkdir()
    for name in ("start.h5", "other.h5"):
        shutil.copy(finished / "params_best.h5", own_folder / "float" / name)
    flags = ("--data-dir", "images", "--steps-per-epoch", 1)
    status, _, err = command(WQ, "runs/a", *flags, "--weightfile", "float/start.h5", "--epochs", 1)
    assert (status, err) == (0, "")
    config = json.loads(Path("runs/a/config.json").read_text())
    assert [config[key] for key in ("data_dir", "weightfile")] == [
        str(own_folder / name) for name in ("images", "float/start.h5")]
    monkeypatch.chdir("elsewhere")
    result = command(WQ, "../runs/a", *flags, "--weightfile", "../float/other.h5", "--epochs", 1, "--resume")
    assert_one_line(result, 2, "weightfile")
    status, out, err = command(WQ, "../runs/a", *flags, "--weightfile", "../float/start.h5", "--epochs", 1, "--resume")
    assert (status, err) == (0, "") and "the training has ended" in out


def test_weights_that_have_moved_are_the_same(command, finished, own_folder):
    (own_folder / "old/float").mkdir(parents=True)
    shutil.copy(finished / "params_best.h5", "old/float/start.h5")
    flags = ("--steps-per-epoch", 1, "--epochs", 1)
    assert command(WQ, "old/runs/a", *flags, "--weightfile", "old/float/start.h5")[0] == 0
    Path("old").rename("new")
    assert command(WQ, "new/runs/a", *flags, "--weightfile", "new/float/start.h5", "--resume")[0] == 0
    shutil.copytree("new/float", "new/other")
    result = command(WQ, "new/runs/a", *flags, "--weightfile", "new/other/start.h5", "--resume")
    assert_one_line(result, 2, "weightfile")


def test_pretrain_runs_the_float_network_first(command, tmp_path):
    flags = ("--pretrain", "--epochs", 1, "--steps-per-epoch", 1, "--initial-learning-rate", 0.005)
    code, out, err = command(WQ_INIT, tmp_path / "run", *flags)
    assert (code, err) == (0, "")
    assert "first DEFAULT, which run starts from" in out
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("DEFAULT", "run"))
    assert (before["initial_learning_rate"], after["initial_learning_rate"]) == (0.1, 0.005)
    assert before["w_quantize"] is None and before["epochs"] == 1 and before["data_dir"] == after["data_dir"]
    assert (tmp_path / "run/result.json").exists()


@pytest.mark.parametrize("flags", [(), ("--fast-gradients",)])
def test_fast_gradients_reach_the_networks(command, tmp_path, monkeypatch, flags):
    asked = []
    build = train_resnet.build_network_for

    def observed(*args, **kwargs):
        asked.append(wants_fast_gradients())
        return build(*args, **kwargs)

    monkeypatch.setattr(train_resnet, "build_network_for", observed)
    code, _, err = command("DEFAULT", tmp_path / "run", "--epochs", 1, "--steps-per-epoch", 1, *flags)
    assert (code, err) == (0, "") and asked == [bool(flags)] * 2
    assert not wants_fast_gradients()


# The same bits ----------------------------------------------------------------------------------------------------


def test_one_seed_gives_the_same_bits(command, finished, tmp_path):
    assert command(WAQ, tmp_path / "same")[0] == 0
    assert_same_run(finished, tmp_path / "same")


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(command, finished, tmp_path, cifar):
    argv = [sys.executable, SCRIPT, WAQ, "--output", tmp_path / "run", *SHORT, "--data-dir", cifar]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("epoch 1/2") for line in lines)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert load_state(tmp_path / "run/checkpoint/latest.h5")["epoch"] == 1
    curves = imread(tmp_path / "run/curves.png")    # of the one process that draws them, see conftest.py
    assert min(curves.shape[:2]) > 200 and len(np.unique(curves)) > 10
    code, out, err = command(WAQ, tmp_path / "run", "--resume")
    assert (code, err) == (0, "") and "epoch 1/2" not in out and "epoch 2/2" in out
    assert_same_run(finished, tmp_path / "run")


def test_a_run_goes_on_without_the_weights_that_it_started_from(command, float_run, tmp_path):
    start = shutil.copytree(float_run, tmp_path / "DEFAULT")
    flags = "--epochs", 1
    assert command("FP_W2Q_INIT", tmp_path / "whole", *flags)[0] == 0
    with disturbed(train_resnet, "clipped_update", 1, signal.SIGINT):
        assert command("FP_W2Q_INIT", tmp_path / "parts", *flags)[0] == 130
    shutil.rmtree(start)
    code, _, err = command("FP_W2Q_INIT", tmp_path / "parts", *flags, "--resume")
    assert (code, err) == (0, "")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("number, at", [(signal.SIGINT, 3), (signal.SIGTERM, 1)])
def test_an_interrupted_run_resumes_to_the_same_bits(number, at, command, finished, tmp_path):
    with disturbed(train_resnet, "clipped_update", at, number):
        result = command(WAQ, tmp_path / "run")
    epoch, step = (at - 1) // 2, (at - 1) % 2 + 1
    assert_one_line(result, 130, f"epoch {epoch + 1} after step {step}", "--resume", str(tmp_path / "run"))
    state = load_state(tmp_path / "run/checkpoint/latest.h5")
    assert (state["epoch"], state["step"]) == (epoch, step)
    assert command(WAQ, tmp_path / "run", "--resume")[0] == 0
    assert_same_run(finished, tmp_path / "run")


def test_what_is_written_about_the_last_epoch_is_complete_after_an_interrupt(command, finished, tmp_path):
    with disturbed(epoch_logs, "write_published_logs", 2, KeyboardInterrupt()):
        assert command(WAQ, tmp_path / "run")[0] == 130
    assert len(rows_of(tmp_path / "run/results.csv")) == 1
    assert command(WAQ, tmp_path / "run", "--resume")[0] == 0
    assert_same_run(finished, tmp_path / "run")


def test_resuming_a_finished_run_changes_no_parameters(command, copy, finished):
    code, out, _ = command(WAQ, copy, "--resume")
    assert code == 0 and "test error" in out and "epoch" not in out
    assert_same_run(finished, copy)


def test_overwrite_starts_anew_and_another_seed_gives_other_bits(command, copy, finished, tmp_path):
    assert command(WAQ, copy, "--overwrite", "--seed", 1)[0] == 0
    assert not same_parameters(finished / "checkpoint/latest.h5", copy / "checkpoint/latest.h5")
    assert [row["epoch"] for row in rows_of(copy / "log.csv")] == ["1", "2"]


# The best parameters ----------------------------------------------------------------------------------------------


def scripted(monkeypatch, errors, sizes=((0, 0),)):
    """Replace what the run measures after each epoch; the last values stay."""
    errors, sizes = (itertools.chain(values, itertools.repeat(values[-1])) for values in (errors, sizes))
    monkeypatch.setattr(train_resnet, "top_errors", lambda *args: [next(errors)])
    monkeypatch.setattr(QuantizedNetwork, "sizes", lambda self: next(sizes))


def test_the_best_parameters_are_those_of_the_first_lowest_error_within_the_budget(command, tmp_path, monkeypatch):
    scripted(monkeypatch, (0.4, 0.1, 0.3, 0.3), [(100, 64), (200, 64), (100, 64), (100, 64)])
    assert command(WQ, tmp_path, "--target-weight-kbytes", 150, "--epochs", 4, "--steps-per-epoch", 1)[0] == 0
    last_step = parameters_in(tmp_path / "checkpoint/latest.h5")
    assert load_state(tmp_path / "checkpoint/latest.h5")["best"] == 0.3
    # Which epoch the parameters are of is seen by a scalar that every step moves.
    scalar = "conv1/quantized_conv/Wquant/parametric_fp_d_xmax/xmax"
    rows = [line.split(",") for line in (tmp_path / "res_max_w.csv").read_text().splitlines()]
    values = {int(epoch) + 1: float(value) for index, epoch, value in rows if index == "0"}
    assert len(set(values.values())) == 4 and values[4] == pytest.approx(float(last_step[scalar]), abs=1e-8)
    assert float(parameters_in(tmp_path / "params_best.h5")[scalar]) == pytest.approx(values[3], abs=1e-8)


def test_without_an_epoch_within_the_budget_there_are_no_best_parameters(command, tmp_path):
    result = command(WQ, tmp_path, "--target-weight-kbytes", 1, "--epochs", 1)
    assert_one_line(result, 1, "no epoch met the budget", str(tmp_path / "checkpoint/latest.h5"))
    assert not any((tmp_path / name).exists() for name in ("params_best.h5", "result.json", "layers.json"))
    assert (tmp_path / "checkpoint/latest.h5").exists() and len(rows_of(tmp_path / "log.csv")) == 1


@pytest.mark.parametrize("key, least", [("weight", 65.5), ("activation", 2)])    # at 2 bits, and at 1
def test_a_budget_that_cannot_be_met_is_told_before_the_training(command, tmp_path, key, least):
    flag = f"--target-{key}-kbytes"
    code, out, _ = command(WAQ, tmp_path / "small", flag, least - 0.1, "--epochs", 1, "--steps-per-epoch", 1)
    assert code == 1 and f"target_{key}_kbytes = {least - 0.1:g} is less than the {least:.3g}" in out.splitlines()[1]
    _, out, _ = command(WAQ, tmp_path / "enough", flag, least + 0.1, "--epochs", 1, "--steps-per-epoch", 1)
    assert "the budget" not in out


def test_a_run_that_is_started_anew_leaves_no_results_of_the_former_one(command, copy):
    assert (copy / "res_d_a.csv").exists() and (copy / "result.json").exists()
    code, _, err = command(WQ, copy, "--overwrite", "--target-weight-kbytes", 1, "--epochs", 1)
    assert code == 1 and "no epoch met the budget" in err
    assert set(content(copy)) == {"config.json", "log.csv", "results.csv", "curves.png", "checkpoint/latest.h5",
                                  *(f"res_{scalar}_{kind}.csv" for scalar in ("d", "max") for kind in "wb")}


def test_images_that_choose_the_best_parameters_are_held_out(cifar):
    train_data, valid, test = (batches.dataset for batches in load_data(Config(data_dir=str(cifar), batch_size=2)))
    assert (len(train_data), len(valid), len(test)) == (36, 4, TEST)
    assert len({image.tobytes() for part in (train_data, valid, test) for image in part.pixels}) == TRAIN + TEST


def test_published_trains_on_all_images_and_chooses_by_the_test_images(cifar):
    cfg = Config(data_dir=str(cifar), batch_size=2, published=True)
    train_data, valid, test = (batches.dataset for batches in load_data(cfg))
    assert (len(train_data), len(valid), len(test)) == (TRAIN, TEST, TEST)
    np.testing.assert_array_equal(valid.pixels, test.pixels)


def test_published_reports_the_test_error_and_the_losses_of_the_last_step(command, tmp_path, monkeypatch):
    losses, step, errors = [], train_resnet.clipped_update, iter([0.5, 0.25])

    def clipped_update(*args):
        losses.append(step(*args)["loss"]())
        return {"error": next(errors), "loss": losses[-1], "loss1": losses[-1], "loss2": 0.0, "loss3": 0.0}

    monkeypatch.setattr(train_resnet, "clipped_update", clipped_update)
    assert command("DEFAULT", tmp_path, "--published", "true", "--epochs", 1)[0] == 0
    result, log = json.loads((tmp_path / "result.json").read_text()), rows_of(tmp_path / "log.csv")
    assert result["valid_error"] == result["test_error"] == float(log[0]["valid_error"])
    assert float(log[0]["loss"]) == losses[-1] != losses[0]
    assert float(log[0]["train_error"]) == 0.375


def test_the_learning_rate_falls_after_a_half_and_three_quarters_of_the_epochs():
    rates = [train_resnet.learning_rate(1.0, 160, epoch) for epoch in (0, 79, 80, 119, 120, 159)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [train_resnet.learning_rate(1.0, epochs, 0) for epochs in (1, 2, 3, 4)] == [1, 1, 1, 1]


def test_published_looks_for_the_best_after_every_step_of_a_budgeted_run(command, tmp_path, monkeypatch):
    flags = ("--published", "true", "--epochs", 1, "--target-weight-kbytes", 200)
    validations = []
    monkeypatch.setattr(InCore, "validation", lambda self: contextlib.nullcontext(validations.append(self)))
    scripted(monkeypatch, (0.5,))
    assert command(WQ, tmp_path / "one", *flags, "--steps-per-epoch", 1)[0] == 0
    scripted(monkeypatch, (0.1, 0.5))    # the first step is best
    assert command(WQ, tmp_path / "two", *flags, "--steps-per-epoch", 2)[0] == 0
    assert load_state(tmp_path / "two/checkpoint/latest.h5")["best"] == 0.1
    assert len(validations) == 1 + 1 + 2 + 1    # after steps and epochs, each with its own plan out of core
    assert same_parameters(tmp_path / "one/params_best.h5", tmp_path / "two/params_best.h5")
    assert not same_parameters(tmp_path / "one/params_best.h5", tmp_path / "two/checkpoint/latest.h5")


# Divergence -------------------------------------------------------------------------------------------------------


def test_divergence_names_the_step(command, tmp_path):
    result = command("DEFAULT", tmp_path, "--initial-learning-rate", 2e9, "--weight-decay", 1)
    assert_one_line(result, 1, "in epoch 1, step 3", "nothing was saved", "lower the learning rate")
    assert not (tmp_path / "params_best.h5").exists() and not (tmp_path / "checkpoint/latest.h5").exists()


def test_divergence_keeps_the_last_good_state(command, copy, monkeypatch):
    with disturbed(train_resnet, "clipped_update", 3, signal.SIGINT):    # a run that was stopped after its first epoch
        command(WAQ, copy, "--overwrite")
    before = content(copy)
    monkeypatch.setattr(train_resnet, "clipped_update", lambda *args: {"error": 0.0, "loss": math.nan})
    result = command(WAQ, copy, "--resume")
    assert_one_line(result, 1, "loss is nan in epoch 2, step 2", str(copy / "checkpoint/latest.h5"))
    assert content(copy) == before


def test_parameters_that_are_not_finite_are_never_kept(command, tmp_path, monkeypatch):
    step = train_resnet.clipped_update

    def clipped_update(*args):
        losses = step(*args)
        nn.get_parameters()["fc/quantized_affine/b"].d = np.nan
        return losses

    monkeypatch.setattr(train_resnet, "clipped_update", clipped_update)
    result = command("DEFAULT", tmp_path, "--epochs", 1, "--steps-per-epoch", 1)
    assert_one_line(result, 1, "fc/quantized_affine/b is not finite")
    assert not (tmp_path / "checkpoint/latest.h5").exists() and not (tmp_path / "params_best.h5").exists()


# Bad input --------------------------------------------------------------------------------------------------------


def write_cfg(path, **values):
    path.write_text("[DEFAULT]\n" + "".join(f"{key} = {value}\n" for key, value in values.items()))
    return path


@pytest.mark.parametrize("experiment, flags, words", [
    ("DEFAULT", ("--cfg", "nowhere.cfg"), ["nowhere.cfg: no such file"]),
    ("DEFAUTL", (), ["no section [DEFAUTL]", "did you mean 'DEFAULT'?"]),
    ("PARAMETRIC_FP_WQ_DELTA_XMA", (), [f"did you mean '{WQ}'?"]),
    ("DEFAULT", ("--num-layers", "twenty"), ["--num-layers twenty: not allowed", "20, 32, 44, 56, 110"]),
    ("DEFAULT", ("--epochs", "many"), ["--epochs many: not allowed (an integer of at least 1)"]),
    ("DEFAULT", ("--initial-learning-rate", "nan"), ["--initial-learning-rate nan: not allowed"]),
    (WQ, ("--w-bitwidth", "-4"), ["--w-bitwidth -4: not allowed (an integer from 2 to 16)"]),
    (WQ, ("--w-stepsize-min", "2"), ["--w-stepsize-min 2", "w_stepsize_min = 2 is above w_stepsize_max = 1"]),
    ("DEFAULT", ("--bogus",), ["--bogus"]),
    ("DEFAULT", ("--epoch", "1"), ["--epoch"]),
    ("DEFAULT", ("--resume", "--overwrite"), ["--overwrite", "--resume"]),
    ("DEFAULT", ("-c", "tpu"), ["tpu"]),
    ("DEFAULT", ("--batch-size", "37"), ["37", "1 to 36"]),
    ("DEFAULT", ("--weightfile", "nowhere/params.h5"), ["nowhere/params.h5: no such weight file"]),
])
def test_wrong_arguments_are_one_line(experiment, flags, words, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_line(command(experiment, tmp_path / "run", *flags), 2, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("values, words", [
    ({"w_bitwith": 4}, ["[DEFAULT]", "unknown key 'w_bitwith'", "did you mean 'w_bitwidth'?"]),
    ({"epochs": "ten"}, ["[DEFAULT]", "epochs = 'ten' is not allowed"]),
    ({"w_bitwidth": -4}, ["[DEFAULT]", "w_bitwidth = '-4' is not allowed"]),
    ({"w_xmax_min": 200}, ["[DEFAULT]", "w_xmax_min = 200 is above w_xmax_max = 127"])])
def test_a_wrong_file_of_experiments_is_one_line(values, words, command, tmp_path):
    path = write_cfg(tmp_path / "mine.cfg", **values)
    assert_one_line(command("DEFAULT", tmp_path / "run", "--cfg", path, short=()), 2, str(path), *words)
    assert not (tmp_path / "run").exists()


def test_without_arguments(run_main):
    assert_one_line(run_main(train_resnet.main), 2, "CONFIG")


@pytest.fixture
def deeper(tmp_path):
    """Parameters of a ResNet-32."""
    use_context("cpu")
    build_network(Config(num_layers=32), 1, train=True)
    save_parameters(tmp_path / "deeper.h5")
    return tmp_path / "deeper.h5"


def test_weights_of_another_network_are_one_line(command, deeper, tmp_path):
    result = command("DEFAULT", tmp_path / "run", "--weightfile", deeper)
    assert_one_line(result, 1, f"{deeper}: weights of another network: 72 unexpected (res1/layer4/")
    assert not (tmp_path / "run/params_best.h5").exists()


def test_a_truncated_weight_file_is_one_line(command, float_run, tmp_path):
    path = tmp_path / "weights.h5"
    whole = (float_run / "params_best.h5").read_bytes()
    for part in (whole[:len(whole) // 2], b"", b"not HDF5"):
        path.write_bytes(part)
        assert_one_line(command("DEFAULT", tmp_path / "run", "--weightfile", path), 1, f"{path}: cannot be read")


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("damage, status, words", [
    ("missing", 2, ["no such folder"]), ("empty", 2, ["no folder 'cifar-10-batches-py'"]),
    ("truncated", 1, ["data_batch_3: truncated"]), ("hostile", 1, ["data_batch_3: asks for", "refused"])])
def test_bad_data_are_one_line(damage, status, words, command, copy, cifar, tmp_path):
    folder = tmp_path / "data"
    if damage == "empty":
        folder.mkdir()
    elif damage != "missing":
        shutil.copytree(cifar, folder)
        batch = folder / "data_batch_3"
        batch.write_bytes(batch.read_bytes()[:5000] if damage == "truncated" else pickle.dumps(
            Hostile(tmp_path / "executed")))
    before = content(copy)
    assert_one_line(command(WAQ, copy, "--overwrite", data_dir=folder), status, str(folder), *words)
    assert content(copy) == before and not (tmp_path / "executed").exists()


def test_an_output_folder_that_cannot_be_made_is_one_line(command, tmp_path):
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file/run"):
        assert_one_line(command("DEFAULT", output), 1, str(output), "choose another --output")
    assert content(tmp_path) == {"file": b"mine"}


def test_cudnn_without_a_gpu_is_one_line(command, tmp_path):
    try:
        use_context("cudnn")
    except UsageError:
        assert_one_line(command("DEFAULT", tmp_path / "run", "-c", "cudnn"), 2, "-c cudnn", "-c cpu")
        assert not list(tmp_path.iterdir())
    else:
        use_context("cpu")
        pytest.skip("there is a working GPU")


def test_an_existing_run_is_not_touched_unasked(command, copy):
    before = content(copy)
    assert_one_line(command(WAQ, copy), 2, f"{copy}: holds a run already (epoch 2)", "--resume", "--overwrite")
    assert content(copy) == before


def test_resume_with_another_configuration_is_one_line(command, copy):
    before = content(copy)
    assert_one_line(command(WAQ, copy, "--resume", "--seed", 1), 2, "seed = 0, not 1", "--overwrite")
    assert_one_line(command("DEFAULT", copy, "--resume"), 2, "more differences")
    assert content(copy) == before


def test_a_truncated_checkpoint_is_one_line(command, copy):
    checkpoint = copy / "checkpoint/latest.h5"
    checkpoint.write_bytes(checkpoint.read_bytes()[:10000])
    before = content(copy)
    assert_one_line(command(WAQ, copy, "--resume"), 1, f"{checkpoint}: cannot be read")
    assert content(copy) == before


# In a process of its own ------------------------------------------------------------------------------------------


def test_an_error_is_all_that_a_process_says_on_stderr(tmp_path):
    assert_one_line(run_python(SCRIPT, "DEFAUTL", cwd=tmp_path), 2, "did you mean 'DEFAULT'?")


def test_missing_install_is_one_line(tmp_path):
    result = run_without_packages(SCRIPT, "DEFAULT", cwd=tmp_path)
    assert_one_line(result, 2, "pip install -r requirements.txt")
