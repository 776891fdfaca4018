"""Songs that are computed: bass, drums, vocals and other, each with a sound of its own, in time and in key."""
import numpy as np

from common.datasets.multitrack import ArrayStem, Track

NUM = {"train": 6, "valid": 2, "test": 2}
SCALE = (0, 3, 5, 7, 10)    # semitones above the key, which is anywhere in an octave
LEVEL = 0.06    # root mean square of a stem; the sum of four stays within full scale
ATTACK = 0.01    # seconds
VIBRATO = 5.5, 0.4    # Hz, semitones
FORMANTS = (700, 1200, 2600)    # Hz


def make_tracks(split: str, num: int | None = None, duration: float = 8.0, sample_rate: int = 44100,
                seed: int = 0) -> list[Track]:
    """Make songs; equal arguments make equal ones, and no song of one split is in another.

    Bass plays slow low notes in the middle, drums are decaying bursts on the beat, vocals sing with vibrato and make
    pauses, other plays long chords to one side. Their frequencies overlap, so that a network has something to learn,
    and something to win from looking at all sources together.

    Parameters
    ----------
    split : 'train', 'valid' or 'test'
    num
        Songs; `NUM[split]` if not given.
    duration
        Seconds.
    sample_rate
        Hz.
    seed

    Returns
    -------
    list of Track
        Of the sources bass, drums, vocals and other; the mixture is their sum.
    """
    numbers = range(NUM[split] if num is None else num)
    rngs = [np.random.default_rng((seed, list(NUM).index(split), number)) for number in numbers]
    return [Track(f"{split} {number}", _stems(rng, duration, sample_rate)) for number, rng in enumerate(rngs, 1)]


def _stems(rng, duration, rate):
    samples, beat, key = round(duration * rate), round(rng.uniform(0.4, 0.6) * rate), rng.uniform(0, 12)
    mono = {source: play(rng, samples, beat, key, rate) for source, play in PLAYERS.items()}
    pans = {"bass": 0, "drums": 0.1, "vocals": -0.1, "other": rng.choice((-0.5, 0.5))}
    return {source: ArrayStem(_stereo(audio, pans[source]), rate) for source, audio in mono.items()}


def _bass(rng: np.random.Generator, samples: int, beat: int, key: float, rate: int) -> np.ndarray:
    out = np.zeros(samples)
    for start, stop in _beats(rng, samples, beat, (1, 2)):
        pitch = np.full(stop - start, 41.2 * 2 ** ((key + rng.choice(SCALE)) / 12))    # 41 to 147 Hz
        out[start:stop] = _tone(pitch, lambda frequency: 100 / (frequency + 50), rate) * _decay(stop - start, 0.6, rate)
    return out


def _drums(rng: np.random.Generator, samples: int, beat: int, key: float, rate: int) -> np.ndarray:
    out = np.zeros(samples)
    for number, start in enumerate(range(0, samples, beat // 2)):
        stop = min(samples, start + beat // 2)
        noise = rng.standard_normal(stop - start)
        out[start:stop] += 0.15 * np.diff(noise, prepend=0) * _decay(stop - start, 0.03, rate)    # hi-hat
        if number % 4 == 0:    # kick
            pitch = 45 + 100 * _decay(stop - start, 0.03, rate)
            out[start:stop] += _tone(pitch, lambda _: 1.0, rate, harmonics=1) * _decay(stop - start, 0.1, rate)
        elif number % 4 == 2:    # snare
            out[start:stop] += 0.4 * noise * _decay(stop - start, 0.08, rate)
    return out


def _vocals(rng: np.random.Generator, samples: int, beat: int, key: float, rate: int) -> np.ndarray:
    out = np.zeros(samples)
    for number, (start, stop) in enumerate(_beats(rng, samples, beat, (1, 2, 3))):
        if number % 4 == 3:    # breathe
            continue
        time = np.arange(stop - start) / rate
        vibrato = VIBRATO[1] * np.sin(2 * np.pi * (VIBRATO[0] * time + rng.random()))    # semitones
        pitch = 220 * 2 ** ((key + rng.choice(SCALE) + vibrato) / 12)    # 220 to 800 Hz
        swell = np.minimum(1, np.minimum(time, time[::-1]) / 0.05)
        out[start:stop] = _tone(pitch, _formants, rate) * swell
    return out


def _formants(frequency):
    return sum(np.exp(-((frequency - formant) / 300) ** 2) for formant in FORMANTS) + 0.1


def _other(rng: np.random.Generator, samples: int, beat: int, key: float, rate: int) -> np.ndarray:
    out = np.zeros(samples)
    for start, stop in _beats(rng, samples, beat, (4,)):
        root = key + rng.choice(SCALE)
        for interval in (0, rng.choice((3, 4)), 7):
            pitch = np.full(stop - start, 130.8 * 2 ** ((root + interval) / 12))    # 131 to 700 Hz
            out[start:stop] += _tone(pitch, lambda frequency: (200 / frequency) ** 2, rate)
        out[start:stop] *= _decay(stop - start, 3.0, rate)
    return out


PLAYERS = {"bass": _bass, "drums": _drums, "vocals": _vocals, "other": _other}


def _beats(rng, samples, beat, lengths):
    """Yield (start, stop) of notes that follow each other and last a random one of `lengths`, in beats."""
    start = 0
    while start < samples:
        stop = min(samples, start + beat * int(rng.choice(lengths)))
        yield start, stop
        start = stop


def _tone(pitch, loudness, rate, harmonics=12):
    """Add harmonics of `pitch`, Hz (samples,), as loud as the function `loudness` of their mean frequency says."""
    phase, mean = 2 * np.pi * np.cumsum(pitch) / rate, pitch.mean()
    twice_cosine, before, now, out = 2 * np.cos(phase), np.zeros(len(phase)), np.sin(phase), np.zeros(len(phase))
    for harmonic in range(1, min(harmonics, int(rate / 2 / pitch.max())) + 1):
        out += loudness(harmonic * mean) * now
        before, now = now, twice_cosine * now - before    # the sine of the next multiple of the phase
    return out


def _decay(samples, seconds, rate):
    """Exponential decay to 1/e in `seconds`, after a short attack that avoids a click."""
    time = np.arange(samples) / rate
    return np.minimum(1, time / ATTACK) * np.exp(-time / seconds)


def _stereo(mono, pan):
    """Return float32 (samples, 2); `pan` goes from -1, left, to 1, right."""
    mono = mono * (LEVEL / np.sqrt(np.mean(mono ** 2)))
    angle = (pan + 1) * np.pi / 4
    return (np.sqrt(2) * np.stack([mono * np.cos(angle), mono * np.sin(angle)], axis=1)).astype(np.float32)
