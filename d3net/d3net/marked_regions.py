"""Pictures that are computed: regions whose class a small mark tells, which lies anywhere in them.

The class of a pixel takes both what is near and what is far: marks differ in single pixels, and a pixel may be a
region's width away from the mark that tells its class. The brightness of a region says which pixels belong together,
but nothing of its class.
"""
import numpy as np

SIZE = 48, 48     # pixels
CLASSES = 4
REGIONS = 5       # of a picture, at most
MARK = 5          # width and height of a mark, pixels
CONTRAST = 1.5    # of a mark, whose pixels are -CONTRAST or CONTRAST; regions are between -1 and 1
NOISE = 0.3       # standard deviation, added to every pixel
NUM = {"train": 256, "val": 48}


def make_pictures(split: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Compute the pictures of a split; equal arguments make equal ones.

    Parameters
    ----------
    split : 'train' or 'val'
    seed
        Pictures of another seed have other marks.

    Returns
    -------
    images : float32 (NUM[split], 1, *SIZE)
    labels : int16 (NUM[split], 1, *SIZE)
        From 0 to CLASSES - 1.
    """
    marks = CONTRAST * np.random.default_rng(seed).choice((-1, 1), (CLASSES, MARK, MARK))
    pairs = [draw(np.random.default_rng((seed, list(NUM).index(split), number)), marks) for number in range(NUM[split])]
    images, labels = (np.stack(arrays)[:, None] for arrays in zip(*pairs, strict=True))
    return images.astype(np.float32), labels.astype(np.int16)


def draw(rng: np.random.Generator, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw a picture with `marks` (classes, height, width); returns image and labels, both (*SIZE)."""
    regions = nearest(rng.uniform(0, 1, (REGIONS, 2)) * SIZE)
    classes = rng.integers(0, len(marks), REGIONS)
    image = rng.uniform(-1, 1, REGIONS)[regions]
    for number in np.unique(regions):
        center = rng.choice(np.argwhere(regions == number))
        top, left = np.clip(center - MARK // 2, 0, np.subtract(SIZE, MARK))
        image[top:top + MARK, left:left + MARK] = marks[classes[number]]
    return image + NOISE * rng.standard_normal(SIZE), classes[regions]


def nearest(points: np.ndarray) -> np.ndarray:
    """Return the number (*SIZE) of the nearest of the points (number, 2) for each pixel."""
    pixels = np.moveaxis(np.indices(SIZE), 0, -1)
    return np.sum((pixels - points[:, None, None]) ** 2, axis=-1).argmin(axis=0)
