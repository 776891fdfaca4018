"""Chunked separation: every sample comes back, wherever chunks begin and end."""
import numpy as np
import pytest

from common.separation.chunks import separate_in_chunks

LENGTHS = (1, 2, 7, 15, 16, 17, 27, 28, 29, 31, 32, 33, 40, 41, 63, 64, 65, 100, 1000)    # chunks of 16, every 12


def noise(length, seed=0):
    return np.random.default_rng(seed).standard_normal((length, 2)).astype(np.float32)


def in_blocks(audio, size):
    return [audio[start:start + size] for start in range(0, len(audio), size)]


def separated(blocks, process, *args, **kwargs):
    return np.concatenate(list(separate_in_chunks(blocks, process, *args, **kwargs)))


def halves(batch):
    """Two stems, the input and its negative, in an array that is used again: (batch, 2, chunk, channels)."""
    return np.stack([batch, -batch], axis=1)


@pytest.mark.parametrize("overlap", [0, 1, 4, 8])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("length", LENGTHS)
def test_identity_gives_the_input_back_to_the_bit(length, batch_size, overlap):
    audio = noise(length)
    for block in (1, 5, length):
        result = separated(in_blocks(audio, block), halves, 16, overlap, batch_size)
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result, np.stack([audio, -audio], axis=1))


@pytest.mark.parametrize("length, starts", [
    (10, [[0]]),                      # shorter than a chunk: one of its own length
    (16, [[0]]),
    (17, [[0, 1]]),                   # the last chunk is moved back
    (28, [[0, 12]]),
    (29, [[0, 12, 13]]),              # over three chunks at once
    (40, [[0, 12, 24]]),
    (41, [[0, 12, 24], [25]]),
    (64, [[0, 12, 24], [36, 48]]),
    (65, [[0, 12, 24], [36, 48, 49]]),
])
def test_where_chunks_begin(length, starts):
    audio = np.repeat(np.arange(length, dtype=np.float32)[:, None], 2, axis=1)
    seen = []

    def process(batch):
        assert batch.shape[1] == min(16, length)
        seen.append(batch[:, 0, 0].astype(int).tolist())
        return batch[:, None]

    separated(in_blocks(audio, 7), process, 16, 4, batch_size=3)
    assert seen == starts


@pytest.mark.parametrize("blocks", [[], [noise(0)], [noise(0), noise(0)]])
def test_nothing_comes_of_nothing(blocks):
    assert list(separate_in_chunks(blocks, halves, 16, 4)) == []


def test_blocks_may_be_empty():
    audio = noise(50)
    np.testing.assert_array_equal(separated([audio[:0], audio[:20], audio[:0], audio[20:]], halves, 16, 4)[:, 0], audio)


@pytest.mark.parametrize("length", [1000, 1037, 1099])
def test_a_gain_that_differs_between_chunks_fades(length):
    gains = iter([0.0, 1.0] * 10)

    def process(batch):
        return batch[:, None] * np.float32(next(gains))

    result = separated([np.ones((length, 2), np.float32)], process, 100, 25)[:, 0, 0]
    assert result[0] == 0 and set(result[[50, 125, 200]]) == {0, 1}    # no fade at the start, nor in a chunk
    slopes = np.abs(np.diff(result))
    assert slopes.max() <= 1 / 26 + 1e-6
    assert np.isin(result[-10:], (0, 1)).all()    # nor at the end


def test_weights_of_three_chunks_are_normalized():
    # 29 samples: chunks at 0, 12 and 13, so that sample 14 lies in all three, 2, 3 and 2 samples from their ends.
    values = iter([1.0, 10.0, 100.0])
    result = separated([np.ones((29, 1), np.float32)],
                       lambda batch: np.full_like(batch[:, None], next(values)), 16, 4)[14, 0, 0]
    assert result == pytest.approx((2 * 1 + 3 * 10 + 2 * 100) / 7, rel=1e-6)


def test_memory_stays_bounded():
    ahead = 0

    def blocks():
        nonlocal ahead
        for _ in range(10_000):
            ahead += 10
            assert ahead < 10 * 100    # samples that came in and did not come out: a few chunks
            yield np.zeros((10, 1), np.float32)

    for stems in separate_in_chunks(blocks(), halves, 100, 25, batch_size=4):
        ahead -= len(stems)
    assert ahead == 0
