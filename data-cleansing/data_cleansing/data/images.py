"""Labelled images as the network sees them: square, normalized, and in training shifted and mirrored."""
from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np

from common.datasets import Dataset
from common.pictures.image_files import read_image_as
from data_cleansing.data.augmentation import make_batch

SMALLEST, LARGEST = 32, 128    # side of the square that images are resized to, pixels
# Mean and standard deviation of the channels of colour images, values in [0, 1]. Of other images both are 0.5.
COLOUR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_UNIT = (np.arange(256) / 255).astype(np.float32)    # byte -> [0, 1]


@attrs.frozen(eq=False)
class Images(Dataset):
    """Labelled images at the size of the network; an image is named by its row.

    Attributes
    ----------
    paths : tuple of str
        Where each image came from; empty if from no file.
    list_names : tuple of str
        What lists of images call the classes; `class_names` if not given.

    Raises
    ------
    ValueError
        Shapes, labels or paths do not fit.
    """

    paths: tuple[str, ...] = attrs.field(default=(), converter=tuple, repr=False)
    list_names: tuple[str, ...] = attrs.field(
        default=attrs.Factory(lambda self: self.class_names, takes_self=True), converter=tuple, repr=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if len(self.paths) not in (0, len(self)):
            raise ValueError(f"{len(self)} images, but {len(self.paths)} paths")

    def subset(self, rows: np.ndarray) -> "Images":
        """Return the `Images` of `rows`, int (k,), in that order."""
        paths = [self.paths[row] for row in rows] if self.paths else ()
        return attrs.evolve(self, pixels=self.pixels[rows], labels=self.labels[rows], paths=paths)

    def inputs(self, rows: np.ndarray, seeds: np.ndarray | None = None) -> np.ndarray:
        """Prepare a batch.

        Parameters
        ----------
        rows : int (batch,)
        seeds : int (batch,), optional
            Augment each image by its seed (`data_cleansing.data.augmentation.make_batch`).

        Returns
        -------
        float32 (batch, channels, height, width)
        """
        channels = self.shape[0]
        mean, std = COLOUR if channels == 3 else ((0.5,) * channels, (0.5,) * channels)
        return make_batch(self.pixels, rows, mean, std, seeds)

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Labels of a batch, int32 (batch, 1)."""
        return self.labels[rows][:, np.newaxis]


def network_side(height: int, width: int) -> int:
    """Side of the square that images of this size are resized to: the short edge, but 32 at least and 128 at most."""
    return min(max(min(height, width), SMALLEST), LARGEST)


def check_side(side: int | None) -> None:
    """Raise a ValueError for a side that is neither None nor a number of pixels."""
    if side is not None and (not isinstance(side, (int, np.integer)) or side < 1):
        raise ValueError(f"side {side!r}: a whole number of pixels, at least 1, is wanted")


def prepare(arrays: Sequence[np.ndarray], labels: np.ndarray, class_names: Sequence[str], paths: Sequence[str] = (),
            side: int | None = None) -> Images:
    """Resize images to a square, without keeping their aspect ratio.

    Parameters
    ----------
    arrays : sequence of uint8 (channels, height, width), or what `fit` made of them
        With equal numbers of channels. Images of the right size stay bytes; others take four bytes a value.
    labels, class_names, paths
        As in `Images`.
    side : int, optional
        `network_side` of the first image if not given.
    """
    side = network_side(*arrays[0].shape[1:]) if side is None else side
    if all(array.dtype == np.uint8 and array.shape[1:] == (side, side) for array in arrays):
        return Images(np.stack(arrays), labels, class_names, paths)
    pixels = np.empty((len(arrays), len(arrays[0]), side, side), np.float32)
    for array, target in zip(arrays, pixels, strict=True):
        fitted = fit(array, side)
        target[...] = _UNIT[fitted] if fitted.dtype == np.uint8 else fitted
    return Images(pixels, labels, class_names, paths)


def fit(image: np.ndarray, side: int) -> np.ndarray:
    """Bring an image, (channels, height, width), to a size: itself if it has that, otherwise float32 in [0, 1]."""
    return image if image.shape[1:] == (side, side) else resize(_UNIT[image], side)


def resize(image: np.ndarray, side: int) -> np.ndarray:
    """Resize by bilinear interpolation, with smoothing where the image shrinks, as `nnabla.utils.image_utils` does.

    Parameters
    ----------
    image : float32 (channels, height, width)
    side : int, pixels

    Returns
    -------
    float32 (channels, side, side)
    """
    from PIL import Image

    return np.stack([np.asarray(Image.fromarray(channel).resize((side, side), Image.Resampling.BILINEAR))
                     for channel in image])


def decode(path: str | Path, channels: int | None = None) -> np.ndarray:
    """Read an image file.

    Parameters
    ----------
    channels : 1 or 3, optional
        Convert to grey or colour; otherwise a grey image has 1 channel and any other 3.

    Returns
    -------
    uint8 (channels, height, width)

    Raises
    ------
    UsageError, UserError
        As `common.pictures.image_files.read_image`.
    """
    def values_of(image):
        is_grey = image.mode in ("1", "L", "LA") if channels is None else channels == 1
        return np.asarray(image.convert("L" if is_grey else "RGB"))

    values = read_image_as(path, values_of)    # (height, width[, 3])
    return np.ascontiguousarray(np.atleast_3d(values).transpose(2, 0, 1))
