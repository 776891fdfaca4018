"""Which images a person should look at, in which order, and why."""
from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np

from data_cleansing.data.images import Images
from data_cleansing.labels.confident_learning import (
    estimated_joint,
    number_wrong,
    other_class,
    self_confidence,
)
from data_cleansing.labels.cross_validation import Evidence
from data_cleansing.labels.neighbours import exact_duplicates, pixel_similarity

LABEL, CONFLICT, DUPLICATE, OUTLIER = "label", "conflict", "duplicate", "outlier"
FAR = 2.75    # times the usual distance to its neighbours: an outlier; digits of 8x8 pixels reach 2.5, MNIST 2.0
ALIKE = 0.995    # correlation of pixels: a near-duplicate; other digits of 8x8 pixels reach 0.99


@attrs.frozen(eq=False, kw_only=True)
class Judgement:
    """What to make of each of n training images.

    Attributes
    ----------
    joint : float64 (classes, classes)
        Estimated number of images by given and true label.
    num_wrong : int
        Labels that are wrong, estimated.
    ranks : int64 (n,)
        1 for the image whose label is the most suspicious.
    suggested : int64 (n,)
        The label to give; the given one where that is kept.
    confidences, margins, outliers : float (n,)
        Out-of-sample probability of the given label; mean margin in training; mean distance to the nearest neighbours,
        as a multiple of the usual one.
    duplicates : int64 (n,)
        Row of an image that is the same or nearly so, or -1.
    problems : tuple of tuple of str
        Of each image: `LABEL` (it seems wrong), `CONFLICT` (a duplicate has another label, which does not seem to be
        the wrong one), `OUTLIER`, `DUPLICATE`.
    reasons : tuple of str
        The problems in words; empty where there is none.
    """

    joint: np.ndarray
    num_wrong: int
    ranks: np.ndarray
    suggested: np.ndarray
    confidences: np.ndarray
    margins: np.ndarray
    outliers: np.ndarray
    duplicates: np.ndarray
    problems: tuple[tuple[str, ...], ...]
    reasons: tuple[str, ...]

    @property
    def to_look_at(self) -> np.ndarray:
        """Which images have a problem other than having a duplicate, bool (n,)."""
        return np.array([bool(set(found) - {DUPLICATE}) for found in self.problems], bool)

    def count(self, problem: str) -> int:
        """Number of images with a problem."""
        return sum(problem in found for found in self.problems)


def suspicion(evidence: Evidence, labels: np.ndarray) -> np.ndarray:
    """Rank images by how suspicious their labels are, 1 to n, the most suspicious first.

    The order is that of the mean of two ranks: by the out-of-sample probability of the given label, and by the mean
    margin in training. Where 10 % of the labels of digits or of 2000 images of MNIST are wrong, this finds them better
    than either alone, or than margins of the probabilities; with influence scores as a third rank, it finds fewer.
    """
    both = _rank(self_confidence(evidence.probabilities, labels)) + _rank(evidence.training_margins)
    ranks = np.empty(len(labels), np.int64)
    ranks[np.argsort(both, kind="stable")] = np.arange(1, len(labels) + 1)
    return ranks


def _rank(scores):
    """1 for the lowest; equal ones share the mean of their ranks."""
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def judge(evidence: Evidence, images: Images) -> Judgement:
    """Decide which images to look at: as many of the most suspicious labels as are estimated to be wrong, images whose
    duplicates have other labels, and outliers."""
    labels = images.labels
    joint = estimated_joint(evidence.probabilities, labels)
    num_wrong, ranks = number_wrong(evidence.probabilities, labels), suspicion(evidence, labels)
    suspects = ranks <= num_wrong
    likely = other_class(evidence.probabilities, labels)
    duplicates = find_duplicates(evidence, images)
    outliers = evidence.distances.mean(1)
    conflicts = (duplicates >= 0) & (labels != labels[duplicates]) & (suspects | ~suspects[duplicates])
    flags = {LABEL: suspects, CONFLICT: conflicts, OUTLIER: outliers > FAR, DUPLICATE: (duplicates >= 0) & ~conflicts}
    problems = tuple(tuple(name for name, flag in flags.items() if flag[row]) for row in range(len(labels)))
    confidences = self_confidence(evidence.probabilities, labels)
    told = [(likely[row], evidence.probabilities[row, likely[row]], confidences[row], outliers[row], duplicates[row])
            for row in range(len(labels))]
    reasons = tuple(_reason(found, images, *values) for found, values in zip(problems, told, strict=True))
    return Judgement(joint=joint, num_wrong=num_wrong, ranks=ranks, suggested=np.where(suspects, likely, labels),
                     confidences=confidences, margins=evidence.training_margins, outliers=outliers,
                     duplicates=duplicates, problems=problems, reasons=reasons)


def find_duplicates(evidence: Evidence, images: Images) -> np.ndarray:
    """Find another image with the same pixels, or a neighbour with nearly the same; int (n,), -1 where none is."""
    num, k = evidence.neighbours.shape
    rows = np.repeat(np.arange(num), k)
    similar = pixel_similarity(images.pixels, rows, evidence.neighbours.ravel()).reshape(num, k)
    similar[evidence.neighbours == np.arange(num)[:, np.newaxis]] = -1    # merged: listed twice, but no other image
    best = similar.argmax(1)
    near = np.where(similar.max(1) >= ALIKE, evidence.neighbours[np.arange(num), best], -1)
    exact = exact_duplicates(images.pixels)
    return np.where(exact >= 0, exact, near)


def _reason(found: Sequence[str], images, likely, probability, confidence, outlier, duplicate):
    names, labels = images.list_names, images.labels
    other = "/".join(Path(images.paths[duplicate]).parts[-2:]) if images.paths else f"row {duplicate}"
    words = {
        LABEL: f"looks like {names[likely]} ({probability:.0%}), the given label has {confidence:.0%}",
        CONFLICT: f"nearly the same picture as {other}, which is labelled {names[labels[duplicate]]}",
        OUTLIER: f"unlike the other pictures: {outlier:.1f} times the usual distance to the nearest",
        DUPLICATE: f"nearly the same picture as {other}",
    }
    return "; ".join(words[problem] for problem in found)
