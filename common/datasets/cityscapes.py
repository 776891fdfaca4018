"""Cityscapes, and what has its layout: street scenes whose pixels have one of 19 classes.

    <root>/leftImg8bit/{train,val}/<city>/<id>_leftImg8bit.png
    <root>/gtFine/{train,val}/<city>/<id>_gtFine_labelTrainIds.png    or, without those, <id>_gtFine_labelIds.png
    <root>/{train,val}.txt    optional: which images to take, `<city>/<id>` in each line
"""
from pathlib import Path

import attrs
import numpy as np

from common.datasets import synthetic_scenes
from common.machine.errors import UsageError, UserError
from common.pictures import image_files as images

SYNTHETIC = "synthetic"
SPLITS = ("train", "val")
IGNORE = 255
CLASSES = ("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
           "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
PALETTE = np.array([    # RGB
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)], np.uint8)

_IMAGE, _TRAIN_IDS, _IDS = "_leftImg8bit.png", "_gtFine_labelTrainIds.png", "_gtFine_labelIds.png"
# Of the public table of labels: number in `labelIds` -> class; the other numbers up to 33 are not scored.
_CLASS_OF_ID = dict(zip((7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
                        range(len(CLASSES)), strict=True))
_TO_TRAIN_ID = np.array([_CLASS_OF_ID.get(number, IGNORE) for number in range(256)], np.uint8)
_KNOWN_IDS = np.isin(np.arange(256), (*range(34), IGNORE))
_KNOWN_TRAIN_IDS = np.isin(np.arange(256), (*range(len(CLASSES)), IGNORE))


@attrs.frozen
class SceneFile:
    """Takes the place of a file: the image or the label of a generated scene."""

    split = attrs.field()
    index = attrs.field()
    kind = attrs.field()    # 'image' or 'label'

    def read(self):
        image, label = synthetic_scenes.make_scene(self.split, self.index)
        return image if self.kind == "image" else label

    def __str__(self):
        return f"{SYNTHETIC}/{self.split}/{self.index:04d} ({self.kind})"


@attrs.frozen
class Pair:
    """An image and its label.

    Attributes
    ----------
    name : str
        `<city>/<id>`.
    image, label : pathlib.Path or SceneFile
        For `read_image` and `read_label`.
    """

    name = attrs.field()
    image = attrs.field()
    label = attrs.field()


def find_pairs(root, split):
    """List the images of a split, and their labels, in the order of their names or of the list in the root.

    Parameters
    ----------
    root : path
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
        return [Pair(f"{SYNTHETIC}/{index:04d}", SceneFile(split, index, "image"), SceneFile(split, index, "label"))
                for index in range(synthetic_scenes.NUM[split])]
    folder, labels = (Path(root) / kind / split for kind in ("leftImg8bit", "gtFine"))
    if not folder.is_dir():
        what = f"no leftImg8bit/{split} in it" if Path(root).is_dir() else "no such folder"
        raise UsageError(f"--data-dir {root}: {what}; name the folder of leftImg8bit and gtFine, or 'synthetic'")
    names = _listed(Path(root) / f"{split}.txt", folder) or _present(folder)
    if not names:
        raise UsageError(f"--data-dir {root}: no image <city>/<id>{_IMAGE} in {folder}")
    return [Pair(name, folder / f"{name}{_IMAGE}", _find_label(labels, name)) for name in names]


def _listed(path, folder):
    """Names in a list; none if there is no list."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a list of images ({error})") from error
    names = {number: line.strip() for number, line in enumerate(lines, 1) if line.strip()}
    for number, name in names.items():
        if not (folder / f"{name}{_IMAGE}").is_file():
            raise UsageError(f"{path}, line {number}: no image {folder / name}{_IMAGE}; correct or remove the list")
    if not names:
        raise UsageError(f"{path}: lists no image; fill it, or remove it to take all")
    return list(names.values())


def _present(folder):
    return sorted(path.relative_to(folder).as_posix().removesuffix(_IMAGE) for path in folder.glob(f"*/*{_IMAGE}"))


def _find_label(folder, name):
    candidates = [folder / f"{name}{suffix}" for suffix in (_TRAIN_IDS, _IDS)]
    for path in candidates:
        if path.is_file():
            return path
    raise UsageError(f"{candidates[0]}: no such label, nor one of {_IDS[1:]}; every image needs one")


def read_image(path):
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


def read_label(path):
    """Read a label.

    Parameters
    ----------
    path : path or SceneFile
        A name that ends in `labelIds.png` says that its numbers are to be converted to classes.

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
    known, meant = (_KNOWN_IDS, "0..33") if converted else (_KNOWN_TRAIN_IDS, f"0..{len(CLASSES) - 1}")
    strange = np.flatnonzero((np.bincount(label.ravel(), minlength=256) > 0) & ~known)
    if len(strange):
        raise UserError(f"{path}: holds the label {strange[0]}; {meant} and {IGNORE} (ignored) are allowed")
    return _TO_TRAIN_ID[label] if converted else label


def read_pair(pair):
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
        return synthetic_scenes.make_scene(pair.image.split, pair.image.index)
    image, label = read_image(pair.image), read_label(pair.label)
    if image.shape[:2] != label.shape:
        (height, width), (label_height, label_width) = image.shape[:2], label.shape
        raise UserError(f"{pair.label}: is {label_width} x {label_height} pixels, and its image {width} x {height}; "
                        "they have to agree")
    return image, label
