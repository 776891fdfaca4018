"""1797 handwritten digits that come with scikit-learn, 8x8 grey, enlarged: real data with no download."""

import numpy as np

from common.datasets.dataset import DatasetInfo, enlarge

LEVELS = 16    # of the originals, beside 0


def read(info: DatasetInfo, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the digits of a split: of each class every fifth image is for testing, always the same.

    See `DatasetInfo.read`; `info.shape` may be any size, and any number of channels, which are equal.
    """
    # Takes a second to import, which only some commands need.
    from sklearn.datasets import load_digits

    channels, height, width = info.shape
    originals, labels = map(np.asarray, load_digits(return_X_y=True))    # (n, 64), (n,)
    chosen = np.flatnonzero(_is_test(labels, len(info.class_names)) == (split == "test"))
    grey = enlarge(originals[chosen].reshape(-1, 8, 8), height, width) * (255 / LEVELS)    # (n, height, width)
    grey = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return np.repeat(grey[:, np.newaxis], channels, axis=1), labels[chosen]


def _is_test(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Mark every fifth example of each class, bool (n,): the writers come one after the other, so all are in both."""
    test = np.zeros(len(labels), dtype=bool)
    for label in range(num_classes):
        test[np.flatnonzero(labels == label)[2::5]] = True
    return test
