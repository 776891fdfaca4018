"""Training, retraining and scoring of the published network, against numbers of the published code."""
import json
from pathlib import Path
from types import SimpleNamespace

import attrs
import nnabla as nn
import numpy as np
import pytest
from scipy.stats import spearmanr

from common.runs.checkpoint import parameter_shapes
from data_cleansing.data.images import prepare
from data_cleansing.data.splits import permutation
from data_cleansing.influence import influence_scores
from data_cleansing.influence.gradients import validation_gradient
from data_cleansing.model import cifarnet
from data_cleansing.training.parameters import ParameterCache
from data_cleansing.training.record import published_record
from data_cleansing.training.trainer import Trainer, evaluate
from data_cleansing.training.trajectory import steps_to_store

DATA = Path(__file__).parent / "data"
CACHES = {"every_step": "every_step", "final": "final_only"}    # method -> its name in the reference


@pytest.fixture(params=["rgb", "gray"])
def case(request):
    """A reference case, its images and record, and a trainer."""
    with np.load(DATA / f"scores_{request.param}.npz") as file:
        expected = dict(file)
    cfg = SimpleNamespace(**json.loads(str(expected["config"])))
    train, valid, test = (prepare(expected[f"{part}_images"], expected[f"{part}_labels"], range(cfg.n_classes))
                          for part in ("train", "val", "test"))
    valid = valid.subset(permutation(len(valid), cfg.split_seed))
    record = published_record(len(train), cfg.epochs, cfg.batch_size, cfg.train_lr, cfg.split_seed, cfg.augmentation)
    return SimpleNamespace(expected=expected, cfg=cfg, train=train, valid=valid, test=test, record=record,
                           trainer=Trainer(cifarnet, train, record))


def norms(layout, flat, names):
    parts = layout.split(flat)
    return np.array([np.linalg.norm(parts[name].astype(np.float64)) for name in names])


def heads(layout, flat, names):
    parts = layout.split(flat)
    return np.array([np.resize(np.append(parts[name].ravel()[:8], [0] * 8)[:8], 8) for name in names])


def assert_near(actual, expected, tolerance):
    """Compare by the largest entry."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_parameters_of_the_network():
    published = json.loads((DATA / "parameters.json").read_text())
    for name, shape in (("cifar10", (3, 32, 32)), ("mnist", (1, 32, 32)), ("stl10", (3, 96, 96))):
        found = parameter_shapes(lambda shape=shape: cifarnet(nn.Variable((2, *shape)), train=True))
        assert found == {key: tuple(value["shape"]) for key, value in published[name].items()}


def test_order_and_inputs(case):
    expected, record = case.expected, case.record
    np.testing.assert_array_equal(record.rows, expected["dataset_index"].ravel())
    rows, seeds = record.batch(0)
    np.testing.assert_array_equal(case.train.inputs(rows, seeds)[:4], expected["first_batch_input"])
    np.testing.assert_array_equal(case.valid.inputs([0, 1]), expected["first_val_input"])
    if case.cfg.augmentation:
        np.testing.assert_array_equal(record.seeds, expected["augmentation_seeds"].ravel())


def test_training_and_retraining(case, fill):
    expected, cfg, trainer, names = case.expected, case.cfg, case.trainer, case.expected["parameter_names"]
    layout, record = trainer.layout, case.record
    start = fill(layout, cfg.fill_seed, cfg.affine_scale)
    assert_near(norms(layout, start, names), expected["param_norms_initial"], 1e-6)
    cache, measured = ParameterCache(layout), []

    def before_step(step):
        if step in steps_to_store(record, "epochs"):
            cache.store(step)
            measured.append([*evaluate(cifarnet, case.train), *evaluate(cifarnet, case.valid)])

    losses = trainer.run(before_step=before_step)
    np.testing.assert_allclose(losses, expected["step_loss"].ravel(), rtol=3e-3)
    train_loss, train_accuracy, valid_loss, valid_accuracy = np.transpose(measured[1:])
    np.testing.assert_allclose(train_loss, expected["epoch_train_loss"], rtol=3e-3)
    np.testing.assert_allclose(valid_loss, expected["epoch_val_loss"], rtol=3e-3)
    np.testing.assert_allclose(train_accuracy, expected["epoch_train_accuracy"], atol=1.01 / len(case.train))
    np.testing.assert_allclose(valid_accuracy, expected["epoch_val_accuracy"], atol=1.01 / len(case.valid))
    assert_near(norms(layout, layout.values() - start, names), expected["param_change_norms"], 1e-3)
    assert_near(heads(layout, layout.values(), names), expected["param_head_final"], 1e-3)

    first = 0 if cfg.retrain_all else record.first_step(cfg.epochs - 1)
    for number, count in enumerate(expected["removals"]):
        layout.assign(cache.load(first))
        trainer.run(first, without=set(expected["removal_order"][:count]))
        (valid_loss, valid_accuracy), (test_loss, test_accuracy) = (
            evaluate(trainer.network, images) for images in (case.valid, case.test))
        np.testing.assert_allclose(valid_loss, expected["retrain_val_loss"][number], rtol=3e-3)
        np.testing.assert_allclose(test_loss, expected["retrain_test_loss"][number], rtol=3e-3)
        assert abs(valid_accuracy - expected["retrain_val_accuracy"][number]) < 1.01 / len(case.valid)
        assert abs(test_accuracy - expected["retrain_test_accuracy"][number]) < 1.01 / len(case.test)
        assert_near(norms(layout, layout.values() - start, names), expected["retrain_change_norms"][number], 1e-3)


def scoring_problem(case, fill):
    """Final parameters, those before each step, and the record with the learning rate of scoring."""
    cfg, layout, record = case.cfg, case.trainer.layout, case.record
    seed, scale = cfg.score_fill_seed, cfg.affine_scale
    base, cache = fill(layout, seed, scale), ParameterCache(layout)
    for step in range(record.num_steps):
        cache.store(step, np.float32(0.9) * base + np.float32(0.1) * fill(layout, seed + 1 + step, scale))
    layout.assign(base)
    return layout, cache, attrs.evolve(record, learning_rates=np.full(record.num_steps, cfg.score_lr))


@pytest.mark.parametrize("hessian", ["published", "exact"])
@pytest.mark.parametrize("method", CACHES)
def test_scores(case, fill, method, hessian):
    expected, names = case.expected, case.expected["parameter_names"]
    layout, cache, record = scoring_problem(case, fill)
    steps = []
    scores = influence_scores(cifarnet, case.train, case.valid, record, method, hessian=hessian, normalization="single",
                              epochs=case.cfg.score_epochs, cache=cache, on_step=lambda step, u: steps.append(u))
    variant = f"{CACHES[method]}_{hessian}"
    assert_near(scores, expected[f"score_{variant}"], 3e-3)
    assert spearmanr(scores, expected[f"score_{variant}"])[0] > 0.999
    assert_near([norms(layout, u, names) for u in steps], expected[f"u_norms_{variant}"], 2e-3)
    assert_near(heads(layout, steps[-1], names), expected[f"u_end_head_{variant}"], 3e-3)
    if variant == "final_only_published":
        ranking = expected["ranking_final_only_published"]
        assert (np.argsort(scores) == ranking).mean() > 0.9    # near-ties may swap
    not_trained = [name for name in names if name.rsplit("/")[-1] in ("mean", "var")]
    assert not norms(layout, steps[-1], not_trained).any()


def test_koh_liang(case, fill):
    expected, names = case.expected, case.expected["parameter_names"]
    layout, _, record = scoring_problem(case, fill)
    u = validation_gradient(cifarnet, case.valid, layout)
    assert_near(norms(layout, u, names), expected["u_initial_norms"], 2e-3)
    assert_near(heads(layout, u, names), expected["u_initial_head"], 3e-3)
    u = validation_gradient(cifarnet, case.valid, layout, group=1000)
    assert_near(norms(layout, u, names), expected["koh_liang_u_norms"], 2e-3)

    directions, objectives = [], []

    def on_step(step, v, objective):
        directions.append(v)
        objectives.append(objective)

    scores = influence_scores(cifarnet, case.train, case.valid, record, "koh_liang", published=True,
                              damping=case.cfg.damping, on_step=on_step)
    assert_near(scores, expected["score_koh_liang"], 3e-3)
    assert spearmanr(scores, expected["score_koh_liang"])[0] > 0.999
    assert_near(norms(layout, directions[-1], names), expected["koh_liang_v_norms"], 2e-3)
    assert_near(heads(layout, directions[-1], names), expected["koh_liang_v_head"], 3e-3)
    assert_near(objectives, expected["koh_liang_step_objective"], 3e-3)
