"""Examples that a network takes as they are: features of images, or any arrays, with classes or numbers to predict."""
from typing import Any

import attrs
import numpy as np

from common.machine.errors import UsageError


def _labels(labels: Any) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.dtype.kind in "iu" and labels.ndim == 1:
        return np.ascontiguousarray(labels, np.int32)
    if labels.dtype.kind == "f" and labels.ndim in (1, 2):
        return np.ascontiguousarray(labels.reshape(len(labels), -1), np.float32)
    raise ValueError(f"labels must be integers (n,), or floats (n,) or (n, outputs), got {labels.dtype} {labels.shape}")


@attrs.frozen(eq=False)
class Samples:
    """Arrays with what a network should make of them; as `Images`, but neither normalized nor augmented.

    Attributes
    ----------
    pixels : float32 (n, ...)
        What the network takes.
    labels : int32 (n,) or float32 (n, outputs)
        Classes, for which the loss is the cross entropy; or numbers, for which it is the sum of squared errors.

    Raises
    ------
    ValueError
        Shapes or types do not fit.
    """

    pixels: np.ndarray = attrs.field(converter=lambda pixels: np.ascontiguousarray(pixels, np.float32), repr=False)
    labels: np.ndarray = attrs.field(converter=_labels, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.pixels.ndim < 2 or len(self.pixels) != len(self.labels) or not len(self):
            raise ValueError(f"arrays {self.pixels.shape} and labels {self.labels.shape} do not fit together")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one array."""
        return self.pixels.shape[1:]

    def subset(self, rows: np.ndarray) -> "Samples":
        """Return the `Samples` of `rows`, int (k,), in that order."""
        return Samples(self.pixels[rows], self.labels[rows])

    def inputs(self, rows: np.ndarray, seeds: np.ndarray | None = None) -> np.ndarray:
        """Return a batch, float32 (batch, ...).

        Raises
        ------
        UsageError
            There are seeds: samples are not augmented.
        """
        if seeds is not None:
            raise UsageError("samples are not augmented: make the record of the training with augment=False")
        return self.pixels[rows]

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Labels of a batch, int32 (batch, 1) or float32 (batch, outputs)."""
        return self.labels[rows].reshape(len(rows), -1)
