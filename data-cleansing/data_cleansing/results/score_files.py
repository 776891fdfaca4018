"""The files of scores and of measures after retraining, named and laid out as the published code does."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.machine.errors import UsageError, UserError
from common.machine.files import make_folder, write_csv
from common.reading.files import decoding
from common.reading.texts import read_rows
from common.runs.comparison import read_settings
from data_cleansing.data.images import Images
from data_cleansing.data.sets import list_path
from data_cleansing.influence.methods import METHODS

SIGN = "a negative influence says that removing the image lowers the validation loss"
INFLUENCE_HEADER = ("x:image", "y:label", "influence", "datasource_index")
MEASURES = ("val_loss", "test_loss", "val_accuracy", "test_accuracy")


def influence_path(folder: str | Path, method: str, seed: int) -> Path:
    """Path of the scores of a trial."""
    name = METHODS[method].folder
    return Path(folder) / "influence" / name / f"influence_{name.lower()}_{seed}.csv"


def score_path(folder: str | Path, method: str, removed: int, seed: int) -> Path:
    """Path of the measures after retraining without the `removed` worst images."""
    return Path(folder) / "score" / METHODS[method].folder / f"score_delete_worst_{removed}_seed_{seed}.csv"


def new_training_path(folder: str | Path, method: str | None, removed: int, seed: int, number: int) -> Path:
    """Path of the measures of a new training without the `removed` worst images; for 0 there is no method."""
    name = "No_Removal" if method is None else METHODS[method].folder
    return (Path(folder) / "new_trainings" / name
            / f"score_delete_worst_{removed}_seed_{seed}_training_{number}.csv")


def scored_as_published(folder: str | Path) -> tuple[str, ...]:
    """Methods of a run that were scored as the published code does, in the order of `METHODS`."""
    settings = {name: read_settings(Path(folder) / "influence" / method.folder) for name, method in METHODS.items()}
    return tuple(name for name, values in settings.items() if values and values.get("published"))


def write_influence(path: Path, scores: np.ndarray, images: Images) -> None:
    """Write scores, float64 (n,), the images that are best removed first."""
    make_folder(path.parent)
    order = np.argsort(scores, kind="stable").tolist()
    write_csv(path, INFLUENCE_HEADER, [
        (list_path(images.paths[row], path.parent), images.list_names[images.labels[row]], float(scores[row]), row)
        for row in order])


def read_influence(path: Path, num_images: int | None = None) -> np.ndarray:
    """Read what `write_influence` wrote.

    Returns
    -------
    scores : float64 (n,)
        By row of the training set; a ranking is its stable `argsort`.

    Raises
    ------
    UserError
        The file is damaged, or of other images.
    """
    try:
        table = read_rows(path, "scores", ("datasource_index", "influence"), "delete it and score again")
        rows = np.array([int(line["datasource_index"]) for line in table])
        values = np.array([float(line["influence"]) for line in table])
        if sorted(rows.tolist()) != list(range(len(rows))) or num_images not in (None, len(rows)):
            raise ValueError(f"{len(rows)} rows are not those of the {num_images} training images")
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path}: holds no scores of this run ({error}); delete it and score again") from error
    scores = np.empty(len(rows))
    scores[rows] = values
    return scores


def read_measures(path: Path) -> list[list[float]]:
    """Read a score file: measures after each retrained epoch, a list of float (4,).

    Raises
    ------
    UserError
        The file is damaged.
    """
    remedy = "delete it and retrain"
    rows = read_rows(path, "measures", MEASURES, remedy)
    with decoding(path, "measures", remedy):
        return [[float(row[name]) for name in MEASURES] for row in rows]


def methods_with_scores(folder: str | Path, seed: int) -> tuple[str, ...]:
    """Methods that a trial has scores of, in the order of `METHODS`."""
    return tuple(method for method in METHODS if influence_path(folder, method, seed).exists())


def listed_method(folder: str | Path, seeds: Sequence[int], wanted: Sequence[str]) -> str:
    """Return the method whose scores stand in lists: of those that all trials have scores of, the first one wanted.

    Raises
    ------
    UsageError
        There is none.
    """
    scored = [set(methods_with_scores(folder, seed)) for seed in seeds]
    for method in (*wanted, *METHODS):
        if all(method in found for found in scored):
            return method
    missing = next((seed for seed, found in zip(seeds, scored, strict=True) if not found), seeds[0])
    raise UsageError(f"{folder}: no scores of seed {missing} by a method that all trials have; run score.py first")
