"""The parameters before each step of a training: some are stored, those between are computed again."""
import numpy as np

from common.machine.errors import UsageError
from data_cleansing.training.parameters import ParameterCache
from data_cleansing.training.record import TrainingRecord
from data_cleansing.training.trainer import Trainer

KEEP = ("final", "last", "all", "epochs")    # what a training may store, as `steps_to_store` says
EVERY = ("last", "all")    # those that store steps of epochs, all or every so many
_HELD = 256    # steps in a row that a trajectory holds in memory; of earlier ones it holds one in so many


def steps_to_store(record: TrainingRecord, keep: str = KEEP[0], every: int = 1) -> set[int]:
    """Steps before which a training has to store its parameters.

    Parameters
    ----------
    keep : str
        `final`: the first and the final ones, and those before the last epoch, from which retraining starts; `last`:
        also before the steps of the last epoch; `all`: before all steps; `epochs`: before and after all epochs.
    every : int
        For `last` and `all`: before every so many steps of an epoch; those between are computed again when needed.
    """
    starts = record.epoch_starts
    steps = {0, *starts[-2:]}
    if keep in ("epochs", "all"):
        steps.update(starts)
    if keep in EVERY:
        for start, stop in zip(starts[:-1], starts[1:], strict=True):
            if keep == "all" or stop == starts[-1]:
                steps.update(range(start, stop, every))
    return steps


class Trajectory:
    """The parameters before each step of a training; those that are not stored are computed again from the last stored.

    Meant for walking backwards: the last of the steps between two stored ones are held in memory, and some before them,
    to start from next.

    Parameters
    ----------
    trainer : Trainer
        Its current parameters are overwritten.
    """

    def __init__(self, trainer: Trainer, cache: ParameterCache) -> None:
        self.trainer, self.cache = trainer, cache
        self._stored = cache.steps()
        self._held = {}

    def before(self, step: int) -> np.ndarray:
        """Return the parameters before a step, float32 (size,).

        Raises
        ------
        UsageError
            Nothing is stored for that step or before it.
        """
        if step in self._stored:
            return self.cache.load(step)
        if step not in self._held:
            self._compute(step)
        return self._held[step]

    def _compute(self, step):
        """Take the steps up to `step` from the last known one, and hold what will be asked for next."""
        layout = self.trainer.layout
        self._held = {held: flat for held, flat in self._held.items() if held < step}
        start = max((known for known in (*self._stored, *self._held) if known < step), default=None)
        if start is None:
            raise UsageError(f"no parameters are stored for step {step} or before it: train with more of them kept")

        def hold(passed):
            if passed > step - _HELD or passed % _HELD == 0:
                self._held[passed] = layout.values()

        layout.assign(self._held[start] if start in self._held else self.cache.load(start))
        self.trainer.run(start, step, before_step=hold)
