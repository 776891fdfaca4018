"""STL-10: 96x96 colour images of ten classes, 5000 to train with and 8000 to test.

A. Coates, H. Lee, A. Y. Ng, An Analysis of Single Layer Networks in Unsupervised Feature Learning, 2011.
"""
import math
from pathlib import Path

import numpy as np

from common.datasets.dataset import Dataset, check_split
from common.download import cache_dir, extract, fetch, read_members
from common.errors import UsageError, UserError

URL = "https://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz"
SIZE = 2640397119
DIGEST = "md5:91f7769df0f17e558f3565bffb0c7dfb"
FOLDER, ARCHIVE = "stl10_binary", "stl10_binary.tar.gz"
FILES = {"train": ("train_X.bin", "train_y.bin"), "test": ("test_X.bin", "test_y.bin")}
CLASS_NAMES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
SHAPE = (3, 96, 96)
LIMIT = 1 << 29    # bytes of a file; the largest published one of those read has 221 million


def load(split, data_dir=None):
    """Load the labelled images of STL-10.

    Parameters
    ----------
    split : 'train' or 'test'
    data_dir : path, optional
        Holds the binary files ('train_X.bin', ...), a folder 'stl10_binary' with them, or the archive
        'stl10_binary.tar.gz'. Not given: the cache folder, to which the archive (2.6 GB, most of it images without
        labels) is downloaded where it is missing.

    Returns
    -------
    Dataset
        Images (n, 3, 96, 96) in the order of the files, upright; labels 1 to 10 of the files become 0 to 9. Files with
        another number of images than the published ones are fine.

    Raises
    ------
    UsageError
        Nothing of use in `data_dir`.
    UserError
        A file is damaged, or the download failed.
    """
    check_split(split)
    (image_name, images), (label_name, labels) = _contents(split, data_dir)
    return Dataset(_parse_images(images, image_name), _parse_labels(labels, label_name, len(images)), CLASS_NAMES)


def _contents(split, data_dir):
    """Return what a user calls the files of images and of labels, and their bytes."""
    place = _cached() if data_dir is None else _find(Path(data_dir))
    if place.is_dir():
        return [(str(place / name), _read(place / name)) for name in FILES[split]]
    # An archive of the user's: nothing is unpacked into folders that are not ours.
    members = [f"{FOLDER}/{name}" for name in FILES[split]]
    contents = read_members(place, members, LIMIT)
    return [(f"{place}, {member}", contents[member]) for member in members]


def _read(path):
    try:
        if path.stat().st_size > LIMIT:
            raise UserError(f"{path}: {path.stat().st_size} bytes, more than {LIMIT}, refused")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); unpack {ARCHIVE} again") from error


def _find(data_dir):
    """Return the folder of binary files, or the archive, that `data_dir` is or holds."""
    for folder in (data_dir, data_dir / FOLDER):
        if any((folder / name).is_file() for names in FILES.values() for name in names):
            return folder
    if (data_dir / ARCHIVE).is_file():
        return data_dir / ARCHIVE
    wrong = "no such folder" if not data_dir.is_dir() else f"no 'train_X.bin' and no '{ARCHIVE}' in it"
    raise UsageError(f"--data-dir {data_dir}: {wrong}; it should hold the binary files of STL-10 ({URL})")


def _cached():
    """Return the folder of binary files in the cache, complete."""
    folder = cache_dir() / FOLDER
    names = [name for names in FILES.values() for name in names]
    if not all((folder / name).is_file() for name in names):
        extract(fetch(URL, SIZE, DIGEST), [f"{FOLDER}/{name}" for name in names], cache_dir(), LIMIT)
    return folder


def _parse_images(content, name):
    """Return the images of a file, uint8 (n, 3, 96, 96): each channel is stored column by column."""
    if not content or len(content) % math.prod(SHAPE):
        raise UserError(f"{name}: {len(content)} bytes are no whole number of images of {math.prod(SHAPE)}; fetch it "
                        "again")
    return np.frombuffer(content, np.uint8).reshape(-1, *SHAPE).swapaxes(2, 3)


def _parse_labels(content, name, image_bytes):
    """Return the labels of a file, int32 (n,), 0..9."""
    labels = np.frombuffer(content, np.uint8)
    if len(labels) * math.prod(SHAPE) != image_bytes:
        raise UserError(f"{name}: {len(labels)} labels for {image_bytes // math.prod(SHAPE)} images; fetch it again")
    if labels.min() < 1 or labels.max() > len(CLASS_NAMES):
        raise UserError(f"{name}: labels from {labels.min()} to {labels.max()}, but they go from 1 to "
                        f"{len(CLASS_NAMES)}")
    return labels.astype(np.int32) - 1
