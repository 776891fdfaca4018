"""Labels as colours, alone or laid over the image."""
import numpy as np
from numpy.typing import ArrayLike

from common.datasets.cityscapes import PALETTE


def colour_map(labels: np.ndarray, palette: ArrayLike = PALETTE) -> np.ndarray:
    """Give each class its colour.

    Parameters
    ----------
    labels : uint8 (height, width)
        Numbers beyond the palette, such as 255, are black.
    palette : (classes, 3), 0..255, RGB

    Returns
    -------
    uint8 (height, width, 3), BGR
    """
    colours = np.zeros((256, 3), np.uint8)
    known = np.asarray(palette)[:, ::-1]    # BGR
    colours[:len(known)] = known
    return colours[labels]


def overlay(image: np.ndarray, labels: np.ndarray, palette: ArrayLike = PALETTE) -> np.ndarray:
    """Mix an image with the colours of its labels, half and half, rounded down.

    Parameters
    ----------
    image : uint8 (height, width, 3), BGR
    labels, palette
        As for `colour_map`.

    Returns
    -------
    uint8 (height, width, 3), BGR
    """
    image, colours = np.asarray(image), colour_map(labels, palette)
    return (image >> 1) + (colours >> 1) + (image & colours & 1)
