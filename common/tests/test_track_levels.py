"""Spectrograms of bounded size: where a tone lies, how loud it is, and that blocks and lengths do not matter."""
import math

import numpy as np
import pytest
import soundfile

from common.separation.track_levels import COLUMNS, FLOOR, ROWS, BoundedSpectrogram, frequency_range, measure


def spectrogram(signal, rate, block=65536, frames=None):
    bounded = BoundedSpectrogram(rate, frames or len(signal))
    for start in range(0, len(signal), block):
        bounded.add(signal[start:start + block])
    return bounded.decibels()


def tone(seconds, frequency, rate, level=1.0):
    return level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)[:, None]


@pytest.mark.parametrize("rate, seconds", [(8000, 0.5), (8000, 3), (8000, 400), (44100, 3), (44100, 60), (192_000, 3)])
@pytest.mark.parametrize("frequency", [100, 1000, 3000])
def test_a_tone_lies_at_its_frequency_and_level(rate, seconds, frequency):
    picture = spectrogram(tone(seconds, frequency, rate, 0.1), rate)
    low, high = frequency_range(rate)
    row = ROWS * math.log(frequency / low) / math.log(high / low)
    inside = picture[:, picture.shape[1] // 4:picture.shape[1] * 3 // 4]
    mean = inside.mean(1)
    assert mean[int(row) - 1:int(row) + 2].max() > mean.max() - 0.1 and mean[[0, -1]].max() < mean.max() - 30
    assert inside.max() == pytest.approx(-20, abs=1.5)    # a tone between two bins loses 1.4 dB
    assert picture.shape[1] <= COLUMNS


def test_a_click_lies_in_its_column_however_long_the_signal_is():
    rate = 8000
    for seconds in (2, 400):
        signal = np.zeros((seconds * rate, 2), np.float32)
        signal[len(signal) * 3 // 4] = 1
        picture = spectrogram(signal, rate)
        assert picture.shape == (ROWS, COLUMNS)
        assert abs(picture[ROWS // 2].argmax() / COLUMNS - 0.75) < 0.02


@pytest.mark.parametrize("frames", [1, 2, 255, 900, 901, 4096, 100_000])
@pytest.mark.parametrize("block", [1000, 65536])
def test_any_length_in_any_blocks(frames, block):
    signal = np.random.default_rng(frames).uniform(-1, 1, (frames, 2)).astype(np.float32)
    picture = spectrogram(signal, 44100, block)
    assert picture.shape == (ROWS, min(COLUMNS, frames)) and np.isfinite(picture).all()
    np.testing.assert_allclose(picture, spectrogram(signal, 44100, frames), atol=1e-3)
    assert picture.max() > FLOOR


def test_more_or_less_than_was_announced():
    signal = tone(2, 1000, 8000)
    for frames in (8000, 16_000, 32_000):
        picture = spectrogram(signal, 8000, frames=frames)
        assert (picture.max(0)[50:picture.shape[1] * 16_000 // max(16_000, frames) - 50] > -2).all()
    assert (spectrogram(signal, 8000, frames=32_000).max(0)[-400:] == FLOOR).all()


def test_a_file_is_measured_in_memory_that_does_not_grow(tmp_path):
    rate = 8000
    soundfile.write(tmp_path / "tone.wav", np.concatenate([tone(2, 1000, rate, 0.5), -tone(2, 1000, rate, 0.25)]), rate)
    levels = measure(tmp_path / "tone.wav", 4 * rate)
    assert levels.peak == pytest.approx(20 * math.log10(0.5), abs=0.01)
    assert levels.loudness == pytest.approx(20 * math.log10(0.5) - 3.2 + 10 * math.log10((1 + 1 / 4) / 2), abs=0.3)
    loud, soft = levels.spectrogram.max(0)[100:400], levels.spectrogram.max(0)[500:800]
    assert np.median(loud) - np.median(soft) == pytest.approx(6, abs=0.2) and levels.sample_rate == rate


def test_levels_are_finite_however_large_samples_are(tmp_path):
    soundfile.write(tmp_path / "large.wav", tone(1, 1000, 8000, 1e30), 8000, subtype="FLOAT")
    levels = measure(tmp_path / "large.wav", 8000)
    assert levels.spectrogram.max() == pytest.approx(600, abs=1.5) and levels.peak == pytest.approx(600, abs=0.1)
    assert levels.loudness == pytest.approx(597, abs=1)


def test_silence(tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros((8000, 2)), 8000)
    levels = measure(tmp_path / "silence.wav", 8000)
    assert (levels.peak, levels.loudness) == (-math.inf, -math.inf) and (levels.spectrogram == FLOOR).all()
