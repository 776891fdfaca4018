"""Scoring of songs by `eval.py mss`, with small random networks."""
import ast
import functools
import json
from pathlib import Path

import pytest

from common.machine.errors import UsageError
from common.separation.score_tables import format_table
from common.workbench.testing import needs_ffmpeg, run_python, score_twice, script_of, write_songs_to_score
from d3net import eval
from d3net.music import network
from d3net.music.network import NETWORK

SOURCES = ("vocals", "drums")


@pytest.fixture(scope="module")
def model(tmp_path_factory, small_mss, save_mss):
    folder = tmp_path_factory.mktemp("model")
    hparams = small_mss(fft_size=512, hop_size=128, valid_signal_idx=200, band_split_idxs=(64,))
    for target in SOURCES:
        save_mss(folder, target, hparams)
    return folder


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_songs_to_score(tmp_path_factory.mktemp("songs"))


@pytest.mark.slow
@needs_ffmpeg
def test_scores_songs_and_says_which_failed(model, songs, tmp_path, capsys):
    command = ["mss", "--model-dir", str(model), "--root", str(songs), "--is-wav", "--out-dir", str(tmp_path),
               "--subset", "test", "--cores", "1", "--context", "cpu"]
    lines, written = score_twice(eval.main, command, songs, tmp_path, capsys)
    assert lines[1].startswith("Good: SDR vocals ")
    assert [line.split()[0] for line in lines[-5:]] == ["dB", *SOURCES, "average", "wrote"]
    assert lines[-5].endswith("D3Net paper  D3Net NNabla")
    assert lines[-4].split()[-2:] == ["7.24", "7.14"]    # vocals
    assert written["made_with"]["stems"] == [*SOURCES, "residual"]
    assert f"{written['median']['drums']['SDR']:.2f}" == lines[-3].split()[1]


def parsed(model, *argv):
    return eval.parse_args(["mss", "--root", "somewhere", "-c", "cpu", "--model", str(model), *map(str, argv)])


@functools.cache
def default_settings(model):
    return json.dumps(NETWORK.separator_of_flags(parsed(model)).settings())


@pytest.mark.parametrize("flags, attribute, value", [
    ((), "targets", SOURCES), ((), "stems", (*SOURCES, "residual")), ((), "chunk_seconds", None), ((), "flip", True),
    (("--targets", "drums"), "stems", ("drums", "residual")), (("--no-flip",), "flip", False),
    (("--patch-overlap", "0"), "patch_overlap", 0.0), (("--no-wiener",), "wiener", False),
    (("--chunk-dur", "10"), "chunk_seconds", 10.0), (("--overlap", "0.25"), "overlap", 0.25)])
def test_flags_reach_the_separator_and_the_record_of_settings(flags, attribute, value, model):
    separator = NETWORK.separator_of_flags(parsed(model, *flags))
    assert getattr(separator, attribute) == value
    settings = json.dumps(separator.settings())
    assert (settings == default_settings(model)) == (flags == ())


@needs_ffmpeg
@pytest.mark.parametrize("flags, says", [
    (("--root", "nowhere"), "--root nowhere"), (("--model", "nowhere.h5"), "--model nowhere.h5"),
    (("--targets", "piano"), "--targets piano"), (("--chunk-dur", "-1"), "--chunk-dur: '-1' is not"),
    (("--chunk-dur", "inf"), "--chunk-dur: 'inf' is not"), (("--overlap", "0.6"), "--overlap: '0.6' is not")])
def test_refuses_before_work(flags, says, model, songs, tmp_path):
    command = ["mss", "--root", str(songs), "--model", str(model), "--out-dir", str(tmp_path / "out"), *flags]
    with pytest.raises(UsageError, match=says):
        eval.main(command)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("argv, says", [
    ([], "mss|segmentation"), (["music"], "music"), (["mss"], "no arguments are given"),
    (["segmentation"], "no arguments are given"),
    (["mss", "--subset", "test"], "--root"), (["segmentation", "--cores", "1"], "--data-dir"),
    (["mss", "--root", "x", "--cores", "0"], "--cores"), (["mss", "--root", "x", "--subset", "all"], "--subset"),
    (["mss", "--root", "x", "--cor", "1"], "--cor")], ids=" ".join)
def test_refuses_flags(argv, says):
    with pytest.raises(UsageError) as caught:
        eval.parse_args(argv)
    assert says in str(caught.value)


def test_published_models_are_spelled_in_their_rows_only():
    others = [path for path in Path(network.__file__).parent.parent.rglob("*.py") if path != Path(network.__file__)]
    assert len(others) > 20
    assert not [(path.name, node.value) for path in others for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Constant) and node.value in NETWORK.published]


def test_published_averages():
    none = {target: dict.fromkeys(("SDR", "SIR", "ISR", "SAR"), 0.0) for target in ("vocals", "drums", "bass", "other")}
    assert format_table(none, NETWORK.published_sdr("d3net-mss")).splitlines()[-1].split()[5:] == ["6.01", "6.03"]


@pytest.mark.parametrize("argv, flags", [((), ("mss", "segmentation")), (("mss",), ("--root", "--is-wav", "--cores"))])
def test_the_command_says_how_it_is_used(argv, flags):
    status, out, _ = run_python(script_of(eval), *argv, "--help")
    assert status == 0
    assert all(flag in out for flag in flags)
