"""Training samples of street scenes."""
from pathlib import Path

import numpy as np
import pytest

from d3net.scenes import augmentation
from d3net.scenes.augmentation import training_sample

REFERENCE = np.load(Path(__file__).parent / "data" / "seg_preprocess.npz")
IMAGE, LABEL = REFERENCE["image"], REFERENCE["label"]    # 96 x 192
CROP = 32, 48
SEEDS = range(4)


def random_scene(height, width, classes=8):
    rng = np.random.default_rng(height * width)
    blocks = rng.integers(0, classes, (height // 4 + 1, width // 4 + 1), np.uint8)
    label = blocks.repeat(4, 0).repeat(4, 1)[:height, :width]
    return rng.integers(0, 256, (height, width, 3), np.uint8), label


@pytest.mark.parametrize("name", ["standardize", "normalize_infer"])
def test_standardized_as_published(name):
    made = augmentation.standardize(IMAGE[:40, :48])
    np.testing.assert_allclose(made.transpose(1, 2, 0), REFERENCE[name], atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_scaled_as_published(seed):
    image, label = augmentation.scale(IMAGE, LABEL, np.random.RandomState(seed))
    assert image.shape == tuple(REFERENCE[f"scale{seed}_shape"])
    np.testing.assert_array_equal(label[::5, ::5], REFERENCE[f"scale{seed}_label"])
    np.testing.assert_allclose(image[::5, ::5].astype(int), REFERENCE[f"scale{seed}_image"], atol=1)


@pytest.mark.parametrize("seed", SEEDS)
def test_cropped_as_published(seed):
    rng = np.random.RandomState(seed)
    image, label = augmentation.crop(IMAGE, LABEL, rng, CROP)
    np.testing.assert_array_equal(image[::3, ::3], REFERENCE[f"crop{seed}_image"])
    np.testing.assert_array_equal(label, REFERENCE[f"crop{seed}_label"])
    assert rng.rand() == REFERENCE[f"crop{seed}_next_rand"]


@pytest.mark.parametrize("seed", SEEDS)
def test_flipped_as_published(seed):
    image, label = augmentation.flip(IMAGE, LABEL, np.random.RandomState(seed))
    np.testing.assert_array_equal(label[:4], REFERENCE[f"flip{seed}"])
    assert (image[0, 0] == IMAGE[0, 0 if (label == LABEL).all() else -1]).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_distorted_as_published(seed):
    rng = np.random.RandomState(seed)
    difference = augmentation.distort(IMAGE, rng)[::4, ::4].astype(int) - REFERENCE[f"photo{seed}"]
    assert (np.abs(difference) <= 1).mean() >= 0.999
    assert rng.rand() == REFERENCE[f"photo{seed}_next_rand"]


@pytest.mark.parametrize("seed", SEEDS)
def test_whole_samples_as_published(seed):
    rng = np.random.RandomState(seed)
    image, label = training_sample(IMAGE, LABEL, rng, CROP)
    assert (image.dtype, label.dtype) == (np.float32, np.int16)
    np.testing.assert_array_equal(label, REFERENCE[f"full{seed}_label"])
    # A grey level, which roundings of OpenCV's colour spaces may differ by, is 0.0175.
    assert (np.abs(image[:, ::2, ::2] - REFERENCE[f"full{seed}_image"]) <= 0.02).mean() >= 0.999
    assert rng.rand() == REFERENCE[f"full{seed}_next_rand"]


def test_padded_as_published_but_for_the_label():
    image = augmentation.standardize(IMAGE[:40, :48])
    padded, label = augmentation.pad(image, LABEL[:40, :48], (48, 64))
    assert padded.shape == (3, 48, 64) and label.shape == (48, 64)
    assert tuple(REFERENCE["pad_image_shape"]) == (48, 64, 3)
    np.testing.assert_allclose(padded.transpose(1, 2, 0)[-10:, -18:], REFERENCE["pad_image_corner"], atol=1e-6)
    assert (label[40:] == 255).all() and (label[:, 48:] == 255).all() and (label[:40, :48] == LABEL[:40, :48]).all()


@pytest.mark.parametrize("size", [(60, 60), (45, 80), (80, 45), (20, 200)])
def test_any_aspect_ratio_is_kept(size):
    image, label = augmentation.scale(*random_scene(*size), np.random.RandomState(3))
    assert image.shape[:2] == label.shape
    assert label.shape[1] / label.shape[0] == pytest.approx(size[1] / size[0], rel=0.05)


def test_a_scene_smaller_than_the_sample_is_filled_up_with_what_is_ignored():
    image, label = training_sample(*random_scene(10, 20), np.random.RandomState(0), (64, 64))
    assert image.shape == (3, 64, 64) and label.shape == (1, 64, 64)
    outside = label[0] == -1
    assert not outside[:5, :10].any() and outside[21:].all() and outside[:, 41:].all()
    assert (image[:, outside] == 0).all()


def test_ignored_pixels_stay_ignored():
    image, label = random_scene(64, 128)
    label[:] = 255
    _, made = training_sample(image, label, np.random.RandomState(0), CROP)
    assert (made == -1).all()


def test_a_crop_of_mostly_one_class_is_drawn_again():
    label = np.zeros((64, 400), np.uint8)
    label[:, 360:380], label[:, 380:] = 1, 2
    image = np.zeros((64, 400, 3), np.uint8)
    shares = []
    for seed in range(40):
        part = augmentation.crop(image, label, np.random.RandomState(seed), (40, 40))[1]
        shares.append(np.bincount(part.ravel()).max() / part.size)
    plain = 1 - 40 / 360    # of the places, how many show one class or mostly one
    assert np.mean(np.array(shares) >= 0.75) < plain - 0.3


def test_the_same_image_and_label_are_not_written_to():
    image, label = IMAGE.copy(), LABEL.copy()
    for seed in range(8):
        training_sample(image, label, np.random.RandomState(seed), CROP)
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(label, LABEL)


def test_mean_and_spread_of_a_configuration_are_used():
    image, _ = training_sample(IMAGE, LABEL, np.random.RandomState(1), CROP)
    other, _ = training_sample(IMAGE, LABEL, np.random.RandomState(1), CROP, mean=(0, 0, 0), std=(1, 1, 1))
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (augmentation.MEAN, augmentation.STD))
    np.testing.assert_allclose(image * std + mean, other, atol=1e-3)
