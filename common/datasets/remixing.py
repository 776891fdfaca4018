"""Training batches of music that was never played: each source from another song, at another time and gain."""
import collections
import math
import random
from collections.abc import Iterator, Sequence

import attrs
import numpy as np

from common.datasets.batches import check_batch_size
from common.datasets.multitrack import Track
from common.datasets.prefetching import parallel_map, prefetch
from common.machine.distributed import World
from common.machine.errors import UsageError
from common.machine.seeding import derived_seed

AUGMENTATIONS = ("gain", "channelswap")
GAINS = 0.25, 1.25    # limits of the gain, where a paper has none of its own


@attrs.frozen
class Draw:
    """Where one source of a training item comes from, and how it is changed."""

    source: str
    track: int    # index
    start: float    # seconds
    gain: float = 1.0
    swap: bool = False    # left and right


def draw_item(rng: random.Random, durations: Sequence[float], sources: Sequence[str], seq_dur: float,
              gains: tuple[float, float] = GAINS, augmentations: Sequence[str] = AUGMENTATIONS) -> list[Draw]:
    """Draw what is random in a training item, in the order in which the published code draws.

    Source by source: track, start, then what `augmentations` names, in their order.

    Parameters
    ----------
    rng
    durations
        Of each track, in seconds, >= `seq_dur`.
    sources
    seq_dur
        Length of the item in seconds. 0 or less: a whole track, the same for all sources, drawn once at first.
    gains
        Limits of the gain, which is distributed uniformly.
    augmentations
        Of 'gain' and 'channelswap', which has probability 1/2.

    Returns
    -------
    list of Draw
        In the order of `sources`.
    """
    change = {"gain": lambda: rng.uniform(*gains), "channelswap": lambda: rng.random() < 0.5}
    whole = rng.randrange(len(durations)) if seq_dur <= 0 else None
    draws = []
    for source in sources:
        if whole is not None:
            track, start = whole, 0.0
        else:
            track = rng.randrange(len(durations))
            start = rng.uniform(0, durations[track] - seq_dur)
        drawn = {name: change[name]() for name in augmentations}
        draws.append(Draw(source, track, start, drawn.get("gain", 1.0), drawn.get("channelswap", False)))
    return draws


class TrainingBatches:
    """Batches of random mixtures, for `common.runs.training.Run.steps`.

    An item takes each source from a random place of a random track; `len` is the number of batches in an epoch.

    Parameters
    ----------
    tracks
        All of one sample rate.
    sources
        In this order they are drawn, added up, and stand in `targets`.
    batch_size
    seq_dur
        Length of an item in seconds. 0 or less: items are whole tracks, whose stems are augmented but stay together,
        and `batch_size` must be 1.
    seed
        Epoch 0 is drawn by Python's generator of this seed, as the published code does; each later one by a generator
        that follows from seed and epoch.
    samples_per_track
        An epoch has so many items for each track.
    gains, augmentations
        As for `draw_item`.
    workers
        Threads that read the audio; 0: it is read when asked for.
    world
        The ranks that share the batches: a batch has `batch_size` items for each of them. If it is not given, there is
        one rank.

    Raises
    ------
    UsageError
        A track is shorter than `seq_dur` or has not all sources, an augmentation is unknown, or there is no whole
        batch in an epoch.
    """

    def __init__(self, tracks: Sequence[Track], sources: Sequence[str], batch_size: int, seq_dur: float, seed: int,
                 samples_per_track: int = 64, gains: tuple[float, float] = GAINS,
                 augmentations: Sequence[str] = AUGMENTATIONS, workers: int = 2, world: World | None = None):
        self.world = world or World()
        self.tracks, self.sources, self.batch_size = list(tracks), tuple(sources), batch_size
        self.seq_dur, self.seed, self.gains = seq_dur, seed, gains
        self.augmentations, self.workers = tuple(augmentations), workers
        self.durations = [track.duration for track in self.tracks]
        self._check_batches(len(self.tracks) * samples_per_track)
        self._check_augmentations()
        _check_tracks(self.tracks, self.sources, seq_dur)
        self.num_batches = len(self.tracks) * samples_per_track // (batch_size * self.world.size)

    def _check_batches(self, items):
        check_batch_size(self.batch_size, items, self.world.size, "excerpts in an epoch (songs x --samples-per-track)")
        if self.seq_dur <= 0 and self.batch_size > 1:
            raise UsageError(f"batch size {self.batch_size} with --seq-dur {self.seq_dur:g}, which asks for whole "
                             "tracks: their lengths differ, so choose batch size 1")

    def _check_augmentations(self):
        for name in self.augmentations:
            if name not in AUGMENTATIONS:
                raise UsageError(f"unknown augmentation {name!r}: choose from {', '.join(AUGMENTATIONS)}")

    def __len__(self) -> int:
        return self.num_batches

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Return an iterator over the batches of an epoch, from batch number `start` (0..len) on.

        What it yields depends on the arguments only; the batches before `start` are drawn but not read. The next
        batches are read in threads, which end with the iterator; an error of theirs is raised by it.

        Yields
        ------
        mixture : float32 (batch, 2, samples)
            Sum of the targets.
        targets : float32 (batch, sources, 2, samples)
            Both belong to the caller.
        """
        if not 0 <= start <= len(self):
            raise ValueError(f"batch {start} of an epoch of {len(self)}")
        return self._ahead(epoch, start)

    def _ahead(self, epoch, start):
        with parallel_map(self.workers, "remixing") as start_all:
            for started in prefetch(self._start_filling(start_all, plan) for plan in self._plans(epoch, start)):
                yield _finish(*started)

    def _plans(self, epoch, start):
        """Yield what to read for each batch from number `start` on, a list of draws for each item of this rank."""
        rng = random.Random(self.seed if epoch == 0 else derived_seed(self.seed, epoch))
        for number in range(len(self)):
            plan = [draw_item(rng, self.durations, self.sources, self.seq_dur, self.gains, self.augmentations)
                    for _ in range(self.batch_size * self.world.size)]
            if number >= start:
                yield plan[self.world.rows(self.batch_size)]

    def _start_filling(self, start_all, plan):
        """Start to fill the arrays of a batch; returns them and an iterator that ends when they are full."""
        track = self.tracks[plan[0][0].track]
        samples = track.num_frames if self.seq_dur <= 0 else _samples(self.seq_dur, track)
        targets = np.empty((len(plan), len(self.sources), 2, samples), np.float32)
        mixture = np.empty((len(plan), 2, samples), np.float32)
        return start_all(self._fill, plan, mixture, targets), mixture, targets

    def _fill(self, draws, mixture, targets):
        """Read an item into mixture (2, samples) and targets (sources, 2, samples)."""
        for draw, target in zip(draws, targets, strict=True):
            track, samples = self.tracks[draw.track], target.shape[-1]
            start = int(draw.start * track.sample_rate)    # rounded down, so that the item ends within the track
            audio = track.read(draw.source, start, samples).T    # (2, samples)
            np.multiply(audio[::-1] if draw.swap else audio, np.float32(draw.gain), out=target)
        np.sum(targets, axis=0, out=mixture)


def _finish(filling, mixture, targets):
    collections.deque(filling, maxlen=0)    # waits, and raises what a thread raised
    return mixture, targets


def _samples(seq_dur, track):
    return max(1, round(seq_dur * track.sample_rate))


def _check_tracks(tracks, sources, seq_dur):
    for track in tracks:
        for source in sources:
            if source not in track.sources:
                raise UsageError(f"track '{track.name}' has no source {source!r}; it has {', '.join(track.sources)}")
    shortest = min(tracks, key=lambda track: track.duration)
    if seq_dur > 0 and _samples(seq_dur, shortest) > shortest.num_frames:
        enough = math.floor(shortest.duration * 100) / 100
        raise UsageError(f"track '{shortest.name}' has {shortest.duration:.2f} s only, less than --seq-dur "
                         f"{seq_dur:g}; choose --seq-dur {enough:g} or less, or remove the track")
