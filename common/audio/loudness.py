"""Loudness of a signal that comes in blocks, as ITU-R BS.1770-4 measures it, and its peak."""
import math

import numpy as np

_STEPS = 4    # of 100 ms in a block, so that blocks of 400 ms overlap by three quarters
_ABSOLUTE_GATE = -70.0    # LUFS
_RELATIVE_GATE = 10.0    # LU
_SURROUND = {5: (1, 1, 1, 1.41, 1.41), 6: (1, 1, 1, 0, 1.41, 1.41)}    # weights of channels; the sixth is bass alone


class LoudnessMeter:
    """Measures a signal (samples, channels) of full scale 1. Its state is 80 bytes a second.

    Parameters
    ----------
    sample_rate
        Hz. Below 4 kHz the shelf of the head, which lifts what lies above 1.7 kHz, is left out;
        at 8 kHz a tone of 1 kHz measures 0.2 LU too low, from 22 kHz on less than 0.06.
    channels
        Five are taken for left, right, centre and two behind, six for these with the bass channel as the fourth. Of
        other numbers all count alike.

    Attributes
    ----------
    peak : float
        Largest magnitude of a sample.

    References
    ----------
    ITU-R BS.1770-4, Annex 1. Its filters are given for 48 kHz; for other rates they are made anew of the analogue
    filters that they stand for, with the constants of libebur128.
    """

    def __init__(self, sample_rate: int, channels: int):
        self.peak = 0.0
        self._sections = _k_weighting(sample_rate)
        self._state = np.zeros((len(self._sections), 2, channels))
        self._weights = np.array(_SURROUND.get(channels, (1,) * channels))
        self._step = max(1, round(sample_rate / 10))
        self._rest = np.empty((0, channels))
        self._energies: list[np.ndarray] = []    # mean square of each step, channels summed by their weights

    def add(self, block: np.ndarray) -> None:
        """Take more of the signal into account, float (n, channels)."""
        from scipy.signal import sosfilt

        if not len(block):
            return
        self.peak = max(self.peak, float(np.abs(block).max()))
        weighted, self._state = sosfilt(self._sections, block.astype(np.float64), axis=0, zi=self._state)
        weighted = np.concatenate([self._rest, weighted])
        whole = len(weighted) // self._step * self._step
        steps = weighted[:whole].reshape(-1, self._step, weighted.shape[1])
        self._energies.append(np.square(steps).mean(1) @ self._weights)
        self._rest = weighted[whole:]

    def integrated(self) -> float | None:
        """Return the loudness of all so far in LUFS: -inf if it is silent, None if it is shorter than 400 ms."""
        steps = np.concatenate(self._energies) if self._energies else np.empty(0)
        if len(steps) < _STEPS:
            return None
        blocks = np.convolve(steps, np.full(_STEPS, 1 / _STEPS), "valid")
        loud = blocks[blocks > _energy(_ABSOLUTE_GATE)]
        if len(loud):
            loud = loud[loud > loud.mean() * 10 ** (-_RELATIVE_GATE / 10)]
        return -0.691 + 10 * math.log10(loud.mean()) if len(loud) else -math.inf


def _energy(loudness: float) -> float:
    return 10 ** ((loudness + 0.691) / 10)


def _k_weighting(sample_rate: int) -> np.ndarray:
    """Return the filters as second-order sections of scipy, (sections, 6): a shelf for the head, and a high pass."""
    sections = [_high_pass(sample_rate)]
    if sample_rate > 4000:
        sections.insert(0, _shelf(sample_rate))
    return np.array(sections)


def _shelf(sample_rate):
    k, q = math.tan(math.pi * 1681.974450955533 / sample_rate), 0.7071752369554196
    high = 10 ** (3.999843853973347 / 20)
    middle = high ** 0.4996667741545416
    a0 = 1 + k / q + k * k
    return [(high + middle * k / q + k * k) / a0, 2 * (k * k - high) / a0, (high - middle * k / q + k * k) / a0,
            1, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0]


def _high_pass(sample_rate):
    q = 0.5003270373238773
    k, k_given = (math.tan(math.pi * 38.13547087602444 / rate) for rate in (sample_rate, 48000))
    a0, a0_given = 1 + k / q + k * k, 1 + k_given / q + k_given * k_given
    gain = a0_given / a0    # above the edge the filter is to be as loud at each rate
    return [gain, -2 * gain, gain, 1, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0]
