"""What the trainings of all music networks share: graphs of the loss, validation, and the end of an epoch."""
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import attrs
import nnabla as nn
import numpy as np

from common.machine.distributed import world
from common.machine.files import link
from common.runs.curves import write_series
from common.runs.graphs import Graphs
from common.runs.training import BEST, Run

PANELS = (("loss", ("train_loss", "valid_loss")), ("learning rate", ("learning_rate",)))
SERIES = {"train_loss": "Training loss", "valid_loss": "Validation loss", "learning_rate": "learning rate",
          "best_epoch": "Best epoch"}    # columns of the log, and how the published scripts call their files


@attrs.frozen
class LossGraph:
    """The graph of a network and its loss.

    Attributes
    ----------
    mixture : nn.Variable (batch, 2, samples)
    targets : nn.Variable (batch, 2 targets, samples)
        Waveforms that the network is to find, one after the other.
    loss : nn.Variable ()
    """

    mixture: nn.Variable
    targets: nn.Variable
    loss: nn.Variable

    def fill(self, mixture: np.ndarray, targets: np.ndarray) -> None:
        """Set the inputs.

        Parameters
        ----------
        mixture : array (batch, 2, samples)
        targets : array (batch, targets, 2, samples)
        """
        self.mixture.d = mixture
        self.targets.d = targets.reshape(self.targets.shape)


class Losses:
    """The loss of a network for waveforms. Lengths differ in validation, and where whole songs are trained on.

    Parameters
    ----------
    build
        Takes batch size and number of samples, and builds a graph on the parameters of the current scope.
    """

    def __init__(self, build: Callable[[int, int], LossGraph]):
        self._build = build
        self._graphs: Graphs[LossGraph] = Graphs()

    def __call__(self, mixture: np.ndarray, targets: np.ndarray) -> nn.Variable:
        """Return the loss, not computed yet, of arrays as for `LossGraph.fill`."""
        batch_size, _, num_samples = mixture.shape
        graph = self._graphs.get((batch_size, num_samples), lambda: self._build(batch_size, num_samples))
        graph.fill(mixture, targets)
        return graph.loss


def scaled_rates(learning_rate: float, weight_decay: float, batch_size: int,
                 published_batch: int) -> tuple[float, float]:
    """Scale the published learning rate and weight decay to a batch size and to the number of ranks.

    The published rule scales both by ranks times batch / published batch, and adds up the gradients of the ranks. Here
    they are averaged, so the weight decay is smaller by their number; to Adam both are the same.
    """
    scale = batch_size / published_batch
    return learning_rate * world().size * scale, weight_decay * scale


def validate(losses: Callable[[np.ndarray, np.ndarray], nn.Variable],
             songs: Iterable[Iterable[tuple[np.ndarray, np.ndarray]]]) -> float:
    """Return the mean loss over the songs of all ranks of the mean over their pieces.

    Parameters
    ----------
    losses
        Of mixture and targets.
    songs
        Those of this rank, as of `common.datasets.songs.Songs.validation`.
    """
    def loss(mixture, targets):
        value = losses(mixture, targets)
        value.forward(clear_buffer=True)
        return float(value.d)

    means = [float(np.mean([loss(*piece) for piece in song])) for song in songs]
    total, count = world().sum([sum(means), len(means)])
    return float(total / count)


def finish_epoch(run: Run, row: Mapping[str, float], weights: Path, seconds: float, per: str) -> None:
    """Keep the parameters if their loss in validation is the lowest, log and save.

    Parameters
    ----------
    run
    row
        Columns of the log: train_loss, valid_loss, learning_rate, and perhaps best_epoch.
    weights
        The published name of the best parameters.
    seconds
        What the training took, `per` "epoch" or "iteration".
    """
    run.require_finite(valid_loss=row["valid_loss"])
    if run.keep_best(row["valid_loss"]):
        link(run.folder / BEST, weights)

    def write_all_series():
        for column in row:
            write_series(run.folder, SERIES[column], [logged[column] for logged in run.rows])
        write_series(run.folder, f"training time per {per}", run.extras)

    run.finish_epoch(row, PANELS, seconds, write_all_series)
