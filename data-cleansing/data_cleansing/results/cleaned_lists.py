"""Lists of all training images that say which ones to look at."""
from pathlib import Path

from common.machine.files import make_folder, write_csv
from data_cleansing.data.sets import list_path
from data_cleansing.results import accuracy
from data_cleansing.results.accuracy import Measures
from data_cleansing.results.score_files import INFLUENCE_HEADER, influence_path, read_influence
from data_cleansing.trial import Trial

KEPT, SUSPECT = "keep", "look at"


def number_to_remove(measures: Measures, method: str) -> int:
    """Number of images without which the mean validation accuracy is best; the smallest of equals, 0 if none helps.

    The test images must not choose.
    """
    lines = accuracy.curves(measures, "val_accuracy")
    points = [(mean, -removed) for name in (accuracy.NONE, method) if name in lines
              for removed, mean, _ in zip(*lines[name], strict=True)]
    return -max(points, default=(0, 0))[1]


def write_cleaned(folder: str | Path, trial: Trial, method: str, removed: int) -> None:
    """Write `cleaned/cleaned_<seed>.csv`: all training images in their order, and which to look at."""
    scores = read_influence(influence_path(folder, method, trial.seed), len(trial.train_images))
    suspects = set(scores.argsort(kind="stable")[:removed].tolist())
    target = make_folder(Path(folder) / "cleaned") / f"cleaned_{trial.seed}.csv"
    images = trial.train_images
    write_csv(target, (*INFLUENCE_HEADER, "action"), [
        (list_path(path, target.parent), images.list_names[images.labels[row]], float(scores[row]), row,
         SUSPECT if row in suspects else KEPT) for row, path in enumerate(images.paths)])
