"""Random images with something to learn in them: a smooth pattern for each class, under noise."""

import numpy as np

from common.datasets.dataset import SPLITS, DatasetInfo, enlarge

NUM = {"train": 2048, "test": 512}
COARSE = 4    # a pattern is a random grid of so many points a side, enlarged
CONTRAST, NOISE = 32, 48    # standard deviations of pattern and noise, grey levels of 255


def read(info: DatasetInfo, split: str, num: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Make random images; equal arguments make equal ones, and the splits share the patterns of the classes.

    Parameters
    ----------
    info
        Says their size and the number of classes.
    split : 'train' or 'test'
    num
        Examples; `NUM[split]` if not given. The classes take turns, so their sizes differ by one at most.

    Returns
    -------
    images : uint8 (num, *info.shape)
    labels : int64 (num,)
    """
    num, num_classes = NUM[split] if num is None else num, len(info.class_names)
    channels, height, width = info.shape
    coarse = np.random.default_rng((seed, 0)).standard_normal((num_classes, channels, COARSE, COARSE))
    patterns = CONTRAST * enlarge(coarse, height, width).astype(np.float32)    # (num_classes, channels, height, width)

    rng = np.random.default_rng((seed, 1 + SPLITS.index(split)))
    labels = rng.permutation(num) % num_classes
    images = NOISE * rng.standard_normal((num, *info.shape), dtype=np.float32) + patterns[labels] + 127.5
    return np.clip(np.rint(images), 0, 255).astype(np.uint8), labels
