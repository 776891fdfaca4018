"""Gradient descent as a record says, again from any step of it, and without some of the images."""
import functools
from collections.abc import Callable, Collection

import nnabla.solvers as S
import numpy as np

from common.console.progress import progress
from common.machine.context import on_gpu
from common.machine.errors import UserError
from common.runs.training import STEPS_BETWEEN_READS
from data_cleansing.data.images import Images
from data_cleansing.data.samples import Samples
from data_cleansing.graphs.rewriting import Network
from data_cleansing.training.losses import Losses, batches_of
from data_cleansing.training.parameters import Layout, velocity_of
from data_cleansing.training.record import TrainingRecord

EVALUATION_BATCH = 64


class Trainer:
    """Takes the steps of a record, and measures the network; its graphs are built once for each size of batch.

    Parameters
    ----------
    network : callable
        `network(image, train)` returns logits. Its parameters are made in the current scope where they are missing.
    images : data_cleansing.data.images.Images or data_cleansing.data.samples.Samples
        To train on.
    watch : callable, optional
        `watch(rows, logits)` is told of each step what the network says of its images before, (batch, classes): once
        that is read.
    """

    def __init__(self, network: Network, images: Images | Samples, record: TrainingRecord,
                 watch: Callable[[np.ndarray, np.ndarray], object] | None = None) -> None:
        self.network, self.images, self.record, self.watch = network, images, record, watch
        self.losses = Losses(network, images, train=True)
        self.losses[len(record.batch(0)[0])]    # makes the parameters
        self.solver = _solver(record)
        self.layout = Layout()

    def step(self, step: int, without: Collection[int] = frozenset()) -> Callable[[], float]:
        """Take a step of the record, leaving images out.

        The gradient stays that of the mean over the whole batch, in which the images left out count 0; of a batch of
        which nothing is left it is 0.

        Parameters
        ----------
        without : set of int
            Rows of the training set.

        Returns
        -------
        callable
            Reads the mean loss of the images that were used, before the step; NaN if none were. It raises a UserError
            if one is not finite.
        """
        rows, seeds = self.record.batch(step)
        kept = np.array([row not in without for row in rows])
        if not kept.any():
            for parameter in self.layout.trained.values():
                parameter.g = np.zeros(parameter.shape)    # after zero_grad the solver passes over a parameter
            self._update(step)
            return lambda: float("nan")
        loss = self.losses[int(kept.sum())]
        read = loss.start(self.images.inputs(rows[kept], None if seeds is None else seeds[kept]),
                          self.images.targets(rows[kept]))
        self.solver.zero_grad()
        loss.backward(1 / len(rows))
        self._update(step)
        return functools.partial(self._look, step, rows[kept], read)

    def _look(self, step, rows, read):
        logits, losses = read()
        if not np.isfinite(losses).all():
            raise UserError(f"the loss is {losses.mean()} in step {step + 1}: lower the learning rate")
        if self.watch is not None:
            self.watch(rows, logits)
        return float(losses.mean())

    def _update(self, step):
        self.solver.set_learning_rate(self.record.learning_rates[step])
        if self.record.weight_decay:
            self.solver.weight_decay(self.record.weight_decay)
        self.solver.update()

    def run(self, first: int = 0, stop: int | None = None, without: Collection[int] = frozenset(),
            before_step: Callable[[int], object] | None = None) -> list[float]:
        """Take the steps from `first` up to `stop`, the end of the record if not given.

        On a GPU, where reading means to wait, the losses of `STEPS_BETWEEN_READS` steps are read together.

        Parameters
        ----------
        before_step : callable, optional
            `before_step(step)` is called before each step, and for `stop` at the end.

        Returns
        -------
        list of float
            Mean loss of each step.

        Raises
        ------
        UserError
            The loss of a step is not finite; that of the first such step is told.
        """
        stop = self.record.num_steps if stop is None else stop
        at_once, losses, unread = STEPS_BETWEEN_READS if on_gpu() else 1, [], []
        for step in progress(range(first, stop), desc="training"):
            if before_step is not None:
                before_step(step)
            unread.append(self.step(step, without))
            if len(unread) == at_once or step == stop - 1:
                losses += [read() for read in unread]
                unread.clear()
        if before_step is not None:
            before_step(stop)
        return losses


def _solver(record):
    """Make the solver of the trained parameters of the current scope; velocities are parameters, too."""
    solver = S.Momentum(momentum=record.momentum) if record.momentum else S.Sgd()
    trained = Layout().trained
    solver.set_parameters(trained)
    if record.momentum:
        states = solver.get_states()
        for name, state in states.items():
            state.pstate["m"] = velocity_of(name, trained[name])
        solver.set_states(states)
    return solver


def predict(network: Network, images: Images | Samples) -> tuple[np.ndarray, np.ndarray]:
    """Compute logits and losses in test mode.

    Returns
    -------
    (logits, losses) : float32 (n, classes), float32 (n,)
        Losses are cross entropies; squared errors where the labels are numbers.
    """
    losses = Losses(network, images, train=False)
    results = [losses[len(batch)].forward(images.inputs(batch), images.targets(batch))
               for batch in batches_of(len(images), EVALUATION_BATCH)]
    logits, each_loss = zip(*results, strict=True)
    return np.concatenate(logits), np.concatenate(each_loss)


def evaluate(network: Network, images: Images) -> tuple[float, float]:
    """Measure a network in test mode.

    Returns
    -------
    (loss, accuracy) : float
        Mean cross entropy; share of images whose largest logit is that of their label.
    """
    logits, losses = predict(network, images)
    return float(losses.mean(dtype=np.float64)), float((logits.argmax(1) == images.labels).mean())
