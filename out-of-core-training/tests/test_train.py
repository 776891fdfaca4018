"""The command that trains: files, the same bits through the scheduler and after an interrupt, what it refuses."""
import signal
import sys

import h5py
import numpy as np
import pytest
from PIL import Image

from common.machine.files import beside_scripts
from common.machine.launching import find_mpirun, start_ranks
from common.runs.config import load_section, section_names
from common.workbench.testing import arrays_in, assert_one_line, disturbed, log_of, same_arrays, script_of
from out_of_core_training import models, train

CFG = beside_scripts("out_of_core_training", "train.cfg")
SMALL = {
    "resnet50": ("RESNET50", "--image-size", 32, "--width", 0.125, "--batch-size", 4),
    "densenet121": ("DENSENET121", "--image-size", 32, "--width", 0.125, "--batch-size", 4),
    "pix2pixhd": ("PIX2PIXHD", "--image-size", 64, "--width", 0.0625),
    "deeplabv3plus": ("DEEPLABV3PLUS", "--image-size", 33, "--width", 0.0625, "--batch-size", 2),
}
SHORT = ("--data", "random", "--steps-per-epoch", 2, "--epochs", 2, "-c", "cpu")
pytestmark = pytest.mark.usefixtures("no_drawing")


@pytest.fixture
def run(run_main):
    return lambda *arguments: run_main(train.main, *arguments)


def assert_same_run(a, b):
    """Compare logs, parameters and states of the solvers."""
    assert (a / "log.csv").read_text() == (b / "log.csv").read_text()
    one, two = (arrays_in(folder / "checkpoint/latest.h5") for folder in (a, b))
    del one["state"], two["state"]
    assert same_arrays(one, two)


@pytest.fixture
def pictures(tmp_path):
    """A data set with the layout of ImageNet: three classes, eight pictures to train with, six to validate."""
    rng = np.random.default_rng(0)
    for split, num in (("train", 8), ("val", 6)):
        for number in range(num):
            folder = tmp_path / "pictures" / split / f"n{number % 3:08d}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"{number}.JPEG")
    return tmp_path / "pictures"


# What a run writes ----------------------------------------------------------------------------------------------------


def test_a_run_on_pictures_of_your_own(run, pictures, tmp_path, monkeypatch):
    monkeypatch.undo()    # draw the curves
    status, out, err = run(*SMALL["resnet50"], "--data-dir", pictures, "--epochs", 2, "-o", tmp_path / "run", "-c",
                           "cpu")
    assert status == 0, err
    assert sorted(path.name for path in (tmp_path / "run").rglob("*") if path.is_file()) == [
        "config.json", "curves.png", "latest.h5", "log.csv", "params_best.h5"]
    rows = log_of(tmp_path / "run")
    assert list(rows[0]) == ["epoch", "loss", "valid_error"]
    assert [6 * row["valid_error"] % 1 for row in rows] == pytest.approx([0, 0], abs=1e-6)
    assert "images/s" in out
    with h5py.File(tmp_path / "run/params_best.h5") as file:
        assert file["fc/affine/W"].shape[1] == 3    # as many classes as there are folders


@pytest.mark.parametrize("section", section_names(CFG))
def test_every_section_trains(section, run, tmp_path):
    network = load_section(train.Config, CFG, section).network
    flags = dict(zip(*[iter(SMALL[network][1:] + SHORT + ("--epochs", 1))] * 2, strict=True))
    status, _, err = run(section, *(word for pair in flags.items() for word in pair), "-o", tmp_path / "run")
    assert status == 0, err
    assert np.isfinite(list(log_of(tmp_path / "run")[0].values())).all()
    assert (tmp_path / "run/params_best.h5").is_file()


def test_scenes_are_segmented_and_drawn(run, tmp_path):
    for network in ("deeplabv3plus", "pix2pixhd"):
        folder = tmp_path / network
        status, _, err = run(*SMALL[network], "--data-dir", "synthetic", "--steps-per-epoch", 1, "--epochs", 1, "-o",
                             folder, "-c", "cpu")
        assert status == 0, err
        assert ("valid_error" in log_of(folder)[0]) == (network == "deeplabv3plus")


# The same bits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["resnet50", "pix2pixhd"])    # all of them: test_models.py
def test_out_of_core_training_gives_the_same_bits(network, run, tmp_path):
    assert run(*SMALL[network], *SHORT, "-o", tmp_path / "in core")[0] == 0
    assert run(*SMALL[network], *SHORT, "-o", tmp_path / "swapped", "--out-of-core", "1GB")[0] == 0
    assert_same_run(tmp_path / "in core", tmp_path / "swapped")


def test_validation_through_the_scheduler_gives_the_same_bits(run, pictures, tmp_path):
    flags = (*SMALL["resnet50"], "--data-dir", pictures, "--epochs", 3, "-c", "cpu")
    assert run(*flags, "-o", tmp_path / "in core")[0] == 0
    assert run(*flags, "-o", tmp_path / "swapped", "--out-of-core", "1GB")[0] == 0
    assert_same_run(tmp_path / "in core", tmp_path / "swapped")


@pytest.mark.parametrize("network, flags", [
    ("pix2pixhd", ()), ("resnet50", ("--out-of-core", "1GB"))])
def test_resume_gives_the_same_bits(network, flags, run, tmp_path):
    assert run(*SMALL[network], *SHORT, "-o", tmp_path / "alone")[0] == 0
    with disturbed(models, "iterate", 3, signal.SIGINT):
        status, _, err = run(*SMALL[network], *SHORT, *flags, "-o", tmp_path / "stopped")
    assert status == 130
    assert "epoch 2 after step 1" in err
    assert run(*SMALL[network], *SHORT, *flags, "-o", tmp_path / "stopped", "--resume")[0] == 0
    assert_same_run(tmp_path / "alone", tmp_path / "stopped")


def test_a_run_is_not_overwritten_unasked(run, tmp_path):
    flags = (*SMALL["resnet50"], *SHORT, "-o", tmp_path / "run")
    assert run(*flags)[0] == 0
    assert_one_line(run(*flags), 2, "--resume")
    assert run(*flags, "--overwrite")[0] == 0


def test_other_pictures_are_refused(run, pictures, tmp_path):
    flags = (*SMALL["resnet50"], "--data-dir", pictures, "--epochs", 1, "-o", tmp_path / "run", "-c", "cpu")
    assert run(*flags)[0] == 0
    (pictures / "val/n00000000/0.JPEG").rename(pictures / "val/n00000000/9.JPEG")
    assert_one_line(run(*flags, "--resume"), 2, "other validation images (6, but others)")


def test_a_linear_schedule_does_not_become_longer_once_its_rate_has_begun_to_fall(run, tmp_path):
    flags = (*SMALL["resnet50"], *SHORT[:4], "-c", "cpu", "--schedule", "linear", "--warmup-epochs", 0, "-o",
             tmp_path / "run")
    assert run(*flags, "--epochs", 3)[0] == 0    # it falls from the middle of the second epoch on
    assert_one_line(run(*flags, "--epochs", 4, "--resume"), 2, "of 4 epochs the first 3 would have had others")
    with disturbed(models, "iterate", 3, signal.SIGINT):
        assert run(*flags, "--epochs", 3, "--overwrite")[0] == 130    # in the second one
    assert_one_line(run(*flags, "--epochs", 4, "--resume"), 2, "of 4 epochs the first 2 would have had others")


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags, words", [
    (("RESNET51",), ("RESNET51", "RESNET50")),
    (("RESNET50", "--network", "resnet51"), ("resnet51", "resnet50")),
    (("RESNET50", "--batch-size", "0"), ("--batch-size 0",)),
    (("RESNET50", "--image-size", "8"), ("8 x 8", "at least 32")),
    (("PIX2PIXHD", "--image-size", "100"), ("100 x 100", "multiple of 32")),
    (("RESNET50", "--image-size", "large"), ("large",)),
    (("RESNET50", "--image-size", "64x32", "--data-dir", "synthetic"), ("64x32", "square")),
    (("RESNET50",), ("--data-dir", "--data random")),
    (("RESNET50", "--data-dir", "/no such folder"), ("/no such folder",)),
    (("DEEPLABV3PLUS", "--data-dir", "/no such folder"), ("/no such folder",)),
    (("RESNET50", "--data-dir", "{here}"), ("{here}", "train")),
    (("DEEPLABV3PLUS", "--data-dir", "{here}"), ("{here}", "leftImg8bit")),
    (("RESNET50", "--backbone", "resnet50"), ("backbone",)),
    ((*SMALL["resnet50"], *SHORT, "--out-of-core", "0"), ("0",)),
    ((*SMALL["resnet50"], *SHORT, "--out-of-core", "-1GB"), ("-1GB",)),
    ((*SMALL["resnet50"], *SHORT, "--out-of-core", "much"), ("much",)),
])
def test_bad_input_is_one_line(flags, words, run, tmp_path):
    def filled(text):
        return str(text).replace("{here}", str(tmp_path))

    result = run(*map(filled, flags), "-o", tmp_path / "run", "-c", "cpu")
    assert_one_line(result, 2, *map(filled, words))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags", [
    ("DEEPLABV3PLUS", "--image-size", 33, "--width", 0.0625), ("RESNET50", "--image-size", 32, "--width", 0.125),
    ("DENSENET121", "--image-size", 33, "--width", 0.125)])
def test_one_image_that_has_no_variance_is_refused_before_anything_is_trained(flags, run, tmp_path):
    result = run(*flags, "--batch-size", 1, "--data", "random", "-o", tmp_path / "run", "-c", "cpu")
    assert_one_line(result, 2, "batch size 1 of", "--batch-size")


def test_too_small_a_budget_is_one_line_and_keeps_what_was_trained(run, tmp_path):
    folder = tmp_path / "run"
    assert run(*SMALL["resnet50"], *SHORT, "-o", folder)[0] == 0
    trained = {name: (folder / name).read_bytes() for name in ("params_best.h5", "checkpoint/latest.h5", "log.csv")}
    longer = ("--epochs", 3, "--resume", "--out-of-core", "100kB")
    status, _, err = run(*SMALL["resnet50"], *SHORT, "-o", folder, *longer)
    assert status == 1, err
    assert {name: (folder / name).read_bytes() for name in trained} == trained
    errors = [line for line in err.splitlines() if not line.startswith("out-of-core: ")]
    assert len(errors) == 1, err
    assert "smallest feasible" in errors[0]
    assert "3072000 bytes" in errors[0]    # weight, gradient and momentum of the classifier: 3 x 256 x 1000 x 4


@pytest.mark.slow
@pytest.mark.skipif(find_mpirun() is None, reason="no mpirun: pip install -r requirements-distributed.txt")
def test_two_processes_train_together(tmp_path):
    command = [sys.executable, script_of(train), "SMALL", "--epochs", "1", "--steps-per-epoch", "1", "-c", "cpu"]
    done = start_ranks(2, [*map(str, command), "-o", str(tmp_path)], "--oversubscribe")
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout and done.stdout.count("epoch 1/1") == 1 == len(log_of(tmp_path))
