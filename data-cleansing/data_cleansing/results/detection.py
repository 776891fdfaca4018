"""How well a ranking finds labels that are known to be wrong."""
import numpy as np


def ranking_area(scores, wrong):
    """Area under the ROC curve: chance that a wrong label has a lower score than a right one, ties count half.

    Parameters
    ----------
    scores : float (n,)
        The lower, the more suspicious.
    wrong : bool (n,)

    Returns
    -------
    float
        0 to 1, 0.5 by chance; NaN where all labels are of one kind.
    """
    scores, wrong = np.asarray(scores), np.asarray(wrong)
    bad, good = np.sort(scores[wrong]), scores[~wrong]
    if not len(bad) or not len(good):
        return float("nan")
    below, not_above = (np.searchsorted(bad, good, side=side) for side in ("left", "right"))
    return float((below + not_above).sum() / (2 * len(bad) * len(good)))


def precision_at(scores, wrong, k):
    """Share of wrong labels among the k lowest scores, ties in the order of rows.

    Parameters
    ----------
    scores : float (n,)
    wrong : bool (n,)
    k : int, 1 to n

    Returns
    -------
    float
    """
    return float(np.asarray(wrong)[np.argsort(scores, kind="stable")[:k]].mean())
