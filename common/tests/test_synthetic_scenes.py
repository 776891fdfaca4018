"""Generated street scenes."""
import cv2
import numpy as np
import pytest

from common.datasets import cityscapes, synthetic_scenes
from common.datasets.synthetic_scenes import IGNORE, make_scene


def test_equal_arguments_make_equal_scenes_and_others_do_not():
    image, label = make_scene("train", 3, 64, 128, seed=5)
    again = make_scene("train", 3, 64, 128, seed=5)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(label, again[1])
    for other in (("val", 3, 64, 128, 5), ("train", 4, 64, 128, 5), ("train", 3, 64, 128, 6)):
        assert (make_scene(*other)[1] != label).mean() > 0.05


@pytest.mark.parametrize("size", [(64, 128), (61, 97), (96, 64), (8, 8)])
def test_any_size(size):
    image, label = make_scene("val", 0, *size)
    assert (image.shape, image.dtype, label.shape, label.dtype) == ((*size, 3), np.uint8, size, np.uint8)


def test_the_layout_does_not_depend_on_the_size():
    small, large = (make_scene("train", 1, height, 2 * height)[1] for height in (128, 256))
    enlarged = cv2.resize(small, (512, 256), interpolation=cv2.INTER_NEAREST)
    assert (enlarged == large).mean() > 0.93    # but for a rim around everything


def test_all_classes_occur_and_are_those_of_cityscapes():
    counts = sum(np.bincount(make_scene("train", index, 64, 128)[1].ravel(), minlength=256)
                 for index in range(synthetic_scenes.NUM["train"]))
    assert set(np.flatnonzero(counts)) == {*range(len(cityscapes.CLASSES)), IGNORE}
    for name, number in vars(synthetic_scenes).items():
        if name.lower().replace("_", " ") in cityscapes.CLASSES:
            assert cityscapes.CLASSES.index(name.lower().replace("_", " ")) == number


def mean_colours(pairs):
    """Mean colour of each class over scenes, (classes, 3)."""
    sums, counts = np.zeros((256, 3)), np.zeros(256)
    for image, label in pairs:
        np.add.at(sums, label.ravel(), image.reshape(-1, 3))
        counts += np.bincount(label.ravel(), minlength=256)
    return sums / np.maximum(counts, 1)[:, None]


def test_twins_look_alike_where_only_context_tells_them_apart():
    # Below the horizon both are asphalt, or green; the sky is neither.
    colours = mean_colours([make_scene("train", index, 64, 128) for index in range(24)])
    for one, other in ((synthetic_scenes.ROAD, synthetic_scenes.SIDEWALK),
                       (synthetic_scenes.TERRAIN, synthetic_scenes.VEGETATION)):
        assert np.abs(colours[one] - colours[other]).max() < 15
        assert np.abs(colours[one] - colours[synthetic_scenes.SKY]).max() > 40


def test_scenes_are_neither_flat_nor_saturated():
    image, label = make_scene("val", 2, 128, 256)
    assert 40 < image.std() < 90 and (image == 255).mean() < 0.05
    road = image[label == synthetic_scenes.ROAD].astype(float)
    assert road.std(axis=0).min() > 5
