"""The page to listen to stems: what is in it, what it does in a browser, and what `separate.py --page` writes."""
import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.audio.files import AudioReader
from common.console import cli
from common.machine.errors import UsageError
from common.separation.flags import add_stem_flags, stem_request
from common.separation.listening_page import write_listening_page
from common.separation.separator import StemSeparator
from common.separation.stems import separate_files
from common.workbench.browser import Browser, find_chromium
from common.workbench.pages import HOSTILE, Page

RATE = 8000
pytestmark = pytest.mark.usefixtures("own_folder")


class Halves(StemSeparator):
    """Stems that are half of the mixture each."""

    sample_rate = RATE

    def __init__(self, stems=("drums", "vocals")):
        super().__init__(None, 0.5, 0.25, "nnabla", "float32")
        self.stems = stems

    def process(self, chunks):
        return np.repeat(chunks[:, None] / 2, len(self.stems), axis=1)


def song(path, seconds=2.0, channels=2):
    audio = 0.4 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE))[:, None] / RATE + np.arange(channels))
    soundfile.write(os.fsencode(path), audio, RATE)
    with AudioReader(path) as reader:
        return reader.read()


def separate(*argv, separator=None):
    parser = cli.parser("")
    add_stem_flags(parser, chunk_dur=0.5, overlap=0.25)
    return separate_files(separator or Halves(), stem_request(parser.parse_intermixed_args([str(arg) for arg in argv])))


def read(path):
    with AudioReader(path) as reader:
        return reader.read()


def test_a_page_and_the_mixture_lie_beside_the_stems(capsys):
    mixture = song("song.wav")
    assert separate("song.wav", "--page") == 0
    assert sorted(path.name for path in Path("stems/song").iterdir()) == [
        "drums.wav", "mixture.wav", "page.html", "vocals.wav"]
    np.testing.assert_array_equal(read("stems/song/mixture.wav"), mixture)
    page = Page("stems/song/page.html")
    page.assert_whole(num_scripts=2)
    assert page.addresses() == ["mixture.wav", "drums.wav", "vocals.wav"]
    assert page.data == {"seconds": 2, "mixture": "mixture"}
    assert "to listen to, open stems/song/page.html" in capsys.readouterr().out


def test_the_page_says_loudness_and_peak():
    song("song.wav")
    separate("song.wav", "--page")
    page = Page("stems/song/page.html")
    numbers = [float(text.replace("−", "-")) for text in re.findall(r"(−?[\d.]+) (?:LUFS|dBFS)", page.texts["span"])]
    # Both sides of a sine of -8 dBFS: as much in LUFS, less what the ear takes off at 440 Hz. Stems have 6 dB less.
    np.testing.assert_allclose(numbers, [-8.6, -8.0, -14.6, -14.0, -14.6, -14.0], atol=0.15)
    assert re.findall(r"\d+ k?Hz", page.texts["span"]) == ["100 Hz", "1 kHz"] * 3
    assert [button["aria-pressed"] for button in page.all("button", class_="mute")] == ["true", "false", "false"]


@pytest.mark.parametrize("flags, names, span", [
    (("--two-stems", "vocals"), ["mixture", "vocals", "no_vocals"], slice(None)),
    (("--start", "0.5", "--duration", "1", "--ext", "flac"), ["mixture", "drums", "vocals"], slice(4000, 12_000))])
def test_with_other_flags(flags, names, span):
    mixture = song("song.wav", channels=1)
    assert separate("song.wav", "--page", *flags) == 0
    ext = "flac" if "flac" in flags else "wav"
    assert Page("stems/song/page.html").addresses() == [f"{name}.{ext}" for name in names]
    np.testing.assert_array_equal(read(f"stems/song/mixture.{ext}"), mixture[span])


def test_without_the_flag_there_is_no_page():
    song("song.wav")
    assert separate("song.wav") == 0
    assert sorted(path.name for path in Path("stems/song").iterdir()) == ["drums.wav", "vocals.wav"]


def test_resume_writes_a_page_that_is_missing(capsys):
    song("song.wav")
    separate("song.wav")
    assert separate("song.wav", "--page", "--resume") == 0 and Path("stems/song/page.html").exists()
    capsys.readouterr()
    assert separate("song.wav", "--page", "--resume") == 0
    assert capsys.readouterr().out == "song.wav: all stems are in stems/song already\n"


def test_an_input_is_not_overwritten_by_the_mixture():
    Path("stems/mixture").mkdir(parents=True)
    song("stems/mixture/mixture.wav")
    with pytest.raises(UsageError, match="would be overwritten"):
        separate("stems/mixture/mixture.wav", "--page")


def test_a_stem_that_is_called_mixture_is_refused():
    song("song.wav")
    with pytest.raises(UsageError, match="--page: writes the song as 'mixture'"):
        separate("song.wav", "--page", separator=Halves(("mixture", "rest")))


@pytest.mark.parametrize("name", [HOSTILE.replace("/", "-"), os.fsdecode(b"caf\xe9"), "a:b?c#d%20e", " "])
def test_hostile_names(name):
    song(f"{name}.wav", 0.1)
    song("other.wav", 0.1)
    write_listening_page("page.html", name, {name: Path(f"{name}.wav"), "other": Path("other.wav")}, "other", 800, RATE,
                         note=HOSTILE)
    page = Page("page.html")
    page.assert_whole(num_scripts=2)
    assert len(page.addresses()) == 2 and "\u202e" not in page.source
    assert len(page.all("section")) == 2


def test_the_page_is_as_small_for_a_long_song():
    sizes = []
    for seconds in (10, 300):
        rng = np.random.default_rng(0)
        soundfile.write("noise.wav", rng.uniform(-0.5, 0.5, (seconds * RATE, 1)), RATE)
        write_listening_page("page.html", "noise", {"noise": Path("noise.wav")}, "noise", seconds * RATE, RATE)
        sizes.append(Path("page.html").stat().st_size)
    assert sizes[1] < 1.1 * sizes[0]


def test_silence_and_short_songs_have_a_page():
    soundfile.write("none.wav", np.zeros((5000, 2)), RATE)
    soundfile.write("one.wav", np.full((1, 2), 0.5), RATE)
    write_listening_page("page.html", "x", {"none": Path("none.wav"), "one": Path("one.wav")}, "one", 5000, RATE)
    text = Page("page.html").texts["span"]
    assert text.count("silent") == 2 and "too short for a loudness" in text


@pytest.mark.parametrize("seconds, clock", [(0.04, "0:00.0"), (59.9, "0:59.9"), (59.96, "1:00.0"), (119.97, "2:00.0")])
def test_seconds_are_rounded_to_minutes(seconds, clock):
    song("song.wav", seconds)
    write_listening_page("page.html", "x", {"song": Path("song.wav")}, "song", round(seconds * RATE), RATE)
    assert f"0:00.0 / {clock}" in Page("page.html").source


# In a browser -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find_chromium()
    if program is None:
        pytest.skip("there is no Chromium")
    with Browser(program, tmp_path_factory.mktemp("downloads")) as opened:
        yield opened


def state(browser):
    return browser.evaluate("""({
        heard: tracks.filter(track => !track.audio.muted).map(track => track.name),
        paused: tracks.map(track => track.audio.paused), times: tracks.map(track => track.audio.currentTime),
        width: document.documentElement.scrollWidth})""")


def click(browser, label):
    browser.evaluate(f"document.querySelector('[aria-label=\"{label}\"]').click()")


@pytest.mark.parametrize("width", [1280, 390])
def test_players_run_together_with_mute_and_solo(browser, width):
    song("song.wav", 8)
    separate("song.wav", "--page")
    browser.requests.clear()
    browser.open("stems/song/page.html", width)
    browser.wait("tracks.every(track => track.audio.readyState >= 3)")
    assert state(browser)["heard"] == ["drums", "vocals"] and state(browser)["width"] <= width
    browser.evaluate("play.click()")
    browser.wait("tracks.every(track => track.audio.currentTime > 0.1)")
    click(browser, "Solo vocals")
    assert state(browser)["heard"] == ["vocals"]
    click(browser, "Solo vocals")
    click(browser, "Mute drums")
    click(browser, "Mute mixture")
    assert state(browser)["heard"] == ["mixture", "vocals"]
    browser.evaluate("tracks[1].volume.value = 0.25; tracks[1].volume.dispatchEvent(new Event('input'))")
    assert browser.evaluate("tracks[1].audio.volume") == 0.25
    browser.evaluate("seek(4)")
    browser.wait("tracks.every(track => track.audio.currentTime > 4.1)")
    times = state(browser)["times"]
    assert max(times) - min(times) < 0.1 and not any(state(browser)["paused"])
    browser.evaluate("play.click()")
    assert all(state(browser)["paused"])
    assert not browser.errors and all(address.startswith("file:") for address in browser.requests)


def test_a_track_that_is_gone_is_named_and_the_others_play(browser):
    song("song.wav", 4)
    separate("song.wav", "--page")
    Path("stems/song/drums.wav").unlink()
    browser.open("stems/song/page.html")
    browser.wait("document.getElementById('status').textContent.startsWith('Not played: drums.')")
    browser.evaluate("play.click()")
    browser.wait("now() > 0.1")
    browser.errors.clear()    # that the file is not there
