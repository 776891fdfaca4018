"""From a photograph of any size to the square that networks of ImageNet take."""
from functools import partial
from pathlib import Path

import numpy as np

from common.pictures.image_files import read_crop

RESIZE_RATIO = 256 / 224    # of the shorter side of a picture to its centre crop
AREAS, RATIOS, ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10    # of random crops: share of the picture, width / height


def random_crop(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw a box of 8 % to 100 % of a picture with sides of 3 : 4 to 4 : 3; the centre if none fits in ten attempts.

    Parameters
    ----------
    width, height : int, pixels

    Returns
    -------
    (left, top, right, bottom) : int, pixels
    """
    for _ in range(ATTEMPTS):
        area, ratio = width * height * rng.uniform(*AREAS), np.exp(rng.uniform(*np.log(RATIOS)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
            return int(left), int(top), int(left + w), int(top + h)
    w = min(width, max(1, round(height * RATIOS[1])))
    h = min(height, max(1, round(width / RATIOS[0])))
    return (width - w) // 2, (height - h) // 2, (width - w) // 2 + w, (height - h) // 2 + h


def centre_crop(width: int, height: int) -> tuple[float, float, float, float]:
    """Return the box that is left in the middle of a picture resized to 256 pixels and cropped to 224.

    Returns
    -------
    (left, top, right, bottom) : float, pixels of the picture before resizing
    """
    side = min(width, height) / RESIZE_RATIO
    return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2


def decode(source: Path | np.ndarray, size: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Decode, turn upright, crop and resize a picture; grey, CMYK, 16-bit and transparent ones become RGB.

    Parameters
    ----------
    source : path, or uint8 (height, width, 3)
    size : int, pixels
    rng
        Crop at random, and mirror with probability 1/2; otherwise crop the centre.

    Returns
    -------
    uint8 (size, size, 3)

    Raises
    ------
    UsageError, UserError
        As `common.pictures.image_files.read_image`.
    """
    choose_box = centre_crop if rng is None else partial(random_crop, rng=rng)
    pixels = read_crop(source, choose_box, size)
    return pixels[:, ::-1] if rng is not None and rng.random() < 0.5 else pixels
