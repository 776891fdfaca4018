"""STL-10: 96x96 colour images of ten classes, 5000 to train with and 8000 to test.

A. Coates, H. Lee, A. Y. Ng, An Analysis of Single Layer Networks in Unsupervised Feature Learning, 2011.
"""
import math

import numpy as np

from common.datasets.dataset import Dataset, check_split
from common.datasets.published import PublishedArchive
from common.machine.errors import UserError

FILES = {"train": ("train_X.bin", "train_y.bin"), "test": ("test_X.bin", "test_y.bin")}
SOURCE = PublishedArchive(
    title="the binary files of STL-10", url="https://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
    size=2640397119, digest="md5:91f7769df0f17e558f3565bffb0c7dfb", folder="stl10_binary",
    names=tuple(name for names in FILES.values() for name in names),
    limit=1 << 29)    # the largest published one of those read has 221 million bytes
CLASS_NAMES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
SHAPE = (3, 96, 96)


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
    (image_name, images), (label_name, labels) = SOURCE.contents(FILES[split], data_dir)
    return Dataset(_parse_images(images, image_name), _parse_labels(labels, label_name, len(images)), CLASS_NAMES)


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
