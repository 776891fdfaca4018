"""Scores by walking back through the steps of a training; `data_cleansing.influence.scores` has the equations."""
from collections.abc import Callable

import numpy as np

from common.console.progress import progress
from common.machine.errors import UsageError
from data_cleansing.influence.gradients import BatchScores, validation_gradient
from data_cleansing.influence.problem import Problem
from data_cleansing.influence.snapshot import Snapshot
from data_cleansing.training.trainer import Trainer
from data_cleansing.training.trajectory import Trajectory

ParametersOf = Callable[[int], np.ndarray]    # step -> flat parameters that its images are scored with


def final_parameters(problem: Problem) -> ParametersOf:
    """Take the final parameters for all steps."""
    return lambda step: problem.final


def parameters_before_steps(problem: Problem) -> ParametersOf:
    """Take the parameters before each step.

    Raises
    ------
    UsageError
        The problem has no cache.
    """
    return _trajectory(problem).before


def parameters_after_epochs(problem: Problem) -> ParametersOf:
    """Take the parameters after the epoch of each step; raises as `parameters_before_steps` does."""
    trajectory, record = _trajectory(problem), problem.record
    return lambda step: trajectory.before(record.first_step(record.epochs[step] + 1))


def _trajectory(problem):
    if problem.cache is None:
        raise UsageError(f"method '{problem.method}' needs the parameters that a training has stored: give a cache")
    return Trajectory(Trainer(problem.network, problem.train, problem.record), problem.cache)


def scores(problem: Problem, parameters_of: Callable[[Problem], ParametersOf], renew: bool = False) -> np.ndarray:
    """Walk back through the steps.

    Parameters
    ----------
    parameters_of : callable
        `final_parameters`, `parameters_before_steps` or `parameters_after_epochs`.
    renew : bool
        Compute u anew after each epoch.

    Returns
    -------
    float64 (len(problem.train),)
    """
    record, layout = problem.record, problem.layout
    parameters = parameters_of(problem)
    first = 0 if problem.choices.epochs == "all" else record.epoch_starts[-2]
    assert problem.choices.normalization is not None
    scorer = BatchScores(problem.network, problem.train.shape, problem.choices.normalization, layout)

    def start():
        return {"next": np.array(record.num_steps - 1), "scores": np.zeros(len(problem.train)),
                "u": validation_gradient(problem.network, problem.valid, layout)}

    shapes = {"next": (), "scores": (len(problem.train),), "u": (layout.size,)}
    with Snapshot(problem.state, problem.identity, shapes, start) as snapshot:
        for step in progress(range(int(snapshot.values["next"]), first - 1, -1), desc="scoring"):
            layout.assign(parameters(step))
            u, found = snapshot.values["u"], snapshot.values["scores"].copy()
            if renew and step + 1 == record.first_step(record.epochs[step] + 1):
                u = validation_gradient(problem.network, problem.valid, layout)
            u = score_step(problem, scorer, step, u, found)
            snapshot.update(next=np.array(step - 1), u=u, scores=found)
            if problem.on_step is not None:
                problem.on_step(step, u=u)
    return snapshot.values["scores"]


def score_step(problem: Problem, scorer: BatchScores, step: int, u: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Add the scores of the images of a step to `scores`, float64 (num_images,); returns u before the step."""
    rows, seeds = problem.record.batch(step)
    image, label = problem.train.inputs(rows, seeds), problem.train.targets(rows)
    learning_rate = problem.record.learning_rates[step]
    if problem.choices.hessian in (None, "none"):
        in_batch = scorer.scores(u, image, label)
    else:
        in_batch, product = scorer.scores_and_product(u, image, label)
        divisor = len(rows) if problem.choices.hessian == "published" else 1
        u = u - np.float32(learning_rate / divisor) * product
    np.add.at(scores, rows, learning_rate / len(rows) * in_batch.astype(np.float64))
    return u
