"""Street scenes and random batches: shapes, types, what is cut out of a scene, and damaged data."""
import cv2
import nnabla as nn
import numpy as np
import pytest

from common.datasets import cityscapes, imagenet
from common.machine.errors import UserError
from common.out_of_core import InCore
from out_of_core_training import data, models
from out_of_core_training.models import IGNORED

HEIGHT, WIDTH = 48, 64


@pytest.fixture
def scenes(tmp_path):
    """A data set with the layout of Cityscapes: three scenes, labels and instances as published."""
    rng = np.random.default_rng(0)
    for split in cityscapes.SPLITS:
        for kind in ("leftImg8bit", "gtFine"):
            (tmp_path / kind / split / "city").mkdir(parents=True)
        for number in range(3):
            image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            label = np.kron(rng.choice([7, 8, 26, 33, 0], (6, 8)), np.ones((8, 8))).astype(np.uint8)
            name = f"city/{number}"
            cv2.imwrite(str(tmp_path / f"leftImg8bit/{split}/{name}_leftImg8bit.png"), image)
            cv2.imwrite(str(tmp_path / f"gtFine/{split}/{name}_gtFine_labelIds.png"), label)
            cv2.imwrite(str(tmp_path / f"gtFine/{split}/{name}_gtFine_instanceIds.png"), label.astype(np.uint16) * 1000)
    return tmp_path


def test_the_centre_of_a_scene(scenes):
    pair = cityscapes.find_pairs(scenes, "val")[0]
    image, label = data.segmentation_scene(pair, (33, 41))
    raw_image, raw_label = cityscapes.read_pair(pair)
    assert (image.shape, image.dtype, label.shape, label.dtype) == ((3, 33, 41), np.float32, (1, 33, 41), np.int32)
    levels = (image.transpose(1, 2, 0) * imagenet.STD + imagenet.MEAN) * 255
    np.testing.assert_array_equal(label[0], raw_label[7:40, 11:52])
    np.testing.assert_allclose(levels, raw_image[7:40, 11:52, ::-1], atol=1e-2)


def test_a_scene_in_full(scenes):
    pair = cityscapes.find_pairs(scenes, "val")[0]
    image, label = data.segmentation_scene(pair, (HEIGHT, WIDTH))
    raw_image, raw_label = cityscapes.read_pair(pair)
    np.testing.assert_array_equal(label[0], raw_label)
    levels = (image.transpose(1, 2, 0) * imagenet.STD + imagenet.MEAN) * 255
    np.testing.assert_allclose(levels, raw_image[..., ::-1], atol=1e-2)


def test_beyond_a_scene_nothing_counts(scenes):
    pair = cityscapes.find_pairs(scenes, "val")[0]
    image, label = data.segmentation_scene(pair, (HEIGHT, WIDTH + 20))
    assert (label[:, :, :10] == IGNORED).all()
    assert (label[:, :, -10:] == IGNORED).all()
    assert abs(image[:, :, :9]).max() < 0.02    # the mean of ImageNet


def test_random_crops_keep_image_and_label_together(scenes):
    pair = cityscapes.find_pairs(scenes, "train")[0]
    _, raw_label = cityscapes.read_pair(pair)
    label_path = scenes / "leftImg8bit/train/city/0_leftImg8bit.png"
    cv2.imwrite(str(label_path), np.repeat(raw_label[..., None], 3, axis=2))    # an image that shows its label
    mirrored = set()
    for seed in range(20):
        image, label = data.segmentation_scene(pair, (32, 32), np.random.default_rng(seed))
        levels = (image * imagenet.STD[:, None, None] + imagenet.MEAN[:, None, None]) * 255
        inside = label[0] != IGNORED
        agrees = abs(levels[0] - label[0])[inside] < 0.5
        assert agrees.mean() > 0.7    # bilinear edges between blocks differ
        mirrored.add(bool(np.random.default_rng(seed).random(2)[1] < 0.5))
    assert mirrored == {True, False}


def test_a_scene_for_translation(scenes):
    pair = cityscapes.find_pairs(scenes, "train")[0]
    label, edges, image = data.translation_scene(pair, (HEIGHT, WIDTH))
    assert set(np.unique(label)) <= {7, 8, 26, 33, 0}
    assert (label.dtype, edges.dtype, image.dtype) == (np.int32, np.float32, np.float32)
    np.testing.assert_array_equal(edges[0], data.edges_of(label[0]))
    assert -1 <= image.min() < image.max() <= 1
    small = data.translation_scene(pair, (24, 32))
    assert [array.shape for array in small] == [(1, 24, 32), (1, 24, 32), (3, 24, 32)]


def test_edges_are_on_both_sides():
    instances = np.array([[1, 1, 2], [1, 1, 2], [1, 1, 1]], np.int32)
    np.testing.assert_array_equal(data.edges_of(instances), [[0, 1, 1], [0, 1, 1], [0, 0, 1]])


def test_generated_scenes_do_for_translation():
    pair = cityscapes.find_pairs("synthetic", "train")[0]
    label, edges, image = data.translation_scene(pair, (64, 128))
    assert label.max() <= 19
    assert 0 < edges.mean() < 1
    assert image.shape == (3, 64, 128)


def test_batches_of_scenes_follow_from_the_seed(scenes):
    pairs = cityscapes.find_pairs(scenes, "train")

    def make(seed, start=0):
        batches = data.SceneBatches(pairs, data.segmentation_scene, 1, (32, 32), seed=seed, drop_last=True)
        return [arrays for epoch in (0, 1) for arrays in batches.epoch(epoch, start)]

    once, again, other, late = make(0), make(0), make(1), make(0, start=2)
    assert [image.shape for image, _ in once] == [(1, 3, 32, 32)] * 6
    assert all(np.array_equal(a[k], b[k]) for a, b in zip(once, again, strict=True) for k in (0, 1))
    assert not all(np.array_equal(a[0], b[0]) for a, b in zip(once, other, strict=True))
    assert np.array_equal(late[0][0], once[2][0])


def test_missing_instances_are_one_line(scenes):
    (scenes / "gtFine/train/city/0_gtFine_instanceIds.png").unlink()
    pair = cityscapes.find_pairs(scenes, "train")[0]
    with pytest.raises(UserError, match="instanceIds") as caught:
        data.translation_scene(pair, (32, 32))
    assert "\n" not in str(caught.value)


def test_random_batches_repeat():
    nn.clear_parameters()
    network = models.build("pix2pixhd", 2, 64, width=0.0625, train=False)
    batches = data.RandomBatches(network, 3)
    (label, edges, image), *others = batches.epoch(0)
    assert len(batches) == 1 + len(others) == 3
    assert label.dtype == np.int32
    assert 0 <= label.min() <= label.max() < 35
    assert set(np.unique(edges)) == {0, 1}
    assert image.shape == (2, 3, 64, 64)
    assert len(list(batches.epoch(1, start=2))) == 1


class Guesser:
    """Stands in for a network: it labels every pixel as its image says."""

    task, num_classes = models.SEGMENTATION, 3

    def __init__(self, batch_size, size):
        self.inputs = [nn.Variable((batch_size, 3, *size))]
        self.output = self.inputs[0] * 2


def test_mean_intersection_over_union():
    label = np.array([[0, 0, 1, IGNORED], [0, 1, 1, 1]], np.int32)[None, None]
    guess = np.array([[0, 1, 1, 2], [0, 1, 1, 0]])
    image = np.eye(3, dtype=np.float32)[guess].transpose(2, 0, 1)[None]
    network = Guesser(2, (2, 4))

    class Once:
        def epoch(self, epoch):
            return [(image, label)]

    # Class 0: 2 of 4; class 1: 3 of 5; class 2 occurs nowhere that counts.
    assert data.validate(network, Once(), InCore()) == pytest.approx(1 - (2 / 4 + 3 / 5) / 2)
    network.task = models.CLASSIFICATION
    flat = image.transpose(0, 2, 3, 1).reshape(-1, 3, 1, 1)[:3]
    network.inputs[0] = nn.Variable((4, 3, 1, 1))
    network.output = network.inputs[0].reshape((4, 3))
    Once.epoch = lambda self, epoch: [(flat, np.array([[0], [0], [1]], np.int32))]
    assert data.validate(network, Once(), InCore()) == pytest.approx(1 / 3)
