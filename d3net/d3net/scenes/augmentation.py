"""Training samples of street scenes: scaled, cropped, mirrored, with other light and colours, standardized.

The order of the random draws is that of the published pipeline, so that one generator makes the same samples.
"""
from collections.abc import Sequence

import cv2
import numpy as np

from common.datasets.cityscapes import IGNORE
from d3net.scenes.standardization import MEAN, STD, standardize

SMALLEST_SCALE, LARGEST_SCALE = 0.5, 2.0
LARGEST_SHARE = 0.75    # share of a crop that one class may have
TRIES = 10
_LEVELS = np.arange(256, dtype=np.float32)

Size = tuple[int, int]    # height and width, pixels
Pair = tuple[np.ndarray, np.ndarray]    # image and label
Random = np.random.RandomState


def training_sample(image: np.ndarray, label: np.ndarray, rng: Random, size: Size, mean: Sequence[float] = MEAN,
                    std: Sequence[float] = STD) -> Pair:
    """Make one sample of an image and its label.

    Parameters
    ----------
    image : uint8 (height, width, 3), BGR
    label : uint8 (height, width)
        Classes, or 255: ignored.
    size
        Height and width of the sample.
    mean, std : 3 floats, RGB
        As for `standardize`.

    Returns
    -------
    image : float32 (3, *size), RGB
        0 where there is no image: a scene smaller than `size` lies at the top left.
    label : int16 (1, *size)
        -1: ignored, also where there is no image.
    """
    image, label = scale(image, label, rng)
    image, label = crop(image, label, rng, size)
    image, label = flip(image, label, rng)
    image = standardize(distort(image, rng), mean, std)
    image, label = pad(image, label, size)
    label = label.astype(np.int16)
    return image, np.where(label == IGNORE, np.int16(-1), label)[None]


def scale(image: np.ndarray, label: np.ndarray, rng: Random) -> Pair:
    """Resize to 0.5 to 2 times the size, keeping the aspect ratio."""
    height, width = label.shape
    new_height = max(1, int(height * (rng.random_sample() * (LARGEST_SCALE - SMALLEST_SCALE) + SMALLEST_SCALE)))
    size = max(1, round(new_height * width / height)), new_height
    return (cv2.resize(image, size, interpolation=cv2.INTER_LINEAR),
            cv2.resize(label, size, interpolation=cv2.INTER_NEAREST))


def crop(image: np.ndarray, label: np.ndarray, rng: Random, size: Size) -> Pair:
    """Cut out a part of `size`, or less where there is less, that shows several classes and not mostly one.

    If ten parts in a row do not, the next one is taken as it is.
    """
    for _ in range(TRIES):
        part = _draw_part(label.shape, rng, size)
        counts = np.bincount(label[part].ravel(), minlength=IGNORE + 1)[:IGNORE]
        if np.count_nonzero(counts) > 1 and counts.max() < LARGEST_SHARE * counts.sum():
            break
    else:
        part = _draw_part(label.shape, rng, size)
    return image[part], label[part]


def _draw_part(shape: tuple[int, ...], rng: Random, size: Size) -> tuple[slice, slice]:
    top, left = (rng.randint(0, max(have - want, 0) + 1) for have, want in zip(shape, size, strict=True))
    return np.s_[top:top + size[0], left:left + size[1]]


def flip(image: np.ndarray, label: np.ndarray, rng: Random) -> Pair:
    """Swap left and right with probability 1/2."""
    return (image[:, ::-1], label[:, ::-1]) if rng.rand() < 0.5 else (image, label)


def distort(image: np.ndarray, rng: Random) -> np.ndarray:
    """Change brightness, contrast, saturation and hue of a uint8 (height, width, 3) BGR, each with probability 1/2."""
    image = np.ascontiguousarray(image)
    if rng.randint(2):
        image = cv2.LUT(image, _bytes(_LEVELS + rng.uniform(-32, 32)))
    contrast_first = rng.randint(2)
    if contrast_first:
        image = _change_contrast(image, rng)
    if rng.randint(2):
        image = _map_hsv(image, 1, _bytes(_LEVELS * rng.uniform(0.5, 1.5)))
    if rng.randint(2):
        image = _map_hsv(image, 0, ((np.arange(256) + rng.randint(-18, 18)) % 180).astype(np.uint8))
    return image if contrast_first else _change_contrast(image, rng)


def _change_contrast(image: np.ndarray, rng: Random) -> np.ndarray:
    return cv2.LUT(image, _bytes(_LEVELS * rng.uniform(0.5, 1.5))) if rng.randint(2) else image


def _map_hsv(image: np.ndarray, channel: int, table: np.ndarray) -> np.ndarray:
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    hsv[..., channel] = cv2.LUT(hsv[..., channel], table)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


def pad(image: np.ndarray, label: np.ndarray, size: Size) -> Pair:
    """Fill up at the bottom and at the right: a standardized image with 0, the mean; its label with 255, ignored.

    Parameters
    ----------
    image : float32 (3, height, width)
    label : uint8 (height, width)
    size
        Not less than height and width.

    Returns
    -------
    image : float32 (3, *size)
    label : uint8 (*size)
    """
    missing = [(0, want - have) for have, want in zip(label.shape, size, strict=True)]
    return np.pad(image, [(0, 0), *missing]), np.pad(label, missing, constant_values=IGNORE)
