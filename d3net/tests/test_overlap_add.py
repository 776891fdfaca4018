"""Patches through a stub of a network: against the published code, and what must hold for any length."""
from pathlib import Path

import numpy as np
import pytest

from d3net.music.overlap_add import overlap_add, patch_starts

REFERENCE = Path(__file__).parent / "data" / "mss_overlap_add.npz"


def song(frames, bins=3):
    return np.random.default_rng(frames).random((frames, 2, bins), np.float32)


def whole(network, x, patch_length, shift, **options):
    return np.concatenate(list(overlap_add(network, lambda start, stop: x[start:stop], len(x), patch_length, shift,
                                           **options)))


@pytest.mark.parametrize("case", sorted({name[:-2] for name in np.load(REFERENCE) if name.endswith("_x")}))
def test_agrees_with_reference(case):
    ref = np.load(REFERENCE)
    patch_length, shift, _, flip = (int("".join(filter(str.isdigit, part))) for part in case.split("_"))
    gain = np.linspace(0.5, 1.5, patch_length)[:, None, None] * np.array([1, 0.25])[:, None]
    y = whole(lambda x: (np.sqrt(x) * gain).astype(np.float32), ref[f"{case}_x"], patch_length, shift, flip=bool(flip))
    expected = ref[f"{case}_y"]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert len(patch_starts(len(y), patch_length, shift)) <= ref[f"{case}_calls"][0]


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("patch_length, shift", [(8, 4), (8, 8), (8, 2), (6, 2), (1, 1)])
def test_identity_gives_the_song_back_for_every_length(patch_length, shift, flip):
    for frames in range(1, 4 * patch_length + 2):
        x = song(frames)
        np.testing.assert_array_equal(whole(lambda patches: patches, x, patch_length, shift, flip=flip), x)


def test_every_frame_but_the_last_is_the_mean_of_all_patches_that_can_cover_it():
    x, gain = np.ones((64, 2, 1), np.float32), np.arange(8)[:, None, None]
    y = whole(lambda patches: patches * gain, x, 8, 4)[:, 0, 0]
    np.testing.assert_array_equal(y, np.tile([2, 3, 4, 5], 16))


@pytest.mark.parametrize("frames, starts", [(1, [-4, 0]), (8, [-4, 0, 4]), (9, [-4, 0, 4, 8]), (5, [-4, 0])])
def test_patches_are_the_published_ones_without_those_behind_the_song(frames, starts):
    assert list(patch_starts(frames, 8, 4)) == starts


def test_flip_averages_both_orders_of_channels():
    x = song(20)
    y = whole(lambda patches: patches * np.array([[1.0], [0.5]], np.float32), x, 8, 4, flip=True)
    np.testing.assert_allclose(y, 0.75 * x, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [2, 3, 100])
def test_batches_do_not_matter(batch_size):
    shapes = set()

    def network(patches):
        shapes.add(patches.shape)
        return np.sqrt(patches) * np.linspace(0.5, 1.5, 8, dtype=np.float32)[:, None, None]

    alone, together = (whole(network, song(37), 8, 4, batch_size=size) for size in (1, batch_size))
    np.testing.assert_array_equal(alone, together)
    assert shapes == {(2, 8, 2, 3), (2 * batch_size, 8, 2, 3)}    # two: the sides swapped


def test_only_frames_of_the_song_are_read():
    asked = []

    def read(start, stop):
        asked.append((start, stop))
        return song(stop - start)

    assert sum(map(len, overlap_add(lambda patches: patches, read, 21, 8, 4))) == 21
    assert all(0 <= start < stop <= 21 for start, stop in asked)


def test_a_shift_that_does_not_divide_the_patch_is_refused():
    with pytest.raises(ValueError, match="patches of 8 frames cannot begin every 3"):
        patch_starts(10, 8, 3)
