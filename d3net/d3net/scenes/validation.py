"""Scores of a network in training on the validation images."""
import nnabla as nn
import numpy as np

from common.machine.distributed import world
from common.runs.graphs import Graphs
from d3net.hyperparameters import SegmentationHyperParameters
from d3net.scenes.data import Scenes
from d3net.scenes.metrics import ConfusionMatrix
from d3net.segmentation_model import d3net_segmentation


class Predictor:
    """The network in training with its running statistics; a graph is built once for each size of image."""

    def __init__(self, hparams: SegmentationHyperParameters):
        self.hparams = hparams
        self._graphs: Graphs[tuple[nn.Variable, nn.Variable]] = Graphs()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the class of each pixel, int64 (height, width), of a standardized image (3, height, width)."""
        x, probabilities = self._graphs.get(image.shape, lambda: self._build(image.shape))
        x.d = image
        probabilities.forward(clear_buffer=True)
        return probabilities.d[0].argmax(axis=0)

    def _build(self, shape: tuple[int, ...]) -> tuple[nn.Variable, nn.Variable]:
        x = nn.Variable((1, *shape))
        return x, d3net_segmentation(x, self.hparams)


def validate(predictor: Predictor, scenes: Scenes) -> ConfusionMatrix:
    """Compare the predicted classes of the validation images of all ranks with their labels."""
    confusion = ConfusionMatrix(predictor.hparams.num_classes)
    for image, label in scenes.validation():
        confusion.add(predictor(image), label)
    confusion.counts[...] = world().sum(confusion.counts)
    return confusion
