"""Singers: a periodic source through the resonances of a mouth that speaks, with breath and consonants."""
from collections.abc import Sequence

import attrs
import numpy as np

from common.audio.stft import istft, stft
from common.datasets.band.score import Note, frequency_of
from common.datasets.band.tones import add_at, band, envelope, gliding, shaped_noise, smooth_random

N_FFT, HOP = 1024, 256    # of the filter that follows the mouth
# Formants in Hz of a man's vowels, about those of Peterson and Barney (1952).
VOWELS = {"i": (270, 2290, 3010), "I": (390, 1990, 2550), "e": (530, 1840, 2480), "ae": (660, 1720, 2410),
          "a": (730, 1090, 2440), "o": (570, 840, 2410), "u": (300, 870, 2240), "uh": (640, 1190, 2390),
          "er": (490, 1350, 1690), "m": (250, 1100, 2100)}
CONSONANTS = {    # band in Hz, seconds, loudness in dB against the vowel
    "s": (5000, 11000, 0.11, -12), "sh": (2200, 7000, 0.11, -10), "f": (1500, 12000, 0.08, -22),
    "h": (600, 5000, 0.06, -20), "t": (3000, 9000, 0.03, -10), "k": (1200, 4000, 0.03, -10),
    "p": (400, 2500, 0.02, -12)}


@attrs.frozen(kw_only=True)
class Singer:
    """A voice. Pitches are semitones, times seconds."""

    low: float    # the octave of comfort begins here
    mouth: float    # how much higher the formants are than a man's
    slope: float    # exponent with which harmonics fall
    breath: float    # share of noise
    vibrato: tuple[float, float]    # Hz, semitones
    glide: float
    sharpness: float    # of resonances
    loud_top: float    # dB of the singer's formant

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Singer":
        woman = rng.random() < 0.5
        return cls(low=rng.uniform(53, 63) if woman else rng.uniform(43, 54),
                   mouth=rng.uniform(1.08, 1.28) if woman else rng.uniform(0.92, 1.08),
                   slope=rng.uniform(0.3, 1.3), breath=10 ** rng.uniform(-2.3, -0.7),
                   vibrato=(rng.uniform(4.5, 6.5), rng.choice((0, rng.uniform(0.1, 0.6)))),
                   glide=rng.uniform(0.02, 0.12), sharpness=rng.uniform(0.5, 1.2), loud_top=rng.uniform(-8, 6))


def sing(rng: np.random.Generator, singer: Singer, notes: Sequence[Note], samples: int, rate: int) -> np.ndarray:
    """Sing notes that do not overlap, each on a syllable of its own: float64 (samples,)."""
    if not notes:
        return np.zeros(samples)
    pitch, level = _pitch(rng, singer, notes, samples, rate), _level(rng, notes, samples, rate)
    source = gliding(rng, lambda k: k ** -singer.slope, frequency_of(pitch), rate)
    noise = shaped_noise(rng, samples, rate, band(400, 9000, 1))
    excitation = (source + singer.breath * 3 * noise) * level
    voice = _through_mouth(rng, singer, excitation, notes, rate)
    voice *= 1 / (np.sqrt(np.mean(voice ** 2) / np.mean(level ** 2)) + 1e-9)
    return voice + _consonants(rng, notes, samples, rate)


def _pitch(rng, singer, notes, samples, rate):
    """Pitch over time (samples,), with glides, vibrato and unsteadiness; it goes on through pauses."""
    target = np.full(samples, notes[0].pitch)
    for note in notes:
        target[round(note.start * rate):] = note.pitch
    width = max(1, round(singer.glide * rate))
    padded = np.concatenate([np.full(width, target[0]), target])
    total = np.cumsum(padded)
    glided = (total[width:] - total[:-width]) / width
    time, (speed, depth) = np.arange(samples) / rate, singer.vibrato
    swing = np.clip(1 + 0.7 * smooth_random(rng, samples, rate, 1.5), 0, 2)
    vibrato = depth * swing * np.sin(2 * np.pi * speed * time + 0.5 * smooth_random(rng, samples, rate, 2))
    return glided + vibrato + 0.08 * smooth_random(rng, samples, rate, 8) + 0.02 * smooth_random(rng, samples, rate, 60)


def _level(rng, notes, samples, rate):
    """Loudness over time (samples,)."""
    level = np.zeros(samples)
    for note in notes:
        size = round(note.duration * rate)
        if size:
            shape = envelope(size, rate, rng.uniform(0.01, 0.06), note.duration * 2, rng.uniform(0.03, 0.1), 0.5)
            add_at(level, round(note.start * rate), note.strength * shape)
    return level * np.exp(0.15 * smooth_random(rng, samples, rate, 6))


def _through_mouth(rng, singer, excitation, notes, rate):
    spectrum = stft(np.asarray(excitation, np.float32)[None], N_FFT, HOP)[0]    # (bins, frames)
    frequency = np.arange(N_FFT // 2 + 1) * rate / N_FFT
    time = np.arange(spectrum.shape[1]) * HOP / rate
    formants = _formants(rng, singer, notes, time)
    gain = np.zeros(spectrum.shape, np.float32)
    levels = (0, -3, -7 + singer.loud_top, -11 + singer.loud_top, -18)
    for centre, width, level in zip(formants, (80, 100, 140, 220, 300), levels, strict=True):
        distance = (frequency[:, None] - centre) * (singer.sharpness / width * 2)
        gain += np.float32(10 ** (level / 20)) / np.sqrt(1 + distance.astype(np.float32) ** 2)
    return istft(spectrum * gain, HOP, length=len(excitation))


def _formants(rng, singer, notes, time):
    """Five formants over time, in Hz: each note has a vowel or two, and the mouth moves between them."""
    moments, vowels = [], []
    for note in notes:
        first, second = (np.array(VOWELS[rng.choice(list(VOWELS))]) for _ in range(2))
        if rng.random() < 0.6:
            second = first
        moments += [note.start + 0.04, note.start + max(0.05, note.duration - 0.05)]
        vowels += [first, second]
    order = np.argsort(moments, kind="stable")
    moments, vowels = np.array(moments)[order], np.array(vowels, float)[order] * singer.mouth
    lower = [np.interp(time, moments, column) for column in vowels.T]
    return [*lower, np.full(len(time), 3500 * singer.mouth), np.full(len(time), 4600 * singer.mouth)]


def _consonants(rng, notes, samples, rate):
    out = np.zeros(samples)
    for note in notes:
        if rng.random() < 0.55:
            low, high, seconds, level = CONSONANTS[rng.choice(list(CONSONANTS))]
            size = round(seconds * rng.uniform(0.7, 1.5) * rate)
            shape = np.hanning(size) if seconds > 0.05 else np.exp(-np.arange(size) * 4 / size)
            noise = shaped_noise(rng, size, rate, band(low * rng.uniform(0.85, 1.15), high)) * shape
            start = max(0, round(note.start * rate) - size // 2)
            add_at(out, start, noise * note.strength * 10 ** ((level + rng.normal(0, 4)) / 20) * 1.5)
    return out
