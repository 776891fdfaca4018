"""Laws of influence scores: what retraining shows, sign, equal ways to compute them, going on after an interrupt."""
from functools import partial

import attrs
import nnabla as nn
import nnabla.parametric_functions as PF
import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from common.machine.errors import UsageError, UserError
from common.machine.seeding import seed_everything
from common.workbench.testing import in_threads
from data_cleansing.influence import METHODS, choose, influence_scores
from data_cleansing.influence.gradients import BatchScores, validation_gradient
from data_cleansing.model import cifarnet
from data_cleansing.training.parameters import ParameterCache
from data_cleansing.training.record import published_record
from data_cleansing.training.trainer import Trainer, predict
from data_cleansing.training.trajectory import steps_to_store


def small_cifarnet(image, train):
    return cifarnet(image, train, num_classes=4, maps=(3, 2, 2))


def train(network, images, record, keep="all", every=1):
    """Train; returns the trainer and the parameters that it stored."""
    trainer = Trainer(network, images, record)
    cache, stored = ParameterCache(trainer.layout), steps_to_store(record, keep, every)
    trainer.run(before_step=lambda step: cache.store(step) if step in stored else None)
    return trainer, cache


@pytest.fixture
def problem(random_images):
    """A small convolutional network after three epochs: (train, valid, record, cache)."""
    images, record = random_images(11), published_record(11, 3, 4, 0.05)
    _, cache = train(small_cifarnet, images, record)
    return images, random_images(6, seed=1), record, cache


def truth(trainer, cache, valid):
    """Change of the validation loss when each image is left out of the last epoch, float64 (n,)."""
    record, layout = trainer.record, trainer.layout
    final, first = layout.values(), record.first_step(record.num_epochs - 1)
    before = predict(trainer.network, valid)[1]
    changes = np.empty(len(trainer.images))
    for row in range(len(changes)):
        layout.assign(cache.load(first))
        trainer.run(first, without={row})
        changes[row] = (predict(trainer.network, valid)[1].astype(np.float64) - before).mean()
    layout.assign(final)
    return changes


def test_scores_predict_what_leaving_an_image_out_does(digit_images, smooth_network):
    images, valid, _ = digit_images(225, seed=3)
    record = published_record(len(images), 10, 20, 0.02, augment=False)
    trainer, cache = train(smooth_network, images, record, "last")
    changes = truth(trainer, cache, valid)
    for method in ("every_step", "final"):
        scores = influence_scores(smooth_network, images, valid, record, method, cache=cache)
        assert spearmanr(scores, changes)[0] > 0.995
        assert scores.std() / changes.std() == pytest.approx(1, abs=0.05)


def test_the_published_divisor_is_wrong(digit_images, regression):
    images, valid, _ = digit_images(150, seed=3)
    record = published_record(len(images), 10, 20, 0.5, augment=False)
    trainer, cache = train(regression, images, record, "last")
    changes = truth(trainer, cache, valid)
    errors = {hessian: np.abs(influence_scores(regression, images, valid, record, "every_step", hessian=hessian,
                                               cache=cache) - changes).mean()
              for hessian in ("exact", "published", "none")}
    assert 3 * errors["exact"] < errors["published"] < errors["none"]


@pytest.mark.parametrize("method, epochs, area", [
    ("final", "all", 0.9), ("every_step", "all", 0.9), ("loss", None, 0.9), ("koh_liang", None, 0.7),
    ("checkpoints", None, 0.55)])
def test_harmful_images_have_the_lower_scores(digit_images, regression, method, epochs, area):
    images, valid, flipped = digit_images(450, seed=1, flipped=30)
    record = published_record(len(images), 5, 20, 0.05, augment=False)
    _, cache = train(regression, images, record)
    scores = influence_scores(regression, images, valid, record, method, epochs=epochs, cache=cache, damping=1.0)
    assert scores.shape == (len(images),) and scores.dtype == np.float64
    assert roc_auc_score(flipped, -scores) > area
    assert scores[flipped].mean() < 0 and scores[flipped].mean() < scores[~flipped].mean()


def test_koh_liang_as_published_lists_the_helpful_images_first(digit_images, regression):
    images, valid, _ = digit_images(60)
    record = published_record(len(images), 1, 10, 0.05)
    train(regression, images, record, "final")
    scores, published = (influence_scores(regression, images, valid, record, "koh_liang", published=published)
                         for published in (False, True))
    # Fewer than 1000 validation images make one group, by whose size the published u is divided once more.
    np.testing.assert_allclose(-published * len(valid), scores, rtol=0, atol=1e-5 * np.abs(scores).max())


def test_koh_liang_solves_its_system(digit_images, regression, monkeypatch):
    monkeypatch.setattr("data_cleansing.influence.koh_liang.EPOCHS", 150)
    images, valid, _ = digit_images(30)
    record = published_record(len(images), 1, len(images), 0.05, augment=False)
    trainer, _ = train(regression, images, record, "final")
    found = []
    influence_scores(regression, images, valid, record, "koh_liang", damping=10.0,
                     on_step=lambda step, v, objective: found.append((v, objective)))
    scorer = BatchScores(regression, images.shape, "test", trainer.layout)
    u, v, rows = validation_gradient(regression, valid, trainer.layout), found[-1][0], np.arange(len(images))
    residual = scorer.scores_and_product(v, images.inputs(rows), images.targets(rows))[1] + 10 * v - u
    assert np.linalg.norm(residual) < 0.01 * np.linalg.norm(u)
    assert found[-1][1] < found[1][1] < found[0][1] == 0


@pytest.mark.parametrize("method", METHODS)
def test_parameters_stay_and_bits_repeat(problem, method):
    images, valid, record, cache = problem
    layout, before = cache.layout, cache.layout.values()
    first, second = (influence_scores(small_cifarnet, images, valid, record, method, cache=cache) for _ in range(2))
    np.testing.assert_array_equal(layout.values(), before)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("published", [False, True])
def test_steps_that_are_not_stored_change_nothing(random_images, published):
    images, valid, record = random_images(11), random_images(6, seed=1), published_record(11, 2, 3, 0.05)
    found = []
    for every in (1, 3):
        seed_everything(3)
        for parameter in Trainer(small_cifarnet, images, record).layout.parameters.values():
            parameter.d = np.linspace(0.1, 0.7, parameter.size, dtype=np.float32).reshape(parameter.shape)
        _, cache = train(small_cifarnet, images, record, "last", every)
        found.append(influence_scores(small_cifarnet, images, valid, record, "every_step", published=published,
                                      cache=cache))
    np.testing.assert_array_equal(*found)


def test_one_step_of_one_epoch_by_hand(random_images):
    images, valid = random_images(3), random_images(6, seed=1)
    record = published_record(3, 1, 3, 0.1)
    trainer, _ = train(small_cifarnet, images, record)
    u, final = validation_gradient(small_cifarnet, valid, trainer.layout), trainer.layout.values()
    rows, seeds = record.batch(0)
    for normalization in ("single", "batch", "test"):
        scores = influence_scores(small_cifarnet, images, valid, record, normalization=normalization)
        scorer = BatchScores(small_cifarnet, images.shape, normalization, trainer.layout)
        products = scorer.scores(u, images.inputs(rows, seeds), images.targets(rows))
        np.testing.assert_allclose(scores[rows], 0.1 / 3 * products, rtol=1e-5)
        trainer.layout.assign(final)    # the running statistics have moved


def test_all_epochs_count_when_asked_for(problem):
    images, valid, record, cache = problem
    last, whole = (influence_scores(small_cifarnet, images, valid, record, hessian="none", epochs=epochs)
                   for epochs in ("last", "all"))
    assert np.abs(whole).sum() > 1.5 * np.abs(last).sum()


@pytest.fixture
def steep(digit_images, regression):
    """Softmax regression to be scored with a learning rate too high for its curvature: (train, valid, record)."""
    images, valid, _ = digit_images(90)
    record = published_record(len(images), 2, 10, 0.05, augment=False)
    train(regression, images, record, "final")
    return images, valid, attrs.evolve(record, learning_rates=np.full(record.num_steps, 4.0))


def test_a_recursion_that_diverges_is_bounded_and_says_so(steep, regression):
    lengths = {}

    def scores(hessian):
        lengths[hessian] = []
        return influence_scores(regression, *steep, hessian=hessian,
                                on_step=lambda step, u: lengths[hessian].append(np.linalg.norm(u)))

    none = scores("none")
    with pytest.warns(RuntimeWarning, match=r"final, hessian 'exact': u grew [\d.e+]+ times .* to step 7,"):
        scores("exact")
    with pytest.warns(RuntimeWarning, match=r"hessian 'bounded': u grew .* scored without the Hessian"):
        np.testing.assert_array_equal(scores("bounded"), none)
    start = lengths["none"][0]
    assert lengths["exact"][-1] > 1e3 * start
    assert max(lengths["bounded"]) <= 2 * start and lengths["bounded"][-1] == start


def test_a_recursion_that_stays_bounded_is_exact(problem):
    images, valid, record, cache = problem
    for method in ("final", "every_step"):
        exact, bounded = (influence_scores(small_cifarnet, images, valid, record, method, hessian=hessian, cache=cache)
                          for hessian in ("exact", "bounded"))
        np.testing.assert_array_equal(exact, bounded)


def test_going_on_where_the_hessian_was_given_up_gives_the_same_bits_and_warns(steep, regression, tmp_path):
    with pytest.warns(RuntimeWarning, match="u grew") as expected:
        scores = influence_scores(regression, *steep)
    passed, state = [], tmp_path / "state.npz"

    def interrupt(step, u):
        passed.append(step)
        if len(passed) == 2:    # of those without the Hessian: with it u grows in the first step
            raise InterruptError

    with pytest.raises(InterruptError):
        influence_scores(regression, *steep, state=state, on_step=interrupt)
    with pytest.warns(RuntimeWarning, match="u grew") as found:
        np.testing.assert_array_equal(influence_scores(regression, *steep, state=state), scores)
    assert [str(warning.message) for warning in found] == [str(warning.message) for warning in expected]


def test_scores_that_are_not_finite_are_refused(steep, regression):
    images, valid, record = steep
    record = attrs.evolve(record, learning_rates=np.full(record.num_steps, 1e30))
    with pytest.raises(UserError, match="'final': scores are not finite"), pytest.warns(RuntimeWarning):
        influence_scores(regression, images, valid, record, hessian="exact")


def test_training_and_scores_are_the_same_where_functions_compute_at_once(random_images):
    results = []
    for mode in (False, True):
        nn.clear_parameters()
        seed_everything(0)
        images, record = random_images(9), published_record(9, 2, 4, 0.05)
        with nn.auto_forward(mode):
            trainer, cache = train(small_cifarnet, images, record)
            results.append([trainer.layout.values(), *(influence_scores(small_cifarnet, images, images, record, method,
                                                                        cache=cache) for method in METHODS)])
    for value, expected in zip(results[1], results[0], strict=True):
        np.testing.assert_array_equal(value, expected)


def test_scores_need_gradients_wherever_they_are_asked_for(problem):
    images, valid, record, cache = problem
    for method in ("final", "koh_liang"):
        expected = influence_scores(small_cifarnet, images, valid, record, method, cache=cache)
        with nn.no_grad():
            scores = influence_scores(small_cifarnet, images, valid, record, method, cache=cache)
        np.testing.assert_array_equal(scores, expected)


def test_threads_share_the_parameters(problem):
    images, valid, record, cache = problem

    def scores(method):
        return influence_scores(small_cifarnet, images, valid, record, method, cache=cache)

    methods = ("final", "every_step", "checkpoints", "final")
    alone = [scores(method) for method in methods]
    together = in_threads([partial(scores, method) for method in methods])
    for expected, found in zip(alone, together, strict=True):
        np.testing.assert_array_equal(found, expected)


class InterruptError(Exception):
    pass


@pytest.mark.parametrize("method", ["final", "every_step", "checkpoints", "koh_liang"])
def test_going_on_after_an_interrupt_gives_the_same_bits(problem, method, tmp_path):
    images, valid, record, cache = problem
    state = tmp_path / "state.npz"
    seen = []

    def interrupt(step, **values):
        seen.append(step)
        if len(seen) == 2:
            raise InterruptError

    def scores(**options):
        return influence_scores(small_cifarnet, images, valid, record, method, cache=cache, **options)

    with pytest.raises(InterruptError):
        scores(state=state, on_step=interrupt)
    assert state.exists()
    resumed = scores(state=state, on_step=lambda step, **values: seen.append(step))
    assert len(seen) == {"checkpoints": 9, "koh_liang": 6}.get(method, 3)
    np.testing.assert_array_equal(resumed, scores())
    np.testing.assert_array_equal(scores(state=state), resumed)    # all is done


def test_a_state_of_other_settings_is_refused(problem, tmp_path):
    images, valid, record, cache = problem
    state = tmp_path / "state.npz"
    influence_scores(small_cifarnet, images, valid, record, state=state)
    with pytest.raises(UserError, match="other settings or data"):
        influence_scores(small_cifarnet, images, valid, record, hessian="none", state=state)
    with pytest.raises(UserError, match="other settings or data"):
        influence_scores(small_cifarnet, images, valid.subset([0, 1]), record, state=state)
    state.write_bytes(b"PK nothing")
    with pytest.raises(UserError, match="cannot be read"):
        influence_scores(small_cifarnet, images, valid, record, state=state)


def test_random_scores_follow_from_their_seed(problem):
    images, valid, record, _ = problem
    first, again, other = (influence_scores(small_cifarnet, images, valid, record, "random", seed=seed)
                           for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and sorted(first) == list(range(11))


def test_published_is_one_switch():
    assert choose("final").hessian == choose("every_step").hessian == "bounded"
    published = choose("final", published=True)
    assert (published.hessian, published.normalization, published.epochs) == ("published", "single", "last")
    assert choose("final", published=True, normalization="test").normalization == "test"


@pytest.mark.parametrize("options, message", [
    ({"method": "hara"}, "method 'hara': choose one of final, every_step"),
    ({"hessian": "half"}, "hessian 'half': choose one of bounded, exact"),
    ({"normalization": "layer"}, "normalization 'layer': choose one of single"),
    ({"method": "loss", "epochs": "all"}, "epochs 'all': method 'loss' has no such choice"),
    ({"method": "every_step"}, "give a cache"),
])
def test_wrong_choices_are_told(problem, options, message):
    images, valid, record, _ = problem
    with pytest.raises(UsageError, match=message):
        influence_scores(small_cifarnet, images, valid, record, **options)


def test_what_does_not_fit_is_told(problem, random_images):
    images, valid, record, _ = problem
    with pytest.raises(UsageError, match="training with 11 images, not 6"):
        influence_scores(small_cifarnet, valid, valid, record)
    with pytest.raises(UsageError, match="validation images are"):
        influence_scores(small_cifarnet, images, random_images(3, (2, 4, 4)), record)
    with pytest.raises(UsageError, match="not in the current scope"):
        influence_scores(lambda image, train: PF.affine(image, 4, name="untrained"), images, valid, record)


def test_a_second_try_finds_no_parameters_of_the_first_either(problem):
    """To build a network makes the parameters that are missing; scores of such random ones would look like any."""
    images, valid, record, _ = problem
    before = list(nn.get_parameters(grad_only=False))
    for _ in range(2):
        with pytest.raises(UsageError, match="not in the current scope"):
            influence_scores(lambda image, train: PF.affine(image, 4, name="a/b"), images, valid, record)
    assert list(nn.get_parameters(grad_only=False)) == before


def test_velocities_that_no_training_made_are_taken_back(problem):
    images, valid, record, _ = problem
    before = list(nn.get_parameters(grad_only=False))
    influence_scores(small_cifarnet, images, valid, attrs.evolve(record, momentum=0.5))
    assert list(nn.get_parameters(grad_only=False)) == before


def numpy_training(images, valid, record, start, weights):
    """Train softmax regression in float64, each image counted by its weight; returns the mean validation loss."""
    theta = np.concatenate([values.ravel() for values in start]).astype(np.float64).reshape(65, 10)
    inputs, held = (np.hstack([part.inputs(np.arange(len(part))).reshape(len(part), 64).astype(np.float64),
                               np.ones((len(part), 1))]) for part in (images, valid))
    velocity = np.zeros_like(theta)
    for step in range(record.num_steps):
        rows = record.batch(step)[0]
        errors = probabilities(inputs[rows] @ theta) - np.eye(10)[images.labels[rows]]
        gradient = inputs[rows].T @ (weights[rows, np.newaxis] * errors) / len(rows) + record.weight_decay * theta
        velocity = record.momentum * velocity + record.learning_rates[step] * gradient
        theta = theta - velocity
    return -np.log(probabilities(held @ theta)[np.arange(len(valid)), valid.labels]).mean()


def probabilities(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("momentum, weight_decay", [(0, 0), (0.9, 0), (0, 0.1), (0.9, 0.1)])
def test_scores_are_the_derivative_of_the_training(digit_images, regression, momentum, weight_decay):
    """Of the validation loss for the weight of an image: against differences of whole trainings in float64."""
    images, valid, _ = digit_images(45)
    record = published_record(len(images), 3, 10, 0.05, augment=False, momentum=momentum, weight_decay=weight_decay)
    trainer = Trainer(regression, images, record)
    start = [trainer.layout.parameters[f"affine/{name}"].d.copy() for name in "Wb"]
    cache = ParameterCache(trainer.layout)
    trainer.run(before_step=cache.store)
    scores = influence_scores(regression, images, valid, record, "every_step", epochs="all", cache=cache)
    expected = np.empty(len(images))
    for row in range(len(images)):
        losses = [numpy_training(images, valid, record, start, np.where(np.arange(len(images)) == row, weight, 1))
                  for weight in (1 - 1e-4, 1 + 1e-4)]
        expected[row] = (losses[0] - losses[1]) / 2e-4
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_scores_with_momentum_predict_what_leaving_an_image_out_does(digit_images, regression):
    images, valid, _ = digit_images(150, seed=3)
    record = published_record(len(images), 6, 20, 0.01, augment=False, momentum=0.8, weight_decay=0.01)
    trainer, cache = train(regression, images, record, "last", every=3)
    changes = truth(trainer, cache, valid)
    for method in ("every_step", "final"):
        scores = influence_scores(regression, images, valid, record, method, cache=cache)
        assert spearmanr(scores, changes)[0] > 0.99
        assert scores.std() / changes.std() == pytest.approx(1, abs=0.05)
