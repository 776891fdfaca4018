"""Songs of the band, as tracks of four stems."""
from collections.abc import Callable

import attrs
import numpy as np

from common.console.progress import progress
from common.datasets.band.desk import Strip, process
from common.datasets.band.drum_kit import play_drums
from common.datasets.band.instruments import BASSES, INSTRUMENTS, play
from common.datasets.band.score import Song, arpeggio, bass_line, block_chords, drum_part, melody, within
from common.datasets.band.singing import Singer, sing
from common.datasets.multitrack import ArrayStem, Track
from common.datasets.prefetching import parallel_map

NUM = {"train": 128, "valid": 6, "test": 6}
LEVELS = {"bass": (-20, 3), "drums": (-19, 3), "vocals": (-18, 3), "other": (-19, 3.5)}    # dB: mean, deviation
PEAK = 0.9    # of a mixture that would be louder
LEADS = ("reed", "synthesizer", "electric guitar", "brass", "strings", "distorted guitar")
_WORKERS = 2


def make_tracks(split: str, num: int | None = None, duration: float = 8.0, sample_rate: int = 44100,
                seed: int = 0) -> list[Track]:
    """Compute songs; equal arguments make equal ones, and no song of one split is in another.

    Each has a singer, perhaps with a second voice, drums, a bass and one to three other instruments, drawn anew, that
    play in one tempo and key. Every part has an equalizer, a compressor, a room and a place of its own.

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
        Of the sources bass, drums, vocals and other; the mixture is their sum. Samples are kept as float16.
    """
    keys = [(seed, list(NUM).index(split), number) for number in range(NUM[split] if num is None else num)]

    def make(key):
        stems = make_stems(np.random.default_rng(key), duration, sample_rate)
        return Track(f"{split} {key[-1] + 1}", {source: ArrayStem(audio.astype(np.float16), sample_rate)
                                                for source, audio in stems.items()})

    with parallel_map(_WORKERS, "band") as run_all:
        return list(progress(run_all(make, keys), total=len(keys), desc=f"{split} songs"))


def make_stems(rng: np.random.Generator, duration: float, rate: int) -> dict[str, np.ndarray]:
    """Compute a song: source -> float32 (samples, 2)."""
    song, samples = Song.draw(rng, duration), round(duration * rate)
    stems = {source: part(rng, song, samples, rate) for source, part in PARTS.items()}
    for source, stem in stems.items():
        level = 10 ** (rng.normal(*LEVELS[source]) / 20)
        stem *= level / (np.sqrt(np.mean(stem ** 2)) + 1e-6)
    loudest = np.abs(sum(stems.values())).max()
    return {source: stem * np.float32(min(1, PEAK / (loudest + 1e-9))) for source, stem in stems.items()}


def _bass(rng, song, samples, rate):
    instrument = BASSES[rng.choice(list(BASSES))]
    part = play(rng, instrument, within(list(bass_line(rng, song)), song.duration), samples, rate)
    return process(rng, Strip.draw(rng, pan=0.1, width=0.1, wet=0.1, low_cut=40, high_cut=(500, 6000)), part, rate)


def _drums(rng, song, samples, rate):
    part = play_drums(rng, within(list(drum_part(rng, song)), song.duration), samples, rate)
    return process(rng, Strip.draw(rng, pan=0.05, width=0.3, wet=0.5, low_cut=40), part, rate)


def _vocals(rng, song, samples, rate):
    singer = Singer.draw(rng)
    step = rng.choice((0.25, 0.5, 0.5, 1, 2))
    notes = within(list(melody(rng, song, singer.low + 7, step, rng.uniform(0.6, 1))), song.duration)
    strip = Strip.draw(rng, pan=0.15, width=0.2, wet=0.6, low_cut=130)
    out = process(rng, strip, sing(rng, singer, notes, samples, rate), rate)
    for shift, chance in ((0, 0.3), (rng.choice((3, 4, 7, -5)), 0.3)):    # doubled, harmony
        if rng.random() < chance:
            other = Singer.draw(rng) if rng.random() < 0.3 else singer
            moved = [_moved(note, shift, rng.uniform(0, 0.02)) for note in notes]
            for _ in range(2):    # to the left and to the right
                take = sing(rng, other, moved, samples, rate)
                out += rng.uniform(0.1, 0.5) * process(
                    rng, Strip.draw(rng, pan=0.9, width=0.3, wet=0.6, low_cut=150), take, rate)
    return out


def _moved(note, semitones, seconds):
    return type(note)(note.start + seconds, note.duration, note.pitch + semitones, note.strength)


def _other(rng, song, samples, rate):
    out = np.zeros((samples, 2), np.float32)
    for _ in range(rng.integers(1, 4)):
        name = str(rng.choice(list(INSTRUMENTS)))
        near = rng.uniform(48, 68)
        if name in LEADS and rng.random() < 0.4:
            notes = list(melody(rng, song, near + 6, None, rng.uniform(0.5, 1)))
        else:
            notes = list((block_chords if rng.random() < 0.6 else arpeggio)(rng, song, near))
        out += 10 ** (rng.normal(0, 3) / 20) * _panned(rng, name, within(notes, song.duration), samples, rate)
    return out


def _panned(rng, name, notes, samples, rate):
    """Play a part once, somewhere, or twice, to both sides, as guitars are recorded."""
    twice = rng.random() < 0.5 and "guitar" in name
    out = np.zeros((samples, 2), np.float32)
    for side in (-1, 1) if twice else (rng.uniform(-1, 1) * rng.random() ** 0.3,):
        part = play(rng, INSTRUMENTS[name], notes, samples, rate)
        strip = Strip.draw(rng, pan=0, width=0.1 if twice else 0.8, wet=0.5, low_cut=120)
        sound = process(rng, attrs.evolve(strip, pan=side * rng.uniform(0.6, 1)), part, rate)
        out += sound / (np.sqrt(np.mean(sound ** 2)) + 1e-6)
    return out


PARTS: dict[str, Callable[..., np.ndarray]] = {"bass": _bass, "drums": _drums, "vocals": _vocals, "other": _other}
