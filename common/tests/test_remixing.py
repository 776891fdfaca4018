"""Random mixtures: the published draws, the same bits wherever an epoch is taken up, and threads that end."""
import json
import random
from pathlib import Path

import numpy as np
import pytest

from common.datasets.multitrack import ArrayStem, Track
from common.datasets.remixing import TrainingBatches, draw_item
from common.machine.errors import UsageError, UserError

RATE = 1000
SOURCES = ("bass", "drums", "vocals", "other")
REFERENCE = json.loads((Path(__file__).parent / "data" / "sampling.json").read_text())


def ramp(number, frames):
    """Left: number and position of each sample; right: the negative."""
    left = np.float32(number * 10_000) + np.arange(frames, dtype=np.float32)
    return np.stack([left, -left], axis=1)


def make_tracks(durations=(2.0, 3.0, 2.5), sources=SOURCES):
    return [Track(f"song {index}", {
        source: ArrayStem(ramp(10 * index + number, round(seconds * RATE)), RATE)
        for number, source in enumerate(sources, 1)}) for index, seconds in enumerate(durations)]


def make_batches(tracks=None, **options):
    options = {"sources": SOURCES, "batch_size": 2, "seq_dur": 0.5, "seed": 7, "samples_per_track": 4} | options
    return TrainingBatches(make_tracks() if tracks is None else tracks, **options)


def same(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a, b) for pair in zip(one, other, strict=True) for a, b in zip(*pair, strict=True))


# Draws ----------------------------------------------------------------------------------------------------------------


def test_draws_are_those_of_the_published_code():
    rng = random.Random(REFERENCE["seed"])
    for item in REFERENCE["items"]:
        draws = draw_item(rng, REFERENCE["durations"], SOURCES, REFERENCE["seq_dur"])
        assert [[draw.track, draw.source] for draw in draws] == [drawn[:2] for drawn in item["draws"]]
        np.testing.assert_allclose([draw.start for draw in draws], [drawn[2] for drawn in item["draws"]], rtol=0,
                                   atol=1e-9)
        left = [draw.gain * (10 * draw.track + number) * (-1 if draw.swap else 1)
                for number, draw in enumerate(draws, 1)]
        np.testing.assert_allclose(left, item["target_first_sample"][::2], rtol=0, atol=1e-9)


def test_batches_of_the_first_epoch_have_the_published_gains_and_swaps():
    tracks = []
    for index, seconds in enumerate(REFERENCE["durations"]):
        levels = {source: 10 * index + number for number, source in enumerate(SOURCES, 1)}
        constant = np.broadcast_to(np.float32([1, -1]), (round(seconds * 100), 2))
        tracks.append(Track(str(index), {source: ArrayStem(constant * np.float32(level), 100)
                                         for source, level in levels.items()}))
    batches = TrainingBatches(tracks, SOURCES, 3, REFERENCE["seq_dur"], REFERENCE["seed"],
                              samples_per_track=REFERENCE["samples_per_track"])
    items = [item for pair in list(batches.epoch(0))[:2] for item in zip(*pair, strict=True)]
    for (mixture, targets), item in zip(items, REFERENCE["items"], strict=True):
        np.testing.assert_allclose(targets[:, :, 0].ravel(), item["target_first_sample"], rtol=1e-6)
        np.testing.assert_allclose(mixture[:, 0], item["mixture_first_sample"], rtol=1e-5)


def test_gains_order_and_augmentations_can_be_chosen():
    def drawn(seed=3, **options):
        return draw_item(random.Random(seed), [50.0, 60.0], options.pop("sources", SOURCES), 6.0, **options)

    plain = drawn(augmentations=())
    assert all((draw.gain, draw.swap) == (1.0, False) for draw in plain)
    rng = random.Random(3)    # without augmentations nothing but tracks and starts is drawn
    for draw in plain:
        track = rng.choice([0, 1])
        assert (draw.track, draw.start) == (track, rng.uniform(0, [44.0, 54.0][track]))
    assert all(draw.gain == 1.0 for draw in drawn(augmentations=("channelswap",)))
    swaps = [draw.swap for seed in range(50) for draw in drawn(seed, augmentations=("channelswap",))]
    assert 60 < sum(swaps) < 140
    gains = [draw.gain for seed in range(50) for draw in drawn(seed, gains=(0.75, 1.25), augmentations=("gain",))]
    assert 0.75 <= min(gains) < 0.8 and 1.2 < max(gains) <= 1.25
    assert [draw.source for draw in drawn(sources=("vocals", "bass"))] == ["vocals", "bass"]


# Batches --------------------------------------------------------------------------------------------------------------


def test_items_are_the_stretches_that_were_drawn_and_the_mixture_their_sum():
    tracks, rng = make_tracks(), random.Random(7)
    for mixture, targets in make_batches(tracks).epoch(0):
        assert mixture.dtype == targets.dtype == np.float32
        assert (mixture.shape, targets.shape) == ((2, 2, 500), (2, 4, 2, 500))
        for item in range(2):
            draws = draw_item(rng, [2.0, 3.0, 2.5], SOURCES, 0.5)
            for draw, target in zip(draws, targets[item], strict=True):
                start = int(draw.start * RATE)
                audio = tracks[draw.track].stems[draw.source].audio[start:start + 500].T * np.float32(draw.gain)
                np.testing.assert_array_equal(target, audio[::-1] if draw.swap else audio)
        bass, drums, vocals, other = targets.swapaxes(0, 1)
        np.testing.assert_array_equal(mixture, bass + drums + vocals + other)


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_an_epoch_has_the_same_bits_with_any_number_of_threads_and_from_any_step(workers):
    whole = list(make_batches(workers=0).epoch(3))
    batches = make_batches(workers=workers)
    assert len(whole) == len(batches) == 3 * 4 // 2
    for start in (0, 1, 5, 6):
        assert same(list(batches.epoch(3, start)), whole[start:])
    with pytest.raises(ValueError, match="batch 7 of an epoch of 6"):
        batches.epoch(3, 7)


def test_epochs_and_seeds_differ():
    firsts = [next(iter(make_batches(seed=seed).epoch(epoch)))[0].tobytes() for seed in (1, 2) for epoch in (0, 1, 2)]
    assert len(set(firsts)) == 6


def test_what_is_yielded_belongs_to_the_caller():
    tracks = make_tracks()
    for mixture, targets in make_batches(tracks, augmentations=()).epoch(0):
        mixture[:], targets[:] = 0, 0
    assert tracks[0].stems["bass"].audio[5, 0] == 10_005


def test_a_last_partial_batch_is_left_out():
    assert len(make_batches(batch_size=5)) == len(list(make_batches(batch_size=5).epoch(0))) == 2


@pytest.mark.parametrize("samples", [499.5, 499.6, 500, 500.4])
def test_items_of_any_length_end_within_the_track(samples):
    batches = make_batches(make_tracks([0.5, 0.501]), seq_dur=samples / RATE, samples_per_track=200)
    assert {targets.shape[-1] for _, targets in batches.epoch(0)} == {500}


def test_an_item_may_be_as_long_as_a_track():
    _, targets = next(iter(make_batches(make_tracks([0.5]), augmentations=()).epoch(0)))
    np.testing.assert_array_equal(targets[0, 0], ramp(1, 500).T)


def test_whole_tracks_keep_their_stems_together():
    lengths = set()
    for mixture, targets in make_batches(seq_dur=-1, batch_size=1, augmentations=("channelswap",)).epoch(0):
        frames = mixture.shape[-1]
        index = {2000: 0, 3000: 1, 2500: 2}[frames]
        lengths.add(frames)
        expected = np.stack([ramp(10 * index + number, frames)[:, 0] for number in (1, 2, 3, 4)])
        np.testing.assert_array_equal(np.abs(targets[0]).max(axis=1), expected)
        np.testing.assert_array_equal(mixture[0], targets[0].sum(axis=0))
    assert len(lengths) > 1


# Threads --------------------------------------------------------------------------------------------------------------


def test_threads_end_when_an_epoch_is_over_or_left(started):
    assert len(list(make_batches().epoch(0))) == 6
    assert not started("remixing")
    left = make_batches().epoch(0)
    next(left)
    assert started("remixing")
    left.close()
    assert not started("remixing")


def test_batches_that_nobody_takes_are_not_made():
    tracks, reads = make_tracks(), []
    for track in tracks:
        for source, stem in track.stems.items():
            track.stems[source] = Watched(stem.audio, stem.sample_rate, reads.append)
    left = make_batches(tracks, samples_per_track=100).epoch(0)
    next(left)
    left.close()
    assert len(reads) <= 3 * 2 * 4    # of the batch that was taken and two that wait: items, sources


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_while_reading_reaches_the_caller(workers, started):
    def fail(start):
        raise UserError("song 1, drums: cannot be read")

    tracks = make_tracks()
    tracks[1].stems["drums"] = Watched(tracks[1].stems["drums"].audio, RATE, fail)
    with pytest.raises(UserError, match="song 1, drums"):
        list(make_batches(tracks, samples_per_track=50, workers=workers).epoch(0))
    assert not started("remixing")


class Watched(ArrayStem):
    """A stem that tells `report` where it is read."""

    def __init__(self, audio, sample_rate, report):
        super().__init__(audio, sample_rate)
        object.__setattr__(self, "report", report)

    def open(self):
        context = super().open()
        self.report(self.sample_rate)
        return context


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, words", [
    ({"seq_dur": 2.3}, "track 'song 0' has 2.00 s only, less than --seq-dur 2.3; choose --seq-dur 2 or less"),
    ({"batch_size": 13}, "batch size 13: choose 1 to 12"),
    ({"batch_size": 0}, "batch size 0: choose 1 to 12"),
    ({"seq_dur": 0}, "whole tracks: their lengths differ, so choose batch size 1"),
    ({"augmentations": ("gain", "reverb")}, "unknown augmentation 'reverb': choose from gain, channelswap"),
    ({"sources": ("bass", "piano")}, "track 'song 0' has no source 'piano'; it has bass, drums, vocals, other"),
])
def test_what_cannot_work_is_told_at_once(options, words):
    with pytest.raises(UsageError) as error:
        make_batches(**options)
    assert words in str(error.value) and "\n" not in str(error.value)
