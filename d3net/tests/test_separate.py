"""The command that separates, with small random networks; what all such commands do is tested in common."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile

from common.console import cli
from common.workbench.pages import Page
from common.workbench.testing import assert_one_line, run_without_packages, script_of, stems_in
from d3net import separate
from d3net.mss_model import TARGETS

RATE = 44100
pytestmark = pytest.mark.usefixtures("cache", "own_folder")


@pytest.fixture(scope="module")
def model(tmp_path_factory, small_mss, save_mss):
    folder = tmp_path_factory.mktemp("model")
    hparams = small_mss(fft_size=256, hop_size=64, valid_signal_idx=96, band_split_idxs=(32,), patch_length=16,
                        test_patch_len=16, out_shift=8)
    for target in TARGETS:
        save_mss(folder, target, hparams)
    return folder


def song(path="song.wav", frames=1500, channels=2, rate=RATE):
    audio = (0.3 * np.random.default_rng(frames).uniform(-1, 1, (frames, channels))).astype(np.float32)
    soundfile.write(path, audio, rate, subtype="FLOAT")
    return audio


@pytest.fixture
def command(model, run_main):
    """Run the command in this process; returns its exit status, stdout and stderr."""
    return lambda *argv, model=model: run_main(
        separate.main, "-c", "cpu", "--engine", "nnabla", "--model", model, *argv)


def test_all_four_are_written(command):
    song()
    code, out, err = command("song.wav")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].endswith(": computing on cpu")
    assert {name: stem.shape for name, stem in stems_in().items()} == dict.fromkeys(TARGETS, (1500, 2))


@pytest.mark.parametrize("frames, channels, rate", [(441, 1, RATE), (800, 2, 48000)])
def test_targets_and_the_rest_sum_to_the_mixture(frames, channels, rate, command):
    mixture = song("song.wav", frames, channels, rate)
    assert command("--inputs", "song.wav", "--targets", "bass", "--float32")[0] == 0
    stems = stems_in()
    assert set(stems) == {"bass", "residual"}
    assert all(stem.shape == mixture.shape for stem in stems.values())
    assert soundfile.info("stems/song/bass.wav").samplerate == rate
    if rate == RATE:    # others lose their highest frequencies
        np.testing.assert_allclose(sum(stems.values()), mixture, atol=1e-3)


def test_two_stems(command):
    mixture = song()
    assert command("song.wav", "--targets", "drums", "--two-stems", "drums", "--float32")[0] == 0
    stems = stems_in()
    assert set(stems) == {"drums", "no_drums"}
    np.testing.assert_allclose(sum(stems.values()), mixture, atol=1e-6)


def test_a_page_to_listen_to(command):
    song()
    assert command("song.wav", "--page")[0] == 0
    page = Page("stems/song/page.html")
    page.assert_whole(num_scripts=2)
    assert page.addresses() == [f"{name}.wav" for name in ("mixture", *TARGETS)]


@pytest.mark.parametrize("flags", [("--no-flip",), ("--patch-overlap", "0"), ("--no-wiener",), ("--chunk-dur", "0.02"),
                                   ("--overlap", "0.5", "--chunk-dur", "0.02")], ids=" ".join)
def test_the_flag_changes_the_result(flags, command):
    song()
    rest = ("song.wav", "--targets", "drums", "--float32")
    assert command(*rest, "-o", "default")[0] == 0
    assert command(*rest, *flags)[0] == 0
    default = stems_in("default/song")["drums"]
    assert np.abs(stems_in()["drums"] - default).max() > 1e-3 * np.abs(default).max()


def test_the_published_command_line(model, capsys):
    for name in ("a.wav", "b.wav"):
        song(name)
    assert separate.main(["-i", "a.wav", "b.wav", "-m", str(model), "-o", "output", "--targets", *TARGETS,
                          "-c", "cpu"]) == 0
    assert all(set(stems_in(f"output/{name}")) == set(TARGETS) for name in "ab")
    assert separate.main(["a.wav", "--model-dir", str(model), "--targets", "other", "--out-dir", "one",
                          "--context", "cpu"]) == 0
    assert set(stems_in("one/a")) == {"other", "residual"}


def test_an_input_that_fails_does_not_keep_the_others_from_being_separated(command):
    song("good.wav")
    song("cut.wav")
    Path("cut.wav").write_bytes(Path("cut.wav").read_bytes()[:30])
    Path("empty.wav").write_bytes(b"")
    Path("text.mp3").write_text("no music")
    soundfile.write("nothing.wav", np.zeros((0, 2)), RATE)
    soundfile.write("nan.wav", np.full((3000, 2), np.nan), RATE, subtype="FLOAT")
    bad = ("missing.wav", "cut.wav", "empty.wav", "text.mp3", "nothing.wav", "nan.wav")
    code, out, err = command(*bad, "good.wav", "--targets", "bass")
    lines = err.splitlines()
    assert code == 1
    assert [line.split(":")[:2] for line in lines] == [["error", f" {name}"] for name in bad]
    assert lines[-1].endswith("1 of 7 inputs were separated")
    assert sorted(path.name for path in Path("stems").iterdir()) == ["good"]
    assert set(stems_in("stems/good")) == {"bass", "residual"}


@pytest.mark.parametrize("flags, words", [
    (("--targets", "piano"), ["--targets piano", "separates vocals, drums, bass, other"]),
    (("--targets", "bass", "bass"), ["--targets bass bass", "once"]),
    (("--targets", "bass", "--two-stems", "vocals"), ["--two-stems vocals", "bass, residual"]),
    (("--model", "d3net-mms"), ["--model d3net-mms: no such file or folder", "d3net-mss"]),
    (("--patch-overlap", "0.3"), ["--patch-overlap"]), (("--chunk-dur", "0"), ["--chunk-dur"]),
    (("--engine", "x"), ["--engine"]), (("--precision", "bf16"), ["--precision bf16"]), (("--bogus",), ["--bogus"]),
    (("--out-dir", "song.wav"), ["song.wav: not a folder"])],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_wrong_arguments_are_one_line(flags, words, command):
    song()
    assert_one_line(command("song.wav", *flags), 2, *words)
    assert not Path("stems").exists()


@pytest.mark.parametrize("damage", ["other network", "not HDF5", "not finite"])
def test_bad_weights_are_one_line(damage, command, model):
    song()
    path = Path("bass.h5")
    path.write_bytes((model / "bass.h5").read_bytes())
    Path("bass.yaml").write_bytes((model / "bass.yaml").read_bytes())
    if damage == "not HDF5":
        path.write_bytes(b"no weights")
    elif damage == "not finite":
        with h5py.File(path, "a") as file:
            file["bass/in_scale"][...] = np.inf
    else:    # X-UMX, say
        with h5py.File(path, "w") as file:
            file["fc1_bass/affine/W"] = np.zeros((3, 3), np.float32)
    says = {"other network": "weights of another network", "not HDF5": "cannot be read", "not finite": "not finite"}
    assert_one_line(command("song.wav", model=path), 1, "bass.h5", says[damage])
    assert not Path("stems").exists()


SCRIPT = """
import sys, time
from common.console import cli
from d3net import separate
from d3net.music import separator

overlap_add = separator.overlap_add
songs = []

def slow(*args, **kwargs):
    for block in overlap_add(*args, **kwargs):
        yield block
        if len(songs) > 1:
            open("begun", "w").close()
            time.sleep(60)

def counted(*args):
    songs.append(args)
    return original(*args)

original, separator.Spectrogram = separator.Spectrogram, counted
separator.overlap_add = slow
cli.run(lambda: separate.main(sys.argv[1:]))
"""


def test_an_interrupt_within_a_song_keeps_finished_songs_only(model):
    song("a.wav")
    song("b.wav")
    before = {"a.wav", "b.wav", "begun", "stems/a/bass.wav", "stems/a/residual.wav"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, "a.wav", "b.wav", "--targets", "bass", "-m", str(model),
                                "-c", "cpu", "--engine", "nnabla"], text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    while process.poll() is None and not Path("begun").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == cli.INTERRUPTED, err
    assert err == "interrupted; 1 of 2 inputs were separated\n"
    assert {str(path) for path in Path().rglob("*") if path.is_file() and "cache" not in path.parts} == before


def test_missing_install_is_one_line():
    assert_one_line(run_without_packages(script_of(separate), "song.wav"), 2, "pip install -r requirements.txt")
