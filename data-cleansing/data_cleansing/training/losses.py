"""The loss of a batch and its gradient; graphs are built once for each size of batch."""
import nnabla as nn
import nnabla.functions as F
import numpy as np

from data_cleansing.graphs import rewriting
from data_cleansing.graphs.rewriting import Network

Shape = tuple[int, int, int]    # channels, height, width


class Loss:
    """The summed cross entropy of batches, and its gradient.

    Parameters
    ----------
    network : callable
        `network(image, train)` returns logits.
    image_shape : (channels, height, width)
    train : bool
        Normalize by the statistics of the batch, and let the running ones follow.
    """

    def __init__(self, network: Network, batch_size: int, image_shape: Shape, train: bool) -> None:
        self.image, self.label = nn.Variable((batch_size, *image_shape)), nn.Variable((batch_size, 1))
        self.logits, _ = rewriting.build(network, self.image, train)
        self.losses = F.softmax_cross_entropy(self.logits, self.label)    # (batch, 1)
        self.total = F.sum(self.losses)
        for variable in (self.logits, self.losses, self.total):
            variable.persistent = True

    def forward(self, image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute; returns logits (batch, classes) and losses (batch,)."""
        self.image.d, self.label.d = image, label
        self.total.forward(clear_no_need_grad=True)
        return self.logits.d.copy(), self.losses.d.ravel().copy()

    def backward(self, scale: float = 1.0) -> None:
        """Add the gradient of `scale` times the sum of the losses that `forward` computed to that of the parameters."""
        self.total.backward(scale, clear_buffer=True)


class Losses(dict):
    """`Loss` by size of batch, each built when first asked for."""

    def __init__(self, network: Network, image_shape: Shape, train: bool) -> None:
        super().__init__()
        self._arguments = network, image_shape, train

    def __missing__(self, batch_size):
        network, image_shape, train = self._arguments
        self[batch_size] = Loss(network, batch_size, image_shape, train)
        return self[batch_size]


def batches_of(num: int, size: int) -> list[np.ndarray]:
    """Split the numbers 0..num-1 into consecutive int arrays of `size`, the last one of what is left."""
    return np.split(np.arange(num), range(size, num, size))
