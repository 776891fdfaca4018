"""The comparison of parametrizations: its table, trainings without a result, and going on after an interrupt."""
import json
import shutil
from unittest import mock

import pytest

from common.machine.files import make_folder
from common.workbench.testing import assert_one_line
from mixed_precision_dnns import compare, train_resnet

pytestmark = pytest.mark.usefixtures("own_folder")
SHORT = ("--batch-size", "2", "--steps-per-epoch", "1", "--epochs", "1", "-c", "cpu")


@pytest.fixture(scope="module")
def float_run(tmp_path_factory, cifar):
    """Folder DEFAULT of a run of the float network; not to be written to."""
    folder = tmp_path_factory.mktemp("float") / "DEFAULT"
    train_resnet.main(["DEFAULT", "--output", str(folder), *SHORT, "--data-dir", str(cifar)])
    return folder


@pytest.fixture
def command(cifar, float_run, run_main):
    """Compare networks that start from those of `float_run`; returns exit status, stdout and stderr."""
    def run(*flags):
        return run_main(compare.main, *SHORT, "--data-dir", cifar, "--weightfile", float_run / "params_best.h5", *flags)
    return run


def measured(error, size, bits):
    return {"test_error": error, "weight_kbytes": size, "weight_bits": bits}


def test_the_table_has_means_deviations_and_the_number_of_results():
    lines = [" ".join(line.split()) for line in compare.format_table({
        "U3": {0: measured(0.1, 70, 2), 1: measured(0.3, 72, 3)},
        "P2": {0: measured(0.5, 64, 2), 1: "loss is nan"}, "learned": {0: "no epoch", 1: "no epoch"}}).splitlines()]
    assert lines[1].endswith("range 20.00 ± 14.14 71.0 ± 1.4 2.50 ± 0.71 2 of 2")
    assert lines[2].endswith("power 50.00 64.0 2.00 1 of 2")
    assert lines[3].endswith("(U3) - - - 0 of 2")


def test_rows_are_experiments_of_the_files_that_start_from_the_float_network():
    assert {row.section.endswith("INIT") for row in compare.ROWS.values()} == {True}
    sections = {compare.beside_scripts("mixed_precision_dnns", row.cfg_file).read_text().count(f"[{row.section}]")
                for row in compare.ROWS.values()}
    assert sections == {1}


def test_a_network_over_its_budget_is_a_row_without_result(command, own_folder):
    code, out, err = command("--rows", "float", "learned")
    assert code == 0, err
    found = json.loads((own_folder / "compare/result.json").read_text())
    assert found["float"]["0"] == json.loads((own_folder / "compare/float-0/result.json").read_text())
    assert found["learned"]["0"].startswith("no epoch met the budget")
    assert out.splitlines()[-1].split()[-4:] == ["-", "0", "of", "1"]


def test_it_goes_on_where_it_was_interrupted(command, own_folder, monkeypatch):
    flags = "--rows", "float", "U1", "--seeds", "2"
    assert command(*flags, "-o", "whole")[0] == 0
    real, calls = train_resnet.train, []

    def train_two(*args):
        calls.append(args)
        if len(calls) > 2:
            raise KeyboardInterrupt
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(compare, "train", train_two)
        assert command(*flags, "-o", "parts")[0] == 130
    assert command(*flags, "-o", "parts")[0] == 2    # neither --resume nor --overwrite
    shutil.rmtree("parts/U1-0/checkpoint")           # what had ended is not trained again, but this
    code, out, err = command(*flags, "-o", "parts", "--resume", "--jobs", "2")    # in other processes, too
    assert code == 0, err
    whole, parts = (json.loads((own_folder / name / "result.json").read_text()) for name in ("whole", "parts"))
    assert whole == parts
    assert [json.loads((own_folder / f"parts/U1-{seed}/config.json").read_text())["seed"] for seed in (0, 1)] == [0, 1]


def test_without_weights_to_start_from_nothing_is_trained(run_main, cifar, own_folder):
    result = run_main(compare.main, *SHORT, "--data-dir", cifar)
    assert_one_line(result, 2, "DEFAULT/params_best.h5: no such weight file", "--weightfile names another")
    assert "--pretrain" not in result[2]    # this command has no such flag
    assert not list(own_folder.iterdir())


def test_results_are_in_the_order_of_seeds_whichever_ends_first():
    trainings = [(f"{row}{seed}", row, seed) for seed in (7, 8) for row in ("U1", "P1")]
    results = compare.in_order(trainings, {"U18": "late", "P18": "c", "U17": "a"})
    assert [(row, list(seeds.items())) for row, seeds in results.items()] == [
        ("U1", [(7, "a"), (8, "late")]), ("P1", [(8, "c")])]


def test_a_comparison_that_begins_anew_leaves_no_former_result(command, own_folder, monkeypatch):
    make_folder(own_folder / "compare")
    (own_folder / "compare/result.json").write_text("{}")
    monkeypatch.setattr(compare, "train", mock.Mock(side_effect=KeyboardInterrupt))
    assert command("--rows", "float", "--overwrite")[0] == 130
    assert not (own_folder / "compare/result.json").exists()
