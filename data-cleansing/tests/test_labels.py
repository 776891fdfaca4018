"""Judging labels: confident learning, cross-validation, neighbours, duplicates, and what a person should look at."""
import math

import attrs
import nnabla as nn
import nnabla.parametric_functions as PF
import numpy as np
import pytest

from common.machine.errors import UsageError, UserError
from common.workbench.testing import disturbed
from data_cleansing.data.sets import flip_labels
from data_cleansing.labels.confident_learning import (
    calibrated_joint,
    class_thresholds,
    confident_joint,
    estimated_joint,
    margins,
    number_off_diagonal,
    number_wrong,
)
from data_cleansing.labels.cross_validation import (
    Evidence,
    Plan,
    assign_folds,
    averaged_parameters,
    cross_validate,
    softmax,
)
from data_cleansing.labels.decisions import CONFLICT, DUPLICATE, LABEL, OUTLIER, judge
from data_cleansing.labels.features import logits_and_features
from data_cleansing.labels.merging import merge
from data_cleansing.labels.neighbours import exact_duplicates, nearest, pixel_similarity
from data_cleansing.results.flipped_labels import ranking_area
from data_cleansing.training.record import published_record
from data_cleansing.training.trainer import Trainer

PLAN = Plan(folds=3, epochs=8, batch_size=20, learning_rate=0.5, augment=False, seed=0)


def test_the_confident_joint_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6], [0.5, 0.5]])
    labels = np.array([0, 0, 0, 1, 1])
    np.testing.assert_allclose(class_thresholds(probabilities, labels), [0.6, 0.55])
    # The last image reaches neither threshold and is not counted.
    np.testing.assert_array_equal(confident_joint(probabilities, labels), [[2, 1], [0, 1]])
    np.testing.assert_allclose(estimated_joint(probabilities, labels), [[2, 1], [0, 2]])
    assert number_wrong(probabilities, labels) == number_off_diagonal(estimated_joint(probabilities, labels)) == 1


def test_of_several_thresholds_that_are_reached_the_likeliest_class_counts():
    probabilities = np.array([[0.4, 0.35, 0.25], [0.3, 0.4, 0.3], [0.35, 0.4, 0.25]])
    labels = np.array([0, 1, 0])    # thresholds 0.375, 0.4 and none, as no image has label 2
    assert class_thresholds(probabilities, labels)[2] == np.inf
    np.testing.assert_array_equal(confident_joint(probabilities, labels), [[1, 1, 0], [0, 1, 0], [0, 0, 0]])


def test_calibration_gives_each_label_the_number_of_its_images():
    joint = calibrated_joint(np.array([[6, 2], [0, 0]]), np.array([16, 5]))
    np.testing.assert_allclose(joint, [[12, 4], [0, 5]])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_probabilities_without_error_count_the_wrong_labels(share, random_images):
    images = random_images(300, num_classes=5)
    probabilities = np.full((300, 5), 0.02)
    probabilities[np.arange(300), images.labels] = 0.92
    labels = flip_labels(images, share, seed=1)[0].labels
    joint = estimated_joint(probabilities, labels)
    assert number_wrong(probabilities, labels) == round(share * 300) and joint.sum() == pytest.approx(300)
    true = np.zeros((5, 5))
    np.add.at(true, (labels, images.labels), 1)
    np.testing.assert_allclose(joint, true)


@pytest.mark.parametrize("wrong", [0, 100, 400])
@pytest.mark.parametrize("by_pairs", [False, True])
def test_a_weak_judge_does_not_take_its_errors_for_wrong_labels(wrong, by_pairs):
    """It sees the true class or, as often, one more, and cannot tell which of the two it is."""
    rng, num = np.random.default_rng(0), 4000
    true = rng.integers(0, 6, num)
    second = (true + rng.integers(1, 6, num)) % 6
    logits = rng.normal(0, 0.5, (num, 6))
    logits[np.arange(num), true] += 3
    logits[np.arange(num), second] += rng.choice([0, 3], num)
    offsets = np.where(np.arange(num) < wrong, 1 if by_pairs else rng.integers(1, 6, num), 0)
    probabilities, labels = softmax(logits), (true + offsets) % 6
    off_diagonal = number_off_diagonal(estimated_joint(probabilities, labels))
    assert off_diagonal > wrong + 200    # errors of the judge
    assert number_wrong(probabilities, labels) < wrong + 0.6 * (off_diagonal - wrong)
    assert number_wrong(probabilities, labels) >= wrong


def test_the_joint_follows_a_renaming_of_classes():
    rng = np.random.default_rng(0)
    probabilities, labels, order = softmax(rng.standard_normal((200, 4))), rng.integers(0, 4, 200), [2, 0, 3, 1]
    renamed = np.argsort(order)
    np.testing.assert_array_equal(confident_joint(probabilities[:, order], renamed[labels]),
                                  confident_joint(probabilities, labels)[np.ix_(order, order)])


def test_margins_are_negative_where_another_class_is_preferred():
    np.testing.assert_allclose(margins(np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]]), np.array([0, 2])), [0.2, -0.3])


def test_folds_share_out_every_label():
    labels = np.random.default_rng(0).integers(0, 5, 103)
    folds = assign_folds(labels, 4, seed=0)
    for values in (folds, *(folds[labels == label] for label in range(5))):
        counts = np.bincount(values, minlength=4)
        assert counts.max() - counts.min() <= 1
    assert (folds != assign_folds(labels, 4, seed=1)).any()


def test_the_nearest_by_cosine():
    angles = np.array([0.0, 0.1, 0.3, 2.0])
    features = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    rows, distances = nearest(features, [1, 3], 2)
    np.testing.assert_array_equal(rows, [[0, 2], [2, 1]])
    np.testing.assert_allclose(distances, [[1 - np.cos(0.1), 1 - np.cos(0.2)], [1 - np.cos(1.7), 1 - np.cos(1.9)]],
                               atol=1e-6)


def test_more_queries_than_are_held_at_once():
    features = np.random.default_rng(0).standard_normal((1100, 3)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    rows, _ = nearest(features, np.arange(1100), 1)
    similar = features @ features.T - 3 * np.eye(1100)
    np.testing.assert_array_equal(rows[:, 0], similar.argmax(1))


def test_features_are_what_the_last_layer_reads(random_images):
    images = random_images(70, shape=(2, 8, 8))

    def network(image, train):
        with nn.parameter_scope("first"):
            h = PF.convolution(image, 3, (3, 3))
        return PF.affine(h, 4)

    logits, features = logits_and_features(network, images)
    image = nn.Variable.from_numpy_array(images.inputs(np.arange(70)))
    with nn.parameter_scope("first"):
        maps = PF.convolution(image, 3, (3, 3))
    affine = PF.affine(maps, 4)
    nn.forward_all([maps, affine])
    means = maps.d.mean((2, 3))
    np.testing.assert_allclose(logits, affine.d, atol=1e-5)
    np.testing.assert_allclose(features, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-5)


def test_duplicates_by_pixels():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 200, (6, 1, 8, 8), dtype=np.uint8)
    pixels[4] = pixels[3] = pixels[1]
    np.testing.assert_array_equal(exact_duplicates(pixels), [-1, 3, -1, 1, 1, -1])
    pixels[5] = pixels[0] // 2 + 20    # brightness and contrast do not count
    pixels[2] = 7
    similar = pixel_similarity(pixels, np.array([0, 0, 2]), np.array([5, 1, 2]))
    assert similar[0] > 0.999 and abs(similar[1]) < 0.5 and similar[2] == 0


def test_more_pairs_than_are_compared_at_once():
    rng = np.random.default_rng(0)
    pixels, rows, others = rng.random((20, 1, 4, 4)), rng.integers(0, 20, 1500), rng.integers(0, 20, 1500)
    expected = np.corrcoef(pixels.reshape(20, -1))[rows, others]
    np.testing.assert_allclose(pixel_similarity(pixels, rows, others), expected)


def _evidence(probabilities, neighbours, distances=None, training_margins=None):
    num = len(probabilities)
    return Evidence(probabilities, np.zeros(num) if training_margins is None else training_margins, neighbours,
                    np.ones_like(neighbours, np.float32) if distances is None else distances)


@pytest.fixture
def pairs(random_images):
    """Twelve images of noise of two classes; 4 is nearly 0, and 5 nearly 1. Nobody doubts their labels."""
    images = random_images(12, num_classes=2)
    pixels, labels = images.pixels.copy(), np.arange(12) % 2
    pixels[4], pixels[5] = pixels[0] * 0.9 + 0.01, pixels[1] * 0.9 + 0.01
    neighbours = np.stack([(np.arange(12) + 4) % 12, (np.arange(12) + 8) % 12], 1)
    return attrs.evolve(images, pixels=pixels, labels=labels), neighbours, np.where(
        np.arange(2) == labels[:, np.newaxis], 0.9, 0.1)


def _relabelled(images, row, label):
    return attrs.evolve(images, labels=np.where(np.arange(len(images)) == row, label, images.labels))


def test_duplicates_with_other_labels_are_to_look_at(pairs):
    images, neighbours, probabilities = pairs
    probabilities[5] = 0.9, 0.1    # the network, too, holds this one for right
    images = _relabelled(images, 5, 0)
    found = judge(_evidence(probabilities, neighbours), images)
    assert found.problems[0] == found.problems[4] == (DUPLICATE,)
    assert found.problems[1] == found.problems[5] == (CONFLICT,)
    assert set(np.flatnonzero(found.to_look_at)) == {1, 5} and found.num_wrong == 0
    assert found.reasons[5] == "nearly the same picture as row 1, which is labelled 1"
    np.testing.assert_array_equal(found.suggested, images.labels)


def test_the_right_one_of_two_duplicates_is_kept(pairs):
    images, neighbours, probabilities = pairs
    found = judge(_evidence(probabilities, neighbours), _relabelled(images, 5, 0))
    assert found.num_wrong == 1 and found.problems[5] == (LABEL, CONFLICT) and found.problems[1] == (DUPLICATE,)
    assert list(np.flatnonzero(found.to_look_at)) == [5] and found.suggested[5] == 1 and found.ranks[5] == 1
    assert found.reasons[5].startswith("looks like 1 (90%), the given label has 10%; nearly")


def test_reasons_name_files_by_folder_and_name(pairs):
    images, neighbours, probabilities = pairs
    named = attrs.evolve(images, paths=[f"/pictures/class/{k}.png" for k in range(12)])
    assert judge(_evidence(probabilities, neighbours), named).reasons[4] == "nearly the same picture as class/0.png"


def test_what_is_said_of_one_image_is_averaged(random_images):
    images = random_images(6, num_classes=2)
    images = attrs.evolve(images, paths=[f"{k}.png" for k in range(6)], labels=[0, 1, 0, 1, 0, 1])
    rng, parts = np.random.default_rng(0), (np.array([0, 1, 3, 4]), np.array([1, 2, 3, 5]))
    judged = [(images.subset(part), Evidence(rng.random((4, 2)), rng.random(4), np.array([[1], [0], [3], [2]]),
                                             rng.random((4, 1)))) for part in parts]
    merged, evidence, rows = merge(judged)
    assert merged.paths == ("0.png", "1.png", "3.png", "4.png", "2.png", "5.png")
    np.testing.assert_array_equal(merged.pixels, images.pixels[[0, 1, 3, 4, 2, 5]])
    np.testing.assert_array_equal(merged.labels, images.labels[[0, 1, 3, 4, 2, 5]])
    np.testing.assert_array_equal(np.concatenate(rows), [0, 1, 2, 3, 1, 4, 2, 5])
    (_, first), (_, second) = judged
    np.testing.assert_allclose(evidence.probabilities[1], (first.probabilities[1] + second.probabilities[0]) / 2)
    np.testing.assert_allclose(evidence.training_margins[[0, 2]], [
        first.training_margins[0], (first.training_margins[2] + second.training_margins[2]) / 2])
    np.testing.assert_allclose(evidence.distances[[4, 5]], second.distances[[1, 3]])
    np.testing.assert_array_equal(evidence.neighbours[:, 0], [1, 0, 3, 2, 1, 2])


def test_a_picture_that_is_listed_with_two_labels_stays_two(random_images):
    images = attrs.evolve(random_images(4, num_classes=2), paths=["a.png", "a.png", "b.png", "c.png"],
                          labels=[0, 1, 0, 1])
    judged = images, _evidence(np.full((4, 2), 0.5), np.array([[1], [0], [0], [0]]))
    assert merge([judged, judged])[0].paths == images.paths


def test_a_picture_that_is_listed_twice_with_one_label_is_no_duplicate_of_itself(random_images):
    images = attrs.evolve(random_images(4, num_classes=2), paths=["a.png", "a.png", "b.png", "c.png"],
                          labels=[0, 0, 0, 1])
    judged = images, _evidence(np.full((4, 2), 0.5), np.array([[1], [0], [0], [0]]))
    merged, evidence, _ = merge([judged, judged])
    assert merged.paths == ("a.png", "b.png", "c.png")
    assert judge(evidence, merged).duplicates.tolist() == [-1, -1, -1]


def test_outliers_are_to_look_at(pairs):
    images, neighbours, probabilities = pairs
    distances = np.ones((12, 2), np.float32)
    distances[7] = 9
    found = judge(_evidence(probabilities, neighbours, distances), images)
    assert found.problems[7] == (OUTLIER,) and "9.0 times" in found.reasons[7] and found.count(OUTLIER) == 1


def test_learning_late_makes_a_label_suspicious(pairs):
    images, neighbours, probabilities = pairs
    learned = np.ones(12)
    learned[3] = -2
    assert judge(_evidence(probabilities, neighbours, training_margins=learned), images).ranks[3] == 1


def test_wrong_labels_among_digits_are_found(digit_images, regression, tmp_path):
    images, _, flipped = digit_images(900, flipped=60)
    found = judge(cross_validate(regression, images, PLAN, tmp_path), images)
    marked = np.array([LABEL in problems for problems in found.problems])
    assert ranking_area(found.ranks, flipped) > 0.97
    assert flipped[marked].mean() > 0.75 and marked[flipped].mean() > 0.85
    true, wrong = digit_images(900)[0].labels, marked & flipped
    assert (found.suggested[wrong] == true[wrong]).mean() > 0.85


def test_parameters_are_averaged_with_growing_weights(digit_images, regression):
    trainer = Trainer(regression, digit_images(90)[0], published_record(60, 2, 20, 0.5, augment=False))
    start, each = trainer.layout.values(), []
    mean = averaged_parameters(trainer)
    trainer.layout.assign(start)
    trainer.run(before_step=lambda step: each.append(trainer.layout.values()))
    weights = [math.prod(range(step, step + 8)) for step in range(1, 7)]    # the closed form of the recursion
    np.testing.assert_allclose(mean, np.average(each[1:], axis=0, weights=weights), atol=1e-6)
    assert np.abs(mean - each[-1]).max() > 1e-3


def test_cross_validation_leaves_the_current_parameters_alone(digit_images, regression, tmp_path):
    images = digit_images(90)[0]
    regression(nn.Variable((1, *images.shape)), True)
    before = {name: value.d.copy() for name, value in nn.get_parameters().items()}
    cross_validate(regression, images, attrs.evolve(PLAN, epochs=1), tmp_path)
    assert list(before) == list(nn.get_parameters())
    for name, value in nn.get_parameters().items():
        np.testing.assert_array_equal(value.d, before[name])


def test_no_image_is_judged_by_a_network_that_has_seen_it(digit_images, regression, tmp_path):
    images, seen = digit_images(90)[0], []
    plan = attrs.evolve(PLAN, epochs=1)
    folds = assign_folds(images.labels, plan.folds, plan.seed)
    original = Trainer.__init__

    def remember(self, network, images, record, watch=None):
        seen.append(set(record.rows.tolist()))
        original(self, network, images, record, watch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "__init__", remember)
        cross_validate(regression, images, plan, tmp_path)
    assert seen == [set(np.flatnonzero(folds != fold).tolist()) for fold in range(plan.folds)]


def test_parts_that_are_there_are_not_computed_again(digit_images, regression, tmp_path):
    images = digit_images(90)[0]
    plan = attrs.evolve(PLAN, epochs=1)
    whole = cross_validate(regression, images, plan, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt), disturbed(Trainer, "step", 3, KeyboardInterrupt()):
        cross_validate(regression, images, plan, tmp_path / "again")
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["fold_0.npz"]
    again = cross_validate(regression, images, plan, tmp_path / "again")
    for a, b in zip(attrs.astuple(whole), attrs.astuple(again), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("num", [2, 3])
def test_fewer_images_than_parts(num, regression, random_images, tmp_path):
    images = random_images(num, num_classes=10)
    evidence = cross_validate(regression, images, attrs.evolve(PLAN, folds=10, epochs=1), tmp_path)
    assert evidence.neighbours.shape == (num, num - 1)
    assert len(judge(evidence, images).problems) == num


def test_one_image_cannot_be_judged(regression, random_images, tmp_path):
    with pytest.raises(UsageError, match="two images at least, not 1"):
        cross_validate(regression, random_images(1), PLAN, tmp_path)


def test_parts_of_other_images_are_refused(digit_images, regression, tmp_path):
    plan = attrs.evolve(PLAN, epochs=1)
    cross_validate(regression, digit_images(90)[0], plan, tmp_path)
    with pytest.raises(UserError, match="fold_0.npz: .*other images"):
        cross_validate(regression, digit_images(60)[0], plan, tmp_path)
