"""Loudness beside the numbers of ITU-R BS.1770-4 and the signals of EBU Tech 3341, and laws that need no reference."""
import math

import numpy as np
import pytest

from common.audio.loudness import LoudnessMeter, _k_weighting


def loudness(signal, rate=48000, block=1 << 16):
    meter = LoudnessMeter(rate, signal.shape[1])
    for start in range(0, len(signal), block):
        meter.add(signal[start:start + block])
    return meter.integrated()


def tone(seconds, level=0.0, rate=48000, frequency=1000.0, channels=2):
    """A sine of `level` dBFS in all channels."""
    wave = 10 ** (level / 20) * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def test_filters_at_48_khz_are_those_of_the_recommendation():
    np.testing.assert_allclose(_k_weighting(48000), [
        [1.53512485958697, -2.69169618940638, 1.19839281085285, 1, -1.69065929318241, 0.73248077421585],
        [1, -2, 1, 1, -1.99004745483398, 0.99007225036621]], rtol=0, atol=1e-8)


def test_a_sine_of_full_scale_in_one_channel_has_minus_3_01():
    assert loudness(tone(5, channels=1, frequency=997)) == pytest.approx(-3.01, abs=0.01)


# Cases 1 to 6 of EBU Tech 3341, whose tolerance is 0.1 LU: seconds and level in dBFS of a stereo sine of 1 kHz.
@pytest.mark.parametrize("parts, expected", [
    ([(20, -23)], -23), ([(20, -33)], -33), ([(10, -36), (60, -23), (10, -36)], -23),
    ([(10, -72), (10, -36), (60, -23), (10, -36), (10, -72)], -23), ([(20, -26), (20.1, -20), (20, -26)], -23)])
def test_signals_of_the_ebu(parts, expected):
    assert loudness(np.concatenate([tone(*part) for part in parts])) == pytest.approx(expected, abs=0.05)


def test_channels_behind_count_more_and_the_bass_channel_not_at_all():
    wave = tone(20, channels=1)
    levels = 10 ** (np.array([-28, -28, -24, 0, -30, -30]) / 20)    # case 6, with noise where nothing counts
    assert loudness(wave * levels) == pytest.approx(-23, abs=0.05)
    assert loudness(wave * levels[[0, 1, 2, 4, 5]]) == pytest.approx(-23, abs=0.05)


@pytest.mark.parametrize("rate, within", [(8000, 0.25), (22050, 0.06), (44100, 0.02), (96000, 0.02), (192000, 0.02)])
def test_other_rates_measure_the_same(rate, within):
    assert loudness(tone(3, -20, rate), rate) == pytest.approx(-20, abs=within)


def test_the_lowest_rate_is_measured_without_the_shelf():
    assert loudness(tone(3, -20, 1000, 200), 1000) == pytest.approx(-20 - 0.69, abs=0.25)


@pytest.mark.parametrize("block", [1, 4799, 10_000])
def test_blocks_do_not_matter(block):
    signal = tone(0.7, -10) * np.random.default_rng(0).random((33600, 2), np.float32)
    assert loudness(signal, block=block) == pytest.approx(loudness(signal), abs=1e-9)


def test_silence_and_what_is_too_short():
    assert loudness(np.zeros((48000, 2), np.float32)) == -math.inf
    assert loudness(tone(0.399)) is None
    assert loudness(tone(0.4)) is not None
    assert LoudnessMeter(48000, 2).integrated() is None


def test_the_peak_is_that_of_a_sample():
    meter = LoudnessMeter(44100, 2)
    meter.add(np.array([[0.25, 0], [0, -0.5]], np.float32))
    meter.add(np.empty((0, 2), np.float32))
    meter.add(np.array([[0.1, 0.1]], np.float32))
    assert meter.peak == 0.5
