"""Rankings, labels made wrong, and files of """
import numpy as np
import pytest

from common.machine.errors import UserError
from data_cleansing.data.sets import flip_labels
from data_cleansing.results.flipped_labels import precision_at, ranking_area
from data_cleansing.results.score_files import read_influence, write_influence


def test_area_is_the_chance_that_a_wrong_label_has_the_lower_score():
    rng = np.random.default_rng(0)
    scores, wrong = rng.integers(0, 9, 200), rng.random(200) < 0.2    # many ties
    differences = scores[wrong] - scores[~wrong][:, np.newaxis]
    assert ranking_area(scores, wrong) == pytest.approx(np.mean((differences < 0) + (differences == 0) / 2), abs=1e-12)


@pytest.mark.parametrize("wrong", [False, True])
def test_without_labels_of_both_kinds_there_is_no_area(wrong):
    assert np.isnan(ranking_area(np.arange(3), np.full(3, wrong)))


def test_precision_counts_the_lowest_scores():
    wrong = np.array([True, False, True, False])
    assert precision_at([-3, -2, -1, 0], wrong, 1) == 1
    assert precision_at([-3, -2, -1, 0], wrong, 3) == pytest.approx(2 / 3)


def test_flipped_labels_are_wrong_and_no_others(random_images):
    images = random_images(50)
    changed, flipped = flip_labels(images, 0.3, seed=1)
    assert flipped.sum() == 15
    np.testing.assert_array_equal(changed.labels != images.labels, flipped)
    assert (flip_labels(images, 0.3, seed=2)[1] != flipped).any()
    np.testing.assert_array_equal(flip_labels(images, 0.3, seed=1)[0].labels, changed.labels)


def test_influence_files_keep_all_bits(random_images, tmp_path):
    images = random_images(20)
    images = type(images)(images.pixels, images.labels, images.class_names, [f"a,\"b\"/{k}" for k in range(20)])
    scores = np.random.default_rng(0).standard_normal(20).round(1)
    write_influence(tmp_path / "i.csv", scores, images)
    np.testing.assert_array_equal(read_influence(tmp_path / "i.csv", 20), scores)
    with pytest.raises(UserError, match="not those of the 21"):
        read_influence(tmp_path / "i.csv", 21)
