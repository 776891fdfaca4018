"""What a song brings along and its stems keep: channels, depth, tags, rate, its name; sums, progress, and a way out."""
import io
import math
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from common.audio.descriptions import Description, describe
from common.audio.files import AudioReader, AudioWriter
from common.console import cli
from common.machine.errors import UsageError
from common.separation.flags import OutputFormat, add_stem_flags, stem_request
from common.separation.monitor import CancelledError
from common.separation.separator import StemSeparator
from common.separation.stems import separate_files

RATE = 44100
GAINS = {"bass": 0.5, "drums": 0.25, "vocals": 0.125, "other": 0.0625}    # an eighth, of 0.9375, is in no stem


class Gains(StemSeparator):
    """Splits by known gains, which the song is not the sum of; the left side goes to the right, too."""

    stems, sample_rate, complete, adds_up = tuple(GAINS), RATE, True, False    # pyright: ignore

    def __init__(self, chunk_seconds=0.1, gains=GAINS, adds_up=False, leak=0.0):
        super().__init__(None, chunk_seconds, 0.25, "nnabla", "float32")
        self.gains, self.adds_up, self.leak = np.array(list(gains.values()), np.float32)[:, None, None], adds_up, leak

    def process(self, chunks):
        mixed = chunks.copy()
        mixed[..., 1] += self.leak * chunks[..., 0]
        return mixed[:, None] * self.gains


def separate(*argv, separator=None):
    parser = cli.parser("")
    add_stem_flags(parser, chunk_dur=0.1, overlap=0.25)
    return separate_files(separator or Gains(), stem_request(parser.parse_intermixed_args([str(arg) for arg in argv])))


def noise(frames=12_345, channels=2, level=0.3):
    rng = np.random.default_rng(frames)
    return np.clip(level * rng.standard_normal((frames, channels)), -0.99, 0.99).astype(np.float32)


def song(path="song.wav", frames=12_345, channels=2, level=0.1, rate=RATE, subtype="PCM_16", **settings):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(frames, channels, level), rate, subtype=subtype, **settings)
    return read(path)


def read(path):
    with AudioReader(path) as reader:
        return reader.read()


def stems(folder="stems/song", ext="wav"):
    return np.stack([read(f"{folder}/{name}.{ext}") for name in GAINS]).astype(float)


def files():
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def work_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# Channels -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("places, leaks", [
    (("FL", "FR", "FC", "LFE", "SL", "SR"), {1: 0, 5: 4}), (("FL", "FR", "FC", "LFE", "BL", "BR"), {1: 0, 5: 4}),
    (("FL", "FC", "BC"), {}), (("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"), {1: 0, 5: 4, 7: 6}),
], ids=lambda value: "-".join(map(str, value)))
def test_all_channels_are_separated_in_pairs(places, leaks, capsys):
    """Of two in a pair, the separator lets the left one leak into the right one; a single one is on both sides."""
    with AudioWriter("film.wav", RATE, len(places), "wav", "float32", description=Description(places=places)) as writer:
        writer.write(noise(channels=len(places)))
    mixture, leak = read("film.wav"), 0.5
    assert separate("film.wav", separator=Gains(leak=leak)) == 0
    wanted = mixture * (1 + leak / 2)    # of a single one, the mean of both sides
    for channel in range(len(places)):
        if channel in leaks:
            wanted[:, channel] = mixture[:, channel] + leak * mixture[:, leaks[channel]]
            wanted[:, leaks[channel]] = mixture[:, leaks[channel]]
    np.testing.assert_allclose(read("stems/film/bass.wav"), 0.5 * wanted, atol=1e-6)
    assert describe("stems/film/bass.wav", len(places)).places == places
    line, *_ = capsys.readouterr().out.splitlines()
    assert line.startswith("film.wav: channels were separated as ")
    assert line.count("+") == len(leaks) and all(place in line for place in places)


def test_channels_without_places_are_pairs():
    song("film.wav", channels=9)
    assert separate("film.wav") == 0
    assert read("stems/film/bass.wav").shape == (12_345, 9)


# Depth, tags, rate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subtype, ext, flags, expected", [
    ("PCM_16", "wav", [], "PCM_16"), ("PCM_24", "wav", [], "PCM_24"), ("FLOAT", "wav", [], "FLOAT"),
    ("PCM_32", "wav", [], "FLOAT"), ("DOUBLE", "wav", [], "FLOAT"), ("PCM_U8", "wav", [], "PCM_16"),
    ("PCM_16", "flac", [], "PCM_16"), ("PCM_24", "flac", [], "PCM_24"), ("FLOAT", "flac", [], "PCM_24"),
    ("FLOAT", "wav", ["--int16"], "PCM_16"), ("PCM_16", "wav", ["--int24"], "PCM_24"),
    ("PCM_24", "mp3", [], "MPEG_LAYER_III")])
def test_the_depth_is_that_of_the_song(subtype, ext, flags, expected):
    song(subtype=subtype)
    assert separate("song.wav", "--ext", ext, *flags) == 0
    assert soundfile.info(f"stems/song/bass.{ext}").subtype == expected


def test_a_lossy_song_has_16_bits():
    song("song.mp3", 44_100, subtype="MPEG_LAYER_III")
    assert separate("song.mp3") == 0 and soundfile.info("stems/song/bass.wav").subtype == "PCM_16"


@pytest.mark.parametrize("ext", ["wav", "flac", "mp3"])
@pytest.mark.parametrize("source", ["wav", "flac", "mp3"])
def test_tags_and_cover_go_with_the_stems(source, ext):
    cover = io.BytesIO()
    Image.new("RGB", (8, 8)).save(cover, "PNG")
    tags = {"title": "Tïtle", "artist": "Somebody", "album": "Songs", "track": "3"}
    with AudioWriter(f"song.{source}", RATE, 2, source, description=Description(tags, cover.getvalue())) as writer:
        writer.write(noise())
    assert separate(f"song.{source}", "--ext", ext) == 0
    for name in GAINS:
        found = describe(f"stems/song/{name}.{ext}", 2)
        assert found.tags == tags and found.picture == cover.getvalue()


@pytest.mark.parametrize("rate, ext, expected", [
    (192_000, "mp3", 48_000), (96_000, "mp3", 48_000), (37_800, "mp3", 44_100), (6000, "mp3", 8000),
    (192_000, "flac", 192_000), (192_000, "ogg", 192_000)])
def test_a_rate_that_the_format_lacks_is_resampled_to(rate, ext, expected, capsys):
    tone = 0.5 * np.sin(2 * np.pi * 500 * np.arange(rate)[:, None] / rate + np.arange(2))
    soundfile.write("song.wav", tone, rate, subtype="FLOAT")
    assert separate("song.wav", "--ext", ext, "--two-stems", "bass") == 0
    info = soundfile.info(f"stems/song/bass.{ext}")
    assert info.samplerate == expected
    said = f"song.wav: resampled from {rate} Hz to {expected} Hz" in capsys.readouterr().out
    assert said == (rate != expected)
    wanted = 0.5 * np.sin(2 * np.pi * 500 * np.arange(expected)[:, None] / expected + np.arange(2))
    inside = slice(expected // 10, -expected // 10)
    for name in ("bass", "no_bass"):
        stem = read(f"stems/song/{name}.{ext}")
        assert len(stem) == expected and np.abs(stem - wanted / 2)[inside].max() < 0.02


# Names ----------------------------------------------------------------------------------------------------------------


def test_two_songs_of_one_name_are_both_kept(capsys):
    for path in ("a/song.wav", "b/song.wav", "b/song.flac", "other.wav", "c/b/song.wav"):
        song(path)
    Path("c/notes.txt").write_text("")
    assert separate("a/song.wav", "b/song.wav", "other.wav") == 0
    first = capsys.readouterr().out.splitlines()
    assert first[:2] == ["a/song.wav: another input is called song, too; this one is a/song",
                         "b/song.wav: another input is called song, too; this one is b/song"]
    assert {str(path.parent) for path in Path("stems").rglob("bass.wav")} == {
        "stems/a/song", "stems/b/song", "stems/other"}
    assert separate("b/song.wav", "other.wav", "a/song.wav", "--resume") == 0
    assert capsys.readouterr().out.count("all stems are in") == 3
    assert separate("b", "c", "-o", "again") == 0    # b/song of c, and song.wav and song.flac of b
    assert {str(path.parent) for path in Path("again").rglob("bass.wav")} == {
        "again/song.wav", "again/song.flac", "again/b/song"}
    assert "c: left out what is no audio by its name: notes.txt" in capsys.readouterr().out


@pytest.mark.parametrize("template, expected", [
    ("{track}/{stem}.{ext}", "stems/song/bass.flac"), ("{track}_{stem}.{ext}", "stems/song_bass.flac"),
    ("{stem}/{track}.{ext}", "stems/bass/song.flac"), ("{track} ({trackext}, {stem})", "stems/song (wav, bass)")])
def test_names_by_a_template(template, expected, capsys):
    song()
    assert separate("song.wav", "--filename", template, "--ext", "flac") == 0
    assert Path(expected).is_file() and len(files()) == 1 + len(GAINS)
    before = files()
    assert separate("song.wav", "--filename", template, "--ext", "flac", "--resume") == 0
    assert files() == before and "already" in capsys.readouterr().out


def test_a_page_goes_by_the_template_too():
    for name in ("a.wav", "b.wav"):
        song(name)
    assert separate("a.wav", "b.wav", "--filename", "{track}_{stem}.{ext}", "--page", "--two-stems", "bass") == 0
    assert {path.name for path in Path("stems").iterdir()} == {
        f"{track}_{part}" for track in "ab" for part in ("bass.wav", "no_bass.wav", "mixture.wav", "page.html")}


@pytest.mark.parametrize("template", ["{track}", "{trak}/{stem}.{ext}", "{stem:>9}", "{stem!r}", "{stem.name}",
                                      "{}{stem}", "{stem", "/{stem}", "{stem}/", "x{stem[0]}"])
def test_a_template_that_is_none_is_one_line(template):
    song()
    with pytest.raises(UsageError, match="--filename: .* is not a file name with {stem}, of the placeholders track, "):
        separate("song.wav", "--filename", template)
    with pytest.raises(UsageError, match="is no template"):
        Gains().separate_file("song.wav", filename=template)
    assert files() == ["song.wav"]


@pytest.mark.parametrize("argv, error", [
    (["a.wav", "b.wav", "--filename", "{stem}.{ext}"], "would be written for a.wav and b.wav"),
    (["a.wav", "--filename", "../{stem}.{ext}"], "leads out of stems"),
    (["a.wav", "--filename", "x/../../{stem}.{ext}"], "leads out of stems"),
    (["...wav"], "leads out of stems")])
def test_no_file_is_written_twice_or_outside(argv, error):
    for path in ("a.wav", "b.wav", "...wav"):
        song(path, format="WAV")
    with pytest.raises(UsageError, match=error):
        separate(*argv)
    assert files() == ["...wav", "a.wav", "b.wav"]


def test_stems_of_hostile_weights_stay_inside():
    song()
    separator = Gains()
    separator.stems = ("../../bass", "drums", "vocals", "other")
    with pytest.raises(UsageError, match="leads out of stems"):
        separate("song.wav", separator=separator)
    separator.stems = ("bass", "./bass", "vocals", "other")
    with pytest.raises(UsageError, match="two stems of song.wav"):
        separate("song.wav", separator=separator)


# Sums -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subtype, ext, bound", [("PCM_16", "wav", 0), ("PCM_24", "wav", 0), ("PCM_24", "flac", 0),
                                                 ("FLOAT", "wav", 2**-25), ("FLOAT", "flac", 2**-24)])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_stems_add_up_to_the_song(subtype, ext, bound, channels):
    """To the last bit in its own integers, to half a step in others, to rounding of the last stem in float32."""
    mixture = song(channels=channels, subtype=subtype)
    assert separate("song.wav", "--ext", ext, "--mixture-consistency") == 0
    found = stems(ext=ext)
    assert np.abs(found.sum(0) - mixture).max() <= bound
    share = mixture * (1 - sum(GAINS.values())) / 4    # what is in no stem is shared out
    for stem, gain in zip(found, GAINS.values(), strict=True):
        assert np.abs(stem - gain * mixture - share).max() < 4 * 2**-15


@pytest.mark.parametrize("mode", ["rescale", "clamp"])
@pytest.mark.parametrize("chosen", [[], ["--two-stems", "bass"]])
def test_loud_stems_add_up_too(mode, chosen, capsys):
    mixture = song(level=0.2)
    loud = Gains(gains={"bass": 2, "drums": -1, "vocals": 0, "other": 0})
    assert separate("song.wav", "--clip-mode", mode, "--mixture-consistency", *chosen, separator=loud) == 0
    found = [read(path).astype(float) for path in sorted(Path("stems/song").iterdir())]
    said = capsys.readouterr().out
    if mode == "clamp":
        gain = 1.0
        assert "limited to full scale" in said
    else:
        gain = 1 / np.abs(2 * mixture).max()
        assert f"scaled by {20 * math.log10(gain):.2f} dB, {'both' if chosen else 'all'} alike" in said
    error = np.abs(sum(found) - gain * mixture)
    assert error.max() <= (2**-16 if mode == "rescale" else 0)


@pytest.mark.parametrize("adds_up, rate, flags, expected", [
    (True, RATE, [], True), (True, RATE, ["--no-mixture-consistency"], False), (True, 48000, [], False),
    (True, 48000, ["--mixture-consistency"], True), (False, RATE, [], False)])
def test_the_default_is_where_stems_add_up_but_for_rounding(adds_up, rate, flags, expected):
    mixture = song(rate=rate, subtype="FLOAT")
    assert separate("song.wav", *flags, separator=Gains(adds_up=adds_up)) == 0
    assert (np.abs(stems().sum(0) - mixture).max() < 1e-6) == expected


def test_stems_that_are_not_all_of_the_song_are_not_made_to_add_up():
    song()
    separator = Gains()
    separator.complete = False
    with pytest.raises(UsageError, match="--mixture-consistency: bass, drums, vocals, other are not all"):
        separate("song.wav", "--mixture-consistency", separator=separator)
    assert separate("song.wav", "--mixture-consistency", "--two-stems", "bass", separator=separator) == 0


# From Python ----------------------------------------------------------------------------------------------------------


def test_separate_file_does_what_the_command_does():
    song(subtype="PCM_24", channels=1)
    assert separate("song.wav", "-o", "command") == 0
    targets = Gains().separate_file("song.wav", "python")
    assert targets == {name: Path(f"python/song/{name}.wav") for name in GAINS}
    for name, path in targets.items():
        assert path.read_bytes() == Path(f"command/song/{name}.wav").read_bytes()


def test_separate_file_with_everything():
    mixture = song()
    targets = Gains().separate_file("song.wav", "out", filename="{stem}.{ext}", start=0.1, duration=0.05,
                                    two_stems="drums", output=OutputFormat(ext="flac", encoding="int24"))
    assert targets == {"drums": Path("out/drums.flac"), "no_drums": Path("out/no_drums.flac")}
    np.testing.assert_allclose(read("out/drums.flac"), mixture[4410:6615] / 4, atol=2**-23)
    with pytest.raises(UsageError, match="no such stem"):
        Gains().separate_file("song.wav", two_stems="piano")
    with pytest.raises(UsageError, match="no such file"):
        Gains().separate_file("none.wav", "nowhere")
    assert not Path("nowhere").exists()


@pytest.mark.parametrize("values, says", [
    ({"start": -1}, "start -1: "), ({"start": math.nan}, "start nan"), ({"duration": 0}, "duration 0: "),
    ({"duration": -1}, "duration -1: .* None: to the end"), ({"duration": math.inf}, "duration inf")], ids=str)
def test_a_part_that_cannot_be_is_refused(values, says):
    song()
    with pytest.raises(UsageError, match=says):
        Gains().separate_file("song.wav", **values)
    assert files() == ["song.wav"]


@pytest.mark.parametrize("values, says", [
    ({"ext": "m4a"}, "'m4a' can be written; choose from wav, flac, mp3, ogg"),
    ({"clip_mode": "hard"}, "rescale or clamp"),
    ({"encoding": "int8"}, "int8 samples; choose int16 or int24 or float32"),
    ({"ext": "flac", "encoding": "float32"}, "float32 samples; choose wav$")], ids=str)
def test_a_format_that_cannot_be_is_refused(values, says):
    with pytest.raises(UsageError, match=says):
        OutputFormat(**values)


@pytest.mark.parametrize("channels", [2, 6])
@pytest.mark.parametrize("chunk_seconds", [0.1, None])
def test_progress_rises_to_1(chunk_seconds, channels):
    song(frames=RATE, channels=channels)
    seen = []
    Gains(chunk_seconds).separate_file("song.wav", on_progress=lambda *values: seen.append(values))
    fractions, left = zip(*seen, strict=True)
    assert fractions[0] == 0 and math.isinf(left[0]) and fractions[-1] == 1 and left[-1] == 0
    assert list(fractions) == sorted(fractions) and all(seconds >= 0 for seconds in left)
    if chunk_seconds:
        assert len(set(fractions)) > 6


def test_progress_of_an_array():
    seen = []
    Gains().separate(noise(RATE), RATE, on_progress=lambda *values: seen.append(values[0]))
    assert seen[0] == 0 and seen[-1] == 1 and len(set(seen)) > 6 and seen == sorted(seen)


@pytest.mark.parametrize("after", [0.0, 0.3, 0.97, 0.99])    # the last ones: while files are written
def test_a_cancelled_separation_leaves_nothing(after):
    song(frames=4 * RATE)
    cancel = threading.Event()
    with pytest.raises(CancelledError, match="cancelled"):
        Gains().separate_file("song.wav", "out/here", cancel=cancel,
                              on_progress=lambda done, left: cancel.set() if done >= after else None)
    assert files() == ["song.wav"] and list(Path().iterdir()) == [Path("song.wav")]


def test_a_cancelled_separation_keeps_what_was_there():
    song(frames=RATE)
    Gains().separate_file("song.wav")
    before = {path: Path(path).read_bytes() for path in files()}
    cancel = threading.Event()
    with pytest.raises(CancelledError):
        Gains(gains=dict.fromkeys(GAINS, 1)).separate_file(
            "song.wav", cancel=cancel, on_progress=lambda done, left: cancel.set() if done > 0.98 else None)
    assert {path: Path(path).read_bytes() for path in files()} == before
    cancel.set()
    with pytest.raises(CancelledError):
        Gains().separate(noise(RATE), RATE, cancel=cancel)


def test_what_a_callback_raises_ends_the_separation():
    song()

    def interrupt(done, left):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Gains().separate_file("song.wav", on_progress=interrupt)
    assert files() == ["song.wav"] and not Path("stems").exists()
