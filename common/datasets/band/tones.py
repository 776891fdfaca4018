"""Periodic sounds from tables of one period, noise of a given spectrum, and envelopes."""
from collections.abc import Callable

import numpy as np

SIZE = 4096    # samples of a period
HIGHEST = 0.45    # of the sample rate: no partial beyond it
_OCTAVES = 2    # tables for each octave of a gliding tone

Law = Callable[[np.ndarray], np.ndarray]    # number of a harmonic, from 1 on -> amplitude
Gain = Callable[[np.ndarray], np.ndarray]    # frequency in Hz -> gain


def period(rng: np.random.Generator, law: Law, harmonics: int) -> np.ndarray:
    """Make one period of a sound, float32 (SIZE,): its harmonics with the amplitudes of `law`, in random phases."""
    numbers = np.arange(1, max(1, min(harmonics, SIZE // 4)) + 1)
    spectrum = np.zeros(SIZE // 2 + 1, complex)
    spectrum[numbers] = law(numbers) * np.exp(2j * np.pi * rng.random(len(numbers)))
    table = np.fft.irfft(spectrum) * SIZE
    return (table / (np.sqrt(np.mean(table ** 2)) + 1e-9)).astype(np.float32)


def phase_of(frequency: np.ndarray | float, samples: int, rate: int, start: float = 0.0) -> np.ndarray:
    """Phase in periods, float64 (samples,), of a frequency in Hz that may change from sample to sample."""
    if np.ndim(frequency) == 0:
        return start + np.arange(samples) * (frequency / rate)
    return start + np.cumsum(frequency) / rate


def look_up(table: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """Values (samples,) of a period at phases in periods."""
    return table[(phase * SIZE).astype(np.int64) & (SIZE - 1)]


def harmonics_below(frequency: float, rate: int) -> int:
    """How many harmonics of a frequency can be played at a sample rate."""
    return int(HIGHEST * rate / frequency)


def gliding(rng: np.random.Generator, law: Law, frequency: np.ndarray, rate: int) -> np.ndarray:
    """A tone of changing frequency, (samples,), at each moment with all harmonics that the sample rate allows."""
    lowest = max(20.0, float(frequency.min()))
    band = np.ceil(np.log2(np.maximum(frequency, lowest) / lowest) * _OCTAVES).astype(int)
    state = rng.bit_generator.state
    tables = []
    for number in range(band.max() + 1):
        rng.bit_generator.state = state    # the same phases in all tables, so that no step can be heard
        tables.append(period(rng, law, harmonics_below(lowest * 2 ** (number / _OCTAVES), rate)))
    index = (phase_of(frequency, len(frequency), rate) * SIZE).astype(np.int64) & (SIZE - 1)
    return np.stack(tables)[band, index]


def envelope(samples: int, rate: int, attack: float, decay: float, release: float, sustain: float = 0.0) -> np.ndarray:
    """Loudness of a note over time, float32 (samples,): times in seconds; `sustain` is where the decay ends."""
    time = np.arange(samples, dtype=np.float32) / rate
    level = sustain + (1 - sustain) * np.exp(-time / max(decay, 1e-4))
    level *= np.minimum(1, (time + 1 / rate) / max(attack, 1 / rate))
    return level * np.clip((samples / rate - time) / max(release, 1 / rate), 0, 1)


def smooth_random(rng: np.random.Generator, samples: int, rate: int, frequency: float) -> np.ndarray:
    """A random curve (samples,) of about unit variance that changes `frequency` times a second."""
    points = max(2, round(samples / rate * frequency) + 2)
    return np.interp(np.linspace(0, points - 1, samples), np.arange(points), rng.standard_normal(points))


def shaped_noise(rng: np.random.Generator, samples: int, rate: int, gain: Gain) -> np.ndarray:
    """Noise (samples,) of unit power whose spectrum follows `gain` of the frequency in Hz."""
    noise = filtered(rng.standard_normal(samples, np.float32), rate, gain)
    return noise / (np.sqrt(np.mean(noise ** 2)) + 1e-9)


def filtered(signal: np.ndarray, rate: int, gain: Gain, response: np.ndarray | None = None) -> np.ndarray:
    """Give each frequency of a signal a gain.

    Parameters
    ----------
    signal : array (..., samples)
    rate
    gain
        Of frequencies in Hz.
    response : array (..., n), optional
        An impulse response that the signal is convolved with, too.

    Returns
    -------
    float32 array (..., samples)
        What lasts beyond the end is cut off.
    """
    from scipy import fft

    samples = signal.shape[-1]
    size = int(fft.next_fast_len(samples + (0 if response is None else response.shape[-1]), real=True) or 0)
    spectrum = np.asarray(fft.rfft(signal.astype(np.float32), size))
    spectrum = spectrum * gain(np.arange(size // 2 + 1, dtype=np.float32) * np.float32(rate / size))
    if response is not None:
        spectrum = spectrum * np.asarray(fft.rfft(response.astype(np.float32), size))
    return np.asarray(fft.irfft(spectrum, size))[..., :samples]


def band(low: float, high: float, order: int = 2) -> Gain:
    """Gain of a band-pass from `low` to `high` Hz."""
    def gain(frequency):
        ratio = np.maximum(frequency, 1)
        return 1 / np.sqrt((1 + (low / ratio) ** (2 * order)) * (1 + (ratio / high) ** (2 * order)))
    return gain


def add_at(out: np.ndarray, start: int, sound: np.ndarray) -> None:
    """Add a sound to a signal from sample `start` >= 0 on; what goes beyond its end is lost."""
    stop = min(len(out), start + len(sound))
    out[start:stop] += sound[:max(0, stop - start)]
