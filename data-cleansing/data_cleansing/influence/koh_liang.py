"""Influence scores of P. W. Koh and P. Liang (arXiv 1703.04730): through the inverse of the Hessian at the end.

`v` solves `(H + damping I) v = u`, u the gradient of the mean validation loss and H the Hessian of the training loss,
as the minimum of `v'Hv / 2 + damping v'v / 2 - u'v`, by gradient descent with momentum over batches. Removing image j
then changes the validation loss by `<grad l_j, v> / n`.
"""
import numpy as np

from common.console.progress import progress
from data_cleansing.influence.gradients import BatchScores, validation_gradient
from data_cleansing.influence.problem import Problem
from data_cleansing.influence.snapshot import Snapshot
from data_cleansing.training.losses import batches_of, objective_of

LEARNING_RATE = 0.005
MOMENTUM = 0.9
EPOCHS = 2
PUBLISHED_GROUP = 1000    # images whose mean loss the published code takes the gradient of
SCORED_AT_ONCE = 64


def scores(problem: Problem) -> np.ndarray:
    """Solve for v, and take its products with the gradients of all training images.

    Images are augmented while v is solved for, with seeds that count from 0 in each epoch, and not afterwards.
    `on_step(step, v=v, objective=value)` is called after each step of the solution; the objective is that before it.

    Returns
    -------
    float64 (num_images,)
        Mean change of the validation loss when an image is removed, `<grad l_j, v> / num_images`. As published, with
        the opposite sign, and u divided once more by the size of groups of `PUBLISHED_GROUP` images.
    """
    layout, images, record = problem.layout, problem.train, problem.record
    u = validation_gradient(problem.network, problem.valid, layout, PUBLISHED_GROUP if problem.published else None)
    scorer = BatchScores(problem.network, images.shape, "test", layout, objective_of(images))
    order, damping = _steps(record), problem.damping + record.weight_decay    # which adds to the Hessian in training
    groups = batches_of(len(images), SCORED_AT_ONCE)
    zero = np.zeros(layout.size, np.float32)
    start = {"done": np.array(0), "v": zero, "momentum": zero, "scores": np.zeros(len(images))}
    shapes = {name: array.shape for name, array in start.items()}
    with Snapshot(problem.state, problem.identity, shapes, lambda: start) as snapshot:
        for turn in progress(range(int(snapshot.values["done"]), len(order) + len(groups)), desc="scoring"):
            state = {**snapshot.values, "done": np.array(turn + 1)}
            if turn < len(order):
                v, momentum, objective = _descend(scorer, images, record, order[turn], u, damping, state)
                snapshot.update(**{**state, "v": v, "momentum": momentum})
                if problem.on_step is not None:
                    problem.on_step(order[turn], v=v, objective=objective)
            else:
                rows, found = groups[turn - len(order)], state["scores"].copy()
                found[rows] = scorer.scores(state["v"], images.inputs(rows), images.targets(rows))
                snapshot.update(**{**state, "scores": found})
    return snapshot.values["scores"] / (-len(images) if problem.published else len(images))


def _steps(record):
    """Steps that v is solved for in: those of the first epochs, again from the first where there are fewer."""
    epochs = [epoch % record.num_epochs for epoch in range(EPOCHS)]
    return [step for epoch in epochs for step in range(record.first_step(epoch), record.first_step(epoch + 1))]


def _descend(scorer, images, record, step, u, damping, state):
    """Take one step of gradient descent; returns v, momentum, and the objective before the step."""
    rows, seeds = record.batch(step)
    if seeds is not None:
        first = record.bounds[record.first_step(record.epochs[step])]
        seeds = np.arange(record.bounds[step], record.bounds[step + 1]) - first
    v = state["v"]
    _, product = scorer.scores_and_product(v, images.inputs(rows, seeds), images.targets(rows))
    damped = np.float32(damping) * v
    objective = float(v @ (product / 2 + damped / 2 - u))
    momentum = np.float32(MOMENTUM) * state["momentum"] + np.float32(LEARNING_RATE) * (product + damped - u)
    return v - momentum, momentum, objective
