"""Steps of a record, again from any of them and without images; parameters in files."""
import nnabla as nn
import numpy as np
import pytest

from common.machine.errors import UsageError, UserError
from data_cleansing.model import cifarnet
from data_cleansing.training import trainer as training
from data_cleansing.training.parameters import Layout, ParameterCache
from data_cleansing.training.record import published_record
from data_cleansing.training.trainer import Trainer, evaluate, predict
from data_cleansing.training.trajectory import Trajectory, steps_to_store


def small_cifarnet(image, train):
    return cifarnet(image, train, num_classes=4, maps=(3, 2, 2))


@pytest.fixture
def trainer(random_images):
    """Of 11 images in batches of 4, 4 and 3, for three epochs."""
    return Trainer(small_cifarnet, random_images(11), published_record(11, 3, 4, 0.1))


@pytest.fixture(params=[0, 0.9], ids=["plain", "momentum"])
def any_trainer(request, random_images):
    """The same, with momentum and weight decay, too."""
    record = published_record(11, 3, 4, 0.1, momentum=request.param, weight_decay=request.param / 10)
    return Trainer(small_cifarnet, random_images(11), record)


def trained(trainer, cache, keep="all", every=1):
    """Train and store parameters; returns the final ones."""
    stored = steps_to_store(trainer.record, keep, every)
    trainer.run(before_step=lambda step: cache.store(step) if step in stored else None)
    return trainer.layout.values()


def test_training_learns(digit_images, smooth_network):
    train, valid, _ = digit_images(300)
    trainer = Trainer(smooth_network, train, published_record(len(train), 10, 20, 0.1, augment=False))
    losses = trainer.run()
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    assert evaluate(smooth_network, valid)[1] > 0.6


def test_a_step_is_that_of_gradient_descent(regression, digit_images):
    train, _, _ = digit_images(12)
    trainer = Trainer(regression, train, published_record(8, 1, 8, 0.5, augment=False))
    before = trainer.layout.split(trainer.layout.values())
    rows, _ = trainer.record.batch(0)
    x, label = train.inputs(rows).reshape(8, -1).astype(np.float64), train.targets(rows)[:, 0]
    logits = x @ before["affine/W"] + before["affine/b"]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert trainer.step(0)() == pytest.approx(-np.log(p[np.arange(8), label]).mean(), rel=1e-5)
    after = trainer.layout.split(trainer.layout.values())
    expected = before["affine/W"] - 0.5 * x.T @ (p - np.eye(10)[label]) / 8
    np.testing.assert_allclose(after["affine/W"], expected, rtol=0, atol=1e-6)


def test_an_image_left_out_keeps_its_share_of_the_batch(regression, digit_images):
    train, _, _ = digit_images(12)
    trainer = Trainer(regression, train, published_record(8, 1, 4, 0.5, augment=False))
    start = trainer.layout.values()
    changes = []
    rows = trainer.record.batch(0)[0]
    for without in ({rows[0]}, set(rows[1:])):
        trainer.layout.assign(start)
        trainer.step(0, without)
        changes.append(trainer.layout.values() - start)
    trainer.layout.assign(start)
    trainer.step(0)
    np.testing.assert_allclose(sum(changes), trainer.layout.values() - start, rtol=0, atol=1e-6)


def test_a_batch_of_which_nothing_is_left_changes_nothing(trainer):
    start = trainer.layout.values()
    assert np.isnan(trainer.step(2, set(trainer.record.batch(2)[0]))())
    np.testing.assert_array_equal(trainer.layout.values(), start)


def test_removing_all_images_but_one(trainer, random_images):
    trainer.run(6, without=set(range(1, 11)))
    loss, accuracy = evaluate(trainer.network, random_images(5, seed=1))
    assert np.isfinite(loss) and 0 <= accuracy <= 1


@pytest.mark.parametrize("first", [0, 4, 6])
def test_retraining_without_removal_gives_the_same_bits(any_trainer, first):
    cache = ParameterCache(any_trainer.layout)
    final = trained(any_trainer, cache)
    any_trainer.layout.assign(cache.load(first))
    any_trainer.run(first)
    np.testing.assert_array_equal(any_trainer.layout.values(), final)


def test_momentum_and_decay_go_on_where_nothing_is_left_of_a_batch(random_images):
    record = published_record(11, 3, 4, 0.1, momentum=0.5, weight_decay=0.25)
    trainer = Trainer(small_cifarnet, random_images(11), record)
    trainer.run(0, 2)
    before = trainer.layout.split(trainer.layout.values())
    trainer.step(2, set(record.batch(2)[0]))
    after = trainer.layout.split(trainer.layout.values())
    for name in trainer.layout.trained:
        velocity = 0.5 * before[f"velocity/{name}"] + 0.1 * 0.25 * before[name]
        np.testing.assert_allclose(after[f"velocity/{name}"], velocity, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(after[name], before[name] - velocity, rtol=1e-5, atol=1e-7)
    assert all(not name.startswith("velocity") for name in trainer.layout.of_network)


@pytest.mark.parametrize("keep, every, stored", [
    ("final", 1, [0, 6, 9]), ("epochs", 1, [0, 3, 6, 9]), ("last", 1, [0, 6, 7, 8, 9]), ("last", 2, [0, 6, 8, 9]),
    ("all", 2, [0, 2, 3, 5, 6, 8, 9])])
def test_steps_to_store(trainer, keep, every, stored):
    assert sorted(steps_to_store(trainer.record, keep, every)) == stored


@pytest.mark.parametrize("keep, held", [("epochs", 256), ("final", 256), ("final", 2)])
def test_steps_between_stored_ones_are_computed_to_the_same_bits(any_trainer, tmp_path, monkeypatch, keep, held):
    trainer = any_trainer
    monkeypatch.setattr("data_cleansing.training.trajectory._HELD", held)
    start = trainer.layout.values()
    every_step, some = ParameterCache(trainer.layout), ParameterCache(trainer.layout, tmp_path)
    trained(trainer, every_step)
    trainer.layout.assign(start)
    trained(trainer, some, keep)
    trajectory = Trajectory(trainer, some)
    for step in reversed(range(10)):
        np.testing.assert_array_equal(trajectory.before(step), every_step.load(step))


def test_nothing_is_known_before_the_first_stored_step(trainer):
    cache = ParameterCache(trainer.layout)
    cache.store(6)
    with pytest.raises(UsageError, match="step 5 or before"):
        Trajectory(trainer, cache).before(5)


def test_divergence_is_told(trainer):
    trainer.layout.parameters["affine/W"].d = np.nan
    with pytest.raises(UserError, match="loss is nan in step 1: lower the learning rate"):
        trainer.run()


@pytest.fixture
def reads_later(monkeypatch):
    """Read losses as on a GPU, four steps at once."""
    monkeypatch.setattr(training, "on_gpu", lambda: True)
    monkeypatch.setattr(training, "STEPS_BETWEEN_READS", 4)


def trained_and_watched(trainer, **flags):
    """Losses, parameters, and what the network was watched to say, with the step before which that was told."""
    told, steps = [], []
    trainer.watch = lambda rows, logits: told.append((rows.tolist(), logits.tolist(), len(steps)))
    losses = trainer.run(before_step=steps.append, **flags)
    return losses, trainer.layout.values(), [said[:2] for said in told], [said[2] for said in told]


def test_losses_that_are_read_later_are_the_same(trainer, reads_later, monkeypatch):
    first = trainer.layout.values()
    losses, parameters, said, told = trained_and_watched(trainer)
    assert told == [4] * 4 + [8] * 4 + [9]    # of nine steps
    trainer.layout.assign(first)
    monkeypatch.setattr(training, "on_gpu", lambda: False)
    at_once, expected, said_at_once, told = trained_and_watched(trainer)
    assert told == list(range(1, 10))
    assert losses == at_once and said == said_at_once
    np.testing.assert_array_equal(parameters, expected)


def test_divergence_that_is_read_later_is_told_with_its_step(trainer, reads_later):
    def damage(step):
        if step == 2:
            trainer.layout.parameters["affine/W"].d = np.nan

    with pytest.raises(UserError, match="loss is nan in step 3: lower the learning rate"):
        trainer.run(before_step=damage)


def test_one_graph_for_each_size_of_batch(trainer):
    trainer.run()
    assert sorted(trainer.losses) == [3, 4]


def test_prediction_does_not_depend_on_batches(random_images, monkeypatch):
    images = random_images(9)
    logits, losses = predict(small_cifarnet, images)
    assert (logits.shape, losses.shape) == ((9, 4), (9,))
    monkeypatch.setattr("data_cleansing.training.trainer.EVALUATION_BATCH", 4)
    np.testing.assert_allclose(predict(small_cifarnet, images)[1], losses, rtol=1e-5)


def test_evaluation_leaves_the_parameters(trainer):
    before = trainer.layout.values()
    evaluate(small_cifarnet, trainer.images)
    np.testing.assert_array_equal(trainer.layout.values(), before)


def test_parameters_survive_their_files(trainer, tmp_path):
    cache = ParameterCache(trainer.layout, tmp_path / "parameters")
    cache.store(12)
    values = trainer.layout.values()
    assert ParameterCache(trainer.layout, tmp_path / "parameters").steps() == [12]
    np.testing.assert_array_equal(cache.load(12), values)
    with pytest.raises(UsageError, match="before step 3 are not stored"):
        cache.load(3)


def test_damaged_and_foreign_parameters_are_told(trainer, tmp_path):
    cache = ParameterCache(trainer.layout, tmp_path)
    cache.store(0)
    path = tmp_path / "step_000000.npy"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="step_000000.npy: cannot be read"):
        cache.load(0)
    np.save(path, np.zeros(3, np.float32))
    with pytest.raises(UserError, match="not 351 values"):
        cache.load(0)
    nn.parameter.set_parameter("another", nn.Variable((2,)))
    with pytest.raises(UserError, match="parameters of another network"):
        ParameterCache(Layout(), tmp_path)
    (tmp_path / "layout.json").write_text("{")
    with pytest.raises(UserError, match="layout.json: cannot be read as shapes of parameters"):
        ParameterCache(trainer.layout, tmp_path)
