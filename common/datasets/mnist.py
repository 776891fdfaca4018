"""MNIST: 28x28 grey images of handwritten digits, 60000 to train with and 10000 to test.

Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits, 1998.
"""
import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from common.datasets.dataset import Dataset, check_split
from common.downloads.fetch import cache_dir, fetch
from common.machine.errors import UsageError, UserError

URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
         "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}
PUBLISHED = {    # of the .gz files: bytes, digest
    "train-images-idx3-ubyte": (9912422, "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    "train-labels-idx1-ubyte": (28881, "md5:d53e105ee54ea40749a09fcbcd1e9432"),
    "t10k-images-idx3-ubyte": (1648877, "md5:9fb629c4189551a2d022fa330f9573f3"),
    "t10k-labels-idx1-ubyte": (4542, "md5:ec29112dd5afa0611ce80d1b7f02629c"),
}
CLASS_NAMES = tuple("0123456789")
UBYTE = 8    # idx code of the element type; the number of dimensions follows it
LIMIT = 1 << 28    # bytes that a file may promise; MNIST's largest has 47 million


def load(split, data_dir=None):
    """Load MNIST.

    Parameters
    ----------
    split : 'train' or 'test'
    data_dir : path, optional
        Folder of the idx files, compressed ('.gz') or not, or of a folder 'mnist' with them. Not given: the folder
        'mnist' in the cache, to which they are downloaded where they are missing.

    Returns
    -------
    Dataset
        Images (n, 1, 28, 28) in the order of the files.

    Raises
    ------
    UsageError
        Nothing of use in `data_dir`.
    UserError
        A file is damaged, or the download failed.
    """
    check_split(split)
    find = _cached if data_dir is None else lambda name: _given(Path(data_dir), name)
    image_path, label_path = (find(name) for name in FILES[split])
    images, labels = read_idx(image_path, num_axes=3), read_idx(label_path, num_axes=1)
    if len(images) != len(labels):
        raise UserError(f"{image_path}: {len(images)} images, but {len(labels)} labels in {label_path.name}")
    if labels.max() >= len(CLASS_NAMES):
        raise UserError(f"{label_path}: label {labels.max()}, but the classes are 0 to {len(CLASS_NAMES) - 1}")
    return Dataset(images[:, np.newaxis], labels, CLASS_NAMES)


def read_idx(path, num_axes):
    """Read an idx file of bytes: code, sizes as big-endian 32-bit numbers, content.

    No more is read than the header promises, and it may promise no more than `LIMIT` bytes.

    Parameters
    ----------
    path : pathlib.Path
        Read as gzip if it ends in '.gz'.
    num_axes : int

    Returns
    -------
    uint8 array of `num_axes` axes, none of them empty

    Raises
    ------
    UserError
        Another kind of file, truncated, or longer than it says.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as stream:
            header = stream.read(4 + 4 * num_axes)
            shape = _shape(header, num_axes, path)
            content = stream.read(math.prod(shape) + 1)    # one more, to notice a longer file
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); fetch it again") from error
    if len(content) != math.prod(shape):
        extent = "less" if len(content) < math.prod(shape) else "more"
        raise UserError(f"{path}: {extent} than the {math.prod(shape)} bytes that its header promises; fetch it again")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _shape(header, num_axes, path):
    """Return the sizes that an idx header promises."""
    if len(header) != 4 + 4 * num_axes or header[:4] != bytes((0, 0, UBYTE, num_axes)):
        raise UserError(f"{path}: no idx file of bytes with {num_axes} axes (it starts with {header[:4].hex(' ')})")
    shape = struct.unpack(f">{num_axes}I", header[4:])
    if not 0 < math.prod(shape) <= LIMIT:
        raise UserError(f"{path}: its header promises {' x '.join(map(str, shape))} bytes, refused")
    return shape


def _existing(folder, name):
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _given(data_dir, name):
    path = _existing(data_dir, name) or _existing(data_dir / "mnist", name)
    if path is None:
        wrong = f"no '{name}' or '{name}.gz' in it" if data_dir.is_dir() else "no such folder"
        raise UsageError(f"--data-dir {data_dir}: {wrong}; it should hold the four MNIST files ({URL})")
    return path


def _cached(name):
    folder = cache_dir() / "mnist"
    return _existing(folder, name) or fetch(f"{URL}{name}.gz", *PUBLISHED[name], folder)
