"""Training for music separation: the data, what a run writes, the same bits after a kill, one line for bad input."""
import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import h5py
import nnabla as nn
import nnabla.solvers as S
import numpy as np
import pytest
import soundfile

from common import cli
from common.checkpoint import load_state, save_parameters
from common.schedules import step_decay
from d3net import train, train_mss
from d3net.config import SOURCES, MSSConfig
from d3net.hyperparameters import load_mss, save_hyper_parameters
from d3net.mss_data import GAINS, Songs
from d3net.mss_model import D3NetMSS
from d3net.train_mss import Graphs, magnitudes, train_step, validate

RATE, SONG = 8000, 4000    # Hz, samples
SMALL = ("--seq-dur", "0.1", "--valid-dur", "0.2", "--batch-size", "2", "--samples-per-track", "2", "--epochs", "2",
         "-c", "cpu")
STEPS = 2    # per epoch, of the two songs below
SERIES = ("Training-loss", "Validation-loss", "learning-rate", "training-time-per-epoch")
LINE = re.compile(r"[^\n]+\n")
SMALL_NETWORK = {
    "fft_size": 64, "hop_size": 16, "fs": RATE, "valid_signal_idx": 24, "band_split_idxs": (8,), "patch_length": 8,
    "num_init_features": (3, 2), "num_layer_blocks": ((2, 1, 1), (1, 1, 1)), "dens_k": ((2, 3, 2), (1, 1, 1)),
    "b_n_blocks": ((2, 1, 1), (1, 1, 1)), "comp_rates": ((1.0, 1.0), (1.0, 1.0)), "f_num_init_features": 2,
    "f_num_layer_block": (1, 2, 1), "f_dens_k": (2, 2, 2), "f_n_blocks": (1, 2, 1), "f_comp_rates": (1.0, 1.0),
    "ttl_num_layer_block": 2, "ttl_dens_k": 2, "test_patch_len": 8, "out_shift": 4}


@pytest.fixture(autouse=True)
def keep_sigterm():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    """Curves take longer than all the rest; the fixture `finished` draws them."""
    monkeypatch.setattr("common.training.plot_curves", lambda *args: None)


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Folder of two songs to train with and one to validate, half a second each, and of hyper-parameters."""
    root, rng = tmp_path_factory.mktemp("songs"), np.random.default_rng(0)
    for name in ("train/a", "train/b", "valid/c"):
        (root / name).mkdir(parents=True)
        for k, source in enumerate(SOURCES):
            tone = np.sin(np.arange(SONG)[:, None] * 0.1 * (k + 1) * rng.uniform(0.8, 1.2)) * [1, 0.7]
            audio = 0.1 * tone + 0.02 * rng.standard_normal((SONG, 2))
            soundfile.write(root / name / f"{source}.wav", audio, RATE, subtype="FLOAT")
    save_hyper_parameters(root / "small.yaml", small_hparams())
    return root


def small_hparams():
    return attrs.evolve(load_mss("tiny"), **SMALL_NETWORK)


def small(songs, **values):
    return MSSConfig(**{"root": str(songs), "seq_dur": 0.1, "valid_dur": 0.2, "batch_size": 2} | values)


def arguments(output, root, *flags):
    # A section, where there is one, comes first.
    section = flags[:1] if flags and not str(flags[0]).startswith("-") else ()
    given = (*section, "--output", output, "--root", root, "--hparams", root / "small.yaml", *SMALL,
             *flags[len(section):])
    return ["mss", *map(str, given)]


@pytest.fixture
def command(songs, capsys):
    """Run the command in this process; returns its exit status, stdout and stderr."""
    def run(output, *flags, root=songs):
        nn.clear_parameters()
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.run(lambda: train.main(arguments(output, root, *flags)))
        return caught.value.code or 0, *capsys.readouterr()
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory, songs):
    """Output folder of a training of two epochs; not to be written to."""
    folder = tmp_path_factory.mktemp("runs") / "out"
    train.main(arguments(folder, songs))
    nn.clear_parameters()
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def parameters_in(path):
    """{name: array} of a parameter file or a checkpoint."""
    found = {}
    with h5py.File(path) as file:
        file.get("parameters", file).visititems(
            lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def same_parameters(a, b):
    a, b = parameters_in(a), parameters_in(b)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def assert_same_run(a, b):
    for name in ("vocals.h5", "vocals_final.h5", "vocals/params_best.h5", "vocals/checkpoint/latest.h5"):
        assert same_parameters(a / name, b / name), name
    for name in ("vocals/log.csv", "vocals.yaml"):
        assert (a / name).read_text() == (b / name).read_text()


def rows_of(folder):
    with (folder / "vocals/log.csv").open() as stream:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_one_line(result, status, *words):
    code, _, err = result
    assert code == status, err
    assert LINE.fullmatch(err), err
    assert all(word in err for word in words), err


# The step -------------------------------------------------------------------------------------------------------------


def test_training_steps_agree_with_the_reference(fill):
    ref = np.load(Path(__file__).parent / "data" / "mss_train.npz")
    g = np.random.RandomState(7)
    mixture = (0.1 * g.randn(2, 2, 33792)).astype(np.float32)
    target = (0.5 * mixture + 0.02 * g.randn(2, 2, 33792)).astype(np.float32)
    loss = Graphs(D3NetMSS(load_mss("tiny"), "tiny"), test=False).loss(mixture, target, frames=32)
    fill(7)
    solver = S.Adam(1e-3)
    solver.set_parameters(nn.get_parameters())
    losses = [train_step(loss, solver, 1e-4) for _ in range(2)]
    np.testing.assert_allclose(losses, ref["losses"][:2], rtol=1e-4)


def test_weight_decay_pulls_every_parameter_towards_zero():
    graphs = Graphs(D3NetMSS(small_hparams(), "vocals"), test=False)
    loss = graphs.loss(*np.random.default_rng(0).standard_normal((2, 1, 2, 112), np.float32), frames=8)
    loss.forward(), loss.backward()
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


def test_only_the_first_frames_count():
    hparams, rng = small_hparams(), np.random.default_rng(0)
    graphs = Graphs(D3NetMSS(hparams, "vocals"), test=True)
    mixture, target = rng.standard_normal((2, 1, 2, 640), np.float32)

    def loss(mixture, target):
        value = graphs.loss(mixture, target, frames=8)
        value.forward()
        return float(value.d)

    before, heard = loss(mixture, target), 7 * hparams.hop_size + hparams.fft_size // 2
    changed = target.copy()
    changed[..., heard:] = 5
    assert loss(mixture, changed) == before
    changed[..., heard - 40:] = 5
    assert loss(mixture, changed) != before


def test_magnitudes_are_those_of_the_spectrogram():
    hparams = small_hparams()
    signal = nn.Variable.from_numpy_array(np.sin(np.arange(640) * 2 * np.pi * 8 / 64)[None, None].repeat(2, 1))
    found = magnitudes(signal, hparams, 16)
    found.forward()
    assert found.shape == (1, 16, 2, 33)
    assert (found.d[0, 4:12].argmax(axis=-1) == 8).all()
    np.testing.assert_allclose(found.d[0, 4:12, :, 8], 64 / 4, rtol=1e-3)    # half of the window's sum


# The data -------------------------------------------------------------------------------------------------------------


def test_a_batch_is_a_mixture_and_its_target(songs):
    quiet = {"source_augmentations": ("gain",), "workers": 0}
    batches = {target: next(Songs(small(songs, target=target, **quiet), small_hparams()).epoch(0))
               for target in (*SOURCES, "accompaniment")}
    mixture = batches["vocals"][0]
    assert mixture.shape == batches["vocals"][1].shape == (2, 2, 800)
    for other, _ in batches.values():
        assert np.array_equal(other, mixture)
    np.testing.assert_allclose(sum(batches[source][1] for source in SOURCES), mixture, atol=1e-6)
    np.testing.assert_allclose(batches["accompaniment"][1] + batches["vocals"][1], mixture, atol=1e-6)


def test_gains_are_those_of_this_paper(songs, monkeypatch):
    draws = []
    monkeypatch.setattr("d3net.mss_data.TrainingBatches", lambda *args: draws.append(args))
    Songs(small(songs), small_hparams())
    assert GAINS in draws[0] and GAINS == (0.75, 1.25) and SOURCES in draws[0]


def test_validation_is_the_mean_over_songs_of_the_mean_over_pieces(songs):
    hparams = small_hparams()
    network, data = D3NetMSS(hparams, "vocals"), Songs(small(songs), hparams)
    graphs = Graphs(network, test=True)
    pieces = [piece for song in data.validation() for piece in song]
    losses = []
    for mixture, target in pieces:
        value = graphs.loss(mixture, target, data.num_frames(mixture.shape[-1]))
        value.forward()
        losses.append(float(value.d))
    assert len(losses) == 2 and losses[0] != losses[1]
    assert validate(graphs, data) == pytest.approx(np.mean(losses))


# What a run writes ----------------------------------------------------------------------------------------------------


def test_a_run_writes_its_files(finished):
    run = ("checkpoint/latest.h5", "config.json", "curves.png", "log.csv", "params_best.h5",
           *(f"{name}.series.txt" for name in SERIES))
    assert sorted(path.as_posix() for path in content(finished)) == sorted(
        ["vocals.h5", "vocals.yaml", "vocals_final.h5", *(f"vocals/{name}" for name in run)])
    assert (finished / "vocals.h5").samefile(finished / "vocals/params_best.h5")
    assert same_parameters(finished / "vocals_final.h5", finished / "vocals/checkpoint/latest.h5")
    assert all(name.startswith("vocals/") for name in parameters_in(finished / "vocals.h5"))
    assert load_mss(finished / "vocals.yaml") == small_hparams()
    config = json.loads((finished / "vocals/config.json").read_text())
    assert (config["target"], config["fft_size"], config["weight_decay"]) == ("vocals", 64, 1e-4)


def test_the_log_and_the_series_tell_the_same(finished):
    rows = rows_of(finished)
    assert [row["epoch"] for row in rows] == [1, 2]
    for column, name in (("train_loss", "Training-loss"), ("valid_loss", "Validation-loss"),
                         ("learning_rate", "learning-rate")):
        lines = (finished / f"vocals/{name}.series.txt").read_text().splitlines()
        values = [[float(word) for word in line.split()] for line in lines]
        np.testing.assert_allclose(values, [[k, row[column]] for k, row in enumerate(rows)], rtol=1e-4, atol=1e-6)
    assert rows[0]["learning_rate"] == pytest.approx(1e-3 * 2 / 6, rel=1e-5)    # in proportion to the batch size


def test_the_best_parameters_give_the_loss_in_the_log(finished, songs):
    nn.load_parameters(str(finished / "vocals.h5"))
    hparams = small_hparams()
    loss = validate(Graphs(D3NetMSS(hparams, "vocals"), test=True), Songs(small(songs), hparams))
    assert loss == pytest.approx(min(row["valid_loss"] for row in rows_of(finished)), rel=1e-5)


def test_the_statistics_of_the_songs_start_the_network(songs, tmp_path, command, monkeypatch):
    seen = {}
    monkeypatch.setattr(train_mss, "train_step", lambda *args: seen.update(
        {name: p.d.copy() for name, p in nn.get_parameters().items()}) or 0.0)
    assert command(tmp_path / "run", "--epochs", 1)[0] == 0
    mean, std = Songs(small(songs), small_hparams()).statistics()
    np.testing.assert_array_equal(seen["vocals/in_offset"].ravel(), mean)
    np.testing.assert_array_equal(seen["vocals/in_scale"].ravel(), std)


def test_the_loss_falls_and_targets_share_a_folder(command, copy):
    flags = ("drums", "--epochs", 3, "--samples-per-track", 8, "--lr", 0.03)
    assert command(copy, *flags)[0] == 0
    with (copy / "drums/log.csv").open() as stream:
        losses = [float(row["train_loss"]) for row in csv.DictReader(stream)]
    assert losses[-1] < 0.9 * losses[0], losses
    assert {path.name for path in copy.glob("*.h5")} == {"vocals.h5", "vocals_final.h5", "drums.h5", "drums_final.h5"}


def test_without_validation_songs_the_training_loss_decides(command, songs, tmp_path):
    root = Path(shutil.copytree(songs, tmp_path / "songs"))
    shutil.rmtree(root / "valid")
    code, out, err = command(tmp_path / "run", root=root)
    assert (code, err) == (0, "") and "no validation songs" in out
    assert all(row["valid_loss"] == row["train_loss"] for row in rows_of(tmp_path / "run"))


# The same bits --------------------------------------------------------------------------------------------------------


def test_one_seed_gives_the_same_bits_whatever_the_number_of_threads(command, finished, tmp_path):
    assert command(tmp_path / "run", "--workers", 0)[0] == 0
    assert_same_run(finished, tmp_path / "run")


KILLED = """
import os, signal, sys
from d3net import train, train_mss
step, calls = train_mss.train_step, []
def killing(*args):
    calls.append(0)
    if len(calls) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*args)
train_mss.train_step = killing
train.main(sys.argv[2:])
"""


def test_a_run_killed_within_an_epoch_resumes_to_the_same_bits(command, finished, songs, tmp_path):
    folder = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", KILLED, str(2 * STEPS), *arguments(folder, songs)],
                          capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert load_state(folder / "vocals/checkpoint/latest.h5")["epoch"] == 1
    code, out, err = command(folder, "--resume")
    assert (code, err) == (0, "") and "epoch 1/2" not in out
    assert_same_run(finished, folder)


def test_swapping_changes_where_arrays_are_and_nothing_else(command, finished, tmp_path):
    code, _, err = command(tmp_path / "run", "--out-of-core", "2GB")
    assert code == 0 and "no memory is saved" in err
    assert_same_run(finished, tmp_path / "run")


def test_an_interrupted_run_resumes_to_the_same_bits(command, finished, tmp_path, monkeypatch):
    step = train_mss.train_step

    def interrupting(*args):
        signal.raise_signal(signal.SIGINT)
        return step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(train_mss, "train_step", interrupting)
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
    assert_one_line(command(tmp_path / "run"), 2, "vocals.h5: is there already", "--overwrite")
    assert content(tmp_path) == before
    assert command(tmp_path / "run", "--overwrite", "--epochs", 1)[0] == 0


def test_an_output_folder_that_cannot_be_made_is_one_line(command, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert_one_line(command(tmp_path / "file/run"), 1, str(tmp_path / "file/run"), "choose another --output")


def test_divergence_is_one_line(command, tmp_path):
    assert_one_line(command(tmp_path / "run", "--lr", 1e30), 1, "in epoch 1", "lower the learning rate")
    assert not list((tmp_path / "run").glob("*.h5"))


# In a process of its own ----------------------------------------------------------------------------------------------


def test_missing_install_is_one_line(tmp_path):
    # -S: without the installed packages.
    done = subprocess.run([sys.executable, "-S", train.__file__], cwd=tmp_path, capture_output=True, text=True)
    assert_one_line((done.returncode, done.stdout, done.stderr), 2, "pip install -r requirements.txt")


@pytest.mark.parametrize("argv, word", [([], "TASK"), (["speech"], "speech"), (["mss", "a", "b"], "b")])
def test_a_wrong_task_is_one_line(argv, word, capsys):
    with pytest.raises(SystemExit):
        cli.run(lambda: train.main(argv))
    assert_one_line((2, *capsys.readouterr()), 2, word)
