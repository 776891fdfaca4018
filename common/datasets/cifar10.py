"""The files of CIFAR-10 in its Python version: pickled batches of images and labels."""
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from common.datasets.dataset import DatasetInfo
from common.machine.errors import UserError
from common.reading import restricted_pickle


def read(info: DatasetInfo, contents: Iterable[tuple[str, bytes]]) -> tuple[np.ndarray, np.ndarray]:
    """Read the batches of a split, of any size, that `PublishedArchive.find` returns; see `DatasetInfo.read`."""
    parts = [_parse(restricted_pickle.loads(content, name), name, info)
             for name, content in contents]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return images.reshape(-1, *info.shape), labels


def _parse(content: Any, name: str, info: DatasetInfo) -> tuple[np.ndarray, np.ndarray]:
    """Check one batch and return it as images uint8 (n, pixels) and labels int32 (n,)."""
    if not isinstance(content, dict):
        raise UserError(f"{name}: no CIFAR-10 batch (it holds {_describe(content)}, not a dict)")
    images, labels = _entry(content, "data", name), _entry(content, "labels", name)
    labels = labels.tolist() if isinstance(labels, np.ndarray) else labels
    width = math.prod(info.shape)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != (images.size // width, width):
        raise UserError(f"{name}: 'data' must be a uint8 array (n, {width}), is {_describe(images)}")
    if not len(images):
        raise UserError(f"{name}: holds no images")
    if not isinstance(labels, (list, tuple)) or len(labels) != len(images):
        raise UserError(f"{name}: 'labels' must be a list of {len(images)} numbers, is {_describe(labels)}")
    if not all(isinstance(label, int) and 0 <= label < len(info.class_names) for label in labels):
        raise UserError(f"{name}: 'labels' must be whole numbers from 0 to {len(info.class_names) - 1}")
    return images, np.asarray(labels, dtype=np.int32)


def _entry(content: dict, key: str, name: str) -> Any:
    """Return the entry `key`, whose name is bytes in files that Python 2 wrote and str in others."""
    for spelling in (key.encode(), key):
        if spelling in content:
            return content[spelling]
    raise UserError(f"{name}: no CIFAR-10 batch (no key '{key}')")


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__ + (f" of {len(value)}" if isinstance(value, (list, tuple)) else "")
