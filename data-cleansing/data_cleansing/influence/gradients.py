"""Gradients of losses, and derivatives along a direction: scores of a batch, and products with its Hessian."""
import nnabla as nn
import nnabla.functions as F
import numpy as np

from data_cleansing.data.images import Images
from data_cleansing.data.samples import Samples
from data_cleansing.graphs import rewriting
from data_cleansing.graphs.rewriting import Network
from data_cleansing.training.losses import CROSS_ENTROPY, Loss, Losses, Objective, Shape, batches_of
from data_cleansing.training.parameters import Layout

NORMALIZATIONS = ("single", "batch", "test")
VALIDATION_BATCH = 64


class DirectionalLoss:
    """Derivatives of the losses of a batch as the parameters move along a direction u.

    `scores` are the products <u, grad l_j> of all images j in one pass. The gradient of their mean is the product of
    the Hessian of the mean loss with u.

    Parameters
    ----------
    image_shape : (channels, height, width)
    normalization : str
        `single`: each image is a batch of one; `batch`: by the statistics of the batch, which move with the parameters;
        `test`: by the running statistics.
    """

    @nn.auto_forward(False)
    def __init__(self, network: Network, batch_size: int, image_shape: Shape, normalization: str,
                 layout: Layout, objective: Objective = CROSS_ENTROPY) -> None:
        self.layout = layout
        self.image = nn.Variable((batch_size, *image_shape))
        self.label = nn.Variable((batch_size, objective.targets))
        self.directions = {name: nn.Variable(parameter.shape) for name, parameter in layout.trained.items()}
        moving = {layout.parameters[name]: direction for name, direction in self.directions.items()}
        logits, tangent = rewriting.build(network, self.image, normalization != "test", moving,
                                          per_image=normalization == "single")
        # The gradient of the loss of an image for its logits, times how these move.
        self.scores = F.sum(objective.slopes(logits, self.label) * tangent, axis=1)    # (batch,)
        self.mean = F.mean(self.scores)
        for variable in (self.scores, self.mean, *self.directions.values()):
            variable.persistent = True

    def forward(self, u: np.ndarray, image: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Compute the scores of a batch.

        Parameters
        ----------
        u : float32 (layout.size,)
        image : float32 (batch, channels, height, width)
        label : int (batch, 1)

        Returns
        -------
        float32 (batch,)
        """
        parts = self.layout.split(u)
        for name, direction in self.directions.items():
            direction.d = parts[name]
        self.image.d, self.label.d = image, label
        self.mean.forward(clear_no_need_grad=True)
        return self.scores.d.copy()

    def hessian_product(self) -> np.ndarray:
        """Return the product of the Hessian of the mean loss with u, for what `forward` was given, float32 (size,)."""
        self.layout.clear_gradients()
        self.mean.backward(clear_buffer=True)
        return self.layout.gradients()


class OneByOne:
    """Scores as `DirectionalLoss` computes them, from the whole gradient of every image alone: slow, for any network.

    Parameters
    ----------
    network, image_shape, layout
        As there.
    train : bool
        Normalize every image by its own statistics, otherwise by the running ones.
    """

    def __init__(self, network: Network, image_shape: Shape, train: bool, layout: Layout,
                 objective: Objective = CROSS_ENTROPY) -> None:
        self.loss, self.layout = Loss(network, 1, image_shape, train, objective), layout

    def forward(self, u: np.ndarray, image: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Compute the scores of a batch, float32 (batch,)."""
        return np.array([u @ self._gradient(image[k:k + 1], label[k:k + 1]) for k in range(len(image))], np.float32)

    def _gradient(self, image, label):
        self.loss.forward(image, label)
        self.layout.clear_gradients()
        self.loss.backward()
        return self.layout.gradients()


class BatchScores:
    """Scores and products with the Hessian for batches of any size; the graphs are built once for each size.

    Parameters
    ----------
    network : callable
        Its parameters must exist in the current scope.
    image_shape : (channels, height, width)
    normalization : str
        Of the scores, one of `NORMALIZATIONS`. The Hessian is that of the network in test mode for `test`, otherwise
        that of the mean loss of the whole batch as in training.
    """

    def __init__(self, network: Network, image_shape: Shape, normalization: str, layout: Layout,
                 objective: Objective = CROSS_ENTROPY) -> None:
        self.network, self.image_shape, self.normalization, self.layout = network, image_shape, normalization, layout
        self.objective = objective
        self._graphs = {}

    def scores(self, u: np.ndarray, image: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Return the products <u, grad l_j>, float32 (batch,), for `u` float32 (size,) and a batch."""
        return self._graph(len(image), self.normalization).forward(u, image, label)

    def scores_and_product(self, u: np.ndarray, image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores, and the product of the Hessian of the mean loss with `u`, float32 (size,)."""
        mode = "test" if self.normalization == "test" else "batch"
        scores = self.scores(u, image, label) if mode != self.normalization else None
        directional = self._graph(len(image), mode)
        scores_in_batch = directional.forward(u, image, label)
        return scores_in_batch if scores is None else scores, directional.hessian_product()

    def _graph(self, batch_size, mode):
        if (batch_size, mode) not in self._graphs:
            self._graphs[batch_size, mode] = self._build(batch_size, mode)
        return self._graphs[batch_size, mode]

    def _build(self, batch_size, mode):
        if mode == "single" and not rewriting.is_samplewise(self.network, nn.Variable((batch_size, *self.image_shape))):
            return OneByOne(self.network, self.image_shape, True, self.layout, self.objective)
        return DirectionalLoss(self.network, batch_size, self.image_shape, mode, self.layout, self.objective)


def validation_gradient(network: Network, images: Images | Samples, layout: Layout,
                        group: int | None = None) -> np.ndarray:
    """Gradient of the mean loss of images, in test mode.

    Parameters
    ----------
    group : int, optional
        Take means over groups of so many images, and divide their sum by the number of all images: a scale that
        the published code has in one place.

    Returns
    -------
    float32 (layout.size,)
    """
    losses = Losses(network, images, train=False)
    layout.clear_gradients()
    for members in batches_of(len(images), group or len(images)):
        for positions in batches_of(len(members), VALIDATION_BATCH):
            rows = members[positions]
            losses[len(rows)].forward(images.inputs(rows), images.targets(rows))
            losses[len(rows)].backward(1 / len(members) if group else 1)
    return layout.gradients() / np.float32(len(images))
