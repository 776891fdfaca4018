"""1797 handwritten digits that come with scikit-learn, 8x8 grey, enlarged: real data with no download.

E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits (the test part), 1998.
"""
import numpy as np

from common.datasets.dataset import Dataset, check_split, enlarge

CLASS_NAMES = tuple("0123456789")
LEVELS = 16    # of the originals, beside 0


def load(split, size=32, channels=3):
    """Load the digits.

    Parameters
    ----------
    split : 'train' or 'test'
        Of each class every fifth image is for testing, always the same: 1438 and 359.
    size : int, pixels
        Height and width.
    channels : int
        Equal copies of the grey image.

    Returns
    -------
    Dataset
        Images (n, channels, size, size), in the original order.
    """
    check_split(split)
    # Takes a second to import: only who uses it pays.
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = np.flatnonzero(_is_test(digits.target) == (split == "test"))
    grey = enlarge(digits.images[chosen], size, size) * (255 / LEVELS)    # (n, size, size)
    grey = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return Dataset(np.repeat(grey[:, np.newaxis], channels, axis=1), digits.target[chosen], CLASS_NAMES)


def _is_test(labels):
    """Mark every fifth example of each class, bool (n,): the writers come one after the other, so all are in both."""
    test = np.zeros(len(labels), dtype=bool)
    for label in range(len(CLASS_NAMES)):
        test[np.flatnonzero(labels == label)[2::5]] = True
    return test
