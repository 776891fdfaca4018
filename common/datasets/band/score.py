"""What the band plays: tempo, key and chords of a song, and the notes of each part."""
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np

BEATS = 4    # of a bar
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10), "dorian": (0, 2, 3, 5, 7, 9, 10),
          "mixolydian": (0, 2, 4, 5, 7, 9, 10)}
PROGRESSIONS = ((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 4, 3), (1, 4, 0, 0), (0, 6, 5, 6), (0, 0, 3, 4),
                (3, 4, 2, 5), (0, 2, 3, 4), (0, 3, 0, 4))    # degrees of the scale, one for each bar
CHORDS = {"triad": (0, 2, 4), "seventh": (0, 2, 4, 6), "power": (0, 4, 7), "ninth": (0, 2, 4, 8)}    # in degrees


@attrs.frozen
class Note:
    """A note of a part: times in seconds, pitch in semitones as of MIDI (69 is 440 Hz), strength from 0 to 1."""

    start: float
    duration: float
    pitch: float
    strength: float = 1.0

    @property
    def frequency(self) -> float:
        """Hz."""
        return frequency_of(self.pitch)


def frequency_of(pitch: Any) -> Any:
    """Frequency in Hz of a pitch, a number or an array."""
    return 440 * 2 ** ((pitch - 69) / 12)


@attrs.frozen(kw_only=True)
class Song:
    """What all parts have in common.

    Attributes
    ----------
    duration
        Seconds.
    beat
        Seconds.
    swing
        By which share of an eighth the second of two comes late.
    key
        Semitones above C.
    scale
        Semitones of its seven degrees.
    progression
        Degree of each bar's chord; repeated.
    offset
        Beats of the first bar that went by before the song begins.
    """

    duration: float
    beat: float
    swing: float
    key: int
    scale: tuple[int, ...]
    progression: tuple[int, ...]
    offset: float

    @classmethod
    def draw(cls, rng: np.random.Generator, duration: float) -> "Song":
        return cls(duration=duration, beat=60 / rng.uniform(70, 165), swing=rng.choice((0, 0, 0, rng.uniform(0, 0.33))),
                   key=int(rng.integers(12)), scale=SCALES[rng.choice(list(SCALES), p=(0.4, 0.35, 0.1, 0.15))],
                   progression=PROGRESSIONS[rng.integers(len(PROGRESSIONS))], offset=float(rng.integers(BEATS)))

    def seconds(self, beats: float) -> float:
        """Return when a beat, counted from the first bar, comes; eighths are swung."""
        late = self.swing / 2 if beats % 1 == 0.5 else 0
        return (beats + late - self.offset) * self.beat

    @property
    def bars(self) -> int:
        return int(np.ceil((self.duration / self.beat + self.offset) / BEATS))

    def pitch(self, degree: int, near: float) -> float:
        """Return the pitch of a degree of the scale, counted from the key, in the octave that is next to `near`."""
        semitones = self.key + self.scale[degree % len(self.scale)]
        return semitones + 12 * round((near - semitones) / 12)

    def chord(self, bar: int) -> int:
        """Degree of the root of a bar's chord."""
        return self.progression[bar % len(self.progression)]


def rhythm(rng: np.random.Generator, step: float, density: float) -> list[tuple[float, float]]:
    """Draw a bar of notes as (beat, beats that it lasts), on a grid of `step` beats, a share `density` of it struck."""
    struck = rng.random(round(BEATS / step)) < density
    struck[0] = True
    starts = np.flatnonzero(struck) * step
    return [(float(start), float(stop - start)) for start, stop in zip(starts, [*starts[1:], BEATS], strict=True)]


def bass_line(rng: np.random.Generator, song: Song) -> Iterator[Note]:
    """Roots, fifths and octaves of the chords below 130 Hz, in a rhythm that is the same in most bars."""
    near, length = rng.uniform(30, 40), rng.uniform(0.4, 1.0)
    pattern = rhythm(rng, rng.choice((0.5, 0.5, 1, 0.25)), rng.uniform(0.2, 1))
    degrees = rng.choice((0, 0, 0, 4, 7, 2), len(pattern))
    degrees[0] = 0
    for bar in range(song.bars):
        if rng.random() < 0.05 and bar % 3:
            continue    # a break
        for (beat, beats), degree in zip(pattern, degrees, strict=True):
            pitch = song.pitch(song.chord(bar) + degree, near) + 12 * (degree == 7)
            yield _note(song, bar, beat, beats * length, pitch, rng.uniform(0.7, 1))


def block_chords(rng: np.random.Generator, song: Song, near: float) -> Iterator[Note]:
    """Chords in a rhythm, their notes slightly after one another, as a hand strums."""
    shape = CHORDS[rng.choice(list(CHORDS), p=(0.55, 0.25, 0.1, 0.1))]
    pattern = rhythm(rng, rng.choice((0.5, 1, 2)), rng.choice((0, rng.uniform(0.2, 1))))
    strum, length, octave = rng.choice((0, rng.uniform(0, 0.025))), rng.uniform(0.5, 1.05), rng.random() < 0.5
    for bar in range(song.bars):
        pitches = sorted(song.pitch(song.chord(bar) + degree, near) for degree in shape)
        pitches = [pitches[0] - 12, *pitches] if octave else pitches
        for beat, beats in pattern:
            strength = rng.uniform(0.6, 1)
            for number, pitch in enumerate(pitches if rng.random() < 0.7 else pitches[::-1]):
                note = _note(song, bar, beat, beats * length, pitch, strength)
                yield attrs.evolve(note, start=note.start + number * strum)


def arpeggio(rng: np.random.Generator, song: Song, near: float) -> Iterator[Note]:
    """Notes of the chords one after the other."""
    shape = CHORDS[rng.choice(("triad", "seventh", "ninth"))]
    step, length = rng.choice((0.25, 0.5, 0.5, 1)), rng.uniform(0.6, 3)
    order = rng.permutation(len(shape))
    for bar in range(song.bars):
        for number, beat in enumerate(np.arange(0, BEATS, step)):
            degree = song.chord(bar) + shape[order[number % len(shape)]]
            yield _note(song, bar, beat, step * length, song.pitch(degree, near), rng.uniform(0.6, 1))


def melody(rng: np.random.Generator, song: Song, near: float, step: float | None = None,
           activity: float = 0.75) -> Iterator[Note]:
    """Phrases that walk up and down the scale, up to six steps from `near`.

    There is one in every third bar, and in a share `activity` of the others.
    """
    allowed = np.add.outer(12 * np.arange(11), np.add(song.scale, song.key)).ravel()
    middle = int(np.abs(allowed - near).argmin())
    step = float(rng.choice((0.25, 0.5, 0.5, 1))) if step is None else step
    walked = int(rng.integers(-3, 4))
    legato = rng.uniform(0.7, 1)
    for bar in range(song.bars):
        if rng.random() > activity and bar % 3:
            continue
        for beat, beats in rhythm(rng, step, rng.uniform(0.3, 0.9)):
            walked = int(np.clip(walked + rng.choice((-2, -1, -1, 0, 0, 1, 1, 2, 3)), -6, 6))
            yield _note(song, bar, beat, beats * legato, float(allowed[middle + walked]), rng.uniform(0.6, 1))


def _note(song, bar, beat, beats, pitch, strength):
    return Note(song.seconds(bar * BEATS + beat), beats * song.beat, pitch, strength)


@attrs.frozen
class Hit:
    """A stroke on a piece of the drum kit."""

    start: float    # seconds
    piece: str
    strength: float


PATTERNS = {    # of sixteenths: X struck, x perhaps
    "kick": ("X.......X.......", "X.....x.X.x.....", "X...X...X...X...", "X..x..x.X.....x.", "X.........X....."),
    "snare": ("....X.......X...", "....X.......X...", "....X..x.x..X..x", "........X.......", "....X.......X.x."),
    "time": ("X.X.X.X.X.X.X.X.", "XxXxXxXxXxXxXxXx", "X...X...X...X...", "..X...X...X...X.", "X..xX..xX..xX..x"),
}


def drum_part(rng: np.random.Generator, song: Song) -> Iterator[Hit]:
    """A beat with a fill or a crash now and then."""
    patterns = {piece: choices[rng.integers(len(choices))] for piece, choices in PATTERNS.items()}
    names = {"kick": "kick", "snare": rng.choice(("snare", "snare", "snare", "clap", "rim")),
             "time": rng.choice(("hat", "hat", "hat", "ride", "shaker", "tom"))}
    opening = rng.uniform(0, 0.15)
    for bar in range(song.bars):
        fill = rng.choice((0, 0, 0, 4, 8))    # sixteenths at the end of the bar
        if bar % 4 == 0 and rng.random() < 0.6:
            yield Hit(song.seconds(bar * BEATS), "crash", rng.uniform(0.5, 1))
        for part, pattern in patterns.items():
            for step, sign in enumerate(pattern[:16 - fill]):
                if sign == "X" or sign == "x" and rng.random() < 0.4:
                    piece = "open hat" if names[part] == "hat" and rng.random() < opening else names[part]
                    strength = rng.uniform(0.75, 1) if step % 4 == 0 or part == "snare" else rng.uniform(0.3, 0.8)
                    yield Hit(song.seconds(bar * BEATS + step / 4), piece, strength)
        for step in range(16 - fill, 16):
            if rng.random() < 0.8:
                piece = rng.choice(("snare", "tom", "low tom", "kick"))
                yield Hit(song.seconds(bar * BEATS + step / 4), str(piece), rng.uniform(0.5, 1))


def within(notes: Sequence[Note | Hit], duration: float) -> list:
    """Those that begin in the song."""
    return [note for note in notes if 0 <= note.start < duration]
