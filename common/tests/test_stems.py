"""The command that separates files, with a separator whose stems are known."""
import functools
import io
import itertools
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from tqdm import tqdm

from common.audio.decoders import PacketSource
from common.audio.files import FORMATS, AudioReader
from common.console import cli
from common.machine.errors import UsageError
from common.machine.streams import printing
from common.separation import song as song_module
from common.separation.flags import add_stem_flags, stem_request
from common.separation.stems import separate_files

GAINS = {"bass": 0.5, "drums": 0.25, "vocals": 0.25}    # of the stems in the mixture


def separator(gains=None, sample_rate=44100):
    scale = np.array(gains or list(GAINS.values()), np.float32)[:, None, None]
    return stand_in(lambda batch: batch[:, None] * scale, tuple(GAINS), sample_rate)


def stand_in(process, stems=("bass",), sample_rate=44100):
    return SimpleNamespace(sample_rate=sample_rate, stems=stems, process=process, complete=False, adds_up=False)


def separate(*argv, separator=separator(), batch_size=2):    # noqa: B008
    parser = cli.parser("")
    add_stem_flags(parser, chunk_dur=0.1, overlap=0.25)
    args = parser.parse_intermixed_args([str(arg) for arg in argv])
    separator.chunk_seconds, separator.overlap, separator.batch_size = args.chunk_dur, args.overlap, batch_size
    return separate_files(separator, stem_request(args))


def noise(frames, channels=2, level=0.3):
    rng = np.random.default_rng(frames)
    smooth = np.convolve(rng.uniform(-1, 1, frames * channels + 15), np.ones(16) / 4, "valid")
    return np.clip(level * smooth, -0.99, 0.99).reshape(channels, frames).T.astype(np.float32)


def song(path, frames=12_345, rate=44100, channels=2, level=0.3, subtype="PCM_16"):
    soundfile.write(path, noise(frames, channels, level), rate, subtype=subtype)
    return soundfile.read(path, dtype="float32", always_2d=True)[0]


def read(path):
    with AudioReader(path) as reader:
        return reader.read()


@pytest.fixture(autouse=True)
def work_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def files():
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


# What is written ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 2, 441, 4410, 4411, 30_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_stems_have_the_length_and_channels_of_the_input(frames, channels, capsys):
    mixture = song("song.wav", frames, channels=channels)
    assert separate("song.wav", "--float32") == 0
    for name, gain in GAINS.items():
        np.testing.assert_array_equal(read(f"stems/song/{name}.wav"), mixture * np.float32(gain))
    assert files() == ["song.wav", *(f"stems/song/{name}.wav" for name in GAINS)]
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"song.wav: wrote stems/song/{{bass,drums,vocals}}.wav, {frames / 44100:.1f} s of audio in ")


@pytest.mark.parametrize("rate", [8000, 22050, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2])
def test_other_rates_are_kept(rate, channels):
    for frames in (1, 2, 999, 30_001):
        tone = 0.5 * np.sin(2 * np.pi * 500 * np.arange(frames)[:, None] / rate + np.arange(channels))
        soundfile.write("tone.wav", tone, rate, subtype="FLOAT")
        assert separate("tone.wav", "--float32") == 0
        bass = read("stems/tone/bass.wav")
        assert soundfile.info("stems/tone/bass.wav").samplerate == rate and bass.shape == tone.shape
        inside = slice(rate // 50, -rate // 50)    # silence lies around the signal
        np.testing.assert_allclose(bass[inside], 0.5 * tone[inside], atol=1e-5)


def test_a_mono_stem_is_the_mean_of_both_channels():
    mixture = song("song.wav", channels=1)
    sides = np.array([0.25, 0.75], np.float32)
    one_sided = stand_in(lambda batch: (batch * sides)[:, None])
    assert separate("song.wav", "--float32", separator=one_sided) == 0
    np.testing.assert_allclose(read("stems/song/bass.wav"), mixture / 2, atol=1e-7)


@pytest.mark.parametrize("ext", FORMATS)
def test_formats(ext):
    mixture = song("song.wav", 40_000)
    assert separate("song.wav", "--ext", ext, "-o", "out") == 0
    for name, gain in GAINS.items():
        stem = read(f"out/song/{name}.{ext}")
        assert stem.shape == mixture.shape
        assert np.sqrt(np.mean((stem - gain * mixture) ** 2)) < 0.01
    assert soundfile.info(f"out/song/bass.{ext}").samplerate == 44100


@pytest.mark.parametrize("flag, subtype", [("--float32", "FLOAT"), ("--int24", "PCM_24"), (None, "PCM_16")])
def test_encodings(flag, subtype):
    song("song.wav")
    assert separate("song.wav", *[flag] * bool(flag)) == 0
    assert soundfile.info("stems/song/bass.wav").subtype == subtype


@pytest.mark.parametrize("start, duration, expected", [
    (0.1, -1, slice(4410, None)), (0.1, 0.05, slice(4410, 6615)), (0, 0.2, slice(0, 8820)), (0.2, 9, slice(8820, None)),
])
@pytest.mark.parametrize("ext", ["wav", "mp3"])
def test_start_and_duration(start, duration, expected, ext):
    soundfile.write(f"song.{ext}", noise(12_345), 44100)
    assert separate(f"song.{ext}", "--float32", "--start", start, "--duration", duration) == 0
    np.testing.assert_array_equal(read("stems/song/bass.wav"), read(f"song.{ext}")[expected] / 2)


def test_chunks_are_as_asked_for():
    song("song.wav", 44_100)
    shapes = []

    def process(batch):
        shapes.append(batch.shape)
        return batch[:, None]

    fake = stand_in(process, ("all",), 22050)
    assert separate("song.wav", "--chunk-dur", 0.2, "--overlap", 0.5, separator=fake, batch_size=3) == 0
    assert shapes == [(3, 4410, 2), (3, 4410, 2), (3, 4410, 2)]    # 1 s, a chunk every 0.1 s


def test_without_chunks_all_of_an_input_is_separated_at_once():
    """By a separator that lays by what it needs in the output folder."""
    mixture, given = song("song.wav", 200_000), []

    def separate_whole(blocks, folder, report):
        given.append(folder)
        for block in blocks:
            yield np.stack([block / 2, block / 4], axis=1)

    fake = SimpleNamespace(sample_rate=44100, stems=("half", "quarter"), separate_whole=separate_whole,
                           chunk_seconds=None, complete=False, adds_up=False)
    parser = cli.parser("")
    add_stem_flags(parser, chunk_dur=None, overlap=0.25)
    assert separate_files(fake, stem_request(parser.parse_intermixed_args(["song.wav", "--float32"]))) == 0
    assert given == ["stems"]
    np.testing.assert_array_equal(read("stems/song/half.wav"), mixture / 2)
    np.testing.assert_array_equal(read("stems/song/quarter.wav"), mixture / 4)
    assert "one by one (default: whole inputs)" in " ".join(parser.format_help().split())


def test_silence_stays_silent():
    soundfile.write("silence.flac", np.zeros((5000, 2)), 44100)
    assert separate("silence.flac") == 0
    assert not read("stems/silence/bass.wav").any()


# Two stems ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags, step", [(["--float32"], 1e-7), (["--int24"], 2**-23), ([], 2**-15),
                                         (["--ext", "flac"], 2**-15)])
@pytest.mark.parametrize("rate, channels", [(44100, 2), (44100, 1), (48000, 2), (22050, 1)])
def test_two_stems_sum_to_the_mixture(flags, step, rate, channels):
    mixture = song("song.wav", rate=rate, channels=channels, subtype="FLOAT")
    assert separate("song.wav", "--two-stems", "vocals", *flags) == 0
    ext = "flac" if "flac" in flags else "wav"
    assert files() == ["song.wav", f"stems/song/no_vocals.{ext}", f"stems/song/vocals.{ext}"]
    vocals, rest = read(f"stems/song/vocals.{ext}"), read(f"stems/song/no_vocals.{ext}")
    assert np.abs(vocals.astype(float) + rest - mixture).max() <= step * 1.001
    assert np.sqrt(np.mean((vocals - mixture / 4) ** 2)) < 0.01    # the highest frequencies go with the rate


def test_two_stems_are_scaled_alike(capsys):
    mixture = song("song.wav", level=0.9)
    loud = separator((8, 1, 1))
    assert separate("song.wav", "--two-stems", "bass", separator=loud) == 0
    bass, rest = read("stems/song/bass.wav"), read("stems/song/no_bass.wav")
    gain = 1 / np.abs(8 * mixture).max()
    np.testing.assert_allclose(bass + rest, gain * mixture, atol=2**-14)
    assert np.abs(bass).max() >= 1 - 2**-15
    line = f"song.wav: bass and no_bass scaled by {20 * np.log10(gain):.2f} dB, both alike, so as not to clip"
    assert line in capsys.readouterr().out


def test_two_stems_sum_to_the_mixture_where_one_is_limited(capsys):
    mixture = song("song.wav", level=0.4)
    loud = separator((2.5, 1, 1))
    assert np.abs(2.5 * mixture).max() > 1 and np.abs(mixture - np.clip(2.5 * mixture, -1, 1)).max() < 1
    assert separate("song.wav", "--two-stems", "bass", "--clip-mode", "clamp", separator=loud) == 0
    np.testing.assert_allclose(read("stems/song/bass.wav") + read("stems/song/no_bass.wav"), mixture, atol=2**-14)
    assert f"limited to full scale: {(np.abs(2.5 * mixture) > 1).sum()} samples of bass\n" in capsys.readouterr().out


def test_an_unknown_stem_is_refused_before_work():
    song("song.wav")
    with pytest.raises(UsageError, match="--two-stems vocal: no such stem; choose from bass, drums, vocals"):
        separate("song.wav", "--two-stems", "vocal")
    assert files() == ["song.wav"]


# Level ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ext", ["wav", "flac", "ogg"])
def test_rescale_keeps_the_shape_of_loud_stems_only(ext, capsys):
    mixture = song("song.wav", 100_000, level=0.9)
    assert separate("song.wav", "--ext", ext, separator=separator((4, 1, 0.5))) == 0
    gain = 1 / np.abs(4 * mixture).max()
    error = 0.2 if ext == "ogg" else 2**-15
    np.testing.assert_allclose(read(f"stems/song/bass.{ext}"), 4 * gain * mixture, atol=error)
    np.testing.assert_allclose(read(f"stems/song/drums.{ext}"), mixture, atol=error)
    assert (f"song.wav: scaled so as not to clip: bass by {20 * np.log10(gain):.2f} dB\n"
            in capsys.readouterr().out)


def test_clamp_limits_samples(capsys):
    mixture = song("song.wav", 100_000, level=0.9)
    assert separate("song.wav", "--clip-mode", "clamp", separator=separator((4, 2, 0.5))) == 0
    np.testing.assert_allclose(read("stems/song/bass.wav"), np.clip(4 * mixture, -1, 1), atol=2**-15)
    counts = [(np.abs(gain * mixture) > 1).sum() for gain in (4, 2)]
    assert (f"song.wav: limited to full scale: {counts[0]} samples of bass, {counts[1]} samples of drums\n"
            in capsys.readouterr().out)


@pytest.mark.parametrize("mode", ["rescale", "clamp"])
def test_float_stems_are_left_alone(mode, capsys):
    mixture = song("song.wav", level=0.9)
    assert separate("song.wav", "--float32", "--clip-mode", mode, separator=separator((4, 1, 1))) == 0
    np.testing.assert_array_equal(read("stems/song/bass.wav"), 4 * mixture)
    assert capsys.readouterr().out.count("\n") == 1


# Several inputs -------------------------------------------------------------------------------------------------------


def test_a_failing_input_does_not_stop_the_others(capsys):
    for name in ("a", "c", "e"):
        song(f"{name}.wav")
    Path("b.mp3").write_text("no music")
    assert separate("a.wav", "b.mp3", "--inputs", "c.wav", "d.wav", "e.wav") == 1
    assert sorted(path.name for path in Path("stems").iterdir()) == ["a", "c", "e"]
    assert capsys.readouterr().err.splitlines() == [
        "error: b.mp3: no audio could be decoded (truncated or not an audio file)",
        "error: d.wav: no such file; 3 of 5 inputs were separated"]
    assert separate("a.wav", "b.mp3", "c.wav") == 1
    assert capsys.readouterr().err == ("error: b.mp3: no audio could be decoded (truncated or not an audio file); "
                                       "the other 2 inputs were separated\n")


@pytest.mark.parametrize("flags, error, status", [
    (["--start", "1"], "song.wav: ends before --start 1", 1),
    (["--ext", "mp3"], "song.wav: mp3 files cannot hold 3 channels; choose wav", 2),
])
def test_errors_of_the_only_input(flags, error, status, capsys):
    song("song.wav", channels=3)
    assert separate("song.wav", *flags) == status
    assert capsys.readouterr() == ("", f"error: {error}\n")
    assert list(Path().iterdir()) == [Path("song.wav")]


def test_broken_weights_write_nothing(capsys):
    song("song.wav")
    assert separate("song.wav", separator=separator((np.nan, 1, 1))) == 1
    assert "song.wav: the separation gave NaN or infinite samples" in capsys.readouterr().err
    assert files() == ["song.wav"]


def test_a_truncated_input_is_separated_with_a_warning(capsys):
    song("song.wav", 20_000)
    content = Path("song.wav").read_bytes()
    Path("song.wav").write_bytes(content[:len(content) // 2])
    assert separate("song.wav") == 0
    assert len(read("stems/song/bass.wav")) == pytest.approx(10_000, abs=50)
    assert capsys.readouterr().err == ("warning: song.wav: ends after 0.23 s, but its header promises 0.45 s "
                                       "(truncated or damaged)\n")


def test_resume_skips_what_is_complete(capsys):
    for name in "ab":
        song(f"{name}.wav")
    assert separate("a.wav", "b.wav") == 0
    times = {path: Path(path).stat().st_mtime_ns for path in files()}
    Path("stems/b/drums.wav").unlink()
    capsys.readouterr()
    assert separate("a.wav", "b.wav", "--resume") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "a.wav: all stems are in stems/a already" and out[1].startswith("b.wav: wrote stems/b")
    changed = {path for path in files() if Path(path).stat().st_mtime_ns != times[path]}
    assert changed == {f"stems/b/{name}.wav" for name in GAINS}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("guess, end", [(None, " 1/? s "), (30_000, "| 1/1 s "), (44_100, "100%"), (88_200, " 50%")])
def test_the_bar_bears_with_a_wrong_guess_of_the_length(guess, end, monkeypatch):
    song("song.mp3", 44_100, subtype="MPEG_LAYER_III")
    terminal = io.StringIO()
    monkeypatch.setattr(song_module, "progress", functools.partial(tqdm, file=terminal, mininterval=0))
    monkeypatch.setattr(PacketSource, "estimated_frames", property(lambda self: guess, lambda self, value: None), False)
    assert separate("song.mp3") == 0
    assert end in terminal.getvalue().split("\r")[-1]


def test_a_folder_means_the_audio_in_it():
    for path in ("music/a.wav", "music/live/a.flac", "music/.hidden.wav", "music/stems/a/bass.wav", "b.wav"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        song(path, 100)
    Path("music/notes.txt").write_text("no music")
    os.mkfifo("music/pipe.wav")
    Path("music/loop.wav").symlink_to("loop.wav")
    Path("music/above").symlink_to("..")
    assert separate("music", "b.wav", "--out-dir", "music/stems") == 0
    assert {folder for folder in Path("music/stems").rglob("*") if folder.is_dir()} == {
        Path("music/stems") / name for name in ("a", "live", "live/a", "b")}


def test_a_bad_or_clashing_name_does_not_stop_the_others(capsys):
    song("song.wav", 100)
    content = Path("song.wav").read_bytes()
    for path in ("a.wav", "other/a.flac", "b.wav", "bass/bass.wav", "c.wav", os.fsdecode(b"caf\xe9.wav")):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_bytes(content)
    Path("empty").mkdir()
    Path("c").write_text("in the way")
    bad = {"empty": "no audio file in this folder", "c": "not a folder", "x" * 300: "cannot be read",
           "bass/bass.wav": "would be overwritten by a stem"}
    names = ["a.wav", "a.wav", "other/a.flac", "b.wav", "bass/bass.wav", "empty", "c.wav", "x" * 300]
    with printing():
        assert separate(*names, os.fsdecode(b"caf\xe9.wav"), "--out-dir", "./.") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(bad) and all(any(line.startswith(f"error: {name}: ") and says in line for line in lines)
                                          for name, says in bad.items()), lines
    assert lines[-1].endswith("; 4 of 8 inputs were separated")
    for name in (f"{Path().resolve().name}/a", "other/a", "b", os.fsdecode(b"caf\xe9")):
        assert len(list(Path(name).glob("*.wav"))) >= len(GAINS)


# Before work ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv, error", [
    ([], "no audio file is given"),
    (["x.wav"], "x.wav: no such file$"),
    (["x.wav", "y.wav"], "x.wav: no such file, nor any other of the inputs"),
    (["taken"], "taken: no audio file in this folder"),
    (["song.wav", "--out-dir", "song.wav"], "song.wav: not a folder; choose another --out-dir"),
    (["song.wav", "--out-dir", "song.wav/stems"], "song.wav: not a folder; choose another --out-dir"),
    (["song.wav", "--out-dir", "taken"], "taken/song: not a folder; choose another --out-dir"),
    (["bass/bass.wav", "--out-dir", "."], "bass/bass.wav: would be overwritten by a stem"),
    (["song.wav", "--ext", "flac", "--float32"], "flac files cannot hold float32 samples; choose wav"),
    (["song.wav", "--ext", "mp3", "--int24"], "mp3 files cannot hold int24 samples; choose wav or flac"),
    (["song.wav", "--float32", "--int24"], "not allowed with"),
    (["song.wav", "--start", "-1"], "argument --start: '-1' is not a number of seconds from 0"),
    (["song.wav", "--start", "nan"], "argument --start: 'nan' is not"),
    (["song.wav", "--duration", "0"], "argument --duration: '0' is not a number of seconds above 0, nor -1"),
    (["song.wav", "--chunk-dur", "0"], "argument --chunk-dur: '0' is not a number of seconds above 0"),
    (["song.wav", "--overlap", "0.6"], "argument --overlap: '0.6' is not a fraction from 0 to 0.5"),
    (["song.wav", "--ext", "aiff"], "invalid choice: 'aiff'"),
])
def test_wrong_usage_is_refused_before_work(argv, error):
    for folder in ("other", "taken", "bass"):
        Path(folder).mkdir()
    for path in ("song.wav", "other/song.flac", "bass/bass.wav"):
        song(path, 100)
    Path("taken/song").write_text("")
    before = files()

    def process(batch):
        raise AssertionError("work was begun")

    with pytest.raises(UsageError, match=error):
        separate(*argv, separator=stand_in(process))
    assert files() == before and not Path("stems").exists()


# Interruption, full disk, memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit, flags", [
    (0, []), (1000, []), (1000, ["--two-stems", "bass"]),    # where float32 stems are laid by
    (50_000 * 8 + 40, ["--float32"]),    # these find room, but the header of the file is longer than what is left
])
def test_a_full_disk_leaves_no_stem(limit, flags, capsys):
    song("song.wav", 50_000)
    fake = stand_in(lambda batch: batch[:, None])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        status = separate("song.wav", *flags, separator=fake)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    out, err = capsys.readouterr()
    assert status == 1 and out == ""
    assert ("stems/song/bass.wav" in err) == (flags == ["--float32"])
    assert "could not be written (File too large)" in err and err.count("\n") == 1
    assert files() == ["song.wav"] and not Path("stems/song").exists()


SCRIPT = """
import itertools, os, sys, time
from types import SimpleNamespace
from common.console import cli
from common.machine.streams import printing
from common.separation import flags, stems

def process(batch):
    open("begun", "a").write("x")
    time.sleep(60 if os.path.getsize("begun") > 1 else 0)
    return batch[:, None]

def main():
    parser = cli.parser("")
    flags.add_stem_flags(parser, chunk_dur=1, overlap=0)
    separator = SimpleNamespace(sample_rate=8000, stems=("all",), process=process, chunk_seconds=1, overlap=0,
                                batch_size=1, complete=False, adds_up=False)
    return stems.separate_files(separator, flags.stem_request(parser.parse_args()))

cli.run(main)
"""


def test_an_interrupt_keeps_finished_files_only():
    for name in "abc":
        song(f"{name}.wav", 8000, rate=8000)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, "a.wav", "b.wav", "c.wav"], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    while process.poll() is None and not (Path("begun").exists() and Path("begun").stat().st_size > 1):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == cli.INTERRUPTED
    assert err == "interrupted; 1 of 3 inputs were separated\n"
    assert out.startswith("a.wav: wrote stems/a/{all}.wav")
    assert files() == ["a.wav", "b.wav", "begun", "c.wav", "stems/a/all.wav"]


def test_memory_does_not_grow_with_the_file(monkeypatch):
    # 100 s of audio; what is at hand at any time is what a few chunks of 0.1 s and their blocks take.
    soundfile.write("long.wav", np.zeros((800_000, 1)), 8000)
    sizes = []
    fake = separator(sample_rate=8000)
    tick = itertools.count()

    def process(batch):
        if next(tick) % 100 == 0:
            sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4)    # KB
        return batch[:, None] * np.float32(0.5)

    fake.process, fake.stems = process, ("half",)
    assert separate("long.wav", separator=fake) == 0
    assert len(sizes) > 3 and sizes[-1] - sizes[1] < 20_000
