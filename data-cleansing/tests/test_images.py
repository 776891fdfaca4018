"""Preparation of images: the published numbers, and what augmentation may and may not do."""
import json
from pathlib import Path

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest
from PIL import Image

from common.machine.errors import UsageError, UserError
from common.pictures.image_files import read_image
from data_cleansing.data.augmentation import make_batch
from data_cleansing.data.images import Images, decode, network_side, prepare

REFERENCE = np.load(Path(__file__).parent / "data" / "augmentation.npz")
ITEMS = json.loads(str(REFERENCE["items"]))


def augment(images, seeds):
    """Augment all images, without normalization."""
    channels = images.shape[1]
    return make_batch(images, np.arange(len(images)), [0] * channels, [1] * channels, seeds)


@pytest.mark.parametrize("number", range(len(ITEMS)))
def test_agrees_with_reference_to_the_last_bit(number):
    item = ITEMS[number]
    images = prepare([REFERENCE[f"image{number:02d}"]], [0], ["only"])
    resized = images.pixels[0] if images.pixels.dtype == np.float32 else (images.pixels[0] / 255).astype(np.float32)
    np.testing.assert_array_equal(resized, REFERENCE[f"resized{number:02d}"])
    np.testing.assert_array_equal(augment(resized[np.newaxis], [item["seed"]])[0], REFERENCE[f"augmented{number:02d}"])
    np.testing.assert_array_equal(images.inputs([0], [item["seed"]])[0], REFERENCE[f"train_input{number:02d}"])
    np.testing.assert_array_equal(images.inputs([0])[0], REFERENCE[f"eval_input{number:02d}"])


@pytest.mark.parametrize("size", [32, 33, 47, 128])
def test_augmentation_is_that_of_nnabla(size):
    rng = np.random.default_rng(size)
    batch = rng.random((6, 2, size, size), dtype=np.float32)
    seeds = [0, 1, 17, 4242, 800000, 2 ** 31 - 1]
    for image, seed, result in zip(batch, seeds, augment(batch, seeds), strict=True):
        shifted = F.image_augmentation(nn.Variable.from_numpy_array(image), image.shape, pad=(4, 4), seed=seed)
        expected = F.image_augmentation(shifted, image.shape, flip_lr=True, seed=seed)
        expected.forward()
        np.testing.assert_array_equal(result, expected.d)


def test_augmentation_of_an_image_depends_on_its_seed_alone():
    batch = np.random.default_rng(0).random((5, 3, 32, 32), dtype=np.float32)
    together = augment(batch, [4, 3, 2, 1, 0])
    np.testing.assert_array_equal(together[[2]], augment(batch[[2]], [2]))
    assert not np.array_equal(augment(batch[[2]], [2]), augment(batch[[2]], [3]))


def test_edges_are_repeated_where_the_shifted_image_leaves_a_gap():
    batch = np.full((20, 1, 32, 32), 0.75, np.float32)
    np.testing.assert_allclose(augment(batch, range(20)), batch, rtol=1e-6)


@pytest.mark.parametrize("size, side", [((28, 28), 32), ((40, 60), 40), ((96, 96), 96), ((500, 300), 128)])
def test_side_of_the_network(size, side):
    assert network_side(*size) == side


def test_all_images_get_the_size_of_the_first():
    arrays = [np.zeros((1, 40, 60), np.uint8), np.full((1, 90, 35), 255, np.uint8)]
    images = prepare(arrays, [0, 1], ["black", "white"])
    assert images.pixels.shape == (2, 1, 40, 40)
    np.testing.assert_allclose(images.inputs([0, 1])[:, 0, 0, 0], [-1, 1])


def test_bytes_stay_bytes_where_nothing_is_resized():
    images = prepare(np.full((3, 3, 32, 32), 7, np.uint8), [0, 0, 1], "ab")
    assert images.pixels.dtype == np.uint8
    assert images.subset([2, 0]).labels.tolist() == [1, 0]
    np.testing.assert_array_equal(images.targets([2, 1]), [[1], [0]])


@pytest.mark.parametrize("mode, channels", [("1", 1), ("L", 1), ("P", 3), ("RGB", 3), ("RGBA", 3)])
def test_decode_finds_the_channels(mode, channels, tmp_path):
    Image.new(mode, (5, 4), 1 if mode in "1LP" else (255,) * len(mode)).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png").shape == (channels, 4, 5)
    assert decode(tmp_path / "a.png", channels=4 - channels).shape == (4 - channels, 4, 5)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_as_everywhere(orientation, tmp_path):
    exif, pixels = Image.Exif(), np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    bgr = read_image(tmp_path / "a.png")
    assert bgr.shape[:2] == ((4, 6) if orientation < 5 else (6, 4))
    np.testing.assert_array_equal(decode(tmp_path / "a.png"), bgr[..., ::-1].transpose(2, 0, 1))


def test_sixteen_bits_become_eight(tmp_path):
    Image.fromarray(np.full((4, 4), 0x80FF, np.uint16)).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(decode(tmp_path / "deep.png"), np.full((1, 4, 4), 0x80))


def test_unreadable_images_are_told(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    Image.new("F", (4, 4)).save(tmp_path / "real.tiff")
    for name, error, message in (("missing.png", UsageError, "no such"), ("text.png", UserError, "not an image"),
                                 ("real.tiff", UserError, "8 or 16 bits")):
        with pytest.raises(error, match=rf"{name}: .*{message}"):
            decode(tmp_path / name)


@pytest.mark.parametrize("pixels, labels", [(np.zeros((2, 1, 4, 4)), [0]), (np.zeros((2, 1, 4, 4)), [0, 2]),
                                            (np.zeros((0, 1, 4, 4)), []), (np.zeros((2, 4, 4)), [0, 1])])
def test_images_that_do_not_fit_are_refused(pixels, labels):
    with pytest.raises(ValueError):
        Images(pixels, labels, "ab")
