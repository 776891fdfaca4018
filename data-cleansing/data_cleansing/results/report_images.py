"""The images of a report: which ones, what is said of each, and their pictures, in a page of bounded size."""
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from common.machine.errors import UserError, printable
from common.pages.pictures import picture_uri
from common.pictures.image_files import read_image_as
from common.runs.comparison import fingerprint
from data_cleansing.data.images import Images
from data_cleansing.data.sets import list_path
from data_cleansing.influence.methods import RANDOM
from data_cleansing.labels.decisions import LABEL, Judgement
from data_cleansing.labels.merging import mean_by_row
from data_cleansing.results.score_files import influence_path, methods_with_scores, read_influence
from data_cleansing.trial import Trial

if TYPE_CHECKING:
    from PIL.Image import Image

NUM_IMAGES = 24    # worst images of each method, and as many best ones
LOOK_AT = 10    # times as many of those to look at
EXACT_SIDE, SMALL_SIDE, FULL_SIDE = 64, 96, 640    # pixels: up to the first, pictures are shown as they are
FULL_BYTES = 12 << 20    # of pictures larger than these, in all
TO_LOOK_AT = "to look at"


@attrs.frozen(eq=False, kw_only=True)
class Listed:
    """The n images of one trial, or of all of them, and what is known of each.

    Attributes
    ----------
    name
        What the report calls this list.
    file
        Name of the file of marks.
    images
    found
    scores : dict of str to float64 (n,)
        By all methods but chance.
    classes : int (n,)
        That networks predict, which were trained on them, too.
    losses : float (n,)
    flipped : bool (n,)
        Which labels were made wrong as a test.
    """

    name: str
    file: str
    images: Images
    found: Judgement
    scores: Mapping[str, np.ndarray]
    classes: np.ndarray
    losses: np.ndarray
    flipped: np.ndarray

    @classmethod
    def of_trial(cls, folder: str | Path, trial: Trial, found: Judgement) -> "Listed":
        classes, losses = trial.predictions()
        return cls(name=f"the trial with seed {trial.seed}", file=f"marks_{trial.seed}.csv", images=trial.train_images,
                   found=found, scores=read_scores(folder, trial), classes=classes, losses=losses,
                   flipped=trial.flipped)

    @classmethod
    def of_all(cls, folder: str | Path, trials: Sequence[Trial], images: Images, found: Judgement,
               where: Sequence[np.ndarray]) -> "Listed":
        """Take what `write_merged` returns: scores and losses are means, classes are chosen by most trials."""
        num, scores = len(images), [read_scores(folder, trial) for trial in trials]
        methods = [method for method in scores[0] if all(method in one for one in scores)]
        classes, losses = zip(*(trial.predictions() for trial in trials), strict=True)
        votes = mean_by_row(where, [np.eye(len(images.class_names))[one] for one in classes], num)
        name = f"all {len(trials)} trials" if len(trials) > 1 else f"the trial with seed {trials[0].seed}"
        return cls(name=name, file="marks.csv", images=images, found=found,
                   scores={method: mean_by_row(where, [one[method] for one in scores], num) for method in methods},
                   classes=votes.argmax(1), losses=mean_by_row(where, losses, num), flipped=np.zeros(num, bool))


def read_scores(folder: str | Path, trial: Trial) -> dict[str, np.ndarray]:
    """Return the scores of a trial by all methods but chance, {method: float64 (n,)}."""
    return {method: read_influence(influence_path(folder, method, trial.seed), len(trial.train_images))
            for method in methods_with_scores(folder, trial.seed) if method != RANDOM}


def choose_groups(scores: Mapping[str, np.ndarray], found: Judgement, num_images: int) -> dict[str, list[int]]:
    """Choose rows of images by the lists that a person may want to go through, each in its order.

    Parameters
    ----------
    scores
    found
    num_images
        Length of a list of worst or best images; the list of images to look at has `LOOK_AT` times as many at most.

    Returns
    -------
    dict of str to list of int
    """
    look = np.flatnonzero(found.to_look_at)
    groups = {TO_LOOK_AT: look[np.argsort(found.ranks[look])][:LOOK_AT * num_images].tolist()}
    for method, values in scores.items():
        order = np.argsort(values, kind="stable")
        groups[f"worst by {method}"] = order[:num_images].tolist()
        groups[f"best by {method}"] = order[::-1][:num_images].tolist()
    return groups


def page_data(folder: str | Path, listed: Listed, num_images: int) -> dict[str, Any]:
    """Return what the script of the report shows, JSON-able.

    Paths are as in lists that lie in `folder`. Text for the eye is `printable`; names of files and classes, which are
    exported, are not.
    """
    images, groups = listed.images, choose_groups(listed.scores, listed.found, num_images)
    rows = list(dict.fromkeys(row for chosen in groups.values() for row in chosen))    # those to look at come first
    place = {row: index for index, row in enumerate(rows)}
    key = f"{fingerprint(images.pixels, images.labels)} {Path(folder).resolve().name} {listed.file}"
    return {
        "key": printable(key), "list": listed.name, "look_at": int(listed.found.to_look_at.sum()), "file": listed.file,
        "classes": list(images.list_names), "names": [printable(name) for name in images.class_names],
        "methods": list(listed.scores),
        "groups": {name: [place[row] for row in chosen] for name, chosen in groups.items()},
        "images": _records(folder, listed, rows),
    }


def _records(folder: str | Path, listed: Listed, rows: Sequence[int]) -> list[dict[str, Any]]:
    images, found, left = listed.images, listed.found, FULL_BYTES
    records = []
    for row in rows:
        small, full = pictures(images, row, left)
        left -= len(full or "")
        path = list_path(images.paths[row], folder)
        records.append({
            "row": row, "path": path, "shown": printable(path), "label": int(images.labels[row]),
            "predicted": int(listed.classes[row]), "flipped": bool(listed.flipped[row]), "rank": int(found.ranks[row]),
            "suggested": int(found.suggested[row]) if LABEL in found.problems[row] else None,
            "reason": printable(found.reasons[row]), "loss": _number(listed.losses[row]),
            "scores": [_number(values[row]) for values in listed.scores.values()], "small": small, "full": full,
        })
    return records


def _number(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def pictures(images: Images, row: int, room: int) -> tuple[str, str | None]:
    """Return the picture of an image as the page shows it, and a larger one if there is one, as `data:` addresses.

    Parameters
    ----------
    images
    row
    room
        Most characters of the larger one. It is that of the file, or else what the network sees, or else none.
    """
    seen = _of_pixels(images.pixels[row])
    small = seen if max(seen.size) <= EXACT_SIDE else _within(seen, SMALL_SIDE)
    for picture in (_of_file(images.paths[row]), seen):
        if picture is not None and max(picture.size) > max(small.size) and len(full := _uri(picture)) <= room:
            return _uri(small), full
    return _uri(small), None


def _uri(picture: "Image") -> str:
    return picture_uri(picture, exact=max(picture.size) <= EXACT_SIDE)


def _of_pixels(pixels: np.ndarray) -> "Image":
    """Make a Pillow image of pixels, (1 or 3, height, width), bytes or floats in [0, 1]."""
    from PIL import Image

    values = pixels if pixels.dtype == np.uint8 else np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8)
    return Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0))


def _of_file(path: str) -> "Image | None":
    """Read the file of an image, if it comes from one and that is still there."""
    from PIL import Image

    if not Path(path).is_file():
        return None
    try:
        return Image.fromarray(read_image_as(path, lambda image: np.asarray(_within(image.convert("RGB"), FULL_SIDE))))
    except UserError:
        return None


def _within(picture: "Image", side: int) -> "Image":
    small = picture.copy()
    small.thumbnail((side, side))
    return small
