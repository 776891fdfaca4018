"""Spectrograms in blocks are those of the whole song, and give it back."""
import numpy as np
import pytest

from common.separation import istft, stft
from d3net.music import spectrogram
from d3net.music.spectrogram import Spectrogram

N_FFT, HOP = 64, 16


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    monkeypatch.setattr(spectrogram, "BLOCK", 5)


def song(samples):
    return np.random.default_rng(samples).standard_normal((samples, 2)).astype(np.float32)


@pytest.mark.parametrize("samples", [1, 7, 16, 31, 80, 81, 999, 1024])
def test_frames_and_signals_are_those_of_the_whole_song(samples):
    signal = song(samples)
    x, whole = Spectrogram(signal, N_FFT, HOP), stft(signal.T, N_FFT, HOP)
    assert x.num_frames == whole.shape[-1] and x.num_samples == samples
    for start, stop in x.blocks():
        np.testing.assert_allclose(x.frames(start, stop), whole[:, :, start:stop], atol=1e-5)
        np.testing.assert_allclose(x.magnitudes(start, stop), np.abs(whole[:, :, start:stop]).transpose(2, 0, 1),
                                   atol=1e-5)
    # Any spectra, not only those of a signal, come out as from the inverse transform in one piece.
    gains = np.random.default_rng(0).random((3, *whole.shape)).astype(np.float32)
    expected, out = istft(gains * whole, HOP, length=samples), np.full((3, 2, samples), np.nan, np.float32)
    for start, block in x.resynthesize(lambda low, high: gains[..., low:high] * x.frames(low, high)):
        assert np.isnan(out[..., start:start + block.shape[-1]]).all()
        out[..., start:start + block.shape[-1]] = block
    np.testing.assert_allclose(out, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("samples", [1, 100, 1027])
def test_the_song_comes_back(samples):
    signal = song(samples)
    x = Spectrogram(signal, N_FFT, HOP)
    back = np.concatenate([block for _, block in x.resynthesize(x.frames)], axis=-1).T
    np.testing.assert_allclose(back, signal, atol=1e-5)
