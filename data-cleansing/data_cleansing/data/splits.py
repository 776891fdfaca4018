"""Which images are for validation."""
import numpy as np

from common.datasets.dataset import check_held_out


def permutation(num: int, seed: int) -> np.ndarray:
    """Return the permutation of `num` numbers that `np.random.seed(seed)` and `np.random.permutation` give."""
    return np.random.RandomState(seed).permutation(num)


def split(num: int, valid_size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose validation images as the published code does.

    Returns
    -------
    (train_rows, valid_rows) : int64 (num - valid_size,), ascending, and (valid_size,), in the order they were drawn in

    Raises
    ------
    UsageError
        `valid_size` does not leave at least one image on either side.
    """
    check_held_out(valid_size, num, "images")
    order = permutation(num, seed)
    return np.sort(order[valid_size:]), order[:valid_size]
