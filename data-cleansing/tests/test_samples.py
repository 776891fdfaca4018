"""Arrays that networks take as they are, with numbers or classes to predict."""
import nnabla.parametric_functions as PF
import numpy as np
import pytest

from common.machine.errors import UsageError, UserError
from data_cleansing.data.samples import Samples
from data_cleansing.influence import METHODS, influence_scores
from data_cleansing.training.parameters import ParameterCache
from data_cleansing.training.record import published_record
from data_cleansing.training.trainer import Trainer, predict

OUTPUTS = 2


def linear(x, train):
    return PF.affine(x, OUTPUTS)


@pytest.fixture
def regression_problem():
    """Numbers that are linear in what the network takes, five with the wrong sign, after a training with momentum.

    Returns
    -------
    (train, valid, record, cache, start)
    """
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((60, 5)), rng.standard_normal((5, OUTPUTS))
    numbers = x @ weights + 0.1 * rng.standard_normal((60, OUTPUTS))
    numbers[:5] *= -2
    images, valid = Samples(x[:40], numbers[:40]), Samples(x[40:], numbers[40:])
    record = published_record(40, 4, 10, 0.02, augment=False, momentum=0.5, weight_decay=0.01)
    trainer = Trainer(linear, images, record)
    cache, start = ParameterCache(trainer.layout), [parameter.d.copy() for parameter in trainer.layout.trained.values()]
    trainer.run(before_step=cache.store)
    return images, valid, record, cache, start


def loss_after(images, valid, record, start, weights):
    """Train in float64, each example counted by its weight; returns the mean validation loss."""
    theta = [values.astype(np.float64) for values in start]    # weights, bias
    velocity = [np.zeros_like(values) for values in theta]
    for step in range(record.num_steps):
        rows = record.batch(step)[0]
        slopes = 2 * (images.pixels[rows] @ theta[0] + theta[1] - images.labels[rows]) * weights[rows, np.newaxis]
        gradients = images.pixels[rows].T @ slopes / len(rows), slopes.sum(0) / len(rows)
        velocity = [record.momentum * v + record.learning_rates[step] * (g + record.weight_decay * values)
                    for v, g, values in zip(velocity, gradients, theta, strict=True)]
        theta = [values - v for values, v in zip(theta, velocity, strict=True)]
    return ((valid.pixels @ theta[0] + theta[1] - valid.labels.astype(np.float64)) ** 2).sum(1).mean()


def test_scores_of_regression_are_the_derivative_of_the_training(regression_problem):
    images, valid, record, cache, start = regression_problem
    scores = influence_scores(linear, images, valid, record, "every_step", epochs="all", cache=cache)
    expected = [(loss_after(images, valid, record, start, np.where(np.arange(40) == row, 1 - 1e-4, 1))
                 - loss_after(images, valid, record, start, np.where(np.arange(40) == row, 1 + 1e-4, 1))) / 2e-4
                for row in range(40)]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"random"}))
def test_numbers_that_are_wrong_are_found(regression_problem, method):
    images, valid, record, cache, _ = regression_problem
    scores = influence_scores(linear, images, valid, record, method, epochs="all" if method == "final" else None,
                              cache=cache)
    assert scores.argmin() < 5 and np.median(scores[:5]) < np.quantile(scores, 0.25)


def test_the_loss_is_the_squared_error(regression_problem):
    images = regression_problem[0]
    outputs, losses = predict(linear, images)
    np.testing.assert_allclose(losses, ((outputs - images.labels) ** 2).sum(1), rtol=1e-5)


def test_classes_of_samples_are_scored_as_those_of_images(random_images):
    images, valid = random_images(12), random_images(6, seed=1)
    record = published_record(12, 2, 4, 0.05, augment=False)

    def network(x, train):
        return PF.affine(x, 4)

    Trainer(network, images, record).run()
    same, held = (Samples(part.inputs(np.arange(len(part))), part.labels) for part in (images, valid))
    np.testing.assert_array_equal(influence_scores(network, same, held, record),
                                  influence_scores(network, images, valid, record))


def test_what_does_not_fit_is_told(regression_problem):
    images, valid, record, _, _ = regression_problem
    with pytest.raises(UsageError, match="augment=False"):
        Trainer(linear, images, published_record(40, 1, 10, 0.1)).run()
    with pytest.raises(UserError, match="returns 2 numbers for each image, which has 1"):
        Trainer(linear, Samples(images.pixels, images.labels[:, 0]), record)
    with pytest.raises(UsageError, match="validation images have other labels"):
        influence_scores(linear, images, Samples(valid.pixels, np.zeros(20, int)), record)
    for labels in (np.zeros(39), np.zeros((40, 2), int), ["a"] * 40, np.zeros((40, 1, 1))):
        with pytest.raises(ValueError, match="labels"):
            Samples(images.pixels, labels)
