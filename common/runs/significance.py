"""Whether paired measurements differ: a mean difference with its confidence band, and a test for many of them."""
from collections.abc import Sequence

import attrs
import numpy as np

CONFIDENCE = 0.95    # of the bands; a test is significant where its p-value is below 1 - CONFIDENCE


@attrs.frozen
class PairedDifference:
    """A mean difference of pairs.

    Attributes
    ----------
    pairs : int
    mean : float
    low, high : float
        Ends of the confidence band of the mean; NaN for a single pair.
    p : float
        Two-sided p-value of the paired t test; NaN where it cannot be computed: a single pair, or pairs that all differ
        by the same amount, not 0.
    """

    pairs: int
    mean: float
    low: float
    high: float
    p: float


def paired_difference(values: Sequence[float], others: Sequence[float]) -> PairedDifference:
    """Compare pairs by the mean of `values` minus `others`, both float (pairs,), by Student's paired t test."""
    from scipy.stats import t

    differences = np.asarray(values, np.float64) - np.asarray(others, np.float64)
    pairs, mean = len(differences), float(differences.mean())
    if pairs < 2:
        return PairedDifference(pairs, mean, float("nan"), float("nan"), float("nan"))
    error = float(differences.std(ddof=1)) / np.sqrt(pairs)
    if error <= 1e-12 * abs(mean):    # the differences are equal but for rounding
        return PairedDifference(pairs, mean, mean, mean, 1.0 if mean == 0 else float("nan"))
    width = float(t.ppf((1 + CONFIDENCE) / 2, pairs - 1)) * error
    return PairedDifference(pairs, mean, mean - width, mean + width, float(2 * t.sf(abs(mean) / error, pairs - 1)))


def describe_pairs(values: Sequence[float], others: Sequence[float], unit: str) -> str:
    """Say by how much `values` are above `others`, both float (pairs,), in the mean with its band and pair by pair.

    Examples
    --------
    >>> describe_pairs([3.0, 4.0, 5.0], [1.0, 3.0, 2.0], "dB")
    '+2.00 ± 2.48 dB (95 % confidence), pair by pair +2.00 +1.00 +3.00'
    """
    difference = paired_difference(values, others)
    each = " ".join(f"{value - other:+.2f}" for value, other in zip(values, others, strict=True))
    band = difference.high - difference.mean
    return f"{difference.mean:+.2f} ± {band:.2f} {unit} ({100 * CONFIDENCE:g} % confidence), pair by pair {each}"


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number: the chance that any of the true hypotheses is rejected stays below the level.

    NaN stays NaN and does not count.

    References
    ----------
    S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 6 (1979).
    """
    p = np.asarray(p_values, np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    corrected = np.full(len(p), np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return corrected.tolist()
