"""Labels as colours, alone or laid over the image."""
import numpy as np

from common.datasets.cityscapes import PALETTE


def colour_map(labels, palette=PALETTE):
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
    colours[:len(palette)] = np.asarray(palette)[:, ::-1]
    return colours[labels]


def overlay(image, labels, palette=PALETTE):
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
