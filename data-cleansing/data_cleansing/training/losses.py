"""The loss of a batch and its gradient; graphs are built once for each size of batch."""
from collections.abc import Callable

import attrs
import nnabla as nn
import nnabla.functions as F
import numpy as np

from common.machine.errors import UserError
from common.runs.readings import read_later
from data_cleansing.data.images import Images
from data_cleansing.data.samples import Samples
from data_cleansing.graphs import rewriting
from data_cleansing.graphs.rewriting import Network

Shape = tuple[int, ...]    # channels, height, width


@attrs.frozen
class Objective:
    """What is minimized: a function of the outputs of a network, (batch, outputs), and of what they should be.

    Attributes
    ----------
    targets : int
        Numbers that each image has as its target: 1, its class, or one for each output.
    losses : callable
        `losses(outputs, target)` returns (batch, 1).
    slopes : callable
        `slopes(outputs, target)` returns the gradients of the losses for the outputs, (batch, outputs).
    """

    targets: int
    losses: Callable[[nn.Variable, nn.Variable], nn.Variable]
    slopes: Callable[[nn.Variable, nn.Variable], nn.Variable]


CROSS_ENTROPY = Objective(1, F.softmax_cross_entropy,
                          lambda logits, label: F.softmax(logits) - F.one_hot(label, (logits.shape[1],)))


def squared_error(outputs: int) -> Objective:
    """Return the sum of the squared errors of the numbers of an image."""
    def errors(output, target):
        if output.shape != target.shape:
            raise UserError(f"the network returns {output.shape[1]} numbers for each image, which has "
                            f"{target.shape[1]} to predict")
        return output - target

    return Objective(outputs, lambda output, target: F.sum(errors(output, target) ** 2, axis=1, keepdims=True),
                     lambda output, target: 2 * errors(output, target))


def objective_of(images: Images | Samples) -> Objective:
    """Return what to minimize: cross entropy for classes, int (n,); squared errors for numbers, float (n, outputs)."""
    return CROSS_ENTROPY if images.labels.dtype.kind in "iu" else squared_error(images.labels.shape[1])


class Loss:
    """The summed losses of batches, and their gradient.

    Parameters
    ----------
    network : callable
        `network(image, train)` returns logits.
    image_shape : (channels, height, width)
    train : bool
        Normalize by the statistics of the batch, and let the running ones follow.
    """

    @nn.auto_forward(False)    # to compute with what is in `image` now would move running statistics
    def __init__(self, network: Network, batch_size: int, image_shape: Shape, train: bool,
                 objective: Objective = CROSS_ENTROPY) -> None:
        self.image = nn.Variable((batch_size, *image_shape))
        self.label = nn.Variable((batch_size, objective.targets))
        self.logits, _ = rewriting.build(network, self.image, train)
        self.losses = objective.losses(self.logits, self.label)    # (batch, 1)
        self.total = F.sum(self.losses)
        for variable in (self.logits, self.losses, self.total):
            variable.persistent = True

    def forward(self, image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute; returns logits (batch, classes) and losses (batch,)."""
        return self.start(image, label)()

    def start(self, image: np.ndarray, label: np.ndarray) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        """Compute; the result reads what `forward` returns, whatever else has been computed by then."""
        self.image.d, self.label.d = image, label
        self.total.forward(clear_no_need_grad=True)
        logits, losses = read_later(self.logits), read_later(self.losses)
        return lambda: (logits(), losses().ravel())

    def backward(self, scale: float = 1.0) -> None:
        """Add the gradient of `scale` times the sum of the losses that `forward` computed to that of the parameters."""
        self.total.backward(scale, clear_buffer=True)


class Losses(dict):
    """`Loss` of images by size of batch, each built when first asked for."""

    def __init__(self, network: Network, images: Images | Samples, train: bool) -> None:
        super().__init__()
        self._arguments = network, images.shape, train, objective_of(images)

    def __missing__(self, batch_size):
        network, image_shape, train, objective = self._arguments
        self[batch_size] = Loss(network, batch_size, image_shape, train, objective)
        return self[batch_size]


def batches_of(num: int, size: int) -> list[np.ndarray]:
    """Split the numbers 0..num-1 into consecutive int arrays of `size`, the last one of what is left."""
    return np.split(np.arange(num), range(size, num, size))
