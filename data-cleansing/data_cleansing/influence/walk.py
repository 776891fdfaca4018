"""Scores by walking back through the steps of a training; `data_cleansing.influence.scores` has the equations."""
from collections.abc import Callable

import numpy as np

from common.console.progress import progress
from common.machine.errors import UsageError
from data_cleansing.influence.gradients import BatchScores, validation_gradient
from data_cleansing.influence.growth import Growth
from data_cleansing.influence.problem import BOUNDED, Problem
from data_cleansing.influence.snapshot import Snapshot
from data_cleansing.training.losses import objective_of
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
    walk = _Walk(problem, parameters_of(problem), renew)
    with Snapshot(problem.state, problem.identity, walk.shapes, walk.start) as snapshot:
        walk.run(snapshot)
    _warn(problem, snapshot.values)
    return snapshot.values["scores"]


def _warn(problem, state):
    """Say it where u grew too much."""
    growth = Growth(*state["growth"])
    if growth.is_bounded:
        return
    remedy = "scored without the Hessian" if state["given_up"] else f"scores mean little: take {BOUNDED!r} or 'none'"
    growth.warn(f"{problem.method}, hessian {problem.choices.hessian!r}", remedy)


class _Walk:
    """Steps backwards, each from one state to another.

    A state is the arrays of a `Snapshot`: the `next` step; `scores` so far; `u` and `p` after that step (without
    momentum, p is u); `growth`, the values of a `Growth`; and whether the Hessian was `given_up` because u had grown
    too much with it.
    """

    def __init__(self, problem, parameters, renew):
        self.problem, self.parameters, self.renew = problem, parameters, renew
        size = problem.layout.size
        self.shapes = {"next": (), "scores": (len(problem.train),), "u": (size,), "p": (size,), "growth": (3,),
                       "given_up": ()}
        assert problem.choices.normalization is not None
        self.scorer = BatchScores(problem.network, problem.train.shape, problem.choices.normalization, problem.layout,
                                  objective_of(problem.train))

    def start(self):
        """Return the state after the last step."""
        problem, steps = self.problem, self.problem.record.num_steps
        problem.layout.assign(problem.final)
        u = validation_gradient(problem.network, problem.valid, problem.layout)
        return {"next": np.array(steps - 1), "scores": np.zeros(len(problem.train)), "u": u, "p": u,
                "growth": Growth.begin(u, steps).values(), "given_up": np.array(False)}

    def run(self, snapshot):
        """Walk to the first step; with a bounded Hessian begin anew without it where u grows beyond the limit."""
        problem = self.problem
        first = 0 if problem.choices.epochs == "all" else problem.record.epoch_starts[-2]
        for step in progress(range(int(snapshot.values["next"]), first - 1, -1), desc="scoring"):
            state = self.before(step, snapshot.values)
            if self.gives_up(state):
                snapshot.update(**{**self.start(), "growth": state["growth"], "given_up": np.array(True)})
                self.run(snapshot)
                return
            snapshot.update(**state)
            if problem.on_step is not None:
                problem.on_step(step, u=state["u"])

    def gives_up(self, state):
        """Whether u has grown too much with a Hessian that may be left out."""
        return (self.problem.choices.hessian == BOUNDED and not state["given_up"]
                and not Growth(*state["growth"]).is_bounded)

    def before(self, step, state):
        """Return the state before a step, from that after it."""
        problem, record = self.problem, self.problem.record
        problem.layout.assign(self.parameters(step))
        u, p, growth, found = state["u"], state["p"], Growth(*state["growth"]), state["scores"].copy()
        if self.renew and step + 1 == record.first_step(record.epochs[step] + 1):
            fresh = validation_gradient(problem.network, problem.valid, problem.layout)
            u, p = fresh, fresh + (p - u)
        without = problem.choices.hessian in (None, "none") or bool(state["given_up"])
        u, p = score_step(problem, self.scorer, step, u, p, found, without)
        return {"next": np.array(step - 1), "scores": found, "u": u, "p": p,
                "growth": state["growth"] if without else growth.with_(u, step).values(),
                "given_up": state["given_up"]}


def score_step(problem: Problem, scorer: BatchScores, step: int, u: np.ndarray, p: np.ndarray, scores: np.ndarray,
               without_hessian: bool) -> tuple[np.ndarray, np.ndarray]:
    """Add the scores of the images of a step to `scores`, float64 (num_images,); returns u and p before the step."""
    record = problem.record
    rows, seeds = record.batch(step)
    image, label = problem.train.inputs(rows, seeds), problem.train.targets(rows)
    learning_rate = record.learning_rates[step]
    if without_hessian:
        in_batch = scorer.scores(p, image, label)
    else:
        in_batch, product = scorer.scores_and_product(p, image, label)
        divisor = len(rows) if problem.choices.hessian == "published" else 1
        u = u - np.float32(learning_rate / divisor) * product
    if record.weight_decay:
        u = u - np.float32(learning_rate * record.weight_decay) * p
    np.add.at(scores, rows, learning_rate / len(rows) * in_batch.astype(np.float64))
    return u, u + np.float32(record.momentum) * p if record.momentum else u
