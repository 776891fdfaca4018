"""Tracks of several stems: reading stretches, cutting into pieces, and songs that are computed."""
import numpy as np
import pytest
import soundfile

from common.audio.stft import istft, stft
from common.datasets import synthetic_music
from common.datasets.multitrack import ArrayStem, FileStem, Track, pieces
from common.datasets.prefetching import parallel_map
from common.machine.errors import UserError

RATE = 8000


def noise(frames, channels=2, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (frames, channels)).astype(np.float32)


def write(path, audio):
    soundfile.write(path, audio, RATE, subtype="FLOAT")
    return FileStem.probe(path)


def array_track(frames, sources=("bass", "drums"), mixture=False):
    named = (*sources, "mixture") if mixture else sources
    return Track("song", {name: ArrayStem(noise(frames, seed=seed), RATE) for seed, name in enumerate(named)})


# Reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels, expected", [(1, [0, 0]), (2, [0, 1]), (3, [0, 1])])
def test_any_number_of_channels_becomes_two(tmp_path, channels, expected):
    audio = noise(1000, channels)
    track = Track("song", {"bass": write(tmp_path / "bass.wav", audio)})
    result = track.read("bass", 100, 250)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, audio[100:350, expected])


def test_the_shortest_stem_counts(tmp_path):
    track = Track("song", {"bass": write(tmp_path / "bass.wav", noise(1000)),
                           "drums": write(tmp_path / "drums.wav", noise(900))})
    assert (track.num_frames, track.duration) == (900, 900 / RATE)
    assert track.read("bass", 890, 10).shape == (10, 2)
    with pytest.raises(AssertionError):
        track.read("bass", 890, 11)


def test_the_mixture_is_the_real_one_or_the_sum_of_all_stems():
    summed, real = array_track(50), array_track(50, mixture=True)
    np.testing.assert_array_equal(summed.read("mixture", 10, 20), noise(50)[10:30] + noise(50, seed=1)[10:30])
    np.testing.assert_array_equal(real.read("mixture", 10, 20), noise(50, seed=2)[10:30])
    assert real.sources == ("bass", "drums")


def test_a_file_that_was_cut_since_is_told(tmp_path):
    track = Track("song", {"bass": write(tmp_path / "bass.wav", noise(1000))})
    write(tmp_path / "bass.wav", noise(600))
    with pytest.raises(UserError, match=r"bass.wav: ends after 0.07 s instead of 0.12 s"):
        track.read("bass", 500, 200)


def test_the_key_of_a_stem_changes_with_its_content(tmp_path):
    before = write(tmp_path / "bass.wav", noise(1000)).key()
    assert FileStem.probe(tmp_path / "bass.wav").key() == before
    assert write(tmp_path / "bass.wav", noise(1001)).key() != before
    assert ArrayStem(noise(10), RATE).key() == ArrayStem(noise(10), RATE).key() != ArrayStem(noise(10, 1), RATE).key()


# Pieces ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames, starts, size", [
    (2000, [0, 800], 800), (2400, [0, 800, 1600], 800), (800, [0], 800), (799, [0], 799), (1, [0], 1)])
def test_pieces_follow_each_other_and_a_short_track_is_one(frames, starts, size):
    track = array_track(frames, mixture=True)
    result = list(pieces(track, ("drums", "bass"), 0.1))
    assert len(result) == len(starts)
    for start, (mixture, targets) in zip(starts, result, strict=True):
        part = slice(start, start + size)
        assert mixture.dtype == targets.dtype == np.float32
        np.testing.assert_array_equal(mixture, track.stems["mixture"].audio[part].T[np.newaxis])
        np.testing.assert_array_equal(targets, [[noise(frames, seed=1)[part].T, noise(frames)[part].T]])


def test_pieces_of_files_are_the_same_as_those_of_arrays(tmp_path):
    arrays = array_track(2000, mixture=True)
    files = Track("song", {name: write(tmp_path / f"{name}.wav", stem.audio) for name, stem in arrays.stems.items()})
    for ours, theirs in zip(pieces(files, ["bass"], 0.05), pieces(arrays, ["bass"], 0.05), strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


# Songs that are computed ----------------------------------------------------------------------------------------------


def test_computed_songs_are_the_same_each_time_and_differ_from_each_other():
    one, other = (synthetic_music.make_tracks("train", num=2, duration=2.0, sample_rate=RATE) for _ in range(2))
    assert [track.sources for track in one] == [("bass", "drums", "vocals", "other")] * 2
    for source in one[0].sources:
        np.testing.assert_array_equal(one[0].stems[source].audio, other[0].stems[source].audio)
    versions = [*one, *(synthetic_music.make_tracks(split, num=1, duration=2.0, sample_rate=RATE)[0]
                        for split in ("valid", "test")),
                synthetic_music.make_tracks("train", num=1, duration=2.0, sample_rate=RATE, seed=1)[0]]
    for source in one[0].sources:
        assert len({str(track.stems[source].key()) for track in versions}) == len(versions)


def test_there_are_computed_songs_for_each_split():
    for split, num in synthetic_music.NUM.items():
        tracks = synthetic_music.make_tracks(split, duration=0.5, sample_rate=RATE)
        assert [track.name for track in tracks] == [f"{split} {number}" for number in range(1, num + 1)]
        assert all(track.duration == 0.5 for track in tracks)


def test_computed_songs_can_be_separated_and_stay_within_full_scale():
    track, = synthetic_music.make_tracks("train", num=1, sample_rate=16000)
    mixture, frames = track.read("mixture", 0, track.num_frames), track.num_frames
    assert 0.3 < np.abs(mixture).max() < 1
    magnitudes = {source: np.abs(stft(track.stems[source].audio.T, 2048, 512)) for source in track.sources}
    total = sum(magnitudes.values()) + 1e-9
    for source, magnitude in magnitudes.items():
        stem = track.stems[source].audio
        masked = istft(stft(mixture.T, 2048, 512) * magnitude / total, 512, length=frames).T
        sdr = [10 * np.log10(np.sum(stem ** 2) / np.sum((estimate - stem) ** 2)) for estimate in (mixture, masked)]
        assert sdr[0] < -3 and sdr[1] > 6    # dB; nothing to gain without a mask, much with the ideal one


# Threads --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_parallel_results_come_in_order_and_errors_in_their_place(workers):
    def divide(number):
        return 12 // number

    with parallel_map(workers, "test") as run_all:
        results = run_all(divide, [4, 3, 0, 1])
        assert [next(results), next(results)] == [3, 4]
        with pytest.raises(ZeroDivisionError):
            next(results)
