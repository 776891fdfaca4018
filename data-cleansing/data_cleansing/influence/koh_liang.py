"""Influence scores of P. W. Koh and P. Liang (arXiv 1703.04730): through the inverse of the Hessian at the end.

`v` solves `(H + damping I) v = u`, u the gradient of the mean validation loss and H the Hessian of the training loss,
as the minimum of `v'Hv / 2 + damping v'v / 2 - u'v`, by gradient descent with momentum over batches. Removing image j
then changes the validation loss by `<grad l_j, v> / n`.
"""
import numpy as np

from common.console.progress import progress
from data_cleansing.training.losses import batches_of

LEARNING_RATE = 0.005
MOMENTUM = 0.9
EPOCHS = 2
PUBLISHED_GROUP = 1000    # images whose mean loss the published code takes the gradient of
SCORED_AT_ONCE = 64


def steps(record):
    """Steps that v is solved for in: those of the first epochs, again from the first where there are fewer."""
    epochs = [epoch % record.num_epochs for epoch in range(EPOCHS)]
    return [step for epoch in epochs for step in range(record.first_step(epoch), record.first_step(epoch + 1))]


def start(layout, num_images):
    """Return the state that a computation begins with."""
    zero = np.zeros(layout.size, np.float32)
    return {"done": np.array(0), "v": zero, "momentum": zero, "scores": np.zeros(num_images)}


def scores(batch_scores, images, record, u, damping, snapshot, on_step=None):
    """Solve for v, and take its products with the gradients of all training images.

    Parameters
    ----------
    batch_scores : data_cleansing.influence.gradients.BatchScores
        In test mode, at the final parameters.
    images : data_cleansing.data.images.Images
        To train on; augmented while v is solved for, with seeds that count from 0 in each epoch, and not afterwards.
    record : data_cleansing.training.record.TrainingRecord
    u : float32 (size,)
    damping : float
    snapshot : data_cleansing.influence.snapshot.Snapshot
        Holds what `start` returns.
    on_step : callable, optional
        `on_step(step, v=v, objective=value)` after each step of the solution; the objective is that before it.

    Returns
    -------
    float64 (num_images,)
        Mean change of the validation loss when an image is removed, `<grad l_j, v> / num_images`.
    """
    order = steps(record)
    scored = batches_of(len(images), SCORED_AT_ONCE)
    for turn in progress(range(int(snapshot.values["done"]), len(order) + len(scored)), desc="scoring"):
        state = snapshot.values
        if turn < len(order):
            v, momentum, objective = _descend(batch_scores, images, record, order[turn], u, damping, state)
            snapshot.update(**{**state, "done": np.array(turn + 1), "v": v, "momentum": momentum})
            if on_step is not None:
                on_step(order[turn], v=v, objective=objective)
        else:
            rows = scored[turn - len(order)]
            found = state["scores"].copy()
            found[rows] = batch_scores.scores(state["v"], images.inputs(rows), images.targets(rows))
            snapshot.update(**{**state, "done": np.array(turn + 1), "scores": found})
    return snapshot.values["scores"] / len(images)


def _descend(batch_scores, images, record, step, u, damping, state):
    """Take one step of gradient descent; returns v, momentum, and the objective before the step."""
    rows, seeds = record.batch(step)
    if seeds is not None:
        first = record.bounds[record.first_step(record.epochs[step])]
        seeds = np.arange(record.bounds[step], record.bounds[step + 1]) - first
    v = state["v"]
    _, product = batch_scores.scores_and_product(v, images.inputs(rows, seeds), images.targets(rows))
    damped = np.float32(damping) * v
    objective = float(v @ (product / 2 + damped / 2 - u))
    momentum = np.float32(MOMENTUM) * state["momentum"] + np.float32(LEARNING_RATE) * (product + damped - u)
    return v - momentum, momentum, objective
