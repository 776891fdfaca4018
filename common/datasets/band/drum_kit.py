"""Drums and cymbals: falling sines, noise and clusters of squares."""
from collections.abc import Callable, Sequence

import numpy as np

from common.datasets.band.score import Hit
from common.datasets.band.tones import add_at, band, filtered, phase_of, shaped_noise

Piece = Callable[[np.random.Generator, int], np.ndarray]    # sample rate -> one stroke (samples,)


def play_drums(rng: np.random.Generator, hits: Sequence[Hit], samples: int, rate: int) -> np.ndarray:
    """Play on a kit that is drawn, each piece at its place between left and right: float64 (samples, 2)."""
    out = np.zeros((samples, 2))
    strokes, levels = {}, {}
    for hit in hits:
        if hit.piece not in strokes:
            strokes[hit.piece] = [_normalized(PIECES[hit.piece](rng, rate)) for _ in range(2)]
            pan = rng.uniform(-WIDTH[hit.piece], WIDTH[hit.piece])
            levels[hit.piece] = 10 ** (rng.normal(LEVELS[hit.piece], 3) / 20) * np.array([1 - pan, 1 + pan])
        sound = strokes[hit.piece][rng.integers(2)] * hit.strength
        add_at(out, round(hit.start * rate), sound[:, None] * levels[hit.piece])
    return out


def _normalized(sound):
    return sound / (np.abs(sound).max() + 1e-9)


def _time(seconds: float, rate: int) -> np.ndarray:
    return np.arange(round(seconds * rate)) / rate


def _drop(rng: np.random.Generator, rate: int, top: float, bottom: float, fall: float, decay: float) -> np.ndarray:
    """A sine that falls from `top` to `bottom` Hz, with a decay in seconds."""
    time = _time(5 * decay, rate)
    frequency = bottom + (top - bottom) * np.exp(-time / fall)
    return np.sin(2 * np.pi * phase_of(frequency, len(time), rate)) * np.exp(-time / decay)


def _burst(rng: np.random.Generator, rate: int, low: float, high: float, decay: float) -> np.ndarray:
    time = _time(6 * decay, rate)
    return shaped_noise(rng, len(time), rate, band(low, high)) * np.exp(-time / decay)


def _mixed(*sounds: tuple[float, np.ndarray]) -> np.ndarray:
    out = np.zeros(max(len(sound) for _, sound in sounds))
    for gain, sound in sounds:
        out[:len(sound)] += gain * sound
    return out


def _metal(rng: np.random.Generator, rate: int, low: float, decay: float) -> np.ndarray:
    """Squares of frequencies without a ratio, above `low` Hz."""
    time = _time(5 * decay, rate)
    partials = rng.uniform(300, 900, 6)[:, None] * rng.uniform(0.8, 1.6)
    cluster = np.sign(np.sin(2 * np.pi * partials * time)).sum(0)
    return _normalized(filtered(cluster, rate, band(low, 16000, 3))) * np.exp(-time / decay)


def _kick(rng, rate):
    body = _drop(rng, rate, rng.uniform(90, 260), rng.uniform(38, 68), rng.uniform(0.01, 0.05), rng.uniform(0.06, 0.3))
    click = _burst(rng, rate, rng.uniform(800, 2500), rng.uniform(4000, 9000), rng.uniform(0.002, 0.01))
    return np.tanh(rng.uniform(1, 3) * _mixed((1, body), (rng.uniform(0.05, 0.5), click)))


def _snare(rng, rate):
    pitch = rng.uniform(150, 280)
    body = _drop(rng, rate, pitch * 1.5, pitch, 0.02, rng.uniform(0.04, 0.12))
    upper = _drop(rng, rate, pitch * 2, pitch * rng.uniform(1.5, 1.9), 0.01, rng.uniform(0.03, 0.08))
    wires = _burst(rng, rate, rng.uniform(400, 2000), rng.uniform(7000, 14000), rng.uniform(0.04, 0.2))
    return _mixed((1, body), (0.5, upper), (rng.uniform(0.3, 1.2), wires))


def _clap(rng, rate):
    decays = 0.005, 0.006, rng.uniform(0.05, 0.15)
    bursts = [_burst(rng, rate, 700, rng.uniform(3000, 9000), decay) for decay in decays]
    return _mixed(*((1, np.pad(burst, (round(number * 0.011 * rate), 0))) for number, burst in enumerate(bursts)))


def _rim(rng, rate):
    return _mixed((1, _drop(rng, rate, 900, rng.uniform(400, 800), 0.01, 0.02)),
                  (0.4, _burst(rng, rate, 1500, 8000, 0.01)))


def _tom(low: float, high: float) -> Piece:
    def tom(rng, rate):
        pitch = rng.uniform(low, high)
        return _mixed((1, _drop(rng, rate, pitch * 1.5, pitch, 0.05, rng.uniform(0.12, 0.35))),
                      (rng.uniform(0.05, 0.2), _burst(rng, rate, 300, 5000, 0.03)))
    return tom


def _cymbal(low: tuple[float, float], decay: tuple[float, float]) -> Piece:
    def cymbal(rng, rate):
        seconds, lowest = rng.uniform(*decay), rng.uniform(*low)
        return _mixed((1, _metal(rng, rate, lowest, seconds)),
                      (rng.uniform(0.1, 0.5), _burst(rng, rate, lowest, 15000, seconds)))
    return cymbal


def _shaker(rng, rate):
    sound = _burst(rng, rate, rng.uniform(3000, 6000), 14000, rng.uniform(0.02, 0.05))
    return sound * np.minimum(1, np.arange(len(sound)) / (0.02 * rate))


PIECES: dict[str, Piece] = {
    "kick": _kick, "snare": _snare, "clap": _clap, "rim": _rim, "tom": _tom(120, 220), "low tom": _tom(70, 120),
    "hat": _cymbal((5000, 9000), (0.015, 0.06)), "open hat": _cymbal((4000, 8000), (0.1, 0.4)),
    "ride": _cymbal((3000, 6000), (0.2, 0.8)), "crash": _cymbal((1500, 4000), (0.4, 1.5)), "shaker": _shaker}
LEVELS = {"kick": -3, "snare": 2, "clap": -1, "rim": -4, "tom": -3, "low tom": -3, "hat": -11, "open hat": -12,
          "ride": -13, "crash": -8, "shaker": -13}    # dB, of the peaks
WIDTH = {"kick": 0.05, "snare": 0.1, "clap": 0.2, "rim": 0.2, "tom": 0.5, "low tom": 0.5, "hat": 0.5, "open hat": 0.5,
         "ride": 0.6, "crash": 0.6, "shaker": 0.6}    # largest distance from the centre; 1 is one side alone
