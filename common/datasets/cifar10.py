"""CIFAR-10 in its Python version: 32x32 colour images of ten classes, 50000 to train with and 10000 to test.

A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""
import math

import numpy as np

from common.datasets.dataset import Dataset, check_split
from common.datasets.published import PublishedArchive
from common.downloads import restricted_pickle
from common.machine.errors import UserError

BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
SOURCE = PublishedArchive(
    title="the Python version of CIFAR-10", url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    size=170498071, digest="md5:c58f30108f718f92721af3b95e74349a", folder="cifar-10-batches-py",
    names=tuple(name for names in BATCHES.values() for name in names),
    limit=1 << 26)    # the published batch files have 31 million bytes
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)


def load(split, data_dir=None):
    """Load CIFAR-10.

    Parameters
    ----------
    split : 'train' or 'test'
    data_dir : path, optional
        Holds the folder 'cifar-10-batches-py' or the archive 'cifar-10-python.tar.gz', or is that folder. Not given:
        the cache folder, to which the archive is downloaded where it is missing.

    Returns
    -------
    Dataset
        Images (n, 3, 32, 32) in the order of the files. Batches of another size than the published ones are fine.

    Raises
    ------
    UsageError
        Nothing of use in `data_dir`.
    UserError
        A file is damaged, or the download failed.
    """
    check_split(split)
    parts = [_parse(restricted_pickle.loads(content, name), name)
             for name, content in SOURCE.contents(BATCHES[split], data_dir)]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Dataset(images.reshape(-1, *SHAPE), labels, CLASS_NAMES)


def _parse(content, name):
    """Check one batch and return it as images uint8 (n, 3072) and labels int32 (n,)."""
    if not isinstance(content, dict):
        raise UserError(f"{name}: no CIFAR-10 batch (it holds {_describe(content)}, not a dict)")
    images, labels = _entry(content, "data", name), _entry(content, "labels", name)
    labels = labels.tolist() if isinstance(labels, np.ndarray) else labels
    width = math.prod(SHAPE)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != (images.size // width, width):
        raise UserError(f"{name}: 'data' must be a uint8 array (n, {width}), is {_describe(images)}")
    if not len(images):
        raise UserError(f"{name}: holds no images")
    if not isinstance(labels, (list, tuple)) or len(labels) != len(images):
        raise UserError(f"{name}: 'labels' must be a list of {len(images)} numbers, is {_describe(labels)}")
    if not all(isinstance(label, int) and 0 <= label < len(CLASS_NAMES) for label in labels):
        raise UserError(f"{name}: 'labels' must be whole numbers from 0 to {len(CLASS_NAMES) - 1}")
    return images, np.asarray(labels, dtype=np.int32)


def _entry(content, key, name):
    """Return the entry `key`, whose name is bytes in files that Python 2 wrote and str in others."""
    for spelling in (key.encode(), key):
        if spelling in content:
            return content[spelling]
    raise UserError(f"{name}: no CIFAR-10 batch (no key '{key}')")


def _describe(value):
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__ + (f" of {len(value)}" if isinstance(value, (list, tuple)) else "")
