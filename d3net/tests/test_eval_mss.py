"""Scoring of songs by `eval.py mss`, with small random networks."""
import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import nnabla as nn
import numpy as np
import pytest
import soundfile

from common.checkpoint import save_parameters
from common.errors import UsageError
from common.separation.scores import format_table
from d3net import eval, eval_mss
from d3net.hyperparameters import load_mss, save_hyper_parameters
from d3net.mss_model import D3NetMSS

SOURCES = ("vocals", "drums")
SECOND = 44100    # samples
needs_ffmpeg = pytest.mark.skipif(not (shutil.which("ffmpeg") and shutil.which("ffprobe")),
                                  reason="museval cannot be imported without the programs ffmpeg and ffprobe")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    few = {"dens_k": ((2, 2, 2),) * 2, "num_layer_blocks": ((1, 1, 1),) * 2, "b_n_blocks": ((1, 1, 1),) * 2,
           "comp_rates": ((1.0, 1.0),) * 2, "f_dens_k": (2, 2, 2), "f_num_layer_block": (1, 1, 1),
           "f_n_blocks": (1, 1, 1), "f_comp_rates": (1.0, 1.0), "valid_signal_idx": 64, "band_split_idxs": (16,)}
    hparams = attrs.evolve(load_mss("tiny"), **few)
    for target in SOURCES:
        D3NetMSS(hparams, target)(nn.Variable((1, 16, 2, hparams.bins)))
        save_parameters(folder / f"{target}.h5")
        save_hyper_parameters(folder / f"{target}.yaml", hparams)
        nn.clear_parameters()
    return folder


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """A data set: one song of 2 s, one whose mixture is not a number."""
    root = tmp_path_factory.mktemp("songs")
    for song, fault in (("Good", 0), ("Bad", np.nan)):
        folder = root / "test" / song
        folder.mkdir(parents=True)
        drums, vocals = 0.1 * np.random.default_rng(0).standard_normal((2, 2 * SECOND, 2))
        for name, audio in (("drums", drums), ("vocals", vocals), ("mixture", drums + vocals + fault)):
            soundfile.write(folder / f"{name}.wav", audio, SECOND, subtype="FLOAT")
    return root


@needs_ffmpeg
def test_scores_songs_and_says_which_failed(model, songs, tmp_path, capsys):
    command = ["mss", "--model-dir", str(model), "--root", str(songs), "--is-wav", "--out-dir", str(tmp_path),
               "--subset", "test", "--cores", "1", "--context", "cpu"]
    assert eval.main(command) == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert err.startswith(f"error: {songs / 'test' / 'Bad' / 'mixture.wav'}: ")
    lines = out.splitlines()
    assert lines[1].startswith("Good: SDR vocals ")
    assert [line.split()[0] for line in lines[-5:]] == ["dB", *SOURCES, "average", "wrote"]
    assert lines[-5].endswith("D3Net paper  D3Net NNabla")
    assert lines[-4].split()[-2:] == ["7.24", "7.14"]    # vocals
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["failed"] == ["Bad"]
    assert written["made_with"]["stems"] == [*SOURCES, "residual"]
    assert f"{written['median']['drums']['SDR']:.2f}" == lines[-3].split()[1]
    assert [path.name for path in (tmp_path / "test").iterdir()] == ["Good.json"]

    assert eval.main(command) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [f"1 of 2 tracks are scored in {tmp_path / 'test'} already",
                                                        *lines[2:]]


def parsed(model, *argv):
    return eval.parse_args(["mss", "--root", "somewhere", "-c", "cpu", "--model", str(model), *map(str, argv)])


@functools.cache
def default_settings(model):
    args = parsed(model)
    return json.dumps(eval_mss.settings(eval_mss.make_separator(args), args))


@pytest.mark.parametrize("flags, attribute, value", [
    ((), "targets", SOURCES), ((), "stems", (*SOURCES, "residual")), ((), "chunk_seconds", None), ((), "flip", True),
    (("--targets", "drums"), "stems", ("drums", "residual")), (("--no-flip",), "flip", False),
    (("--patch-overlap", "0"), "patch_overlap", 0.0), (("--no-wiener",), "wiener", False),
    (("--chunk-dur", "10"), "chunk_seconds", 10.0), (("--overlap", "0.25"), "overlap", 0.25)])
def test_flags_reach_the_separator_and_the_record_of_settings(flags, attribute, value, model):
    args = parsed(model, *flags)
    separator = eval_mss.make_separator(args)
    assert getattr(separator, attribute) == value
    settings = json.dumps(eval_mss.settings(separator, args))
    assert (settings == default_settings(model)) == (flags == ())


@needs_ffmpeg
@pytest.mark.parametrize("flags, says", [
    (("--root", "nowhere"), "--root nowhere"), (("--model", "nowhere.h5"), "--model nowhere.h5"),
    (("--targets", "piano"), "--targets piano"), (("--chunk-dur", "-1"), "--chunk-dur -1.0"),
    (("--chunk-dur", "inf"), "--chunk-dur inf"), (("--overlap", "0.6"), "--overlap 0.6")])
def test_refuses_before_work(flags, says, model, songs, tmp_path):
    command = ["mss", "--root", str(songs), "--model", str(model), "--out-dir", str(tmp_path / "out"), *flags]
    with pytest.raises(UsageError, match=says):
        eval.main(command)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("argv, says", [
    ([], "mss|segmentation"), (["music"], "music"), (["mss"], "--root"), (["segmentation"], "--data-dir"),
    (["mss", "--root", "x", "--cores", "0"], "--cores"), (["mss", "--root", "x", "--subset", "all"], "--subset"),
    (["mss", "--root", "x", "--cor", "1"], "--cor")], ids=" ".join)
def test_refuses_flags(argv, says):
    with pytest.raises(UsageError) as caught:
        eval.parse_args(argv)
    assert says in str(caught.value)


def test_published_averages():
    none = {target: dict.fromkeys(("SDR", "SIR", "ISR", "SAR"), 0.0) for target in ("vocals", "drums", "bass", "other")}
    assert format_table(none, eval_mss.PUBLISHED_SDR).splitlines()[-1].split()[5:] == ["6.01", "6.03"]


@pytest.mark.parametrize("argv, flags", [((), ("mss", "segmentation")), (("mss",), ("--root", "--is-wav", "--cores"))])
def test_the_command_says_how_it_is_used(argv, flags):
    script = Path(eval.__file__)
    done = subprocess.run([sys.executable, script, *argv, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(flag in done.stdout for flag in flags)
