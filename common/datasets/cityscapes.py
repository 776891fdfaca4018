"""Cityscapes, and data sets of its layout: street scenes whose pixels have one of 19 classes.

    <root>/leftImg8bit/{train,val}/<city>/<id>_leftImg8bit.png
    <root>/gtFine/{train,val}/<city>/<id>_gtFine_labelTrainIds.png    or, without those, <id>_gtFine_labelIds.png
    <root>/{train,val}.txt    optional: which images to take, `<city>/<id>` in each line
"""
from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np

from common.datasets.table import SYNTHETIC
from common.machine.errors import UsageError, UserError
from common.pictures import image_files as images
from common.reading.texts import read_text
from common.runs.comparison import fingerprint

SPLITS = ("train", "val")
IGNORE = 255
CLASSES = ("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
           "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
PALETTE = np.array([    # RGB
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)], np.uint8)

_IMAGE, _TRAIN_IDS, _IDS = "_leftImg8bit.png", "_gtFine_labelTrainIds.png", "_gtFine_labelIds.png"
# Numbers in `labelIds` that are scored, in the order of `CLASSES`, from the public table of labels; the others are not.
LARGEST_ID = 33
_SCORED_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
_TO_TRAIN_ID = np.full(256, IGNORE, np.uint8)
_TO_TRAIN_ID[_SCORED_IDS] = np.arange(len(CLASSES))


@attrs.frozen
class SceneFile:
    """The image or the label of a generated scene, in place of a file."""

    split: str
    index: int
    kind: str    # 'image' or 'label'

    def scene(self) -> tuple[np.ndarray, np.ndarray]:
        """Return image and label, as `common.datasets.synthetic_scenes.make_scene` does."""
        from common.datasets.synthetic_scenes import make_scene

        return make_scene(self.split, self.index)

    def read(self) -> np.ndarray:
        image, label = self.scene()
        return image if self.kind == "image" else label

    def __str__(self) -> str:
        return f"{SYNTHETIC}/{self.split}/{self.index:04d} ({self.kind})"


@attrs.frozen
class Pair:
    """An image and its label.

    Attributes
    ----------
    name
        `<city>/<id>`.
    image, label : pathlib.Path or SceneFile
        For `read_image` and `read_label`.
    """

    name: str
    image: Path | SceneFile
    label: Path | SceneFile


def identity(pairs: Sequence[Pair]) -> tuple[int, str]:
    """How many pairs there are, and a hash of their names."""
    return len(pairs), fingerprint([pair.name for pair in pairs])


def find_pairs(root: str | Path, split: str) -> list[Pair]:
    """List the images of a split, and their labels, in the order of their names or of the list in the root.

    Parameters
    ----------
    root
        Or 'synthetic', for generated scenes (`common.datasets.synthetic_scenes`).
    split : 'train' or 'val'

    Returns
    -------
    list of Pair

    Raises
    ------
    UsageError
        The folder is no data set, or it has no such image or label.
    """
    if split not in SPLITS:
        raise UsageError(f"split {split!r}: choose one of {', '.join(SPLITS)}")
    if str(root) == SYNTHETIC:
        # Brings OpenCV, which flags and configurations do without.
        from common.datasets.synthetic_scenes import NUM

        return [Pair(f"{SYNTHETIC}/{index:04d}", SceneFile(split, index, "image"), SceneFile(split, index, "label"))
                for index in range(NUM[split])]
    folder, labels = (Path(root) / kind / split for kind in ("leftImg8bit", "gtFine"))
    if not folder.is_dir():
        wrong = f"no leftImg8bit/{split} in it" if Path(root).is_dir() else "no such folder"
        raise UsageError(f"--data-dir {root}: {wrong}; name the folder of leftImg8bit and gtFine, or 'synthetic'")
    names = _listed(Path(root) / f"{split}.txt", folder) or _present(folder)
    if not names:
        raise UsageError(f"--data-dir {root}: no image <city>/<id>{_IMAGE} in {folder}")
    return [Pair(name, folder / f"{name}{_IMAGE}", _find_label(labels, name)) for name in names]


def _listed(path: Path, folder: Path) -> list[str]:
    """Return the names in a list; none if there is no list."""
    if not path.exists():
        return []
    lines = read_text(path, "a list of images").splitlines()
    names = {number: line.strip() for number, line in enumerate(lines, 1) if line.strip()}
    for number, name in names.items():
        if not (folder / f"{name}{_IMAGE}").is_file():
            raise UsageError(f"{path}, line {number}: no image {folder / name}{_IMAGE}; correct or remove the list")
    if not names:
        raise UsageError(f"{path}: lists no image; fill it, or remove it to take all")
    return list(names.values())


def _present(folder: Path) -> list[str]:
    images = folder.glob(f"[!.]*/[!.]*{_IMAGE}")
    return sorted(path.relative_to(folder).as_posix().removesuffix(_IMAGE) for path in images)


def _find_label(folder: Path, name: str) -> Path:
    candidates = [folder / f"{name}{suffix}" for suffix in (_TRAIN_IDS, _IDS)]
    for path in candidates:
        if path.is_file():
            return path
    raise UsageError(f"{candidates[0]}: no such label, nor one of {_IDS[1:]}; every image needs one")


def read_image(path: str | Path | SceneFile) -> np.ndarray:
    """Read the image of a pair, or any other.

    Parameters
    ----------
    path : path or SceneFile

    Returns
    -------
    uint8 (height, width, 3), BGR

    Raises
    ------
    UsageError, UserError
        As `common.pictures.image_files.read_image`.
    """
    return path.read() if isinstance(path, SceneFile) else images.read_image(path)


def read_label(path: str | Path | SceneFile) -> np.ndarray:
    """Read a label.

    Parameters
    ----------
    path : path or SceneFile
        If its name ends in `labelIds.png`, its numbers are converted to classes.

    Returns
    -------
    uint8 (height, width)
        0..18, the index in `CLASSES`, or 255: ignored.

    Raises
    ------
    UsageError
        There is no such file.
    UserError
        It is no label image, or holds other numbers.
    """
    if isinstance(path, SceneFile):
        return path.read()
    label = images.read_indices(path)
    converted = Path(path).name.endswith(_IDS)
    largest = LARGEST_ID if converted else len(CLASSES) - 1
    unknown = label[(label > largest) & (label != IGNORE)]
    if unknown.size:
        raise UserError(f"{path}: holds the label {unknown.min()}; 0..{largest} and {IGNORE} (ignored) are allowed")
    return _TO_TRAIN_ID[label] if converted else label.astype(np.uint8)


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Read image and label of a `Pair`.

    Returns
    -------
    image : uint8 (height, width, 3), BGR
    label : uint8 (height, width)

    Raises
    ------
    UsageError, UserError
        As `read_image` and `read_label`; they differ in size.
    """
    if isinstance(pair.image, SceneFile):
        return pair.image.scene()
    image, label = read_image(pair.image), read_label(pair.label)
    if image.shape[:2] != label.shape:
        (height, width), (label_height, label_width) = image.shape[:2], label.shape
        raise UserError(f"{pair.label}: is {label_width} x {label_height} pixels, and its image {width} x {height}; "
                        "they have to agree")
    return image, label
