"""Images that are alike: nearest neighbours by features of a network, duplicates by pixels."""
import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

_ROWS_AT_ONCE = 512    # images, or pairs of them, that are compared at once: bounds the memory


def nearest(features: np.ndarray, queries: Sequence[int] | np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest other images by cosine distance, nearest first.

    Parameters
    ----------
    features : float32 (n, maps)
        Of length 1 each.
    queries : int (q,)
        Rows whose neighbours are asked for.
    num : int, 1 to n - 1

    Returns
    -------
    (rows, distances) : int (q, num), float32 (q, num)
        Distances are 1 - cosine, 0 to 2.
    """
    queries = np.asarray(queries)
    rows = np.empty((len(queries), num), np.int64)
    distances = np.empty((len(queries), num), np.float32)
    for start in range(0, len(queries), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        similar = features[queries[part]] @ features.T    # (part, n)
        similar[np.arange(len(similar)), queries[part]] = -np.inf
        found = np.argpartition(-similar, num - 1, axis=1)[:, :num]
        values = np.take_along_axis(similar, found, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        rows[part] = np.take_along_axis(found, order, axis=1)
        distances[part] = np.maximum(0, 1 - np.take_along_axis(values, order, axis=1))
    return rows, distances


def pixel_similarity(pixels: np.ndarray, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Correlation of the pixels of pairs of images, float64 (pairs,), -1 to 1.

    Brightness and contrast of the whole image do not count; two images of one even colour each correlate by 0.

    Parameters
    ----------
    pixels : (n, channels, height, width)
    rows, others : int (pairs,)
    """
    def centred(chosen):
        values = pixels[chosen].reshape(len(chosen), -1).astype(np.float64)
        return values - values.mean(1, keepdims=True)

    correlations = np.zeros(len(rows))
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        a, b = centred(rows[part]), centred(others[part])
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        np.divide((a * b).sum(1), lengths, where=lengths > 0, out=correlations[part])
    return correlations


def exact_duplicates(pixels: np.ndarray) -> np.ndarray:
    """Return for each image the first other one with the very same pixels, int (n,), -1 where there is none."""
    groups = defaultdict(list)
    for row, image in enumerate(pixels):
        groups[hashlib.blake2b(image.tobytes()).digest()].append(row)
    twins = np.full(len(pixels), -1)
    for rows in groups.values():
        if len(rows) > 1:
            twins[rows] = rows[0]
            twins[rows[0]] = rows[1]
    return twins
