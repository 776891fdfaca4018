"""Batches: the bits of a plain loop over images, the same wherever an epoch is taken up, and a thread that ends."""
import numpy as np
import pytest

from common.datasets import Dataset
from common.datasets.batches import CENTERED, Batches, PadCropFlip, check_batch_size
from common.machine.errors import UsageError


def make_dataset(num=23, shape=(3, 8, 6)):
    """Each label is the number of its image."""
    images = np.random.default_rng(0).integers(256, size=(num, *shape), dtype=np.uint8)
    return Dataset(images, np.arange(num), [str(label) for label in range(num)])


def numbers(epoch):
    return [label[:, 0].tolist() for _, label in epoch]


def augmented(image, offset, flip, pad):
    """What becomes of one image, written down as the method is told."""
    _, height, width = image.shape
    normal = ((image / 255 - 0.5) * 2).astype(np.float32)
    padded = np.pad(normal, ((0, 0), (pad, pad), (pad, pad)))
    crop = padded[:, offset[0]:offset[0] + height, offset[1]:offset[1] + width]
    return crop[:, :, ::-1] if flip else crop


@pytest.mark.parametrize("augment", [
    PadCropFlip(), PadCropFlip(pad=0), PadCropFlip(flip=False), PadCropFlip(pad=2), PadCropFlip(pad=9)], ids=str)
@pytest.mark.parametrize("shape", [(3, 8, 6), (1, 5, 9)])
def test_augmentation_has_the_bits_of_a_loop_over_images(augment, shape):
    dataset = make_dataset(shape=shape)
    batches = Batches(dataset, 4, seed=3, augment=augment)
    offsets, flips = augment.draw(np.random.default_rng((3, 1, 2)), len(dataset))    # stream 1 of epoch 2
    expected = [augmented(dataset.pixels[number], offset, flip, augment.pad) for number, offset, flip
                in zip(sum(numbers(batches.epoch(2)), []), offsets, flips, strict=True)]
    image = np.concatenate([image for image, _ in batches.epoch(2)])
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, np.stack(expected))


def test_without_augmentation_images_are_normalized_only():
    dataset = make_dataset()
    image = np.concatenate([image for image, _ in Batches(dataset, 10)])
    np.testing.assert_array_equal(image, ((dataset.pixels / 255 - 0.5) * 2).astype(np.float32))
    assert (CENTERED[0], CENTERED[255]) == (-1, 1)


def test_another_normalization_can_be_given():
    dataset = make_dataset()
    image, _ = next(iter(Batches(dataset, 23, normalize=np.arange(256) / 255)))
    np.testing.assert_array_equal(image, (dataset.pixels / 255).astype(np.float32))


def test_offsets_and_flips_take_all_their_values_equally_often():
    offsets, flips = PadCropFlip(pad=4).draw(np.random.default_rng(0), 90000)
    for axis in range(2):
        np.testing.assert_allclose(np.bincount(offsets[:, axis]), 10000, rtol=0.05)
    np.testing.assert_allclose(flips.mean(), 0.5, atol=0.01)


@pytest.mark.parametrize("batch_size, drop_last, steps, sizes", [
    (10, False, None, [10, 10, 3]), (10, True, None, [10, 10]), (23, True, None, [23]), (30, False, None, [23]),
    (10, False, 2, [10, 10]), (10, True, 9, [10, 10]), (10, False, 1, [10]), (1, True, None, [1] * 23)])
def test_number_and_sizes_of_batches(batch_size, drop_last, steps, sizes):
    batches = Batches(make_dataset(), batch_size, drop_last=drop_last, steps=steps)
    assert len(batches) == len(sizes)
    assert [image.shape for image, _ in batches] == [(size, 3, 8, 6) for size in sizes]
    assert [(label.shape, label.dtype) for _, label in batches] == [((size, 1), np.int32) for size in sizes]


def test_without_a_seed_the_order_is_that_of_the_data_set():
    assert sum(numbers(Batches(make_dataset(), 10)), []) == list(range(23))


def test_with_a_seed_every_epoch_is_another_order_of_everything():
    batches = Batches(make_dataset(), 10, seed=0)
    orders = [sum(numbers(batches.epoch(epoch)), []) for epoch in range(3)]
    assert [sorted(order) for order in orders] == [list(range(23))] * 3
    assert len(set(map(tuple, orders))) == 3
    assert sum(numbers(Batches(make_dataset(), 10, seed=1)), []) != orders[0]


@pytest.mark.parametrize("start", range(6))
def test_an_epoch_taken_up_in_the_middle_gives_the_same_bits(start):
    whole = list(Batches(make_dataset(), 5, seed=7, augment=PadCropFlip()).epoch(3))
    other = Batches(make_dataset(), 5, seed=7, augment=PadCropFlip())
    next(other.epoch(2))    # whatever ran before
    rest = list(other.epoch(3, start))
    assert len(rest) == 5 - start
    for (image, label), (expected_image, expected_label) in zip(rest, whole[start:], strict=True):
        np.testing.assert_array_equal(image, expected_image)
        np.testing.assert_array_equal(label, expected_label)


def test_batches_do_not_depend_on_the_global_random_state():
    first = numbers(Batches(make_dataset(), 5, seed=0).epoch(0))
    np.random.seed(1)    # noqa: NPY002
    assert numbers(Batches(make_dataset(), 5, seed=0).epoch(0)) == first


def test_a_batch_belongs_to_the_consumer():
    epoch = Batches(make_dataset(), 5).epoch(0)
    image, label = next(epoch)
    image[:], label[:] = 5, 5
    list(epoch)
    assert (image == 5).all()
    assert (label == 5).all()
    assert numbers(Batches(make_dataset(), 5))[0] == [0, 1, 2, 3, 4]


def test_the_thread_ends_with_the_epoch(started):
    list(Batches(make_dataset(), 5))
    assert not started("batches")


def test_the_thread_ends_where_the_loop_is_left(started):
    for _ in Batches(make_dataset(), 1):
        assert len(started("batches")) == 1
        break
    assert not started("batches")


def test_the_thread_ends_with_an_exception_in_the_loop(started):
    def fail():
        for _ in Batches(make_dataset(), 1):
            raise KeyError
    with pytest.raises(KeyError) as caught:
        fail()
    del caught    # its traceback keeps the loop alive
    assert not started("batches")


def test_an_error_in_the_thread_reaches_the_consumer(monkeypatch, started):
    batches = Batches(make_dataset(), 5)
    make = batches._make

    def fail_late(plan, number):
        if number == 3:
            raise MemoryError("no room")
        return make(plan, number)
    monkeypatch.setattr(batches, "_make", fail_late)
    epoch = iter(batches)
    assert [len(next(epoch)[1]) for _ in range(3)] == [5, 5, 5]
    with pytest.raises(MemoryError, match="no room"):
        next(epoch)
    assert not started("batches")


def test_two_epochs_can_run_side_by_side():
    batches = Batches(make_dataset(), 5, seed=0, augment=PadCropFlip())
    pairs = list(zip(batches.epoch(1), batches.epoch(1), strict=True))
    assert len(pairs) == 5
    for (first, _), (second, _) in pairs:
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("arguments, message", [
    ({"batch_size": 24, "drop_last": True}, "batch size 24: choose 1 to 23"), ({"batch_size": 0}, "batch size 0"),
    ({"batch_size": 5, "steps": 0}, "0 steps"),
])
def test_sizes_that_make_no_batch_are_one_line(arguments, message):
    with pytest.raises(UsageError, match=message):
        Batches(make_dataset(), **arguments)


@pytest.mark.parametrize("num, ranks, message", [
    (0, 1, "0 songs for 1 process: each needs at least one; add some"),
    (3, 4, "3 songs for 4 processes: each needs at least one; add some, or start fewer processes"),
    (5, 2, "batch size 3: choose 1 to 2, the number of songs for each process"),
])
def test_what_is_too_little_for_all_processes_says_what_to_do(num, ranks, message):
    with pytest.raises(UsageError) as caught:
        check_batch_size(3, num, ranks, "songs")
    assert str(caught.value) == message
    check_batch_size(3, 3 * ranks, ranks, "songs")
    check_batch_size(3, ranks, ranks, "songs", whole=False)


def test_wrong_use_is_noticed_at_once():
    with pytest.raises(ValueError, match="needs a seed"):
        Batches(make_dataset(), 5, augment=PadCropFlip())
    for start in (-1, 6):
        with pytest.raises(ValueError, match="of an epoch of 5"):
            Batches(make_dataset(), 5).epoch(0, start)
