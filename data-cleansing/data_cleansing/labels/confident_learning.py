"""Confident learning: how many labels are wrong, by class, from probabilities that were predicted out of sample.

Reference: C. G. Northcutt, L. Jiang, I. L. Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR
70 (2021), arXiv 1911.00068. Every image is taken to have one true label among the classes.
"""
import numpy as np

_FEWEST = 30    # images whose count is taken for a bound


def self_confidence(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probability of the given label, (n,).

    Parameters
    ----------
    probabilities : float (n, classes)
        Of networks that were trained without the image; rows add up to 1.
    labels : int (n,)
        As they were given.
    """
    return probabilities[np.arange(len(labels)), labels]


def other_class(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Most likely class but the given one, int (n,), by probabilities or logits (n, classes)."""
    others = values.astype(np.float64)
    others[np.arange(len(labels)), labels] = -np.inf
    return others.argmax(1)


def margins(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Value of the given label minus the largest one of the other classes, (n,), of probabilities or logits.

    The normalized margin of the paper where `values` are probabilities (-1 to 1), the margin of a network's outputs
    where they are logits. Below 0 the network prefers another label.
    """
    return self_confidence(values, labels) - self_confidence(values, other_class(values, labels))


def class_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean self-confidence of the images that a label was given to, (classes,); infinite where it was given to none.

    An image counts as one of a class if its probability reaches the threshold of that class (equation 2).
    """
    num_classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, self_confidence(probabilities, labels), num_classes)
    return np.divide(sums, counts, where=counts > 0, out=np.full(num_classes, np.inf))


def confident_joint(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Count images by given and by confident label, int (classes, classes).

    The confident label is the most likely class of those whose thresholds the image reaches; images that reach none are
    not counted (equation 1).
    """
    num_classes = probabilities.shape[1]
    reached = np.where(probabilities >= class_thresholds(probabilities, labels), probabilities, -1)
    counted = reached.max(1) >= 0
    joint = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(joint, (labels[counted], reached.argmax(1)[counted]), 1)
    return joint


def calibrated_joint(joint: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Scale the counts of each given label to the number of its images, float (classes, classes) (equation 3).

    The result estimates how many images have given label i and true label j. A label of which no image was counted is
    taken to be right.

    Parameters
    ----------
    joint : int (classes, classes)
        Given label, true label.
    given : int (classes,)
        Images with each given label.
    """
    counts = np.where(joint.sum(1, keepdims=True) > 0, joint, np.eye(len(joint)))
    return counts / counts.sum(1, keepdims=True) * given[:, np.newaxis]


def estimated_joint(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Estimate how many images have given label i and true label j, float (classes, classes) that adds up to n."""
    given = np.bincount(labels, minlength=probabilities.shape[1])
    return calibrated_joint(confident_joint(probabilities, labels), given)


def number_off_diagonal(joint: np.ndarray) -> int:
    """Wrong labels of an estimated joint."""
    return round(float(joint.sum() - np.trace(joint)))


def number_wrong(probabilities: np.ndarray, labels: np.ndarray) -> int:
    """Estimate how many labels are wrong: what lies off the diagonal of the joint, or less where that cannot be.

    A network that errs often puts right labels off the diagonal, too. But if w images have wrong labels, and a share
    F(s) of wrong labels has a self-confidence up to s, then w F(s) images have it at least. F is that of labels drawn
    anew, as the joint says that labels are mistaken. The number k of images up to s, plus two standard errors of
    counting them, divided by F(s), is a bound for each s. This is the estimate of a mixture's proportion by C. Scott,
    G. Blanchard and G. Handy, Classification with Asymmetric Label Noise, COLT 2013.
    """
    joint = estimated_joint(probabilities, labels)
    confidences = np.sort(self_confidence(probabilities, labels))
    count = np.searchsorted(confidences, confidences[_FEWEST - 1:], side="right")    # of each and all that are lower
    mistaken = joint.T * (1 - np.eye(len(joint)))    # true label, label that is given by mistake
    weights = mistaken[labels].ravel()
    if not weights.any() or not count.size:
        return number_off_diagonal(joint)
    order = np.argsort(probabilities, axis=None, kind="stable")
    sums = np.append(0, np.cumsum(weights[order]))
    found = np.searchsorted(probabilities.ravel()[order], confidences[_FEWEST - 1:], side="right")
    shares = sums[found] / sums[-1]
    bounds = np.divide(count + 2 * np.sqrt(count), shares, where=shares > 0, out=np.full(len(count), np.inf))
    return min(number_off_diagonal(joint), round(float(bounds.min())))
