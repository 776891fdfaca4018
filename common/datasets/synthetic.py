"""Random images with something to learn in them: a smooth pattern for each class, under noise."""
import numpy as np

from common.datasets.dataset import SPLITS, Dataset, check_split, enlarge

NUM = {"train": 2048, "test": 512}
COARSE = 4    # a pattern is a random grid of so many points a side, enlarged
CONTRAST, NOISE = 32, 48    # standard deviations of pattern and noise, grey levels of 255


def load(split, num=None, shape=(3, 32, 32), num_classes=10, seed=0):
    """Make a random data set; equal arguments make equal ones, and the splits share the patterns of the classes.

    Parameters
    ----------
    split : 'train' or 'test'
    num : int, optional
        Examples; `NUM[split]` if not given. The classes take turns, so their sizes differ by one at most.
    shape : (channels, height, width)
    num_classes : int
    seed : int

    Returns
    -------
    Dataset
        Images (num, channels, height, width).
    """
    check_split(split)
    num = NUM[split] if num is None else num
    channels, height, width = shape
    coarse = np.random.default_rng((seed, 0)).standard_normal((num_classes, channels, COARSE, COARSE))
    patterns = CONTRAST * enlarge(coarse, height, width).astype(np.float32)    # (num_classes, channels, height, width)

    rng = np.random.default_rng((seed, 1 + SPLITS.index(split)))
    labels = rng.permutation(num) % num_classes
    images = NOISE * rng.standard_normal((num, *shape), dtype=np.float32) + patterns[labels] + 127.5
    class_names = [f"class {label}" for label in range(num_classes)]
    return Dataset(np.clip(np.rint(images), 0, 255).astype(np.uint8), labels, class_names)
