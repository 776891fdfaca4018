"""The files of MNIST, and of data sets in the same format: idx, compressed by gzip or not."""
import gzip
import math
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from common.datasets.dataset import DatasetInfo
from common.machine.errors import UserError
from common.reading.files import reading

UBYTE = 8    # idx code of the element type; the number of dimensions follows it
LIMIT = 1 << 28    # bytes that a file may promise; MNIST's largest has 47 million


def read(info: DatasetInfo, paths: Iterable[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Read the images and the labels of a split, whose paths `PublishedFiles.find` returns; see `DatasetInfo.read`."""
    image_path, label_path = paths
    images, labels = read_idx(image_path, num_axes=3), read_idx(label_path, num_axes=1)
    if len(images) != len(labels):
        raise UserError(f"{image_path}: {len(images)} images, but {len(labels)} labels in {label_path.name}")
    if labels.max() >= len(info.class_names):
        raise UserError(f"{label_path}: label {labels.max()}, but the classes are 0 to {len(info.class_names) - 1}")
    return images[:, np.newaxis], labels


def read_idx(path: Path, num_axes: int) -> np.ndarray:
    """Read an idx file of bytes: code, sizes as big-endian 32-bit numbers, content.

    No more is read than the header promises, and it may promise no more than `LIMIT` bytes.

    Parameters
    ----------
    path
        Read as gzip if it ends in '.gz'.

    Returns
    -------
    uint8 array of `num_axes` axes, none of them empty

    Raises
    ------
    UserError
        Another kind of file, truncated, or longer than it says.
    """
    with reading(path, "an idx file", "fetch it again") as file:
        stream = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        header = stream.read(4 + 4 * num_axes)
        shape = _shape(header, num_axes, path)
        content = stream.read(math.prod(shape) + 1)    # one more, to notice a longer file
    if len(content) != math.prod(shape):
        extent = "less" if len(content) < math.prod(shape) else "more"
        raise UserError(f"{path}: {extent} than the {math.prod(shape)} bytes that its header promises; fetch it again")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _shape(header: bytes, num_axes: int, path: Path) -> tuple[int, ...]:
    """Return the sizes that an idx header promises."""
    if len(header) != 4 + 4 * num_axes or header[:4] != bytes((0, 0, UBYTE, num_axes)):
        raise UserError(f"{path}: no idx file of bytes with {num_axes} axes (it starts with {header[:4].hex(' ')})")
    shape = struct.unpack(f">{num_axes}I", header[4:])
    if not 0 < math.prod(shape) <= LIMIT:
        raise UserError(f"{path}: its header promises {' x '.join(map(str, shape))} bytes, refused")
    return shape
