"""The table of all methods that score. What is known of a method stands in its row, and nowhere else."""
from collections.abc import Callable
from functools import partial

import attrs
import numpy as np

from common.machine.errors import UsageError
from data_cleansing.influence import koh_liang, walk
from data_cleansing.influence.gradients import NORMALIZATIONS
from data_cleansing.influence.problem import BOUNDED, Choices, Problem
from data_cleansing.training.trainer import predict

FINAL, EVERY_STEP, CHECKPOINTS, KOH_LIANG, LOSS, RANDOM = (
    "final", "every_step", "checkpoints", "koh_liang", "loss", "random")
HESSIANS = (BOUNDED, "exact", "published", "none")
EPOCHS = ("last", "all")
PUBLISHED = {"hessian": "published", "normalization": "single"}    # choices of the published code


@attrs.frozen
class Method:
    """A way to score.

    Attributes
    ----------
    folder : str
        Of its results, as published.
    compute : callable
        Returns the scores of a `Problem`, float64 (len(train),).
    switches : tuple of str
        Other arguments of `influence_scores` than the choices that the scores depend on.
    defaults : Choices
    """

    folder: str
    compute: Callable[[Problem], np.ndarray]
    switches: tuple[str, ...] = ()
    defaults: Choices = Choices()

    @property
    def arguments(self) -> tuple[str, ...]:
        """Arguments of `influence_scores` that the scores depend on."""
        return *self.switches, *(name for name, value in attrs.asdict(self.defaults).items() if value is not None)


def _minus_loss(problem):
    return -predict(problem.network, problem.train)[1].astype(np.float64)


def _random_order(problem):
    return np.random.default_rng(problem.seed).permutation(len(problem.train)).astype(np.float64)


METHODS = {
    FINAL: Method("Ours", partial(walk.scores, parameters_of=walk.final_parameters), ("published",),
                  Choices(BOUNDED, "batch", "last")),
    EVERY_STEP: Method("Hara", partial(walk.scores, parameters_of=walk.parameters_before_steps), ("published",),
                       Choices(BOUNDED, "batch", "last")),
    CHECKPOINTS: Method("Checkpoints", partial(walk.scores, parameters_of=walk.parameters_after_epochs, renew=True),
                        ("published",), Choices(None, "test", "all")),
    KOH_LIANG: Method("Influence_functions", koh_liang.scores, ("published", "damping")),
    LOSS: Method("Loss", _minus_loss),
    RANDOM: Method("Random", _random_order),
}


def choose(method: str, published: bool = False, hessian: str | None = None, normalization: str | None = None,
           epochs: str | None = None) -> Choices:
    """Return all choices, those that are None replaced by what goes with `method` and `published`.

    Raises
    ------
    UsageError
        An unknown choice, or one that the method does not have.
    """
    if method not in METHODS:
        raise UsageError(f"method {method!r}: choose one of {', '.join(METHODS)}")
    defaults = attrs.asdict(METHODS[method].defaults)
    given = {"hessian": hessian, "normalization": normalization, "epochs": epochs}
    for name, allowed in (("hessian", HESSIANS), ("normalization", NORMALIZATIONS), ("epochs", EPOCHS)):
        if given[name] is None:
            given[name] = PUBLISHED.get(name, defaults[name]) if published and defaults[name] else defaults[name]
        elif defaults[name] is None:
            raise UsageError(f"{name} {given[name]!r}: method '{method}' has no such choice")
        elif given[name] not in allowed:
            raise UsageError(f"{name} {given[name]!r}: choose one of {', '.join(allowed)}")
    return Choices(**given)
