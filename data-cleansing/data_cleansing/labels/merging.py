"""What several cross-validations say of images that they have in common."""
from collections.abc import Sequence

import numpy as np

from data_cleansing.data.images import Images
from data_cleansing.labels.cross_validation import Evidence


def merge(judged: Sequence[tuple[Images, Evidence]]) -> tuple[Images, Evidence, list[np.ndarray]]:
    """Put all images together, each once, with the means of what was found out of it.

    The networks of each cross-validation differ, so the means are better judges than any of them.

    Parameters
    ----------
    judged : sequence of (Images, Evidence)
        Images are the same where path and label are.

    Returns
    -------
    images : Images
    evidence : Evidence
        Neighbours are those of the first cross-validation that has the image.
    rows : list of int (n,)
        Where the images of each cross-validation are among all.
    """
    numbers: dict[tuple[str, int], int] = {}
    rows = [np.array([numbers.setdefault(key, len(numbers)) for key in zip(images.paths, images.labels, strict=True)])
            for images, _ in judged]
    num, first, said = len(numbers), judged[0][0], judged[0][1]
    pixels = np.empty((num, *first.pixels.shape[1:]), first.pixels.dtype)
    labels, paths = np.empty(num, np.int64), [""] * num
    neighbours = np.empty((num, said.neighbours.shape[1]), np.int64)
    for where, (images, evidence) in reversed(list(zip(rows, judged, strict=True))):
        pixels[where], labels[where] = images.pixels, images.labels
        neighbours[where] = where[evidence.neighbours]
        for row, path in zip(where.tolist(), images.paths, strict=True):
            paths[row] = path

    def mean(name):
        values = [getattr(evidence, name) for _, evidence in judged]
        return mean_by_row(rows, values, num)

    merged = Evidence(mean("probabilities"), mean("training_margins"), neighbours, mean("distances"))
    return Images(pixels, labels, first.class_names, paths, first.list_names), merged, rows


def mean_by_row(rows: Sequence[np.ndarray], values: Sequence[np.ndarray], num: int) -> np.ndarray:
    """Mean of the values of each of `num` rows, over those of the arrays that have it, float64 (num, ...)."""
    sums, counts = np.zeros((num, *values[0].shape[1:])), np.zeros(num)
    for where, part in zip(rows, values, strict=True):
        np.add.at(sums, where, part)
        np.add.at(counts, where, 1)
    return sums / counts.reshape(-1, *[1] * (sums.ndim - 1))
