"""Segmentation of street scenes with D3Net: image in, class of every pixel out."""
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import nnabla as nn
import numpy as np

from common.inference.engines import check_engine, compile_network
from common.machine.errors import UserError
from common.machine.memory import machine_memory
from common.machine.threads import NNABLA
from common.runs.checkpoint import load_parameters, parameter_shapes
from common.runs.graphs import Graphs
from d3net.scenes.published import DEFAULT
from d3net.scenes.standardization import standardize
from d3net.scenes.weights import segmentation_file
from d3net.segmentation_model import SMALLEST, d3net_segmentation

BYTES_PER_PIXEL = 500    # that D3Net-S takes with openvino; the other networks and engines take more
KEPT_NETWORKS = 2    # compiled networks, one for each size of image; each holds the weights


def check_memory(height: int, width: int) -> None:
    """Raise a UserError if a picture needs more memory than this machine has, as far as the system tells."""
    try:
        _, total = machine_memory()
    except UserError:
        return
    if (needed := height * width * BYTES_PER_PIXEL) > total:
        raise UserError(f"{width} x {height} pixels take about {needed / 1e9:.0f} GB to segment, and this machine has "
                        f"{total / 1e9:.0f}; scale the picture down, or cut it")


class Segmenter:
    """Finds the class of every pixel. Threads may share one, and make several at a time.

        labels = Segmenter("D3Net-S").segment(cv2.imread("street.jpg"))    # uint8 (height, width)

    Parameters
    ----------
    model
        See `d3net.scenes.weights.segmentation_file`.
    config
        Hyper-parameters, by name or of a file; if not given, those that belong to the model.
    engine, precision
        See `common.inference.engines`.

    Attributes
    ----------
    file : d3net.weights.WeightFile
    hparams : d3net.hyperparameters.SegmentationHyperParameters

    Raises
    ------
    UsageError, UserError
        As `segmentation_file`; the weights do not fit the hyper-parameters; no such engine.
    """

    def __init__(self, model: str | Path = DEFAULT, config: str | Path | None = None, *, engine: str = "auto",
                 precision: str = "float32"):
        check_engine(engine, precision)
        self.file = segmentation_file(model, config)
        self.hparams = self.file.hparams
        self.engine, self.precision = engine, precision
        self._networks = Graphs(KEPT_NETWORKS)    # by (height, width)
        self._parameters = OrderedDict()
        with self._scope():
            smallest = nn.Variable((1, 3, SMALLEST, SMALLEST))
            load_parameters(self.file.path, parameter_shapes(lambda: d3net_segmentation(smallest, self.hparams)))

    @contextlib.contextmanager
    def _scope(self) -> Iterator[None]:
        """The parameters of this object, apart from all others; no other thread builds anything meanwhile."""
        with NNABLA, nn.parameter_scope("segmenter", self._parameters):
            yield

    def segment(self, image: np.ndarray) -> np.ndarray:
        """Find the most probable class of every pixel.

        Parameters
        ----------
        image : uint8 (height, width, 3), BGR
            D3Net-S takes about half a gigabyte for a million pixels, with openvino.

        Returns
        -------
        uint8 (height, width)
            0..num_classes-1.

        Raises
        ------
        ValueError
            `image` has another type or shape.
        UserError
            This machine has not the memory for so many pixels.
        """
        return self.probabilities(image).argmax(0).astype(np.uint8)

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """Estimate how probable each class is at every pixel.

        Parameters
        ----------
        image
            As for `segment`.

        Returns
        -------
        float32 (num_classes, height, width)
            Adding up to 1 over the classes.

        Raises
        ------
        ValueError, UserError
            As `segment`.
        """
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"image of {image.dtype} {image.shape}: uint8 (height, width, 3) is wanted")
        height, width = image.shape[:2]
        check_memory(height, width)
        missing = [(0, max(0, SMALLEST - extent)) for extent in (height, width)]
        image = np.pad(image, [*missing, (0, 0)], mode="edge")    # or nothing would be left on the coarsest scale
        x = standardize(image, self.hparams.mean, self.hparams.std)[None]
        probabilities, = self._network((x.shape[2], x.shape[3]))(x)
        return probabilities[0, :, :height, :width]

    def _network(self, size: tuple[int, int]) -> Callable[..., list[np.ndarray]]:
        """Return the network compiled for images of (height, width)."""
        return self._networks.get(
            size, lambda: compile_network(self.build, [(1, 3, *size)], self.engine, self.precision))

    def build(self, image: nn.Variable) -> nn.Variable:
        """Build the graph of the network, in test mode, as `d3net.segmentation_model.d3net_segmentation`."""
        with self._scope():
            return d3net_segmentation(image, self.hparams)
