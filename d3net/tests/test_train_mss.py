"""Training for music separation: the data, what a run writes, the same bits after a kill, one line for bad input."""
import functools
import json
import shutil
import signal
from pathlib import Path

import nnabla as nn
import nnabla.solvers as S
import numpy as np
import pytest
import soundfile

from common.runs.checkpoint import load_state, save_parameters
from common.runs.schedules import step_decay
from common.separation.training import Losses
from common.workbench.testing import (
    assert_one_line,
    assert_same_files,
    command_line,
    content,
    disturbed,
    log_of,
    parameters_in,
    run_without_packages,
    same_parameters,
    script_of,
    train_until_killed,
    write_stems,
)
from d3net import train
from d3net.hyperparameters import load_mss, save_hyper_parameters
from d3net.mss_model import D3NetMSS
from d3net.music import training as train_mss
from d3net.music.config import SOURCES, MSSConfig
from d3net.music.training import GAINS, build_graph, magnitudes, open_songs, train_step, usable_frames, validate

RATE, SONG = 8000, 4000    # Hz, samples
SMALL = ("--seq-dur", "0.1", "--valid-dur", "0.2", "--batch-size", "2", "--samples-per-track", "2", "--epochs", "2",
         "-c", "cpu")
STEPS = 2    # per epoch, of the two songs below
SERIES = ("Training-loss", "Validation-loss", "learning-rate", "training-time-per-epoch")
pytestmark = pytest.mark.usefixtures("no_drawing")


@pytest.fixture(scope="module")
def hparams(small_mss):
    return small_mss(fft_size=64, hop_size=16, fs=RATE, valid_signal_idx=24, band_split_idxs=(8,), patch_length=8,
                     test_patch_len=8, out_shift=4)


@pytest.fixture(scope="module")
def songs(tmp_path_factory, hparams):
    """Folder of two songs to train with and one to validate, half a second each, and of hyper-parameters."""
    root, rng = tmp_path_factory.mktemp("songs"), np.random.default_rng(0)
    for name in ("train/a", "train/b", "valid/c"):
        write_stems(root / name, SOURCES, rng, SONG, RATE)
    save_hyper_parameters(root / "small.yaml", hparams)
    return root


def small(songs, **values):
    return MSSConfig(**{"root": str(songs), "seq_dur": 0.1, "valid_dur": 0.2, "batch_size": 2} | values)


def losses_of(hparams, test, patch_length=0, target="vocals"):
    return Losses(functools.partial(build_graph, D3NetMSS(hparams, target), test, patch_length))


def arguments(output, root, *flags):
    defaults = ("--output", output, "--root", root, "--hparams", root / "small.yaml", *SMALL)
    return ["mss", *command_line(defaults, flags)]


@pytest.fixture
def command(songs, run_main):
    """Run the command in this process; returns its exit status, stdout and stderr."""
    return lambda output, *flags, root=songs: run_main(train.main, *arguments(output, root, *flags))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, songs):
    """Output folder of a training of two epochs; not to be written to."""
    folder = tmp_path_factory.mktemp("runs") / "out"
    train.main(arguments(folder, songs))
    nn.clear_parameters()
    return folder


def assert_same_run(a, b):
    parameters = ("vocals.h5", "vocals_final.h5", "vocals/params_best.h5", "vocals/checkpoint/latest.h5")
    assert_same_files(a, b, parameters, ("vocals/log.csv", "vocals.yaml"))


# The step -------------------------------------------------------------------------------------------------------------


def test_training_steps_agree_with_the_reference(fill):
    ref = np.load(Path(__file__).parent / "data" / "mss_train.npz")
    g = np.random.RandomState(7)
    mixture = (0.1 * g.randn(2, 2, 33792)).astype(np.float32)
    target = (0.5 * mixture + 0.02 * g.randn(2, 2, 33792)).astype(np.float32)
    loss = losses_of(load_mss("tiny"), test=False, target="tiny")(mixture, target)
    fill(7)
    solver = S.Adam(1e-3)
    solver.set_parameters(nn.get_parameters())
    losses = [train_step(loss, solver, 1e-4)() for _ in range(2)]
    np.testing.assert_allclose(losses, ref["losses"][:2], rtol=1e-4)


def test_weight_decay_pulls_every_parameter_towards_zero(hparams):
    losses = losses_of(hparams, test=False, patch_length=8)
    loss = losses(*np.random.default_rng(0).standard_normal((2, 1, 2, 112), np.float32))
    loss.forward()
    loss.backward()
    for parameter in nn.get_parameters().values():
        parameter.d = 1.0
    solver = S.Sgd(1.0)
    solver.set_parameters(nn.get_parameters())
    with_decay = {}
    for weight_decay in (0.0, 0.25):
        for parameter in nn.get_parameters().values():
            parameter.d = 1.0
        train_step(loss, solver, weight_decay)
        with_decay[weight_decay] = {name: p.d.copy() for name, p in nn.get_parameters().items()}
    assert {"vocals/in_offset", "vocals/in_scale", "vocals/decode_bias"} <= set(with_decay[0.0])
    for name, value in with_decay[0.0].items():
        np.testing.assert_allclose(value - with_decay[0.25][name], 0.25, rtol=1e-3, atol=1e-3, err_msg=name)


def test_the_rate_falls_to_a_tenth_as_the_published_one():
    # Reference: the rate that the published script has set after epoch e, from 0.
    after = [0.001] * 39 + [0.0001] * 11
    np.testing.assert_allclose([step_decay(1e-3, epoch + 1, drops=(MSSConfig().lr_drop_epoch,)) for epoch in range(50)],
                               after, rtol=1e-7)


def test_only_the_first_frames_count(hparams):
    rng = np.random.default_rng(0)
    losses = losses_of(hparams, test=True, patch_length=8)
    mixture, target = rng.standard_normal((2, 1, 2, 640), np.float32)

    def loss(mixture, target):
        value = losses(mixture, target)
        value.forward()
        return float(value.d)

    before, heard = loss(mixture, target), 7 * hparams.hop_size + hparams.fft_size // 2
    changed = target.copy()
    changed[..., heard:] = 5
    assert loss(mixture, changed) == before
    changed[..., heard - 40:] = 5
    assert loss(mixture, changed) != before


def test_magnitudes_are_those_of_the_spectrogram(hparams):
    signal = nn.Variable.from_numpy_array(np.sin(np.arange(640) * 2 * np.pi * 8 / 64)[None, None].repeat(2, 1))
    found = magnitudes(signal, hparams, 16)
    found.forward()
    assert found.shape == (1, 16, 2, 33)
    assert (found.d[0, 4:12].argmax(axis=-1) == 8).all()
    np.testing.assert_allclose(found.d[0, 4:12, :, 8], 64 / 4, rtol=1e-3)    # half of the window's sum


# The data -------------------------------------------------------------------------------------------------------------


def test_a_batch_is_a_mixture_and_its_target(songs, hparams):
    quiet = {"source_augmentations": ("gain",), "workers": 0}
    batches = {target: next(open_songs(small(songs, target=target, **quiet), hparams).epoch(0))
               for target in (*SOURCES, "accompaniment")}
    mixture = batches["vocals"][0]
    assert mixture.shape == (2, 2, 800) and batches["vocals"][1].shape == (2, 1, 2, 800)
    for other, _ in batches.values():
        assert np.array_equal(other, mixture)
    np.testing.assert_allclose(sum(batches[source][1] for source in SOURCES)[:, 0], mixture, atol=1e-6)
    np.testing.assert_allclose((batches["accompaniment"][1] + batches["vocals"][1])[:, 0], mixture, atol=1e-6)


def test_gains_are_those_of_this_paper(songs, monkeypatch, hparams):
    draws = []
    monkeypatch.setattr("common.datasets.songs.TrainingBatches", lambda *args: draws.append(args))
    open_songs(small(songs), hparams)
    assert GAINS in draws[0] and GAINS == (0.75, 1.25) and SOURCES in draws[0]


def test_validation_is_the_mean_over_songs_of_the_mean_over_pieces(songs, hparams):
    data, losses = open_songs(small(songs), hparams), losses_of(hparams, test=True)
    values = []
    for mixture, target in (piece for song in data.validation() for piece in song):
        loss = losses(mixture, target)
        loss.forward()
        values.append(float(loss.d))
    assert len(values) == 2 and values[0] != values[1]
    assert validate(losses, data.validation()) == pytest.approx(np.mean(values))


@pytest.mark.parametrize("samples, frames", [(32, 2), (48, 4), (63, 4), (64, 4), (79, 4), (80, 6)])
def test_frames_come_in_multiples_of_what_the_network_takes(samples, frames, hparams):
    assert usable_frames(samples, hparams) == frames


# What a run writes ----------------------------------------------------------------------------------------------------


def test_a_run_writes_its_files(finished, hparams):
    run = ("checkpoint/latest.h5", "config.json", "curves.png", "log.csv", "params_best.h5",
           *(f"{name}.series.txt" for name in SERIES))
    assert sorted(content(finished)) == sorted(
        ["vocals.h5", "vocals.yaml", "vocals_final.h5", *(f"vocals/{name}" for name in run)])
    assert (finished / "vocals.h5").samefile(finished / "vocals/params_best.h5")
    assert same_parameters(finished / "vocals_final.h5", finished / "vocals/checkpoint/latest.h5")
    assert all(name.startswith("vocals/") for name in parameters_in(finished / "vocals.h5"))
    assert load_mss(finished / "vocals.yaml") == hparams
    config = json.loads((finished / "vocals/config.json").read_text())
    assert (config["target"], config["fft_size"], config["weight_decay"]) == ("vocals", 64, 1e-4)


def test_the_log_and_the_series_tell_the_same(finished):
    rows = log_of(finished / "vocals")
    assert [row["epoch"] for row in rows] == [1, 2]
    for column, name in (("train_loss", "Training-loss"), ("valid_loss", "Validation-loss"),
                         ("learning_rate", "learning-rate")):
        lines = (finished / f"vocals/{name}.series.txt").read_text().splitlines()
        values = [[float(word) for word in line.split()] for line in lines]
        np.testing.assert_allclose(values, [[k, row[column]] for k, row in enumerate(rows)], rtol=1e-4, atol=1e-6)
    assert rows[0]["learning_rate"] == pytest.approx(1e-3 * 2 / 6, rel=1e-5)    # in proportion to the batch size


def test_the_best_parameters_give_the_loss_in_the_log(finished, songs, hparams):
    nn.load_parameters(str(finished / "vocals.h5"))
    loss = validate(losses_of(hparams, test=True), open_songs(small(songs), hparams).validation())
    assert loss == pytest.approx(min(row["valid_loss"] for row in log_of(finished / "vocals")), rel=1e-5)


def test_the_statistics_of_the_songs_start_the_network(songs, tmp_path, command, monkeypatch, hparams):
    seen = {}
    monkeypatch.setattr(train_mss, "train_step", lambda *args: seen.update(
        {name: p.d.copy() for name, p in nn.get_parameters().items()}) or 0.0)
    assert command(tmp_path / "run", "--epochs", 1)[0] == 0
    mean, std = open_songs(small(songs), hparams).statistics(hparams.fft_size, hparams.hop_size)
    np.testing.assert_array_equal(seen["vocals/in_offset"].ravel(), mean)
    np.testing.assert_array_equal(seen["vocals/in_scale"].ravel(), std)


def test_the_loss_falls_and_targets_share_a_folder(command, copy):
    flags = ("drums", "--epochs", 3, "--samples-per-track", 8, "--lr", 0.03)
    assert command(copy, *flags)[0] == 0
    losses = [row["train_loss"] for row in log_of(copy / "drums")]
    assert losses[-1] < 0.9 * losses[0], losses
    assert {path.name for path in copy.glob("*.h5")} == {"vocals.h5", "vocals_final.h5", "drums.h5", "drums_final.h5"}


def test_without_validation_songs_the_training_loss_decides(command, songs, tmp_path):
    root = Path(shutil.copytree(songs, tmp_path / "songs"))
    shutil.rmtree(root / "valid")
    code, out, err = command(tmp_path / "run", root=root)
    assert (code, err) == (0, "") and "no validation songs" in out
    assert all(row["valid_loss"] == row["train_loss"] for row in log_of(tmp_path / "run/vocals"))


# The same bits --------------------------------------------------------------------------------------------------------


def test_one_seed_gives_the_same_bits_whatever_the_number_of_threads(command, finished, tmp_path):
    assert command(tmp_path / "run", "--workers", 0)[0] == 0
    assert_same_run(finished, tmp_path / "run")


def test_a_run_killed_within_an_epoch_resumes_to_the_same_bits(command, finished, songs, tmp_path):
    folder = tmp_path / "run"
    train_until_killed("d3net.train", "d3net.music.training train_step", 2 * STEPS, arguments(folder, songs))
    assert load_state(folder / "vocals/checkpoint/latest.h5")["epoch"] == 1
    code, out, err = command(folder, "--resume")
    assert (code, err) == (0, "") and "epoch 1/2" not in out
    assert_same_run(finished, folder)


def test_swapping_changes_where_arrays_are_and_nothing_else(command, finished, tmp_path):
    code, _, err = command(tmp_path / "run", "--out-of-core", "2GB")
    assert code == 0 and "no memory is saved" in err
    assert_same_run(finished, tmp_path / "run")


def test_an_interrupted_run_resumes_to_the_same_bits(command, finished, tmp_path):
    with disturbed(train_mss, "train_step", 1, signal.SIGINT):
        assert_one_line(command(tmp_path / "run"), 130, "interrupted in epoch 1 after step 1", "--resume")
    assert command(tmp_path / "run", "--resume")[0] == 0
    assert_same_run(finished, tmp_path / "run")


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags, words", [
    (("vocal",), ["no section [vocal]", "did you mean 'vocals'?"]),
    (("--cfg", "nowhere.cfg"), ["nowhere.cfg: no such file"]),
    (("--target", "piano"), ["target = 'piano' is none of vocals, drums, bass, other or accompaniment"]),
    (("--hparams", "nowhere.yaml"), ["nowhere.yaml: no such file"]),
    (("--bogus",), ["--bogus"]),
    (("--lr", "nan"), ["--lr nan: not allowed"]),
    (("--nfft", 32), ["a spectrum has 17 bins"]),
    (("--nfft", 65), ["hop_size 16 is to divide half of fft_size 65"]),
    (("--nhop", 24), ["hop_size 24 is to divide half of fft_size 64"]),
    (("--seq-dur", 1), ["0.50 s only, less than --seq-dur 1"]),
    (("--seq-dur", 0.001), ["--seq-dur: 0.001 s are too short", "0.004 s"]),
    (("--valid-dur", 0.001), ["--valid-dur: 0.001 s are too short"]),
    (("--patch-length", 7), ["--patch-length 7: choose a multiple of 2 up to 50"]),
    (("--patch-length", 52), ["--patch-length 52", "--seq-dur 0.1"]),
    (("--batch-size", 5), ["batch size 5", "1 to 4"]),
    (("--resume", "--overwrite"), ["--overwrite", "--resume"]),
    (("-c", "tpu"), ["tpu"]),
], ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "")
def test_wrong_arguments_are_one_line(flags, words, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_line(command(tmp_path / "run", *flags), 2, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage, status, words", [
    ("missing", 2, ["no such folder"]), ("empty", 2, ["no 'train' folder"]), ("source", 1, ["no stem 'drums'"]),
    ("damaged", 1, ["bass.wav"]), ("short", 2, ["validation track 'c'", "too short"])])
def test_bad_data_are_one_line(damage, status, words, command, songs, tmp_path):
    root = Path(shutil.copytree(songs, tmp_path / "songs"))
    if damage in ("missing", "empty"):
        shutil.rmtree(root / "train")
        root = root if damage == "empty" else root / "nowhere"
    elif damage == "source":
        (root / "train/a/drums.wav").unlink()
    elif damage == "damaged":
        (root / "train/a/bass.wav").write_bytes(b"no audio at all")
    else:
        soundfile.write(root / "valid/c/drums.wav", np.zeros((9, 2)), RATE)
    result = command(tmp_path / "run", "--hparams", songs / "small.yaml", root=root)
    assert_one_line(result, status, *words)
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_not_touched_unasked(command, copy):
    before = content(copy)
    assert_one_line(command(copy), 2, "vocals: holds a run already (epoch 2)", "--resume", "--overwrite")
    assert_one_line(command(copy, "--resume", "--seed", 1), 2, "seed = 42, not 1")
    assert content(copy) == before


def test_weights_of_no_run_are_not_replaced_unasked(command, tmp_path):
    (tmp_path / "run").mkdir()
    nn.parameter.set_parameter("w", nn.Variable((1,)))
    save_parameters(tmp_path / "run/vocals.h5")
    before = content(tmp_path)
    for flags in ((), ("--resume",)):
        assert_one_line(command(tmp_path / "run", *flags), 2, "vocals.h5: is there already", "--overwrite")
    assert content(tmp_path) == before
    assert command(tmp_path / "run", "--overwrite", "--epochs", 1)[0] == 0


def test_an_output_folder_that_cannot_be_made_is_one_line(command, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert_one_line(command(tmp_path / "file/run"), 1, str(tmp_path / "file/run"), "choose another --output")


def test_divergence_is_one_line(command, tmp_path):
    assert_one_line(command(tmp_path / "run", "--lr", 2e9), 1, "in epoch 1", "lower the learning rate")
    assert not list((tmp_path / "run").glob("*.h5"))


# In a process of its own ----------------------------------------------------------------------------------------------


def test_missing_install_is_one_line(tmp_path):
    assert_one_line(run_without_packages(script_of(train), cwd=tmp_path), 2, "pip install -r requirements.txt")


@pytest.mark.parametrize("argv, word", [([], "mss|segmentation"), (["speech"], "speech"), (["mss", "a", "b"], "b")])
def test_a_wrong_task_is_one_line(argv, word, run_main):
    assert_one_line(run_main(train.main, *argv), 2, word)
