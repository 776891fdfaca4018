import ast
from pathlib import Path

import nnabla as nn
import pytest

from common.machine.errors import UsageError
from common.runs.checkpoint import save_parameters
from common.separation.score_tables import format_table, print_medians
from common.workbench.testing import (
    assert_one_line,
    needs_ffmpeg,
    run_python,
    score_twice,
    script_of,
    write_songs_to_score,
)
from x_umx import eval, separation
from x_umx.model import CrossNetOpenUnmix, OpenUnmix, Sizes
from x_umx.separation import NETWORK

SOURCES = ("drums", "vocals")
SIZES = Sizes(n_fft=512, hidden_size=8, max_bin=100)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Random weights: xumx.h5 of both sources, and a folder umx with a file for each."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "umx").mkdir()
    networks = {"xumx": CrossNetOpenUnmix(SIZES, sources=SOURCES)} | {f"umx/{source}": OpenUnmix(SIZES)
                                                                      for source in SOURCES}
    for name, network in networks.items():
        with nn.parameter_scope(name):
            network.masks(nn.Variable((2, 1, 2, SIZES.bins)))
            save_parameters(folder / f"{name}.h5")
    nn.clear_parameters()
    return folder


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_songs_to_score(tmp_path_factory.mktemp("songs"))


@needs_ffmpeg
def test_scores_songs_and_says_which_failed(models, songs, tmp_path, capsys):
    command = ["--model", str(models / "xumx.h5"), "--root", str(songs), "--is-wav", "--out-dir", str(tmp_path),
               "-c", "cpu"]
    lines, written = score_twice(eval.main, command, songs, tmp_path, capsys)
    assert lines[1].startswith("Good: SDR drums ")
    assert [line.split()[0] for line in lines[-5:]] == ["dB", "drums", "vocals", "average", "wrote"]
    assert all(model in lines[-5] for model in ("UMX paper", "UMXHQ paper", "X-UMX paper"))
    assert "6.47" in lines[-4]    # drums of X-UMX
    assert written["made_with"]["stems"] == list(SOURCES)
    assert f"{written['median']['vocals']['SDR']:.2f}" == lines[-3].split()[1]


def parsed(*argv):
    return eval.parse_args(["--root", "somewhere", "-c", "cpu", *map(str, argv)])


def separator_of(*argv):
    return NETWORK.separator_of_flags(parsed(*argv))


@pytest.mark.parametrize("flags, attribute, value", [
    ((), "targets", SOURCES), ((), "stems", SOURCES), ((), "niter", 1), ((), "softmask", False), ((), "alpha", 1.0),
    ((), "chunk_seconds", NETWORK.chunk_seconds), ((), "overlap", 0.1),
    (("--targets", "vocals", "drums"), "stems", ("vocals", "drums")),
    (("--niter", "0"), "niter", 0), (("--softmask",), "softmask", True), (("--alpha", "2"), "alpha", 2.0),
    ((), "wiener_eps", 2.0 ** -52), ((), "wiener_window", None),
    (("--wiener-eps", "1e-10"), "wiener_eps", 1e-10), (("--wiener-window", "300"), "wiener_window", 300),
    ((), "sample_rate", 44100), (("--sample-rate", "32000"), "sample_rate", 32000),
    (("--residual-model",), "stems", (*SOURCES, "residual")), (("--residual",), "stems", (*SOURCES, "residual")),
    (("--chunk-dur", "10"), "chunk_seconds", 10.0), (("--chunk-dur", "0"), "chunk_seconds", None),
    (("--overlap", "0.25"), "overlap", 0.25)])
def test_flags_reach_the_separator_and_the_record_of_settings(flags, attribute, value, models):
    separator, default = (separator_of("--model", models / "xumx.h5", *more) for more in (flags, ()))
    assert getattr(separator, attribute) == value
    assert (separator.settings() == default.settings()) == (flags == ())


def test_settings_tell_weights_apart(models):
    both, one = (separator_of("--model", models / "umx", *flags).settings() for flags in ((), ("--targets", "drums")))
    assert len(both["weights"]) == 2
    assert both["weights"][:1] == one["weights"]
    assert both["weights"][0] != both["weights"][1]


def test_umx_infer_chooses_umx(models, capsys):
    assert NETWORK.options(parsed())["model"] == "xumx"
    assert NETWORK.options(parsed("--umx-infer"))["model"] == "umx"
    separator_of("--umx-infer", "--model", models / "umx")
    assert capsys.readouterr().out == f"{models / 'umx'}: computing on cpu\n"
    with pytest.raises(UsageError, match="xumx.h5 is X-UMX"):
        separator_of("--umx-infer", "--model", models / "xumx.h5")


@pytest.mark.parametrize("flags, says", [
    (("--cores", "0"), "--cores"),
    (("--subset", "all"), "--subset"), (("--soft",), "--soft")])
def test_refuses_flags(flags, says):
    with pytest.raises(UsageError, match=says):
        parsed(*flags)


@needs_ffmpeg
@pytest.mark.parametrize("flags, says", [
    (("--root", "nowhere"), "--root nowhere"), (("--model", "nowhere.h5"), "--model nowhere.h5"),
    (("--targets", "piano"), "--targets piano"), (("--niter", "-1"), "--niter: '-1'"),
    (("--wiener-eps", "1e-16"), "--wiener-eps: '1e-16' is not a number from 2e-16 to 1"),
    (("--wiener-window", "0"), "--wiener-window: '0' is not an integer from 1"),
    (("--chunk-dur", "-1"), "--chunk-dur: '-1' is not"), (("--chunk-dur", "inf"), "--chunk-dur: 'inf' is not"),
    (("--overlap", "0.6"), "--overlap: '0.6' is not"), (("--overlap", "nan"), "--overlap: 'nan' is not")])
def test_refuses_before_work(flags, says, models, songs, tmp_path):
    command = ["--root", str(songs), "--model", str(models / "xumx.h5"), "--out-dir", str(tmp_path / "out"), *flags]
    with pytest.raises(UsageError, match=says):
        eval.main(command)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, columns", [("xumx", "X-UMX paper"), ("umx", "UMX paper UMX NNabla"),
                                           ("umxhq", "UMXHQ paper UMXHQ NNabla")])
def test_a_published_model_is_compared_with_itself(name, columns, capsys):
    scores = {"song": {"bass": dict.fromkeys(("SDR", "SIR", "ISR", "SAR"), [1.0])}}
    print_medians(scores, "test", NETWORK.published_sdr(name))
    assert capsys.readouterr().out.splitlines()[2].split() == ["dB", "SDR", "SIR", "ISR", "SAR", *columns.split()]


def test_published_models_are_spelled_in_their_rows_only():
    others = [path for path in Path(separation.__file__).parent.glob("*.py")
              if path.name not in ("separation.py", "compare.py")]    # the latter calls variants so
    assert len(others) > 10
    assert not [(path.name, node.value) for path in others for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Constant) and node.value in NETWORK.published]


def test_published_averages():
    none = {target: dict.fromkeys(("SDR", "SIR", "ISR", "SAR"), 0.0) for target in ("vocals", "drums", "bass", "other")}
    average = format_table(none, NETWORK.published_sdr("my-own.h5")).splitlines()[-1]
    assert average.split()[5:] == ["5.79", "5.33", "5.38", "5.41", "5.37"]


@pytest.mark.slow
def test_the_command_says_how_it_is_used():
    status, out, _ = run_python(script_of(eval), "--help")
    assert status == 0
    assert all(flag in out for flag in ("--root", "--is-wav", "--cores", "--residual-model", "--engine"))
    assert_one_line(run_python(script_of(eval)), 2)
