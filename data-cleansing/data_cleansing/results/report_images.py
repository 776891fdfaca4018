"""The images of a report: which ones, what is said of each, and their pictures, in a page of bounded size."""
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.machine.errors import UserError, printable
from common.pages.pictures import picture_uri
from common.pictures.image_files import read_image_as
from data_cleansing.data.images import Images
from data_cleansing.data.sets import list_path
from data_cleansing.influence.methods import RANDOM
from data_cleansing.influence.snapshot import fingerprint
from data_cleansing.labels.decisions import LABEL, Judgement
from data_cleansing.results.score_files import influence_path, methods_with_scores, read_influence
from data_cleansing.trial import Trial

if TYPE_CHECKING:
    from PIL.Image import Image

NUM_IMAGES = 24    # worst images of each method, and as many best ones
LOOK_AT = 10    # times as many of those to look at
EXACT_SIDE, SMALL_SIDE, FULL_SIDE = 64, 96, 640    # pixels: up to the first, pictures are shown as they are
FULL_BYTES = 12 << 20    # of pictures larger than these, in all
TO_LOOK_AT = "to look at"
Scores = Mapping[str, np.ndarray]


def read_scores(folder: str | Path, trial: Trial) -> dict[str, np.ndarray]:
    """Return the scores of a trial by all methods but chance, {method: float64 (n,)}."""
    return {method: read_influence(influence_path(folder, method, trial.seed), len(trial.train_images))
            for method in methods_with_scores(folder, trial.seed) if method != RANDOM}


def choose_groups(scores: Scores, found: Judgement, num_images: int) -> dict[str, list[int]]:
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


def page_data(folder: str | Path, trial: Trial, scores: Scores, found: Judgement, num_images: int) -> dict[str, Any]:
    """Return what the script of the report shows, JSON-able.

    Paths are as in lists that lie in `folder`. Text for the eye is `printable`; names of files and classes, which are
    exported, are not.
    """
    images, groups = trial.train_images, choose_groups(scores, found, num_images)
    rows = list(dict.fromkeys(row for chosen in groups.values() for row in chosen))    # those to look at come first
    place = {row: index for index, row in enumerate(rows)}
    key = f"{fingerprint(images.pixels, images.labels)} {trial.seed} {Path(folder).resolve().name}"
    return {
        "key": printable(key), "look_at": int(found.to_look_at.sum()), "file": f"marks_{trial.seed}.csv",
        "classes": list(images.list_names), "names": [printable(name) for name in images.class_names],
        "methods": list(scores), "groups": {name: [place[row] for row in chosen] for name, chosen in groups.items()},
        "images": _records(folder, trial, scores, found, rows),
    }


def _records(folder: str | Path, trial: Trial, scores: Scores, found: Judgement,
             rows: Sequence[int]) -> list[dict[str, Any]]:
    images, left = trial.train_images, FULL_BYTES
    classes, losses = trial.predictions()
    records = []
    for row in rows:
        small, full = pictures(images, row, left)
        left -= len(full or "")
        path = list_path(images.paths[row], folder)
        records.append({
            "row": row, "path": path, "shown": printable(path), "label": int(images.labels[row]),
            "predicted": int(classes[row]), "flipped": bool(trial.flipped[row]), "rank": int(found.ranks[row]),
            "suggested": int(found.suggested[row]) if LABEL in found.problems[row] else None,
            "reason": printable(found.reasons[row]), "loss": _number(losses[row]),
            "scores": [_number(values[row]) for values in scores.values()], "small": small, "full": full,
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
