"""ImageNet (ILSVRC 2012) and other folders of photographs, which are decoded and augmented when they are needed.

O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, 2015.

    ROOT/train/<wnid>/*.JPEG
    ROOT/val/<wnid>/*.JPEG    or ROOT/val/*.JPEG and a label file

The classes are the folders of the training images in the order of their names. Instead of a folder, `synthetic` stands
for generated pictures.
"""
from pathlib import Path

import attrs
import numpy as np

from common.datasets import synthetic
from common.datasets.batches import ReadBatches
from common.datasets.photographs import decode
from common.datasets.table import DATASETS, SYNTHETIC
from common.machine.distributed import World
from common.machine.errors import UsageError, UserError
from common.reading.texts import read_text
from common.runs.comparison import fingerprint

SPLITS = ("train", "val")
SYNTHETIC_NUM, SYNTHETIC_SIZE = {"train": 160, "val": 80}, 96    # pictures, pixels
SUFFIXES = (".jpeg", ".jpg", ".png")
LABEL_FILES = ("val_labels.txt", "val.txt", "LOC_val_solution.csv")    # looked for in ROOT and ROOT/val
MEAN = np.array([0.485, 0.456, 0.406], np.float32)    # of red, green and blue in [0, 1], as the field subtracts them
STD = np.array([0.229, 0.224, 0.225], np.float32)


@attrs.frozen(eq=False)
class Pictures:
    """Labelled pictures of any size, not decoded yet.

    Attributes
    ----------
    sources : tuple of pathlib.Path, or of uint8 arrays (height, width, 3)
    labels : int32 (n,), 0..len(class_names)-1
    """

    sources: tuple[Path | np.ndarray, ...] = attrs.field(converter=tuple, repr=lambda found: f"<{len(found)} pictures>")
    labels: np.ndarray = attrs.field(converter=lambda labels: np.asarray(labels, np.int32), repr=False)
    class_names: tuple[str, ...] = attrs.field(converter=tuple, repr=False)

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def identity(self) -> tuple[int, str]:
        """How many pictures there are, and a hash of their names, or of those in memory themselves, and their classes.
        """
        sources = [fingerprint(source) if isinstance(source, np.ndarray) else source.name for source in self.sources]
        return len(self), fingerprint(sources, self.labels, self.class_names)

    def subset(self, index: np.ndarray) -> "Pictures":
        """Return the `Pictures` at `index`, int (k,), in that order."""
        return attrs.evolve(self, sources=[self.sources[k] for k in index], labels=self.labels[index])


def load(split: str, root: str | Path, per_class: int | None = None, limit: int | None = None,
         val_labels: str | Path | None = None) -> Pictures:
    """List the pictures of a split.

    Parameters
    ----------
    split : 'train' or 'val'
    root : path, or 'synthetic'
    per_class
        At most this many of each class, the first ones.
    limit
        At most this many in all, from all classes in turn.
    val_labels
        Labels of a flat validation folder; not given, one of `LABEL_FILES`. A line holds the name of a picture and its
        class, separated by blanks or a comma, and perhaps more; or else the class alone, in the order of the names of
        the pictures. A class is a wnid or, beside a name, its place in the order of the classes, from 0 on.

    Returns
    -------
    Pictures
        In the order of classes and names; of a flat folder, in that of names.

    Raises
    ------
    UsageError
        Unknown split, limits below 1, or no such pictures in `root`.
    UserError
        The label file does not fit the pictures.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: choose from {', '.join(SPLITS)}")
    for name, value in (("per class", per_class), ("in all", limit)):
        if value is not None and value < 1:
            raise UsageError(f"{value} pictures {name}: choose at least 1")
    pictures = _synthetic(split) if str(root) == SYNTHETIC else _from_folder(split, Path(root), val_labels)
    return _limited(pictures, per_class, limit)


def _synthetic(split: str) -> Pictures:
    info = attrs.evolve(DATASETS[SYNTHETIC], shape=(3, SYNTHETIC_SIZE, SYNTHETIC_SIZE))
    pixels, labels = synthetic.read(info, "train" if split == "train" else "test", SYNTHETIC_NUM[split])
    return Pictures(pixels.transpose(0, 2, 3, 1), labels, info.class_names)


def _limited(pictures: Pictures, per_class: int | None, limit: int | None) -> Pictures:
    """Keep the first of each class."""
    rank = np.empty(len(pictures), np.int64)    # of each picture within its class
    for label in np.unique(pictures.labels):
        members = np.flatnonzero(pictures.labels == label)
        rank[members] = np.arange(len(members))
    chosen = np.lexsort((pictures.labels, rank))
    if per_class is not None:
        chosen = chosen[rank[chosen] < per_class]
    return pictures.subset(np.sort(chosen[:limit]))


def _from_folder(split: str, root: Path, val_labels: str | Path | None) -> Pictures:
    for folder in (root, root / split):
        if not folder.is_dir():
            raise UsageError(f"--data-dir {root}: no such folder" + (f" as {folder}" if folder != root else "")
                             + "; it should hold train/<wnid>/*.JPEG and val/, or be 'synthetic'")
    reference = root / "train" if (root / "train").is_dir() else root / split
    class_names = _folders(reference)
    folders = _folders(root / split)
    if split == "val" and not folders:
        return _flat(root, class_names, val_labels)
    unknown = sorted(set(folders) - set(class_names))
    if unknown:
        raise UsageError(f"{root / split / unknown[0]}: a class that has no folder in {reference}")
    found = [(path, class_names.index(name)) for name in folders for path in _files(root / split / name)]
    if not found:
        raise UsageError(f"{root / split}: no pictures there; expected <wnid>/*.JPEG")
    if split == "train" and (missing := set(range(len(class_names))) - {label for _, label in found}):
        raise UsageError(f"{reference / class_names[min(missing)]}: no pictures there; remove the folder or fill it")
    paths, labels = zip(*found, strict=True)
    return Pictures(paths, labels, class_names)


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir()
                  if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file())


def _flat(root: Path, class_names: list[str], val_labels: str | Path | None) -> Pictures:
    """Pictures of a validation folder without folders of classes."""
    files = _files(root / "val")
    if not files:
        raise UsageError(f"{root / 'val'}: no pictures there; expected <wnid>/*.JPEG, or *.JPEG and a label file")
    if not class_names:
        raise UsageError(f"{root}: the classes are not known; the training folder train/<wnid> has their names")
    path = _label_file(root, val_labels)
    text = read_text(path, "a list of labels")
    lines = [line.replace(",", " ").split() for line in text.splitlines() if line.strip()]
    numbers = {name: number for number, name in enumerate(class_names)}
    if lines and all(len(line) == 1 for line in lines):
        if len(lines) != len(files):
            raise UserError(f"{path}: {len(lines)} labels for {len(files)} pictures in {root / 'val'}")
        labels = [_number(path, line[0], numbers, by_name=True) for line in lines]
        return Pictures(files, labels, class_names)
    by_picture = {Path(line[0]).stem: line[1] for line in lines if len(line) > 1}
    missing = [file for file in files if file.stem not in by_picture]
    if missing:
        raise UserError(f"{path}: no label for {missing[0].name} (and {len(missing) - 1} more of {len(files)})")
    labels = [_number(path, by_picture[file.stem], numbers) for file in files]
    return Pictures(files, labels, class_names)


def _label_file(root: Path, val_labels: str | Path | None) -> Path:
    candidates = [Path(val_labels)] if val_labels else [folder / name for folder in (root, root / "val")
                                                        for name in LABEL_FILES]
    for path in candidates:
        if path.is_file():
            return path
    raise UsageError(f"{val_labels}: no such label file" if val_labels else
                     f"{root / 'val'}: pictures without folders of classes need a label file; "
                     f"put one of {', '.join(LABEL_FILES)} into {root}")


def _number(path: Path, label: str, numbers: dict[str, int], by_name: bool = False) -> int:
    """Number of a class, given as wnid or, unless `by_name`, as a number."""
    if label in numbers:
        return numbers[label]
    if by_name and label.isdecimal():
        # The development kit counts classes in an order of its own; taking its numbers would mislabel all pictures.
        raise UserError(f"{path}: numbers alone, which are in no known order; name the classes by their wnid")
    if not label.isdecimal() or int(label) >= len(numbers):
        raise UserError(f"{path}: {label!r} is none of the {len(numbers)} classes, as wnid or as 0..{len(numbers) - 1}")
    return int(label)


class ImageBatches(ReadBatches):
    """Batches of `Pictures` of one size, with mean 0 and deviation 1 per colour over ImageNet, epoch by epoch.

    Parameters
    ----------
    size
        Height and width, pixels.
    seed
        Shuffle, crop at random and mirror, anew each epoch. Not given: the order of `pictures`, and the centre.
    drop_last, steps, world, workers
        As for `ReadBatches`.
    skip_damaged
        Leave out pictures that cannot be decoded, and note them in `skipped`, instead of stopping with a UserError.
        With a seed, others of the batch take their places, so that it keeps its size.

    Attributes
    ----------
    skipped : set
        Sources of the pictures that have been left out so far.
    """

    def __init__(self, pictures: Pictures, batch_size: int, size: int = 224, seed: int | None = None,
                 drop_last: bool = False, steps: int | None = None, world: World | None = None,
                 workers: int | None = None, skip_damaged: bool = False):
        super().__init__(pictures, batch_size, seed, drop_last, steps, world, workers)
        self.size, self.skip_damaged, self.skipped = size, skip_damaged, set()

    def read(self, k: int, rng: np.random.Generator | None) -> np.ndarray | None:
        """Return the pixels of picture `k`, uint8 (size, size, 3); None if it is to be skipped."""
        source = self.dataset.sources[k]
        try:
            return decode(source, self.size, rng)
        except UserError:
            if not self.skip_damaged:
                raise
            self.skipped.add(source)
            return None

    def _batch(self, index: np.ndarray, examples: list[np.ndarray | None]) -> tuple[np.ndarray, np.ndarray]:
        good = [k for k, pixels in enumerate(examples) if pixels is not None]
        if not good:
            raise UserError(f"{self.dataset.sources[index[0]]}: damaged, and so are all {len(index)} pictures of a "
                            "batch; check the files")
        if self.seed is not None:
            good = np.resize(good, len(index))
        image = np.array([examples[k] for k in good])    # (batch, size, size, 3)
        # One product and one sum: value = (byte / 255 - mean) / std.
        normalized = image.transpose(0, 3, 1, 2) * (1 / (255 * STD))[:, None, None] - (MEAN / STD)[:, None, None]
        return np.ascontiguousarray(normalized, np.float32), self.dataset.labels[index[good]][:, np.newaxis]
