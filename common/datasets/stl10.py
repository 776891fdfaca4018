"""The binary files of STL-10: images, each channel column by column, and labels from 1 on."""
import math
from collections.abc import Iterable

import numpy as np

from common.datasets.dataset import DatasetInfo
from common.machine.errors import UserError


def read(info: DatasetInfo, contents: Iterable[tuple[str, bytes]]) -> tuple[np.ndarray, np.ndarray]:
    """Read the images of a split, upright, that `PublishedArchive.find` returns; see `DatasetInfo.read`."""
    (image_name, images), (label_name, labels) = contents
    return _parse_images(images, image_name, info.shape), _parse_labels(labels, label_name, len(images), info)


def _parse_images(content: bytes, name: str, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the images of a file, uint8 (n, *shape)."""
    if not content or len(content) % math.prod(shape):
        raise UserError(f"{name}: {len(content)} bytes are no whole number of images of {math.prod(shape)}; fetch it "
                        "again")
    channels, height, width = shape
    return np.frombuffer(content, np.uint8).reshape(-1, channels, width, height).swapaxes(2, 3)


def _parse_labels(content: bytes, name: str, image_bytes: int, info: DatasetInfo) -> np.ndarray:
    """Return the labels of a file, int32 (n,)."""
    labels, num_images = np.frombuffer(content, np.uint8), image_bytes // math.prod(info.shape)
    if len(labels) != num_images:
        raise UserError(f"{name}: {len(labels)} labels for {num_images} images; fetch it again")
    if labels.min() < 1 or labels.max() > len(info.class_names):
        raise UserError(f"{name}: labels from {labels.min()} to {labels.max()}, but they go from 1 to "
                        f"{len(info.class_names)}")
    return labels.astype(np.int32) - 1
