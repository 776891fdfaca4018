"""Instruments with a pitch: each a table of ranges from which a patch is drawn, and a way to play notes on it."""
from collections.abc import Callable, Sequence

import attrs
import numpy as np

from common.datasets.band.score import Note
from common.datasets.band.tones import (
    add_at,
    band,
    envelope,
    harmonics_below,
    look_up,
    period,
    phase_of,
    shaped_noise,
    smooth_random,
)

Range = tuple[float, float]


@attrs.frozen(kw_only=True)
class Instrument:
    """The ranges that a patch is drawn from; times in seconds.

    Attributes
    ----------
    law
        Takes numbers of harmonics and two random values from 0 to 1, and returns amplitudes.
    attack, decay, release, sustain
        As of `tones.envelope`; `decay` is that of the middle C, and an octave above it is the shorter by a third.
    dulling
        Seconds in which the upper harmonics are gone; infinite for sounds that stay.
    voices
        How many play each note, slightly out of tune.
    detune
        Semitones.
    vibrato
        Semitones, 5 to 6 times a second.
    tremolo
        Depth, 0 to 1.
    modulation
        Index of a frequency modulation at the start of a note; 0: none.
    drive
        Distortion of all notes together; 0: none.
    pick
        Loudness of the noise at the start of a note.
    """

    law: Callable[[np.ndarray, float, float], np.ndarray]
    attack: Range = (0.002, 0.01)
    decay: Range = (0.5, 3)
    release: Range = (0.03, 0.15)
    sustain: Range = (0, 0)
    dulling: Range = (0.05, 0.6)
    voices: int = 1
    detune: Range = (0.02, 0.12)
    vibrato: Range = (0, 0)
    tremolo: Range = (0, 0)
    modulation: Range = (0, 0)
    drive: Range = (0, 0)
    pick: Range = (0, 0)


def _string(k, a, b):
    return np.abs(np.sin(np.pi * k * (0.06 + 0.4 * a))) / k ** (0.5 + 0.8 * b)


def _falling(k, a, b):
    return k ** -(0.5 + 1.1 * a)


def _odd(k, a, b):
    return np.where(k % 2, 1, 0.3 * b) / k ** (0.6 + 0.6 * a)


def _drawbars(k, a, b):
    return np.isin(k, (1, 2, 3, 4, 6, 8)) * np.abs(np.sin(k * (1 + 5 * a) + 7 * b)) + (k == 1)


def _sine(k, a, b):
    return (k == 1) + 0.3 * a * (k == 2) + 0.15 * b * (k == 3)


def _reed(k, a, b):
    return np.exp(-0.5 * ((k - 2 - 3 * a) / (1.5 + 2 * b)) ** 2) + 0.3 / k


STEADY = (1e3, 1e3)
INSTRUMENTS = {
    "acoustic guitar": Instrument(law=_string, decay=(0.4, 1.5), pick=(0.02, 0.15)),
    "electric guitar": Instrument(law=_string, decay=(1, 4), dulling=(0.2, 1.5), tremolo=(0, 0.3), drive=(0, 1)),
    "distorted guitar": Instrument(law=_string, decay=(3, 8), dulling=(0.5, 3), drive=(4, 40), pick=(0, 0.1)),
    "piano": Instrument(law=_falling, decay=(0.5, 2.5), dulling=(0.1, 0.8), voices=2, detune=(0.005, 0.03)),
    "electric piano": Instrument(law=_sine, decay=(0.6, 2), modulation=(0.3, 3), tremolo=(0, 0.4)),
    "organ": Instrument(law=_drawbars, decay=STEADY, sustain=(1, 1), dulling=STEADY, tremolo=(0, 0.5),
                        vibrato=(0, 0.1)),
    "pad": Instrument(law=_falling, attack=(0.1, 0.6), decay=STEADY, sustain=(1, 1), release=(0.2, 0.8),
                      dulling=(1, 8), voices=3),
    "strings": Instrument(law=_falling, attack=(0.04, 0.25), decay=STEADY, sustain=(1, 1), release=(0.1, 0.4),
                          dulling=STEADY, voices=3, vibrato=(0.05, 0.25)),
    "brass": Instrument(law=_falling, attack=(0.02, 0.08), decay=STEADY, sustain=(0.8, 1), dulling=(0.3, 3), voices=2,
                        vibrato=(0, 0.15)),
    "reed": Instrument(law=_reed, attack=(0.02, 0.08), decay=STEADY, sustain=(0.8, 1), dulling=STEADY,
                       vibrato=(0.05, 0.4), pick=(0, 0.1)),
    "synthesizer": Instrument(law=_odd, attack=(0.002, 0.03), decay=(0.1, 2), sustain=(0, 0.8), dulling=(0.05, 1),
                              voices=2, drive=(0, 2)),
    "bell": Instrument(law=_sine, decay=(0.3, 2), modulation=(0.5, 4)),
}
BASSES = {
    "fingered bass": Instrument(law=_string, decay=(0.8, 3), dulling=(0.05, 0.5), drive=(0, 1)),
    "picked bass": Instrument(law=_string, decay=(0.8, 3), dulling=(0.2, 1), drive=(0, 4), pick=(0.01, 0.06)),
    "synthesizer bass": Instrument(law=_falling, decay=(0.3, 3), sustain=(0, 1), dulling=(0.05, 1), voices=2,
                                   detune=(0.01, 0.06), drive=(0, 2)),
    "sub bass": Instrument(law=_sine, decay=(0.5, 3), sustain=(0, 1), drive=(1, 6)),
}


def play(rng: np.random.Generator, instrument: Instrument, notes: Sequence[Note], samples: int,
         rate: int) -> np.ndarray:
    """Play notes, which may overlap, on a patch that is drawn: float64 (samples,)."""
    patch = {field.name: rng.uniform(*value) for field in attrs.fields(Instrument)
             if isinstance(value := getattr(instrument, field.name), tuple)}
    shape = rng.random(2)
    out, tables = np.zeros(samples), {}
    for note in notes:
        key = round(note.pitch)
        if key not in tables:
            tables[key] = _tables(rng, instrument, note.frequency, shape, rate)
        add_at(out, round(note.start * rate), _note(rng, instrument, patch, note, tables[key], rate))
    if patch["tremolo"]:
        out *= 1 + patch["tremolo"] * np.sin(2 * np.pi * rng.uniform(3, 7) * np.arange(samples) / rate)
    return np.tanh(out * patch["drive"]) / patch["drive"] if patch["drive"] > 0.3 else out


def _tables(rng, instrument, frequency, shape, rate):
    """Two periods of a note: as it begins, and without its upper harmonics."""
    harmonics = harmonics_below(frequency * 1.06, rate)
    bright = period(rng, lambda k: instrument.law(k, *shape), harmonics)
    dull = period(rng, lambda k: instrument.law(k, *shape) * np.exp(-(0.05 + 0.3 * shape[0]) * (k - 1)), harmonics)
    return bright, dull


def _note(rng, instrument, patch, note, tables, rate):
    size = round((note.duration + patch["release"]) * rate)
    time = np.arange(size, dtype=np.float32) / rate
    dulling = np.exp(-time / patch["dulling"])
    bend = 0.0
    if patch["vibrato"]:
        swing = np.minimum(1, time / 0.3) * patch["vibrato"]
        bend = swing * np.sin(2 * np.pi * rng.uniform(4.5, 6.5) * time + rng.uniform(0, 7))
        bend += 0.03 * smooth_random(rng, size, rate, 5)
    sound = 0
    for voice in range(instrument.voices):
        detuned = patch["detune"] * (voice - (instrument.voices - 1) / 2)
        frequency = note.frequency * 2 ** ((bend + detuned) / 12)
        phase = phase_of(frequency, size, rate, rng.random())
        if patch["modulation"]:
            ratio = _RATIOS[int(patch["detune"] * 1e4) % len(_RATIOS)]
            phase = phase + patch["modulation"] / 6 * dulling * np.sin(2 * np.pi * ratio * phase)
        bright, dull = (look_up(table, phase) for table in tables)
        sound = sound + dull + dulling * (bright - dull)
    decay = patch["decay"] * 0.67 ** ((note.pitch - 60) / 12)
    sound = sound * envelope(size, rate, patch["attack"], decay, patch["release"], patch["sustain"]) * note.strength
    if patch["pick"]:
        add_at(sound, 0, patch["pick"] * 3 * _pick(rng, rate))
    return sound


_RATIOS = (1, 2, 3.5, 7)    # of the modulating frequency


def _pick(rng, rate):
    size = round(0.015 * rate)
    return shaped_noise(rng, size, rate, band(1500, 9000)) * np.exp(-np.arange(size) * 5 / size)
