"""The command that trains: what a run writes, the same bits after a kill, and what it says to bad input."""
import functools
import itertools
import json
import shutil
import signal

import nnabla as nn
import numpy as np
import pytest
import soundfile

from common.datasets.songs import Songs
from common.runs.checkpoint import load_state
from common.runs.config import section_names
from common.runs.schedules import plateau_decay
from common.separation import training as separation_training
from common.separation.training import Losses, validate
from common.workbench.testing import (
    assert_one_line,
    assert_same_files,
    command_line,
    content,
    disturbed,
    log_of,
    run_without_packages,
    same_parameters,
    script_of,
    train_until_killed,
    write_stems,
)
from x_umx import train
from x_umx.config import Config
from x_umx.model import SOURCES
from x_umx.network import build_graph, shortest_excerpt
from x_umx.weights import find_weights

SCRIPT = script_of(train)
RATE, SONG = 8000, 4000    # Hz, samples
SMALL = ("--nfft", "64", "--nhop", "16", "--hidden-size", "8", "--seq-dur", "0.1", "--valid-dur", "0.2", "--batch-size",
         "2", "--samples-per-track", "2", "--epochs", "2", "--sample-rate", str(RATE), "--bandwidth", "3000",
         "-c", "cpu")
STEPS = 2    # per epoch, of the two songs below
SERIES = ("Training-loss", "Validation-loss", "learning-rate", "Best-epoch", "training-time-per-iteration")
pytestmark = pytest.mark.usefixtures("no_drawing")


def make_songs(root, **splits):
    rng = np.random.default_rng(0)
    for split, num in splits.items():
        for song in range(num):
            write_stems(root / split / f"song {song}", SOURCES, rng, SONG, RATE)
    return root


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Two songs to train with and one to validate, half a second each."""
    return make_songs(tmp_path_factory.mktemp("songs"), train=2, valid=1)


def arguments(output, root, *flags):
    return command_line(("--output", output, "--root", root, *SMALL), flags)


@pytest.fixture
def command(songs, run_main):
    """Run the command in this process; returns its exit status, stdout and stderr."""
    return lambda output, *flags, root=songs: run_main(train.main, *arguments(output, root, *flags))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, songs):
    """Folder of a run of two epochs; not to be written to."""
    folder = tmp_path_factory.mktemp("runs") / "XUMX"
    train.main(arguments(folder, songs))
    nn.clear_parameters()
    return folder


def assert_same_run(a, b):
    assert_same_files(a, b, ("params_best.h5", "best_xumx.h5", "checkpoint/latest.h5"), ("log.csv",))


def valid_losses(cfg):
    return Losses(functools.partial(build_graph, cfg, False))


def scripted(monkeypatch, losses):
    """Replace the validation losses of a run; the last one stays."""
    values = itertools.chain(losses, itertools.repeat(losses[-1]))
    monkeypatch.setattr(train, "validate", lambda losses, songs: next(values))


# What a run writes ----------------------------------------------------------------------------------------------------


def test_a_run_writes_its_files(finished):
    assert sorted(content(finished)) == sorted([
        "best_xumx.h5", "checkpoint/latest.h5", "config.json", "curves.png", "log.csv", "params_best.h5",
        *(f"{name}.series.txt" for name in SERIES)])
    assert (finished / "best_xumx.h5").samefile(finished / "params_best.h5")
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((finished / "config.json").read_text())
    assert (config["nfft"], config["sources"], config["dropout"]) == (64, list(SOURCES), 0.4)


def test_the_log_and_the_series_tell_the_same(finished):
    rows = log_of(finished)
    assert list(rows[0]) == ["epoch", "train_loss", "valid_loss", "learning_rate", "best_epoch"]
    assert [row["epoch"] for row in rows] == [1, 2]
    for column, name in (("train_loss", "Training-loss"), ("valid_loss", "Validation-loss"),
                         ("learning_rate", "learning-rate"), ("best_epoch", "Best-epoch")):
        lines = (finished / f"{name}.series.txt").read_text().splitlines()
        values = [[float(word) for word in line.split()] for line in lines]
        np.testing.assert_allclose(values, [[k, row[column]] for k, row in enumerate(rows)], rtol=1e-4, atol=1e-6)
    assert rows[0]["learning_rate"] == pytest.approx(1e-3 * 2 / 16, rel=1e-5)    # in proportion to the batch size
    losses = [row["valid_loss"] for row in rows]
    assert rows[-1]["best_epoch"] == 1 + losses.index(min(losses))
    assert load_state(finished / "checkpoint/latest.h5")["best"] == pytest.approx(min(losses))


def test_the_best_parameters_give_the_loss_in_the_log(finished, songs):
    cfg = Config(root=str(songs), nfft=64, nhop=16, hidden_size=8, seq_dur=0.1, valid_dur=0.2, batch_size=2,
                 sample_rate=RATE, bandwidth=3000)
    nn.load_parameters(str(finished / "best_xumx.h5"))
    songs = Songs(cfg, cfg.targets, RATE, shortest=shortest_excerpt(cfg))
    loss = validate(valid_losses(cfg), songs.validation())
    assert loss == pytest.approx(min(row["valid_loss"] for row in log_of(finished)), rel=1e-5)


def test_the_best_parameters_are_those_of_the_lowest_validation_loss(command, tmp_path, monkeypatch):
    scripted(monkeypatch, (3.0, 1.0, 2.0))
    assert command(tmp_path / "three", "--epochs", 3)[0] == 0
    scripted(monkeypatch, (3.0, 1.0))
    assert command(tmp_path / "two", "--epochs", 2)[0] == 0
    assert same_parameters(tmp_path / "three/best_xumx.h5", tmp_path / "two/checkpoint/latest.h5")
    assert not same_parameters(tmp_path / "three/best_xumx.h5", tmp_path / "three/checkpoint/latest.h5")
    assert [row["best_epoch"] for row in log_of(tmp_path / "three")] == [1, 2, 2]


@pytest.mark.parametrize("flags", [(), ("UMX",)], ids=["X-UMX", "UMX"])
def test_the_loss_falls(flags, command, tmp_path):
    more = ("--epochs", 3, "--samples-per-track", 8, "--lr", 0.1)
    assert command(tmp_path / "run", *flags, *more)[0] == 0
    losses = [row["train_loss"] for row in log_of(tmp_path / "run")]
    assert losses[-1] < 0.8 * losses[0], losses


@pytest.mark.parametrize("section", section_names(SCRIPT.with_name("train.cfg")))
def test_every_section_trains(section, command, tmp_path):
    assert command(tmp_path / "run", section, "--epochs", 1)[0] == 0
    assert np.isfinite(log_of(tmp_path / "run")[0]["valid_loss"])
    umx = "UMX" in section and section != "XUMX"
    assert (tmp_path / "run" / ("best_umx.h5" if umx else "best_xumx.h5")).is_file()


def test_generated_music_needs_no_data(command, tmp_path):
    flags = ("--samples-per-track", 1, "--valid-dur", 8, "--epochs", 1)
    code, out, err = command(tmp_path / "run", "SYNTHETIC", *flags, root="synthetic")
    assert (code, err) == (0, "") and out.startswith("SYNTHETIC: computing on cpu\nepoch 1/1: training loss ")


def test_parameters_of_another_run_in_this_process_do_not_enter(finished, songs, tmp_path):
    train.main(arguments(tmp_path / "umx", songs, "UMX", "--nfft", 128, "--epochs", 1))
    train.main(arguments(tmp_path / "run", songs))
    assert_same_run(finished, tmp_path / "run")


def test_the_output_folder_is_named_like_the_experiment(songs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for flags, folder in ((["UMX", "--source", "drums"], "UMX-drums"), (["--umx-train"], "UMX-vocals"),
                          (["--umx-train", "True", "--source", "bass"], "UMX-bass"), ([], "XUMX")):
        nn.clear_parameters()
        train.main([*flags, "--root", str(songs), *SMALL, "--epochs", "1"])
        assert (tmp_path / folder / "log.csv").is_file()


def test_umx_learns_the_source_that_is_named(command, tmp_path):
    for source in ("bass", "other"):
        assert command(tmp_path / source, "UMX", "--source", source)[0] == 0
    assert not same_parameters(tmp_path / "bass/best_umx.h5", tmp_path / "other/best_umx.h5")
    found, = find_weights(tmp_path / "other")
    assert (found.sources, found.network.hop_length, found.sample_rate) == (("other",), 16, RATE)


def test_mono(command, tmp_path):
    for section in ("XUMX", "UMX"):
        assert command(tmp_path / section, section, "--nb-channels", 1, "--epochs", 1)[0] == 0
        assert np.isfinite(log_of(tmp_path / section)[0]["valid_loss"])
        assert find_weights(tmp_path / section)[0].network.sizes.nb_channels == 1


def test_whole_songs(command, tmp_path):
    assert command(tmp_path / "run", "--seq-dur", 0, "--batch-size", 1, "--epochs", 1)[0] == 0
    assert np.isfinite(log_of(tmp_path / "run")[0]["train_loss"])


def test_without_validation_songs_the_training_loss_stands_in(command, tmp_path):
    root = make_songs(tmp_path / "songs", train=2)
    code, out, err = command(tmp_path / "run", root=root)
    assert (code, err) == (0, "") and "no validation songs: the training loss takes the place of theirs\n" in out
    assert all(row["train_loss"] == row["valid_loss"] for row in log_of(tmp_path / "run"))
    assert (tmp_path / "run/best_xumx.h5").is_file()


@pytest.mark.parametrize("flags", [
    ("--seed", 1), ("--lr", 0.01), ("--weight-decay", 1), ("--dropout", 0), ("--mcoef", 0), ("--mcoef", 1),
    ("--combination", "false"), ("--crossing", "false"), ("--source-augmentations", "gain"),
    ("--source-augmentations", "none"), ("--seq-dur", 0.15)], ids=lambda flags: " ".join(map(str, flags)))
def test_the_flag_changes_the_result(flags, command, finished, tmp_path):
    assert command(tmp_path / "run", *flags, "--epochs", 1)[0] == 0
    assert log_of(tmp_path / "run")[0]["valid_loss"] != log_of(finished)[0]["valid_loss"]


def test_valid_dur_as_the_published_script_spells_it(command, finished, tmp_path):
    assert command(tmp_path / "run", "--valid_dur", 0.5, "--epochs", 1)[0] == 0
    assert json.loads((tmp_path / "run/config.json").read_text())["valid_dur"] == 0.5
    assert log_of(tmp_path / "run")[0]["valid_loss"] != log_of(finished)[0]["valid_loss"]


# Learning rate and end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags, epochs", [
    (("UMX", "--patience", 2), 3), (("UMX", "--patience", 0), 5), (("XUMX", "--patience", 2), 5)],
    ids=["UMX", "UMX without patience", "X-UMX"])
def test_umx_stops_without_gain(flags, epochs, command, tmp_path, monkeypatch):
    scripted(monkeypatch, (1.0, 2.0))
    code, out, err = command(tmp_path / "run", *flags, "--epochs", 5)
    assert (code, err, len(log_of(tmp_path / "run"))) == (0, "", epochs)
    assert ("no gain in 2 epochs: stopped after epoch 3" in out) == (epochs == 3)


def test_the_learning_rate_drops_on_a_plateau(command, tmp_path, monkeypatch):
    scripted(monkeypatch, (1.0, 2.0))
    flags = ("--epochs", 5, "--lr-decay-patience", 1, "--lr-decay-gamma", 0.5, "--lr", 0.016)
    assert command(tmp_path / "run", *flags)[0] == 0
    rates = [row["learning_rate"] for row in log_of(tmp_path / "run")]
    assert rates == pytest.approx([plateau_decay(0.002, [1.0, 2.0, 2.0, 2.0][:n], 0.5, 1) for n in range(5)])
    assert rates[2] == pytest.approx(0.002) and rates[3] == pytest.approx(0.001)


# Graphs ---------------------------------------------------------------------------------------------------------------


def small(**values):
    return Config(**{"nfft": 64, "nhop": 16, "hidden_size": 8, "sample_rate": RATE, "bandwidth": 3000} | values)


@pytest.mark.parametrize("umx_train", [False, True])
def test_the_shortest_excerpt_has_a_loss(umx_train):
    cfg = small(umx_train=umx_train)
    samples = shortest_excerpt(cfg)
    graph = build_graph(cfg, True, 1, samples)
    rng = np.random.default_rng(0)
    graph.fill(rng.standard_normal((1, 2, samples)), rng.standard_normal((1, len(cfg.targets), 2, samples)))
    graph.loss.forward()
    assert np.isfinite(graph.loss.d)


def test_the_validation_loss_is_the_mean_over_songs_of_the_mean_over_pieces():
    cfg, rng = small(), np.random.default_rng(0)
    losses = valid_losses(cfg)
    pieces = [(rng.standard_normal((1, 2, n)).astype(np.float32), rng.standard_normal((1, 4, 2, n)).astype(np.float32))
              for n in (600, 600, 700)]
    a, b, c = (validate(losses, [[piece]]) for piece in pieces)
    assert len({a, b, c}) == 3
    assert validate(losses, [pieces[:2], pieces[2:]]) == pytest.approx(((a + b) / 2 + c) / 2)


def test_a_perfect_estimate_of_a_silent_source_has_no_loss():
    cfg = small(umx_train=True)
    graph = build_graph(cfg, False, 1, 640)
    nn.get_parameters()["output_mean"].d = -100    # the mask is zero
    graph.fill(np.ones((1, 2, 640)), np.zeros((1, 1, 2, 640)))
    graph.loss.forward()
    assert graph.loss.d < 1e-12
    graph.fill(np.ones((1, 2, 640)), np.ones((1, 1, 2, 640)))
    graph.loss.forward()
    assert graph.loss.d > 1


@pytest.mark.parametrize("umx_train", [True, False])
def test_mono_takes_the_mean_magnitude_of_both_channels_as_separation_does(umx_train):
    cfg, rng = small(nb_channels=1, umx_train=umx_train), np.random.default_rng(0)
    graph, losses = build_graph(cfg, False, 1, 640), []
    mixture, targets = rng.standard_normal((1, 1, 640)), rng.standard_normal((1, len(cfg.targets), 1, 640))
    for right in (1, -1, 0):    # the mean of both waveforms would be silent for -1
        sides = np.array([[1], [right]])
        graph.fill(mixture * sides, targets * sides)
        graph.loss.forward()
        losses.append(float(graph.loss.d))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and losses[2] != pytest.approx(losses[0], rel=1e-2)


# The same bits --------------------------------------------------------------------------------------------------------


def test_one_seed_gives_the_same_bits_whatever_the_number_of_threads(command, finished, tmp_path):
    assert command(tmp_path / "run", "--workers", 0)[0] == 0
    assert_same_run(finished, tmp_path / "run")


def test_a_session_with_dynamic_graphs_trains_to_the_same_bits(command, finished, tmp_path):
    with nn.auto_forward(True):
        assert command(tmp_path / "run")[0] == 0
    assert_same_run(finished, tmp_path / "run")


def test_a_run_killed_within_an_epoch_resumes_to_the_same_bits(command, finished, songs, tmp_path):
    folder = tmp_path / "run"
    train_until_killed("x_umx.train", "x_umx.train train_step", 2 * STEPS, arguments(folder, songs))
    assert load_state(folder / "checkpoint/latest.h5")["epoch"] == 1
    code, out, err = command(folder, "--resume")
    assert (code, err) == (0, "") and "epoch 1/2" not in out
    assert_same_run(finished, folder)


def test_what_is_written_about_the_last_epoch_is_complete_after_an_interrupt(command, finished, tmp_path):
    with disturbed(separation_training, "write_series", 2 * len(SERIES), KeyboardInterrupt()):
        assert command(tmp_path / "run")[0] == 130
    assert command(tmp_path / "run", "--resume")[0] == 0
    assert_same_run(finished, tmp_path / "run")
    for name in SERIES:
        assert len((tmp_path / "run" / f"{name}.series.txt").read_text().splitlines()) == 2


def test_swapping_changes_where_arrays_are_and_nothing_else(command, finished, tmp_path):
    code, _, err = command(tmp_path / "run", "--out-of-core", "2GB")
    assert code == 0 and "no memory is saved" in err
    assert_same_run(finished, tmp_path / "run")


def test_an_interrupted_run_resumes_to_the_same_bits(command, finished, tmp_path):
    with disturbed(train, "train_step", 1, signal.SIGINT):
        assert_one_line(command(tmp_path / "run"), 130, "interrupted in epoch 1 after step 1", "--resume")
    assert command(tmp_path / "run", "--resume")[0] == 0
    assert_same_run(finished, tmp_path / "run")


def test_resuming_a_finished_run_changes_nothing_but_the_time(command, copy, finished):
    code, out, err = command(copy, "--resume")
    assert (code, err) == (0, "") and "epoch 2/2" not in out and f"{copy}: the training has ended" in out
    assert_same_run(finished, copy)


def test_an_overwritten_run_leaves_no_weights_of_the_old_one(command, copy):
    assert command(copy, "UMX", "--overwrite")[0] == 0
    found, = find_weights(copy)
    assert found.sources == ("vocals",)


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags, words", [
    (("XUMXX",), ["no section [XUMXX]", "did you mean 'XUMX'?"]),
    (("--cfg", "nowhere.cfg"), ["nowhere.cfg: no such file"]),
    (("--bogus",), ["--bogus"]),
    (("--epoch", 3), ["--epoch"]),
    (("--epochs", 0), ["--epochs 0: not allowed"]),
    (("--lr", "nan"), ["--lr nan: not allowed"]),
    (("--valid_dur", "-1"), ["--valid-dur -1: not allowed"]),
    (("--nb-channels", 3), ["--nb-channels 3: not allowed"]),
    (("--source-augmentations", "pitch"), ["--source-augmentations pitch"]),
    (("--seq-dur", 1), ["0.50 s only, less than --seq-dur 1", "choose --seq-dur 0.5 or less"]),
    (("--seq-dur", 0.04), ["--seq-dur: 0.04 s are too short", "at least 0.052 s"]),
    (("UMX", "--seq-dur", 0.007), ["--seq-dur: 0.007 s are too short", "at least 0.008 s"]),
    (("--valid-dur", 0.04), ["--valid-dur: 0.04 s are too short"]),
    (("--seq-dur", 0), ["batch size 2", "--seq-dur 0"]),
    (("--batch-size", 5), ["batch size 5", "1 to 4"]),
    (("UMX", "--source", "piano"), ["source = 'piano' is none of the sources bass, drums, vocals, other"]),
    (("--sources", "bass"), ["X-UMX needs two sources"]),
    (("--nhop", 24), ["nhop = 24 must divide nfft = 64"]),
    (("--nhop", 32), ["nhop = 32", "3 parts or more"]),
    (("--hidden-size", 9), ["hidden_size = 9 must be even"]),
    (("--resume", "--overwrite"), ["--overwrite", "--resume"]),
    (("-c", "tpu"), ["tpu"]),
], ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "")
def test_wrong_arguments_are_one_line(flags, words, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_line(command(tmp_path / "run", *flags), 2, *words)
    assert not list(tmp_path.iterdir())


def test_a_wrong_key_is_one_line(command, tmp_path):
    path = tmp_path / "mine.cfg"
    path.write_text("[XUMX]\nseq_duration = 6\n")
    assert_one_line(command(tmp_path / "run", "--cfg", path), 2, f"{path}, [XUMX]: unknown key 'seq_duration'",
                    "did you mean 'seq_dur'?")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage, status, words", [
    ("missing", 2, ["no such folder"]), ("empty", 2, ["no 'train' folder"]),
    ("source", 1, ["no stem 'drums'", "choose other sources"]), ("rate", 1, ["44100 Hz instead of 8000"]),
    ("damaged", 1, ["bass.wav"])])
def test_bad_data_are_one_line(damage, status, words, command, songs, tmp_path):
    root = tmp_path / "songs"
    if damage == "empty":
        root.mkdir()
    elif damage != "missing":
        shutil.copytree(songs, root)
    song = root / "train" / "song 0"
    if damage == "source":
        (song / "drums.wav").unlink()
    elif damage == "rate":
        soundfile.write(song / "drums.wav", np.zeros((9000, 2)), 44100)
    elif damage == "damaged":
        (song / "bass.wav").write_bytes(b"no audio at all")
    assert_one_line(command(tmp_path / "run", root=root), status, *words)
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_not_touched_unasked(command, copy):
    before = content(copy)
    assert_one_line(command(copy), 2, f"{copy}: holds a run already (epoch 2)", "--resume", "--overwrite")
    assert_one_line(command(copy, "--resume", "--seed", 1), 2, "seed = 42, not 1")
    assert_one_line(command(copy, "UMX", "--resume"), 2, "umx_train = False, not True")
    assert content(copy) == before


def test_weights_of_no_run_are_not_removed_unasked(command, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/best_xumx.h5").write_bytes(b"mine")
    for flags in ((), ("--resume",)):
        assert_one_line(command(tmp_path / "run", *flags), 2, "best_xumx.h5: is there already", "--overwrite")
    assert content(tmp_path / "run") == {"best_xumx.h5": b"mine"}


def test_other_songs_are_refused(command, copy, tmp_path):
    root = make_songs(tmp_path / "songs", train=2, valid=1)    # the same in another place
    assert command(copy, "--resume", "--epochs", 3, root=root)[0] == 0
    (root / "train/song 1").rename(root / "train/another")
    assert_one_line(command(copy, "--resume", "--epochs", 4, root=root), 2, "other training songs (2, but others)")
    (root / "train/another").rename(root / "valid/another")
    assert_one_line(command(copy, "--resume", "--epochs", 4, root=root), 2, "songs (2, and now there are 1)")


def test_divergence_keeps_the_last_good_state(command, copy, monkeypatch, tmp_path):
    result = command(tmp_path / "run", "--lr", 2e9)
    assert_one_line(result, 1, "in epoch 1", "nothing was saved", "lower the learning rate")
    assert not (tmp_path / "run/best_xumx.h5").exists()


def test_a_validation_loss_that_is_not_a_number_is_one_line(command, tmp_path, monkeypatch):
    scripted(monkeypatch, (1.0, float("nan")))
    assert_one_line(command(tmp_path / "run"), 1, "valid_loss is nan in epoch 2", str(tmp_path / "run"))
    assert len(log_of(tmp_path / "run")) == 1


def test_an_output_folder_that_cannot_be_made_is_one_line(command, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert_one_line(command(tmp_path / "file/run"), 1, str(tmp_path / "file/run"), "choose another --output")


# In a process of its own ----------------------------------------------------------------------------------------------


def test_missing_install_is_one_line(tmp_path):
    assert_one_line(run_without_packages(SCRIPT, cwd=tmp_path), 2, "pip install -r requirements.txt")


def test_a_run_goes_on_from_another_folder(songs, run_main, own_folder, monkeypatch, finished):
    shutil.copytree(songs, own_folder / "music")
    assert run_main(train.main, *arguments("run", "music", "--epochs", "1"))[0] == 0
    (own_folder / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    status, out, err = run_main(train.main, *arguments("../run", "music", "--resume"))
    assert (status, err) == (0, "") and "going on after epoch 1" in out
    assert json.loads((own_folder / "run/config.json").read_text())["root"] == str(own_folder / "music")
    assert same_parameters(own_folder / "run/checkpoint/latest.h5", finished / "checkpoint/latest.h5")
