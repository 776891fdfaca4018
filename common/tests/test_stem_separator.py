"""What the separators of all papers do alike: a stand-in with two stems, which needs no network."""
import re

import numpy as np
import pytest

from common.machine.errors import UsageError
from common.separation import separator
from common.separation.separator import StemSeparator
from common.separation.streams import separate_stream

RATE = 8000


class Halves(StemSeparator):
    """Splits what is given to `process` at once by its mean, so that a result tells what that was."""

    stems, sample_rate = ("mean", "rest"), RATE

    def __init__(self, chunk_seconds=None, overlap=0.0):
        super().__init__(None, chunk_seconds, overlap, "nnabla", "float32")
        self.lengths = []

    def process(self, chunks):
        self.lengths.append(chunks.shape[:2])
        mean = np.broadcast_to(chunks.mean(1, keepdims=True), chunks.shape)
        return np.stack([mean, chunks - mean], axis=1)


def ramp(samples, channels=2):
    return np.linspace(0, 1, samples * channels, dtype=np.float32).reshape(samples, channels)


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    monkeypatch.setattr(separator, "BLOCK", 100)


@pytest.mark.parametrize("samples", [1, 99, 100, 101, 1000])
@pytest.mark.parametrize("channels", [1, 2])
def test_without_chunks_all_of_a_signal_is_one(samples, channels):
    audio, halves = ramp(samples, channels), Halves()
    stems = halves.separate(audio, RATE)
    assert halves.lengths == [(1, samples)]
    np.testing.assert_allclose(stems["mean"], np.broadcast_to(audio.mean(0), audio.shape), atol=1e-6)
    np.testing.assert_allclose(sum(stems.values()), audio, atol=1e-6)


@pytest.mark.parametrize("chunk_seconds, lengths", [(0.1, [(1, 800), (1, 800)]), (0.5, [(1, 1000)])])
def test_chunks_are_as_asked_for(chunk_seconds, lengths):
    halves = Halves(chunk_seconds)
    stems = halves.separate(ramp(1000), RATE)
    assert halves.lengths == lengths
    np.testing.assert_allclose(sum(stems.values()), ramp(1000), atol=1e-6)


@pytest.mark.parametrize("rate", [4000, 11025, RATE, 16000])
@pytest.mark.parametrize("shape", [(1,), (1234,), (1234, 1), (1234, 2)], ids=str)
def test_stems_have_the_rate_and_the_shape_of_the_audio(shape, rate):
    stems = Halves().separate(np.zeros(shape), rate)
    assert tuple(stems) == Halves.stems
    assert all(stem.shape == shape and stem.dtype == np.float32 and not stem.any() for stem in stems.values())


@pytest.mark.parametrize("audio", [np.zeros(9, np.int16), np.zeros((9, 2), bool), np.zeros(9, complex), "song.wav"],
                         ids=["int16", "bool", "complex", "text"])
def test_samples_that_are_no_floating_point_numbers_are_refused(audio):
    with pytest.raises(ValueError, match="floating-point samples of full scale 1"):
        Halves().separate(audio, RATE)


@pytest.mark.parametrize("rate", [0, -RATE, 1, 999, 1_000_001, float("nan"), None, [RATE], True])
def test_a_rate_that_no_music_has_is_refused(rate):
    with pytest.raises(ValueError, match=f"a sample rate of {re.escape(str(rate))} Hz"):
        Halves().separate(np.zeros(9), rate)


def test_rates_as_files_of_numpy_hold_them():
    for rate in (np.int64(RATE), np.float32(RATE), np.array(RATE)):
        assert len(Halves().separate(np.zeros(9), rate)) == len(Halves.stems)


@pytest.mark.parametrize("arguments, message", [({"on_progress": 3}, "on_progress 3: a function"),
                                                ({"cancel": True}, "cancel True: a threading.Event")])
def test_what_is_no_function_or_event_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Halves().separate(np.zeros(9), RATE, **arguments)


@pytest.mark.parametrize("arguments, message", [
    ({"start": "1"}, "start 1: a number"), ({"start": None}, "start None: a number"),
    ({"duration": "9"}, "duration 9: a"), ({"output": "flac"}, "output 'flac': an OutputFormat is wanted")])
def test_a_file_is_separated_with_arguments_of_their_kind_only(arguments, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        Halves().separate_file(tmp_path / "song.wav", tmp_path / "stems", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("chunk_seconds, overlap", [("3", 0.0), (None, None), (True, 0.0), (3.0, "0.1")])
def test_chunks_and_overlaps_that_are_no_numbers_are_refused(chunk_seconds, overlap):
    with pytest.raises(UsageError, match="chunks of .* with an overlap of"):
        StemSeparator.__init__(Halves(), None, chunk_seconds, overlap, "nnabla", "float32")


def test_a_name_in_place_of_a_list_is_refused():
    for targets in ("mean", 5):
        with pytest.raises(UsageError, match=rf"targets {targets!r}: .* \[{targets!r}\]"):
            StemSeparator.__init__(Halves(), targets, None, 0.0, "nnabla", "float32")


def test_stems_are_chosen_by_name():
    audio = ramp(1000)
    blocks = separate_stream(Halves(), [audio[:300], audio[300:]], RATE, 2, ["rest"])
    rest = np.concatenate(list(blocks))[:1000]
    np.testing.assert_allclose(rest[:, 0], audio - audio.mean(0), atol=1e-6)


def test_the_folder_reaches_a_separator_of_whole_signals():
    given = []

    class Streaming(Halves):
        def separate_whole(self, blocks, folder=None, report=None):
            given.append(folder)
            for block in blocks:
                yield np.stack([block, -block], axis=1)

    blocks = [ramp(500), ramp(0), ramp(300)]
    out = separate_stream(Streaming(), blocks, RATE, 2, Halves.stems, folder="stems")
    np.testing.assert_array_equal(np.concatenate(list(out))[:800, 1], -np.concatenate(blocks))
    assert given == ["stems"]


@pytest.mark.parametrize("values, says", [
    ({"chunk_seconds": 0}, "chunks of 0 s"), ({"chunk_seconds": -1}, "chunks"), ({"overlap": 0.6}, "overlap of 0.6"),
    ({"overlap": -0.1}, "overlap"), ({"overlap": float("nan")}, "overlap")], ids=str)
def test_chunks_that_cannot_be_are_refused(values, says):
    with pytest.raises(UsageError, match=says):
        Halves(**values)
