"""CIFAR-10 in its Python version: 32x32 colour images of ten classes, 50000 to train with and 10000 to test.

A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""
import math
from pathlib import Path

import numpy as np

from common import restricted_pickle
from common.datasets.dataset import Dataset, check_split
from common.download import cache_dir, extract, fetch, read_members
from common.errors import UsageError, UserError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
SIZE = 170498071
DIGEST = "md5:c58f30108f718f92721af3b95e74349a"
FOLDER, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)
LIMIT = 1 << 26    # bytes of a batch file; the published ones have 31 million


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
    parts = [_parse(content, name) for name, content in _contents(split, data_dir)]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Dataset(images.reshape(-1, *SHAPE), labels, CLASS_NAMES)


def _contents(split, data_dir):
    """Yield what a user calls each batch file of the split, and its unpickled content."""
    folder = _cached() if data_dir is None else _find(Path(data_dir))
    if folder.is_dir():
        for name in BATCHES[split]:
            yield folder / name, restricted_pickle.load(folder / name)
    else:    # an archive of the user's: nothing is unpacked into folders that are not ours
        members = [f"{FOLDER}/{name}" for name in BATCHES[split]]
        pickles = read_members(folder, members, LIMIT)
        for member in members:
            yield f"{folder}, {member}", restricted_pickle.loads(pickles[member], f"{folder}, {member}")


def _find(data_dir):
    """Return the folder of batch files, or the archive, that `data_dir` is or holds."""
    for folder in (data_dir, data_dir / FOLDER):
        if any((folder / name).is_file() for names in BATCHES.values() for name in names):
            return folder
    if (data_dir / ARCHIVE).is_file():
        return data_dir / ARCHIVE
    wrong = "no such folder" if not data_dir.is_dir() else f"no '{FOLDER}' folder and no '{ARCHIVE}' in it"
    raise UsageError(f"--data-dir {data_dir}: {wrong}; it should hold the Python version of CIFAR-10 ({URL})")


def _cached():
    """Return the folder of batch files in the cache, complete."""
    folder = cache_dir() / FOLDER
    names = [name for names in BATCHES.values() for name in names]
    if not all((folder / name).is_file() for name in names):
        archive = fetch(URL, SIZE, DIGEST)
        extract(archive, [f"{FOLDER}/{name}" for name in names], cache_dir(), LIMIT)
    return folder


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
