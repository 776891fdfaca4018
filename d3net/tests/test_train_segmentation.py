"""Training for segmentation: the data, what a run writes, the same bits after a kill, one line for bad input."""
import json
import shutil
import signal
from pathlib import Path

import attrs
import cv2
import h5py
import nnabla as nn
import nnabla.parametric_functions as PF
import nnabla.solvers as S
import numpy as np
import pytest

from common.runs.checkpoint import load_state, save_parameters
from common.runs.schedules import poly_decay
from common.runs.training import CHECKPOINT
from common.workbench.testing import (
    assert_one_line,
    assert_same_files,
    command_line,
    content,
    disturbed,
    log_of,
    same_parameters,
    train_until_killed,
)
from d3net import train
from d3net.hyperparameters import load_segmentation, save_hyper_parameters
from d3net.scenes import training as train_segmentation
from d3net.scenes.config import SegmentationConfig
from d3net.scenes.data import Scenes
from d3net.scenes.training import build_loss, train_step
from d3net.scenes.validation import Predictor, validate
from d3net.segmentation_model import BACKBONE, backbone

SIZE = 64, 96    # of the images below, pixels
SMALL = ("--batch-size", "2", "--image-height", "32", "--image-width", "48", "--max-iter", "2", "--epoch-length", "4",
         "--save-interval", "3", "--log-interval", "2", "--lr", "0.1", "--min-lr", "0.01", "-c", "cpu")
STEPS, EPOCH = 8, 4    # max_iter is for 8 images per update
SERIES = ("Training-loss", "Learning-rate", "Training-time-per-iteration")
SAVED = tuple(f"model_param_{iteration:08d}.h5" for iteration in (0, 3, 6))
pytestmark = pytest.mark.usefixtures("no_drawing")
SMALL_NETWORK = {
    "num_init_features": 4, "num_layers": (2, 1, 1, 1), "n_blocks": (2, 1, 1, 1), "dens_k": (2, 2, 2, 2),
    "block_comp": (0.5, 0.5, 0.5, 0.5), "intermediate_out_ch": (2, 2, 2, 2), "dense_n_out_layer_block": (2, 1, 1, 1),
    "channels": 8}


def write_pair(root, name, rng):
    """Write a scene of three classes with their colours, and a label that leaves the first rows out."""
    label = np.repeat(np.repeat(rng.integers(0, 3, (4, 6), dtype=np.uint8), 16, 0), 16, 1)
    image = np.array([(200, 30, 30), (30, 200, 30), (30, 30, 200)], np.uint8)[label]
    label[:4] = 255
    for kind, suffix, array in (("leftImg8bit", "leftImg8bit", image), ("gtFine", "gtFine_labelTrainIds", label)):
        path = root / kind / f"{name}_{suffix}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), array)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Folder of three scenes to train with and two to validate, and of hyper-parameters."""
    root, rng = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    for name in ("train/a/1", "train/a/2", "train/b/1", "val/c/1", "val/c/2"):
        write_pair(root, name, rng)
    save_hyper_parameters(root / "small.yaml", small_hparams())
    return root


def small_hparams(**values):
    return attrs.evolve(load_segmentation("tiny"), **SMALL_NETWORK, **values)


def small_scenes(scenes, steps=STEPS, **values):
    cfg = SegmentationConfig(**{"data_dir": str(scenes), "epoch_length": EPOCH} | values)
    return Scenes(cfg, small_hparams(batch_size=2, image_height=32, image_width=48), steps)


def arguments(output, data_dir, *flags):
    defaults = ("--output", output, "--data-dir", data_dir, "-cfg", data_dir / "small.yaml", *SMALL)
    return ["segmentation", *command_line(defaults, flags)]


@pytest.fixture
def command(scenes, run_main):
    """Run the command in this process; returns its exit status, stdout and stderr."""
    return lambda output, *flags, data_dir=scenes: run_main(train.main, *arguments(output, data_dir, *flags))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, scenes):
    """Folder of a run of two epochs; not to be written to."""
    folder = tmp_path_factory.mktemp("runs") / "out"
    train.main(arguments(folder, scenes))
    nn.clear_parameters()
    return folder


def assert_same_run(a, b):
    assert_same_files(a, b, ("params_best.h5", "final.h5", "checkpoint/latest.h5", "solver_states.h5", *SAVED),
                      ("log.csv", "hparams.yaml", "Training-loss.series.txt"))


# The step -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recompute", [False, True])
def test_training_steps_agree_with_the_reference(recompute, fill):
    ref = np.load(Path(__file__).parent / "data" / "seg_train_tiny.npz")
    hparams = attrs.evolve(load_segmentation("tiny"), batch_size=2, image_height=64, image_width=96)
    g = np.random.RandomState(9)
    image, label, loss = build_loss(hparams, recompute)
    image.d = g.randn(2, 3, 64, 96)
    classes = g.randint(0, 19, (2, 1, 8, 12)).repeat(8, 2).repeat(8, 3)
    label.d = np.where(g.rand(2, 1, 64, 96) < 0.1, -1, classes)
    fill(9)
    solver = S.Momentum(hparams.lr, hparams.momentum)
    solver.set_parameters(nn.get_parameters())
    for iteration in range(3):
        solver.set_learning_rate(poly_decay(hparams.lr, hparams.min_lr, hparams.power, iteration, 10))
        assert train_step(loss, solver, hparams.weight_decay)() == pytest.approx(ref["losses"][iteration], rel=1e-5)


def test_ignored_pixels_count_as_zero():
    image, label, loss = build_loss(small_hparams(batch_size=1, image_height=32, image_width=48))
    image.d = np.random.default_rng(0).standard_normal(image.shape)
    losses = []
    for ignored in (0, 16, 32):
        label.d = 0
        label.d[..., :ignored, :] = -1
        loss.forward()
        losses.append(float(loss.d))
    assert losses[0] > losses[1] > losses[2] == 0


# Reference: the published schedule at these iterations of 80000.
@pytest.mark.parametrize("iteration, rate", [
    (0, 0.01), (1, 0.00999988862493039), (100, 0.009988861803586997), (8000, 0.009104372503221327),
    (40000, 0.005405278639554652), (79999, 0.00010038269624970405)])
def test_the_rate_falls_as_the_published_one(iteration, rate):
    hparams = load_segmentation("D3Net_L")
    found = poly_decay(hparams.lr, hparams.min_lr, hparams.power, iteration, hparams.max_iter)
    assert found == pytest.approx(rate, rel=1e-7)


# The data -------------------------------------------------------------------------------------------------------------


def test_batches_depend_on_seed_and_iteration_alone(scenes):
    first = list(small_scenes(scenes).epoch(0))
    assert [(image.shape, label.shape) for image, label in first] == [((2, 3, 32, 48), (2, 1, 32, 48))] * EPOCH
    for workers in (0, 3):
        later = list(small_scenes(scenes, workers=workers).epoch(0, start=2))
        for (image, label), (again, label_again) in zip(first[2:], later, strict=True):
            assert np.array_equal(image, again) and np.array_equal(label, label_again)
    other = next(small_scenes(scenes, seed=1).epoch(0))
    assert not np.array_equal(first[0][0], other[0])
    following = next(small_scenes(scenes).epoch(1))
    assert not any(np.array_equal(following[0], image) for image, _ in first)


def test_every_pass_shows_every_image_once(scenes, monkeypatch):
    read = []
    monkeypatch.setattr("d3net.scenes.data.read_pair", lambda pair: read.append(pair.name) or (
        np.zeros((*SIZE, 3), np.uint8), np.zeros(SIZE, np.uint8)))
    data = small_scenes(scenes, workers=0)
    for epoch in range(2):
        list(data.epoch(epoch))
    assert len(read) == STEPS * 2
    passes = [read[k:k + 3] for k in range(0, 15, 3)]    # 3 images, over the limits of batches and epochs
    assert all(sorted(names) == ["a/1", "a/2", "b/1"] for names in passes)
    assert len({tuple(names) for names in passes}) > 1


def test_the_last_epoch_may_be_shorter(scenes):
    data = small_scenes(scenes, steps=6, workers=0)
    assert [len(list(data.epoch(epoch))) for epoch in range(2)] == [4, 2]


def test_validation_takes_whole_images_as_they_are(scenes):
    found = list(small_scenes(scenes).validation())
    assert [(image.shape, label.shape) for image, label in found] == [((3, *SIZE), SIZE)] * 2
    assert (found[0][1][:4] == 255).all() and (found[0][1][4:] < 3).all()
    assert len(list(small_scenes(scenes, valid_images=1).validation())) == 1


# What a run writes ----------------------------------------------------------------------------------------------------


def test_a_run_writes_its_files(finished):
    assert sorted(content(finished)) == sorted([
        "checkpoint/latest.h5", "config.json", "curves.png", "final.h5", "hparams.yaml", "log.csv", "params_best.h5",
        "solver_states.h5", *SAVED, *(f"{name}.series.txt" for name in SERIES)])
    assert same_parameters(finished / "final.h5", finished / "checkpoint/latest.h5")
    hparams = load_segmentation(finished / "hparams.yaml")
    assert (hparams.batch_size, hparams.num_init_features) == (2, 4)
    config = json.loads((finished / "config.json").read_text())
    assert (config["lr"], config["momentum"], config["seed"]) == (0.1, 0.9, 42)


def test_the_log_tells_the_iterations(finished):
    rows = log_of(finished)
    assert [row["iteration"] for row in rows] == [4, 8]
    series = [[float(word) for word in line.split()]
              for line in (finished / "Training-loss.series.txt").read_text().splitlines()]
    assert [index for index, _ in series] == [1, 3, 5, 7]
    for row, pair in zip(rows, (series[:2], series[2:]), strict=True):
        assert row["train_loss"] == pytest.approx(np.mean([loss for _, loss in pair]), rel=1e-4)
    # In proportion to the batch size, as the number of updates.
    assert rows[-1]["learning_rate"] == pytest.approx(poly_decay(0.1, 0.01, 0.9, 7, STEPS) * 2 / 8, rel=1e-5)


def test_the_best_parameters_give_the_numbers_in_the_log(finished, scenes):
    nn.load_parameters(str(finished / "params_best.h5"))
    confusion = validate(Predictor(small_hparams()), small_scenes(scenes))
    best = max(log_of(finished), key=lambda row: row["valid_miou"])
    assert confusion.mean_iou() == pytest.approx(best["valid_miou"])
    assert confusion.pixel_accuracy() == pytest.approx(best["valid_pixel_accuracy"])
    assert confusion.counts.sum() == 2 * 60 * 96


def test_the_loss_falls(command, tmp_path):
    assert command(tmp_path / "run", "--max-iter", 6, "--save-interval", 100)[0] == 0
    losses = [row["train_loss"] for row in log_of(tmp_path / "run")]
    assert losses[-1] < 0.7 * losses[0], losses


def test_without_validation_images_the_training_loss_decides(command, scenes, tmp_path):
    root = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    shutil.rmtree(root / "leftImg8bit/val")
    code, out, err = command(tmp_path / "run", data_dir=root)
    assert (code, err) == (0, "") and "no validation images" in out
    rows = log_of(tmp_path / "run")
    assert set(rows[0]) == {"epoch", "iteration", "train_loss", "learning_rate"}
    assert load_state(tmp_path / "run/checkpoint/latest.h5")["best"] == min(row["train_loss"] for row in rows)


def test_a_pretrained_backbone_is_where_training_starts(command, tmp_path, monkeypatch):
    weights = tmp_path / "backbone.h5"
    with nn.parameter_scope("made"):
        backbone(nn.Variable((1, 3, 32, 48)), small_hparams())
        for parameter in nn.get_parameters(grad_only=False).values():
            parameter.d = 0.5
        save_parameters(weights)
    seen = {}
    monkeypatch.setattr(train_segmentation, "train_step", lambda *args: seen.update(
        {name: p.d.copy() for name, p in nn.get_parameters(grad_only=False).items()}) or (lambda: 0.0))
    assert command(tmp_path / "run", "-p", weights, "--max-iter", 1)[0] == 0
    for name, value in seen.items():
        assert (value == 0.5).all() == name.startswith(f"{BACKBONE}/"), name


def test_a_backbone_of_another_task_is_taken_with_a_note(command, tmp_path, monkeypatch):
    weights = tmp_path / "backbone.h5"
    with nn.parameter_scope("made"):
        backbone(nn.Variable((1, 3, 32, 48)), small_hparams())
        PF.affine(nn.Variable((1, 4)), 10, name="classes")
        for name, parameter in nn.get_parameters(grad_only=False).items():
            parameter.d = 0.5
            if "_out" in name.split("/")[0]:
                nn.parameter.pop_parameter(name)
        save_parameters(weights)
    seen = {}
    monkeypatch.setattr(train_segmentation, "train_step", lambda *args: seen.update(
        {name: p.d.copy() for name, p in nn.get_parameters(grad_only=False).items()}) or (lambda: 0.0))
    code, _, err = command(tmp_path / "run", "-p", weights, "--max-iter", 1)
    assert code == 0 and err.splitlines() == [
        f"note: {weights}: 2 parameters ignored that the backbone does not have (classes/affine/W, classes/affine/b, "
        "...)",
        f"note: {weights}: 24 parameters not in it, which begin as if nothing was trained (final_out4/0/conv/W, "
        "final_out4/0/conv/b, ...)"]
    assert not any("classes" in name for name in seen)
    for name, value in seen.items():
        assert (value == 0.5).all() == (name.startswith(f"{BACKBONE}/") and "_out" not in name), name


# The same bits --------------------------------------------------------------------------------------------------------


def test_one_seed_gives_the_same_bits_whatever_the_number_of_threads(command, finished, tmp_path):
    assert command(tmp_path / "run", "--workers", 0)[0] == 0
    assert_same_run(finished, tmp_path / "run")


@pytest.mark.slow
def test_a_run_killed_within_an_epoch_resumes_to_the_same_bits(command, finished, scenes, tmp_path):
    folder = tmp_path / "run"
    train_until_killed("d3net.train", "d3net.scenes.training train_step", EPOCH + 2, arguments(folder, scenes),
                       save_every_step=True)
    state = load_state(folder / "checkpoint/latest.h5")
    assert (state["epoch"], state["step"]) == (1, 1)
    code, out, err = command(folder, "--resume")
    assert (code, err) == (0, "") and "iteration 4/8" not in out
    assert_same_run(finished, folder)


def test_swapping_changes_where_arrays_are_and_nothing_else(command, finished, tmp_path):
    code, _, err = command(tmp_path / "run", "--out-of-core", "2GB")
    assert code == 0 and "no memory is saved" in err
    assert_same_run(finished, tmp_path / "run")


def test_an_interrupted_run_resumes_to_the_same_bits(command, finished, tmp_path):
    with disturbed(train_segmentation, "train_step", 1, signal.SIGINT):
        assert_one_line(command(tmp_path / "run"), 130, "interrupted in epoch 1 after step 1", "--resume")
    assert command(tmp_path / "run", "--resume")[0] == 0
    assert_same_run(finished, tmp_path / "run")


@pytest.fixture
def reads(monkeypatch):
    """Read losses as on a GPU; returns a list of how many updates were begun whenever one is read."""
    begun, found = [], []

    def counted(*args):
        begun.append(args)
        read = train_step(*args)
        return lambda: found.append(len(begun)) or read()

    monkeypatch.setattr("common.runs.training.on_gpu", lambda: True)
    monkeypatch.setattr(train_segmentation, "train_step", counted)
    return found


def test_losses_are_read_where_a_row_of_the_series_or_an_epoch_ends(command, reads, tmp_path, request):
    assert command(tmp_path / "later", "--log-interval", 3)[0] == 0
    assert reads == [3, 3, 3, 4, 6, 6, 8, 8]
    request.getfixturevalue("monkeypatch").undo()
    assert command(tmp_path / "at-once", "--log-interval", 3)[0] == 0
    assert_same_run(tmp_path / "at-once", tmp_path / "later")
    states = [load_state(tmp_path / name / "checkpoint/latest.h5") for name in ("at-once", "later")]
    for rows in ("series", "pending"):
        assert [row[:-1] for row in states[0][rows]] == [row[:-1] for row in states[1][rows]]    # but for the seconds
        assert len(states[0][rows]) == 2


@pytest.mark.parametrize("number", [2, 3])
def test_an_interrupted_run_loses_no_loss_that_was_not_read(command, finished, reads, tmp_path, number):
    with disturbed(train_segmentation, "train_step", number, signal.SIGINT):
        assert command(tmp_path / "run")[0] == 130
    assert len(reads) == number
    assert command(tmp_path / "run", "--resume")[0] == 0
    assert_same_run(finished, tmp_path / "run")


def test_an_overwritten_run_leaves_no_weights_of_the_old_one(command, copy):
    assert command(copy, "--overwrite", "--save-interval", 5)[0] == 0
    assert [path.name for path in sorted(copy.glob("model_param_*.h5"))] == [
        "model_param_00000000.h5", "model_param_00000005.h5"]


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags, words", [
    (("D3Net",), ["no section [D3Net]"]),
    (("--cfg", "nowhere.cfg"), ["nowhere.cfg: no such file"]),
    (("--cfg", "configs/D3Net_L.yaml"), ["D3Net_L.yaml: a file of experiments", "--config-file"]),
    (("-cfg", "nowhere.yaml"), ["nowhere.yaml: no such file"]),
    (("--data-dir", "none"), ["--data-dir: name the folder of Cityscapes"]),
    (("--pretrained", "nowhere.h5"), ["nowhere.h5"]),
    (("-d", "some/folder"), ["some/folder"]),
    (("--image-height", 16), ["--image-height 16", "29 pixels or more"]),
    (("--batch-size", 0), ["batch_size = 0"]),
    (("--bogus",), ["--bogus"]),
    (("--lr", "nan"), ["--lr nan: not allowed"]),
    (("--resume", "--overwrite"), ["--overwrite", "--resume"]),
], ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "")
def test_wrong_arguments_are_one_line(flags, words, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_line(command(tmp_path / "run", *flags), 2, *words)
    assert not (tmp_path / "run/config.json").exists()


@pytest.mark.parametrize("damage, status, words", [
    ("missing", 2, ["no such folder"]), ("empty", 2, ["no leftImg8bit/train in it"]),
    ("label", 2, ["no such label"]), ("size", 1, ["a/1", "they have to agree"]), ("image", 1, ["1_leftImg8bit.png"])])
def test_bad_data_are_one_line(damage, status, words, command, scenes, tmp_path):
    root = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    label = root / "gtFine/train/a/1_gtFine_labelTrainIds.png"
    if damage in ("missing", "empty"):
        shutil.rmtree(root / "leftImg8bit")
        root = root if damage == "empty" else root / "nowhere"
    elif damage == "label":
        label.unlink()
    elif damage == "size":
        cv2.imwrite(str(label), np.zeros((9, 9), np.uint8))
    else:
        (root / "leftImg8bit/train/a/1_leftImg8bit.png").write_bytes(b"no image at all")
    assert_one_line(command(tmp_path / "run", "-cfg", scenes / "small.yaml", data_dir=root), status, *words)
    assert not (tmp_path / "run/params_best.h5").exists()


def test_a_backbone_of_another_network_is_one_line(command, tmp_path, finished):
    result = command(tmp_path / "run", "--pretrained", finished / "final.h5")
    assert_one_line(result, 1, "final.h5: weights of another network")
    assert not (tmp_path / "run/config.json").exists()


def test_an_existing_run_is_not_touched_unasked(command, copy):
    before = content(copy)
    assert_one_line(command(copy), 2, f"{copy}: holds a run already (epoch 2)", "--resume", "--overwrite")
    assert_one_line(command(copy, "--resume", "--seed", 1), 2, "seed = 42, not 1")
    assert content(copy) == before


def test_other_images_are_refused(command, scenes, copy, tmp_path):
    shutil.copytree(scenes, tmp_path / "scenes")
    assert command(copy, "--resume", "--data-dir", tmp_path / "scenes")[0] == 0    # the same in another place
    write_pair(tmp_path / "scenes", "val/c/3", np.random.default_rng(0))
    result = command(copy, "--resume", "--data-dir", tmp_path / "scenes")
    assert_one_line(result, 2, "other validation images (2, and now there are 3)")


def test_another_number_of_processes_is_refused(command, copy):
    """The number of updates follows from it, and an epoch has a number of updates."""
    with h5py.File(copy / CHECKPOINT, "r+") as file:
        state = json.loads(bytes(file["state"][()])) | {"ranks": 2}
        del file["state"]
        file["state"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    assert_one_line(command(copy, "--resume"), 2, "was trained by 2 processes", "not by 1", "mpirun -n 2")


def test_an_output_folder_that_cannot_be_made_is_one_line(command, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert_one_line(command(tmp_path / "file/run"), 1, str(tmp_path / "file/run"), "choose another --output")


def test_divergence_is_one_line(command, tmp_path):
    assert_one_line(command(tmp_path / "run", "--lr", 2e9), 1, "in epoch 1", "lower the learning rate")
    assert not (tmp_path / "run/params_best.h5").exists()
