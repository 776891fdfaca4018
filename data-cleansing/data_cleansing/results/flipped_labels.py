"""How well the scores find labels that were flipped on purpose."""
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.console.tables import align
from data_cleansing.results.score_files import influence_path, methods_with_scores, read_influence
from data_cleansing.trial import Trial

PRECISION_AT = (10, 50)
DETECTION_HEADER = ("method", "seed", "wrong", "auc", *(f"precision_at_{k}" for k in PRECISION_AT),
                    "precision_at_wrong")


def ranking_area(scores: np.ndarray, wrong: np.ndarray) -> float:
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
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(wrong, -scores)) if 0 < wrong.sum() < len(wrong) else float("nan")


def precision_at(scores: np.ndarray, wrong: np.ndarray, k: int) -> float:
    """Share of wrong labels among the k lowest scores, ties in the order of rows.

    Parameters
    ----------
    scores : float (n,)
    wrong : bool (n,)
    k : int, 1 to n
    """
    return float(np.asarray(wrong)[np.argsort(scores, kind="stable")[:k]].mean())


def detection_rows(folder: str | Path, trial: Trial) -> list[tuple]:
    """How well each method found the labels that were flipped in a trial, in the order of `DETECTION_HEADER`."""
    wrong = int(trial.flipped.sum())
    rows = []
    for method in methods_with_scores(folder, trial.seed) if wrong else ():
        scores = read_influence(influence_path(folder, method, trial.seed), len(trial.flipped))
        counts = [min(k, len(scores)) for k in (*PRECISION_AT, wrong)]
        rows.append((method, trial.seed, wrong, ranking_area(scores, trial.flipped),
                     *(precision_at(scores, trial.flipped, k) for k in counts)))
    return rows


def detection_means(rows: Sequence[tuple]) -> dict[str, np.ndarray]:
    """Return {method: mean of each measure over the trials}."""
    by_method = defaultdict(list)
    for row in rows:
        by_method[row[0]].append(row[3:])
    return {method: np.mean(values, axis=0) for method, values in by_method.items()}


def format_detection(rows: Sequence[tuple]) -> str:
    """Return a table of how well the flipped labels were found, means over trials."""
    header = DETECTION_HEADER[3:]
    means = detection_means(rows)
    return align([["flipped labels found:", *(name.replace("_", " ") for name in header)],
                  *([method, *(f"{value:.3f}" for value in values)] for method, values in means.items())])
