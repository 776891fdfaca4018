"""Lists of all training images that say which ones to look at, and why."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.console.tables import align
from common.machine.files import make_folder, write_csv
from common.reading.texts import read_rows
from data_cleansing.data.images import Images
from data_cleansing.data.sets import list_path
from data_cleansing.labels.decisions import CONFLICT, DUPLICATE, LABEL, OUTLIER, Judgement, judge
from data_cleansing.labels.merging import mean_by_row, merge
from data_cleansing.results.score_files import INFLUENCE_HEADER, influence_path, read_influence
from data_cleansing.trial import Trial

KEPT, SUSPECT = "keep", "look at"
CLEANED_HEADER = (*INFLUENCE_HEADER, "action", "suggested_label", "rank", "self_confidence", "margin", "outlier",
                  "duplicate_of", "reason")
ESTIMATES_HEADER = ("seed", "images", "estimated_wrong", "look_at", LABEL, CONFLICT, OUTLIER, DUPLICATE)
ESTIMATES_NAMES = ("seed", "images", "labels wrong, estimated", "to look at", "seem wrong",
                   "duplicates with other labels", "outliers", "duplicates")    # the same for the eye


def cleaned_path(folder: str | Path, seed: int) -> Path:
    """Path of the list of a trial."""
    return Path(folder) / "cleaned" / f"cleaned_{seed}.csv"


def write_cleaned(folder: str | Path, trial: Trial, method: str) -> Judgement:
    """Write `cleaned/cleaned_<seed>.csv`: all training images in their order, and which to look at.

    Its columns, after those of influence files:

    action
        `keep` or `look at`.
    suggested_label
        A class, where the given label seems wrong; empty otherwise.
    rank
        1 for the most suspicious label.
    self_confidence
        Probability of the given label, 0 to 1, by a network that was trained without the image.
    margin
        Logit of the given label minus the largest other one, mean over its uses in trainings.
    outlier
        Mean distance to the nearest neighbours, as a multiple of the usual one.
    duplicate_of
        `datasource_index` of an image that is the same or nearly so; empty if there is none.
    reason
        In words; empty where there is nothing to say.
    """
    images, found = trial.train_images, judge(trial.cross_validate(), trial.train_images)
    target = cleaned_path(folder, trial.seed)
    rows = _rows(images, found, _scores(folder, trial, method), make_folder(target.parent))
    write_csv(target, CLEANED_HEADER, rows)
    write_csv(target.with_name(f"joint_{trial.seed}.csv"), ("given label", *images.list_names), [
        (name, *(f"{value:.2f}" for value in values))
        for name, values in zip(images.list_names, found.joint, strict=True)])
    return found


def write_merged(folder: str | Path, trials: Sequence[Trial], method: str
                 ) -> tuple[Images, Judgement, list[np.ndarray]]:
    """Write `cleaned/cleaned.csv`: the training images of all trials, each once, the most suspicious labels first.

    Its columns are those of `write_cleaned`. What the trials say of an image is averaged, and `datasource_index` counts
    the images of this list. Labels must not have been made wrong, as each trial makes others wrong.

    Returns
    -------
    images : Images
    found : Judgement
    where : list of int (n,)
        Where the training images of each trial are among all.
    """
    images, evidence, where = merge([(trial.train_images, trial.cross_validate()) for trial in trials])
    scores = mean_by_row(where, [_scores(folder, trial, method) for trial in trials], len(images))
    found = judge(evidence, images)
    target = make_folder(Path(folder) / "cleaned") / "cleaned.csv"
    rows = _rows(images, found, scores, target.parent)
    write_csv(target, CLEANED_HEADER, [rows[row] for row in found.ranks.argsort()])
    return images, found, where


def _scores(folder, trial, method):
    return read_influence(influence_path(folder, method, trial.seed), len(trial.train_images))


def _rows(images, found, scores, folder):
    """Rows of a list in a folder, in the order of the images."""
    names, look = images.list_names, found.to_look_at
    return [(list_path(path, folder), names[images.labels[row]], float(scores[row]), row,
             SUSPECT if look[row] else KEPT, names[found.suggested[row]] if LABEL in found.problems[row] else "",
             int(found.ranks[row]), f"{found.confidences[row]:.6f}", f"{found.margins[row]:.4f}",
             f"{found.outliers[row]:.3f}", int(found.duplicates[row]) if found.duplicates[row] >= 0 else "",
             found.reasons[row])
            for row, path in enumerate(images.paths)]


def read_cleaned(folder: str | Path, seed: int) -> list[dict[str, str]]:
    """Read the list of a trial, a dict by column for each training image.

    Raises
    ------
    UserError
        It is damaged.
    """
    return read_rows(cleaned_path(folder, seed), "a list of images", CLEANED_HEADER, "run report.py again")


def estimates_row(seed: int | str, found: Judgement) -> tuple[int | str, ...]:
    """Numbers of images of a trial, in the order of `ESTIMATES_HEADER`."""
    return (seed, len(found.ranks), found.num_wrong, int(found.to_look_at.sum()),
            *(found.count(problem) for problem in (LABEL, CONFLICT, OUTLIER, DUPLICATE)))


def format_estimates(rows: Sequence[Sequence[int | str]]) -> str:
    """Return a table of `estimates_row` of all trials."""
    return align([("seed:", *ESTIMATES_NAMES[1:]), *rows])
