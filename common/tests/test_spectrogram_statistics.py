"""Statistics of spectrograms: those of whole tracks, though read in blocks, and a cache that notices changes."""
import numpy as np
import pytest
import soundfile

from common.audio.stft import stft
from common.datasets import spectrogram_statistics as module
from common.datasets.multitrack import ArrayStem, FileStem, Track
from common.datasets.spectrogram_statistics import spectrogram_statistics
from common.machine.cache import CACHE_VARIABLE

RATE = 8000


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "statistics"


def noise(frames, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((frames, 2)) * rng.uniform(0.1, 0.5, 2)).astype(np.float32)


def make_track(audio, name="song"):
    return Track(name, {"mixture": ArrayStem(audio, RATE)})


def frames_of(audio, n_fft, hop_length):
    """Mean of the channels' magnitudes of the whole signal, float64 (bins, frames)."""
    return np.abs(stft(audio.T, n_fft, hop_length)).mean(axis=0, dtype=np.float64)


@pytest.mark.parametrize("block", [33, 64, 100, 1 << 19])
@pytest.mark.parametrize("lengths", [(1000, 700), (1,), (20,), (64, 65), (33, 34), (960, 961, 975, 976)])
def test_reading_in_blocks_gives_the_statistics_of_whole_tracks(monkeypatch, block, lengths):
    monkeypatch.setattr(module, "BLOCK", block)
    audios = [noise(length, seed) for seed, length in enumerate(lengths)]
    mean, std = spectrogram_statistics([make_track(audio) for audio in audios], 64, 16)
    frames = np.concatenate([frames_of(audio, 64, 16) for audio in audios], axis=1)
    assert mean.dtype == std.dtype == np.float32 and mean.shape == std.shape == (33,)
    np.testing.assert_allclose(mean, frames.mean(axis=1), rtol=1e-6)
    if frames.shape[1] > 1:    # one frame alone has no deviation
        expected = frames.std(axis=1)
        np.testing.assert_allclose(std, np.maximum(expected, 1e-4 * expected.max()), rtol=1e-5)


@pytest.mark.parametrize("block", [33, 64, 100, 1 << 19])
@pytest.mark.parametrize("samples", [1, 32, 33, 34, 64, 97, 500, 960])
def test_frames_in_blocks_are_those_of_the_whole_track(monkeypatch, block, samples):
    monkeypatch.setattr(module, "BLOCK", block)
    audio = noise(samples)
    blocks = module._reflected(lambda start, num: audio[start:start + num], samples, 32)
    result = np.concatenate(list(module._spectrograms(blocks, 64, 16)), axis=1)
    np.testing.assert_array_equal(result, frames_of(audio, 64, 16))


def test_many_loud_frames_do_not_drown_a_small_deviation():
    frames = 1e4 + 1e-3 * np.random.default_rng(0).standard_normal((1, 6000))
    parts = (module._moments(frames[:, start:start + 7]) for start in range(0, 6000, 7))
    total = module._merge_all(parts)
    np.testing.assert_allclose(np.sqrt(total.scatter / total.count), frames.std(axis=1), rtol=1e-6)
    np.testing.assert_allclose(total.mean, frames.mean(axis=1), rtol=1e-14)


def test_the_mixture_counts_not_the_sum_of_the_stems():
    track = make_track(noise(500))
    alone = spectrogram_statistics([track], 64, 16)
    track.stems["bass"] = ArrayStem(noise(500, 1), RATE)
    np.testing.assert_array_equal(spectrogram_statistics([track], 64, 16), alone)
    del track.stems["mixture"]
    assert not np.array_equal(spectrogram_statistics([track], 64, 16), alone)


def test_bins_that_never_change_count_as_one_and_small_deviations_are_raised():
    total = module.Moments(100, np.array([3.0, 0.0, 5.0, 5.0]), 100 * np.array([0.0, 1e-30, 1e-20, 1e8]))
    np.testing.assert_allclose(module._floored(total), [1.0, 1.0, 1.0, 1e4])
    silent = spectrogram_statistics([make_track(np.zeros((500, 2), np.float32))], 64, 16)
    np.testing.assert_array_equal(silent, [np.zeros(33), np.ones(33)])


# Cache ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def computed(monkeypatch):
    """Names of the tracks whose frames were computed."""
    names, compute = [], module.track_moments
    monkeypatch.setattr(module, "track_moments",
                        lambda track, *args: names.append(track.name) or compute(track, *args))
    return names


def test_statistics_are_kept_until_a_file_or_a_parameter_changes(tmp_path, computed):
    def check(times, n_fft=64, hop_length=16):
        track = Track("song", {"mixture": FileStem.probe(tmp_path / "mixture.wav")})
        first, second = (spectrogram_statistics([track], n_fft, hop_length) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert len(computed) == times

    soundfile.write(tmp_path / "mixture.wav", noise(500), RATE)
    check(1)
    check(2, hop_length=8)
    check(3, n_fft=32)
    check(3)
    soundfile.write(tmp_path / "mixture.wav", noise(500, seed=1), RATE)
    check(4)


@pytest.mark.parametrize("damage", [b"", b"no archive", "cut", "other arrays", "not finite", "pickle"])
def test_a_damaged_cache_is_made_anew(cache, computed, damage):
    tracks = [make_track(noise(500))]
    expected = spectrogram_statistics(tracks, 64, 16)
    path, = cache.glob("*.npz")
    whole = path.read_bytes()
    if isinstance(damage, bytes) or damage == "cut":
        path.write_bytes(whole[:len(whole) // 2] if damage == "cut" else damage)
    else:
        std = {"other arrays": {}, "not finite": {"std": expected[1] * np.nan},
               "pickle": {"std": np.array([{}], dtype=object)}}[damage]
        np.savez(path, mean=expected[0], **std)
    np.testing.assert_array_equal(spectrogram_statistics(tracks, 64, 16), expected)
    assert len(computed) == 2
    np.testing.assert_array_equal(spectrogram_statistics(tracks, 64, 16), expected)
    assert len(computed) == 2


def test_without_a_place_for_the_cache_the_statistics_are_still_computed(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    assert spectrogram_statistics([make_track(noise(500))], 64, 16)[1].min() > 0
