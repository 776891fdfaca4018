"""Plain gradient descent as a record says, again from any step of it, and without some of the images."""
import nnabla.solvers as S
import numpy as np

from common.console.progress import progress
from common.machine.errors import UsageError, UserError
from data_cleansing.influence.gradients import Losses, batches_of
from data_cleansing.influence.parameters import Layout

EVALUATION_BATCH = 64
_HELD = 256    # steps in a row whose parameters a trajectory holds; of those before, one in so many


class Trainer:
    """Takes the steps of a record, and measures the network; its graphs are built once for each size of batch.

    Parameters
    ----------
    network : callable
        `network(image, train)` returns logits. Its parameters are made in the current scope where they are missing.
    images : data_cleansing.data.images.Images
        To train on.
    record : data_cleansing.training.record.Record
    """

    def __init__(self, network, images, record):
        self.network, self.images, self.record = network, images, record
        self.losses = Losses(network, images.shape, train=True)
        self.losses[len(record.batch(0)[0])]    # makes the parameters
        self.solver = S.Sgd()
        self.layout = Layout()
        self.solver.set_parameters({name: parameter for name, parameter in self.layout.parameters.items()
                                    if parameter.need_grad})

    def step(self, step, without=frozenset()):
        """Take a step of the record, leaving images out.

        The gradient stays that of the mean over the whole batch, in which the images left out count 0; a batch of which
        nothing is left changes nothing.

        Parameters
        ----------
        step : int
        without : set of int
            Rows of the training set.

        Returns
        -------
        float
            Mean loss of the images that were used, before the step; NaN if none were.

        Raises
        ------
        UserError
            The loss is not finite.
        """
        rows, seeds = self.record.batch(step)
        kept = np.array([row not in without for row in rows])
        if not kept.any():
            return float("nan")
        loss = self.losses[int(kept.sum())]
        _, losses = loss.forward(self.images.inputs(rows[kept], None if seeds is None else seeds[kept]),
                                 self.images.targets(rows[kept]))
        if not np.isfinite(losses).all():
            raise UserError(f"the loss is {losses.mean()} in step {step + 1}: lower the learning rate")
        self.solver.zero_grad()
        loss.backward(1 / len(rows))
        self.solver.set_learning_rate(self.record.learning_rates[step])
        self.solver.update()
        return float(losses.mean())

    def run(self, first=0, stop=None, without=frozenset(), before_step=None):
        """Take the steps from `first` up to `stop`, the end of the record if not given.

        Parameters
        ----------
        first, stop : int
        without : set of int
        before_step : callable, optional
            `before_step(step)` is called before each step, and for `stop` at the end.

        Returns
        -------
        list of float
            Mean loss of each step.
        """
        stop = self.record.num_steps if stop is None else stop
        losses = []
        for step in progress(range(first, stop), desc="training"):
            if before_step is not None:
                before_step(step)
            losses.append(self.step(step, without))
        if before_step is not None:
            before_step(stop)
        return losses


def steps_to_store(record, keep="final", every=1):
    """Steps before which a training has to store its parameters.

    Parameters
    ----------
    record : Record
    keep : str
        `final`: the first and the final ones, and those before the last epoch, from which retraining starts; `last`:
        also before the steps of the last epoch; `all`: before all steps; `epochs`: before and after all epochs.
    every : int
        For `last` and `all`: before every so many steps of an epoch; those between are computed again when needed.

    Returns
    -------
    set of int
    """
    starts = [record.first_step(epoch) for epoch in range(record.num_epochs + 1)]
    steps = {0, *starts[-2:]}
    if keep in ("epochs", "all"):
        steps.update(starts)
    if keep in ("last", "all"):
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
    cache : data_cleansing.influence.parameters.ParameterCache
    """

    def __init__(self, trainer, cache):
        self.trainer, self.cache = trainer, cache
        self._stored = cache.steps()
        self._held = {}

    def before(self, step):
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


def retrain(trainer, start, first, without, measured):
    """Train again from a step on, leaving images out.

    Parameters
    ----------
    trainer : Trainer
    start : float32 (layout.size,)
        Parameters before step `first`.
    first : int
        As published, the first step of the last epoch.
    without : iterable of int
        Rows of the training set.
    measured : sequence of Images
        What to measure the network on afterwards.

    Returns
    -------
    list of (loss, accuracy)
        Of each of `measured`, from `evaluate`. The parameters stay those at the end.
    """
    trainer.layout.assign(start)
    trainer.run(first, without=frozenset(int(row) for row in without))
    return [evaluate(trainer.network, images) for images in measured]


def predict(network, images):
    """Compute logits and losses in test mode.

    Returns
    -------
    (logits, losses) : float32 (n, classes), float32 (n,)
        Losses are cross entropies.
    """
    losses = Losses(network, images.shape, train=False)
    results = [losses[len(batch)].forward(images.inputs(batch), images.targets(batch))
               for batch in batches_of(len(images), EVALUATION_BATCH)]
    return tuple(np.concatenate(arrays) for arrays in zip(*results, strict=True))


def evaluate(network, images):
    """Measure a network in test mode.

    Returns
    -------
    (loss, accuracy) : float
        Mean cross entropy; share of images whose largest logit is that of their label.
    """
    logits, losses = predict(network, images)
    return float(losses.mean(dtype=np.float64)), float((logits.argmax(1) == images.labels).mean())
