import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from common.datasets.multitrack import ArrayStem, FileStem, Track
from common.machine.errors import UsageError, UserError
from common.separation import bss_eval
from common.separation import score_tables as tables
from common.workbench.testing import needs_ffmpeg

REFERENCE = json.loads((Path(__file__).parent / "data" / "evaluation.json").read_text())
RATE = 4000    # Hz


def noise(seed, samples=2 * RATE, count=1, channels=2):
    return np.random.default_rng(seed).standard_normal((count, samples, channels)).astype(np.float32)


def song(name="song", seed=0, **sources):
    stems = dict(zip(("drums", "vocals"), noise(seed, count=2), strict=True)) | sources
    return Track(name, {source: ArrayStem(audio, RATE) for source, audio in stems.items()})


class Halver:
    """A separator that takes half of the mixture for each stem, coloured by a difference."""

    stems = ("drums", "vocals", "residual")

    def __init__(self):
        self.calls = 0

    def separate(self, audio, sample_rate):
        self.calls += 1
        return {"drums": audio / 2, "vocals": np.diff(audio, axis=0) / 2, "residual": audio - 1}


# A track --------------------------------------------------------------------------------------------------------------


@needs_ffmpeg
def test_agrees_with_the_reference():
    case = REFERENCE["bss"]
    r = np.random.RandomState(case["numpy_seed"])    # noqa: NPY002
    references = r.randn(3, 24000, 2) * np.array([.5, 1, .3])[:, None, None]
    estimates = .8 * references + .2 * references.sum(0) + .01 * r.randn(3, 24000, 2)
    names = "abc"
    scores, notes = bss_eval.score_track(dict(zip(names, references, strict=True)),
                                           dict(zip(names, estimates, strict=True)), case["sample_rate"])
    for metric in tables.METRICS:
        np.testing.assert_allclose([scores[name][metric] for name in names], case[metric], rtol=0, atol=1e-3)
    assert notes == []


@pytest.fixture(scope="module")
def signals():
    """References and estimates of three sources; 2.5 s, so that the last half of a second is in no frame.

    Of one channel, which takes museval an eighth of the time.
    """
    references, errors = noise(0, 10000, 3, channels=1), noise(1, 10000, 3, channels=1)
    estimates = references + 0.3 * references.sum(0) + 0.1 * errors
    return [dict(zip("abc", audio, strict=True)) for audio in (references, estimates)]


@pytest.fixture(scope="module")
def full_scores(signals):
    return bss_eval.score_track(*signals, RATE)[0]


def assert_same(scores, expected):
    assert list(scores) == list(expected)
    for target, values in scores.items():
        for metric in tables.METRICS:
            np.testing.assert_allclose(values[metric], expected[target][metric], rtol=0, atol=1e-5)


@needs_ffmpeg
def test_agrees_with_museval(signals, full_scores):
    rows = bss_eval.import_museval().evaluate(*(list(audio.values()) for audio in signals), win=RATE, hop=RATE)
    direct = {name: dict(zip(("SDR", "ISR", "SIR", "SAR"), values, strict=True))
              for name, values in zip("abc", zip(*rows, strict=True), strict=True)}
    assert_same(full_scores, direct)
    assert full_scores["a"]["SDR"].shape == (2,)


@needs_ffmpeg
def test_scores_of_a_target_do_not_depend_on_the_other_targets(signals, full_scores):
    references, estimates = signals
    scores, notes = bss_eval.score_track(references, {"b": estimates["b"], "residual": estimates["a"]}, RATE)
    assert_same(scores, {"b": full_scores["b"]})
    assert notes == []


@needs_ffmpeg
def test_estimates_are_cut_or_filled_to_the_length_of_the_references(signals):
    references, estimates = signals
    samples = len(references["a"])
    filled = {name: np.concatenate([audio[:-999], np.zeros((999, 1))]) for name, audio in estimates.items()}
    other = {"a": filled["a"][:samples - 999], "b": np.concatenate([filled["b"], np.ones((5, 1))]), "c": filled["c"]}
    assert_same(bss_eval.score_track(references, other, RATE)[0],
                bss_eval.score_track(references, filled, RATE)[0])


@needs_ffmpeg
def test_a_source_that_is_silent_throughout_is_left_out(signals):
    references, estimates = signals
    scores, notes = bss_eval.score_track({**references, "b": np.zeros_like(references["b"])}, estimates, RATE)
    two = [{name: audio[name] for name in "ac"} for audio in signals]
    expected = bss_eval.score_track(*two, RATE)[0]
    assert np.isnan(list(scores.pop("b").values())).all()
    assert_same(scores, expected)
    assert notes == ["b is not scored: its reference is silent"]


@needs_ffmpeg
def test_a_silent_estimate_does_not_touch_the_scores_of_others(signals, full_scores):
    references, estimates = signals
    scores, notes = bss_eval.score_track(references, {**estimates, "c": np.zeros((3, 1))}, RATE)
    assert np.isnan(list(scores.pop("c").values())).all()
    assert_same(scores, {name: full_scores[name] for name in "ab"})
    assert notes == ["c is not scored: its estimate is silent"]


@needs_ffmpeg
def test_silence_alone_has_no_scores():
    silence = {"a": np.zeros((RATE // 2, 2))}    # less than a frame
    scores, notes = bss_eval.score_track(silence, silence, RATE)
    assert np.isnan(scores["a"]["SDR"]).tolist() == [True]
    assert len(notes) == 1


def test_without_ffmpeg_one_line_says_what_to_install():
    command = ("from common.console import cli; from common.separation import bss_eval; "
               "cli.run(bss_eval.import_museval)")
    done = subprocess.run([sys.executable, "-c", command], env={**os.environ, "PATH": ""}, capture_output=True,
                          text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: museval needs the programs ffmpeg and ffprobe: install ffmpeg")
    assert done.stderr.count("\n") == 1


# A data set -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A folder with the scores of two songs, and what `evaluate_tracks` returned."""
    folder = tmp_path_factory.mktemp("scores") / "test"
    tracks = [song("one", 1), song("two", 2, vocals=np.zeros((2 * RATE, 2), np.float32))]
    return folder, tracks, bss_eval.evaluate_tracks(tracks, Halver(), folder, {"niter": 1}, cores=2)


@needs_ffmpeg
def test_writes_what_museval_reads(scored):
    folder, tracks, (scores, failed) = scored
    store = bss_eval.import_museval().EvalStore()
    store.add_eval_dir(folder.parent)
    theirs, ours = store.agg_frames_tracks_scores(), tables.aggregate(scores)
    assert not failed
    assert {target: set(values) for target, values in ours.items()} == {
        target: set(tables.METRICS) for target in ("drums", "vocals")}
    for target, values in ours.items():
        for metric, value in values.items():
            assert value == pytest.approx(theirs[target, metric], abs=1e-9)


@needs_ffmpeg
def test_says_what_is_not_scored(scored):
    folder, _, _ = scored
    notes = [json.loads((folder / f"{name}.json").read_text())["notes"] for name in ("one", "two")]
    assert notes == [[], ["vocals is not scored: its reference is silent"]]


@needs_ffmpeg
def test_scores_are_those_of_the_estimates(scored):
    _, tracks, (scores, _) = scored
    references = {source: tracks[0].read(source, 0, 2 * RATE) for source in tracks[0].sources}
    estimates = Halver().separate(sum(references.values()), RATE)
    assert_same(scores["one"], bss_eval.score_track(references, estimates, RATE)[0])


@needs_ffmpeg
def test_what_is_scored_is_not_done_again(scored, capsys):
    folder, tracks, expected = scored
    separator = Halver()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = bss_eval.evaluate_tracks(tracks, separator, folder, {"niter": 1})
    np.testing.assert_equal(again, expected)    # equal NaN, too
    assert separator.calls == 0
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert capsys.readouterr().out == f"2 of 2 tracks are scored in {folder} already\n"


class Refuser(Halver):
    """A separator that gives up, which shows that it was called."""

    error = UserError

    def separate(self, audio, sample_rate):
        raise self.error("refused")


@needs_ffmpeg
def test_a_separator_that_cannot_work_ends_it_all(tmp_path, monkeypatch):
    monkeypatch.setattr(Refuser, "error", UsageError)
    with pytest.raises(UsageError, match="refused"):
        bss_eval.evaluate_tracks([song("one"), song("two")], Refuser(), tmp_path, {})


@needs_ffmpeg
@pytest.mark.parametrize("change", ["settings", "audio", "damage", "stranger"])
def test_what_was_made_otherwise_is_done_anew(change, scored, tmp_path, capsys):
    folder, (track, _), _ = scored
    path = Path(shutil.copy(folder / "one.json", tmp_path))
    if change == "damage":
        path.write_text(path.read_text()[:-9])
    if change == "stranger":
        path.write_text('{"targets": []}')
    if change == "audio":
        track = song("one", 9)
    made_with = {"niter": 2 if change == "settings" else 1}
    assert bss_eval.evaluate_tracks([track], Refuser(), tmp_path, made_with) == ({}, ["one"])
    assert capsys.readouterr().out == (
        "1 of 1 tracks were scored with another model, settings or audio: they are scored anew\n")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
@needs_ffmpeg
def test_a_track_that_fails_does_not_keep_the_others(tmp_path, capsys):
    gone = FileStem(tmp_path / "gone.wav", 0, RATE, 2 * RATE)
    mixture = ArrayStem(noise(3)[0], RATE)
    tracks = [song("empty", drums=noise(0, 0)[0]), Track("no mixture", {**song().stems, "mixture": gone}),
              Track("no source", {**song().stems, "piano": gone, "mixture": mixture}),
              Track("other sources", {"piano": mixture}), song("nan", drums=np.full_like(mixture.audio, np.nan)),
              song("good")]
    scores, failed = bss_eval.evaluate_tracks(tracks, Halver(), tmp_path / "scores", {})
    assert list(scores) == ["good"]
    assert sorted(failed) == sorted(track.name for track in tracks[:-1])
    err = capsys.readouterr().err
    assert err.count("\n") == err.count("error: ") == 5
    assert err.count("gone.wav: ") == 2
    assert "nan: the separation gave NaN" in err
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["good.json"]


SCRIPT = '''
import multiprocessing, os, signal, sys, time
import numpy as np
from common.console import cli
from common.datasets.multitrack import ArrayStem, Track
from common.separation import bss_eval

class Trap(ArrayStem):
    """Springs where the reference is read for scoring."""
    def open(self):
        if multiprocessing.parent_process():
            open(sys.argv[1] + "/" + str(os.getpid()), "w").close()
            time.sleep(60) if sys.argv[2] == "sleep" else os.kill(os.getpid(), signal.SIGKILL)
        return super().open()

class Separator:
    stems = "a", "b"
    def separate(self, audio, sample_rate):
        return {"a": audio, "b": audio}

def main():
    stem = ArrayStem(np.random.default_rng(0).standard_normal((2000, 1)), 1000)
    track = Track("song", {"a": Trap(stem.audio, 1000), "b": stem, "mixture": stem})
    return len(bss_eval.evaluate_tracks([track], Separator(), sys.argv[1] + "/scores", {})[1])

if __name__ == "__main__":
    cli.run(main)
'''


@pytest.fixture
def trapped(tmp_path):
    """Start to score a song that is a trap, in a session of its own, as a terminal has."""
    (tmp_path / "script.py").write_text(SCRIPT)
    return lambda trap: subprocess.Popen(
        [sys.executable, tmp_path / "script.py", tmp_path, trap], start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
@needs_ffmpeg
def test_a_killed_process_fails_its_track(trapped, tmp_path):
    with trapped("kill") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err == ("error: song: its process was killed (signal 9), likely for want of memory; run fewer at once\n")
    assert not list((tmp_path / "scores").iterdir())


@pytest.mark.slow
@needs_ffmpeg
def test_ctrl_c_leaves_one_line_and_no_process(trapped, tmp_path):
    with trapped("sleep") as process:
        while not (started := [int(path.name) for path in tmp_path.iterdir() if path.name.isdecimal()]):
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "interrupted; 0 of 1 tracks are scored, run again to go on\n")
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


# Tables ---------------------------------------------------------------------------------------------------------------


def test_medians_agree_with_the_reference():
    aggregated = tables.aggregate({
        track: {target: {metric: [np.nan if x is None else x for x in frames] for metric, frames in metrics.items()}
                for target, metrics in targets.items()} for track, targets in REFERENCE["frames"].items()})
    flat = {f"{target}/{metric}": value for target, values in aggregated.items() for metric, value in values.items()}
    assert flat == pytest.approx(REFERENCE["aggregated"], abs=1e-9)


def frames(**targets):
    return {target: dict.fromkeys(tables.METRICS, values) for target, values in targets.items()}


def test_tracks_and_targets_without_scores_are_passed_over():
    nan = np.nan
    aggregated = tables.aggregate({"one": frames(a=[1, nan, 3], b=[nan], c=[nan]), "two": frames(a=[nan], b=[5])})
    assert [aggregated[target]["SDR"] for target in "ab"] == [2, 5]
    assert np.isnan(aggregated["c"]["SDR"])
    assert tables.average(aggregated)["SAR"] == 3.5
    assert np.isnan(tables.average({})["SAR"])


def test_table():
    table = tables.format_table(tables.aggregate({"one": frames(vocals=[1.234], bass=[np.nan], other=[-10])}),
                                    {"paper": {"vocals": 6.61, "bass": 5.43, "other": 4, "drums": 99}, "none": {}})
    assert table.splitlines() == ["dB          SDR     SIR     ISR     SAR  paper  none",
                                  "vocals     1.23    1.23    1.23    1.23   6.61     -",
                                  "bass          -       -       -       -   5.43     -",
                                  "other    -10.00  -10.00  -10.00  -10.00   4.00     -",
                                  "average   -4.38   -4.38   -4.38   -4.38   5.35     -"]


def test_files_of_scores(tmp_path):
    tables.write_scores(tmp_path, {"niter": 1}, {"one": frames(a=[1, 2], b=[np.nan])}, ["two"])
    values, none = dict.fromkeys(tables.METRICS, 1.5), dict.fromkeys(tables.METRICS)
    text = (tmp_path / "scores.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "made_with": {"niter": 1}, "failed": ["two"], "median": {"a": values, "b": none}, "average": values,
        "tracks": {"one": {"a": values, "b": none}}}
    assert (tmp_path / "scores.csv").read_text() == (
        "track,target,SDR,SIR,ISR,SAR\none,a,1.5,1.5,1.5,1.5\none,b,,,,\n")
