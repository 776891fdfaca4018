"""Intersection over union."""
from pathlib import Path

import numpy as np
import pytest

from d3net.scenes.metrics import ConfusionMatrix

REFERENCE = np.load(Path(__file__).parent / "data" / "seg_miou.npz")


def test_agrees_with_reference():
    matrix = ConfusionMatrix(19)
    for prediction, label in zip(REFERENCE["prediction"], REFERENCE["label"], strict=True):
        matrix.add(prediction, label)
    np.testing.assert_array_equal(matrix.counts, REFERENCE["confusion"])
    np.testing.assert_allclose(matrix.iou(), REFERENCE["iou"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(matrix.class_accuracy(), REFERENCE["class_accuracy"], rtol=0, atol=1e-9)
    assert matrix.mean_iou() == pytest.approx(float(REFERENCE["miou_present"]), abs=1e-9)
    assert matrix.pixel_accuracy() == pytest.approx(float(REFERENCE["pixel_accuracy"]), abs=1e-9)
    assert np.isnan(matrix.iou()[16])


def test_a_perfect_prediction():
    label = np.array([[0, 1, 1], [2, 255, 0]], np.uint8)
    matrix = ConfusionMatrix(4).add(label, label)
    np.testing.assert_array_equal(matrix.iou(), [1, 1, 1, np.nan])
    assert matrix.mean_iou() == matrix.pixel_accuracy() == matrix.mean_class_accuracy() == 1
    assert matrix.counts.sum() == 5


def test_image_by_image_is_all_at_once():
    rng = np.random.default_rng(0)
    prediction, label = rng.integers(0, 5, (2, 6, 10, 12), np.uint8)
    matrix = ConfusionMatrix(5)
    for one in zip(prediction, label, strict=True):
        matrix.add(*one)
    np.testing.assert_array_equal(matrix.counts, ConfusionMatrix(5).add(prediction, label).counts)


@pytest.mark.parametrize("ignored", [255, -1])
def test_predictions_on_ignored_pixels_do_not_count(ignored):
    label = np.array([0, ignored, 1])
    assert ConfusionMatrix(2).add(np.array([0, 77, 1]), label).pixel_accuracy() == 1


def test_a_class_that_is_only_predicted_counts_as_missed():
    matrix = ConfusionMatrix(3).add(np.array([0, 1]), np.array([0, 0]))
    np.testing.assert_array_equal(matrix.iou(), [0.5, 0, np.nan])
    np.testing.assert_array_equal(matrix.class_accuracy(), [0.5, np.nan, np.nan])
    assert matrix.mean_iou() == 0.25 and matrix.mean_class_accuracy() == 0.5


def test_nothing_counted_is_no_number():
    matrix = ConfusionMatrix(3).add(np.zeros(4, int), np.full(4, 255))
    assert np.isnan([matrix.mean_iou(), matrix.pixel_accuracy(), matrix.mean_class_accuracy()]).all()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="shape"):
        ConfusionMatrix(3).add(np.zeros((2, 2), int), np.zeros(4, int))
    with pytest.raises(ValueError, match="0..3 of 3"):
        ConfusionMatrix(3).add(np.array([0, 3]), np.array([0, 1]))
