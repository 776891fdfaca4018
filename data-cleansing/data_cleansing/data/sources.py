"""Where labelled images come from: a list file, a folder for each class, or a data set with a name."""
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import attrs
import numpy as np

from common import datasets
from common.machine.cores import num_threads
from common.machine.errors import UsageError, UserError
from common.reading.texts import read_rows
from data_cleansing.data.images import Images, check_side, decode, fit, network_side, prepare
from data_cleansing.data.splits import split

HEADER = ("x:image", "y:label")    # columns of a list file
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


def load_named(name: str, split_seed: int = 0, data_dir: str | Path | None = None,
               side: int | None = None) -> tuple[Images, Images, Images]:
    """Load a data set of `common.datasets` in three parts.

    Parameters
    ----------
    split_seed : int
        Chooses the validation images among those for training, as the published code does (`record.split`).
    side : int, optional
        That the images are resized to; `network_side` of the first one if not given.

    Returns
    -------
    (train, valid, test) : Images
        Their paths say part and row, such as `digits/train/17`. Lists call classes by their numbers, as published.

    Raises
    ------
    UsageError, UserError
        As `common.datasets.load`.
    ValueError
        `side` is no number of pixels.
    """
    check_side(side)
    known, test = (datasets.load(name, part, data_dir) for part in ("train", "test"))
    info, side = datasets.DATASETS[name], network_side(*known.shape[1:]) if side is None else side
    channels = slice(1) if info.grey else slice(None)
    train_rows, valid_rows = split(len(known), info.num_valid or len(known) // 5, split_seed)

    def images(kind, part, rows):
        paths = [f"{name}/{kind}/{row}" for row in rows]
        prepared = prepare(list(part.pixels[rows, channels]), part.labels[rows], part.class_names, paths, side)
        return attrs.evolve(prepared, list_names=map(str, range(len(part.class_names))))

    return (images("train", known, train_rows), images("train", known, valid_rows),
            images("test", test, np.arange(len(test))))


def load_files(source: str | Path, like: Images | None = None, side: int | None = None,
               on_damaged: Callable[[list[UserError]], object] | None = None) -> Images:
    """Load the images of a list file, or of a folder with a folder of images for each class.

    Parameters
    ----------
    source : path
        A CSV file with the header `x:image,y:label`, paths relative to its folder; or a folder. The rows of the result
        are those of the file; those of a folder are sorted by class, then by name.
    like : Images, optional
        Training images, whose classes, number of channels and size to take over. Without them, classes are the labels
        that occur, in the order of numbers if all are numbers, and the first image says channels and size.
    side : int, optional
        That the images are resized to, unless `like` says it.
    on_damaged : callable, optional
        `on_damaged(errors)` is told of images that cannot be read, a UserError each, and they are left out.

    Raises
    ------
    UsageError
        There is no such file or folder, or no such image.
    UserError
        No images in it that can be read, a damaged image or list, or a label that `like` does not have.
    ValueError
        `side` is no number of pixels.
    """
    check_side(side)
    source = Path(source)
    paths, names = _read_folder(source) if source.is_dir() else _read_list(source)
    class_names = _sorted_classes(names) if like is None else like.class_names
    labels = _numbers(source, names, class_names)
    decode_one = partial(_decode, keep_errors=on_damaged is not None)
    channels, side = _shape_of_first(map(decode_one, paths), side) if like is None else like.shape[:2]
    if channels not in (1, 3):
        raise UsageError(f"{source}: images in files have 1 or 3 channels, those to train with have {channels}")
    with ThreadPoolExecutor(num_threads()) as pool:
        arrays = list(pool.map(partial(decode_one, channels=channels, side=side), paths))
    good = {row: array for row, array in enumerate(arrays) if not isinstance(array, UserError)}
    if on_damaged is not None and len(good) < len(arrays):
        on_damaged([array for array in arrays if isinstance(array, UserError)])
    if not good:
        raise UserError(f"{source}: none of its {len(arrays)} images can be read")
    return prepare(list(good.values()), labels[list(good)], class_names, [str(paths[row]) for row in good], side)


def _shape_of_first(decoded, side):
    """Channels and side that the first image that can be read says for all, or `side`."""
    for image in decoded:
        if not isinstance(image, UserError):
            return len(image), network_side(*image.shape[1:]) if side is None else side
    return 1, side


def _decode(path, channels=None, side=None, keep_errors=False):
    """Decode an image, at the size of the network if that is known; or return the error if it is to be kept."""
    try:
        image = decode(path, channels)
    except UserError as error:
        if keep_errors:
            return error
        raise
    return image if side is None else fit(image, side)


def _read_list(source):
    """Return paths and labels of a list file."""
    image, label = HEADER
    rows = read_rows(source, "a list of images", HEADER, "correct the list",
                     missing=f"{source}: no such list of images, nor a folder")
    if not rows:
        raise UserError(f"{source}: lists no images")
    return [source.parent / row[image] for row in rows], [row[label].strip() for row in rows]


def _read_folder(source):
    """Return paths and labels of a folder that holds a folder for each class."""
    classes = [folder for folder in source.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    by_name = {folder.name: sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() in SUFFIXES)
               for folder in classes}
    by_name = {name: paths for name, paths in by_name.items() if paths}
    if not by_name:
        raise UserError(f"{source}: no folders with images in it; there should be one for each class")
    pairs = [(path, name) for name in _sorted_classes(by_name) for path in by_name[name]]
    return tuple(zip(*pairs, strict=True))


def _sorted_classes(names):
    names = sorted(set(names))    # the same in each process, also where two are one number: 1 and 01
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else names


def _numbers(source, names, class_names):
    """Return the class numbers of labels, int (n,)."""
    number = {name: k for k, name in enumerate(class_names)}
    unknown = [name for name in names if name not in number]
    if unknown:
        raise UserError(f"{source}: label {unknown[0]!r} is none of the {len(number)} classes of the training images "
                        f"({', '.join(map(str, class_names[:5]))}{', ...' if len(number) > 5 else ''})")
    return np.array([number[name] for name in names])


def check_splits(train: Images, valid: Images, test: Images) -> None:
    """Check that three sets belong together, and that there is something to classify.

    Raises
    ------
    UserError
        Different shapes or classes, or only one class.
    """
    num_classes = len(train.class_names)
    if num_classes < 2:
        raise UserError(f"all training images have the label {train.class_names[0]!r}; two are needed")
    for name, images in (("validation", valid), ("test", test)):
        if images.shape != train.shape or images.class_names != train.class_names:
            raise UserError(f"{name} images {images.shape} of {len(images.class_names)} classes do not go with "
                            f"training images {train.shape} of {num_classes}")
