"""The images of an experiment: three sets for each trial, with wrong labels planted among those to train on."""
import os
from pathlib import Path

import attrs
import numpy as np

from common.machine.errors import UsageError
from common.machine.streams import say
from data_cleansing.config import FILES, Training
from data_cleansing.data.features import with_features
from data_cleansing.data.images import Images
from data_cleansing.data.sources import check_splits, load_files, load_named
from data_cleansing.data.splits import split

_TEST_SEED, _FLIP_SEED, _TAKE_SEED = 20210311, 10, 11    # of choices that must not depend on each other


def load_data(cfg: Training, seed: int) -> tuple[Images, Images, Images, np.ndarray]:
    """Load the images of a trial.

    Parameters
    ----------
    seed : int
        Chooses the validation images, unless they have a source of their own, and the labels to flip.

    Returns
    -------
    (train, valid, test, flipped) : Images, Images, Images, bool (len(train),)
        `flipped` marks the labels of `train` that were made wrong.

    Raises
    ------
    UsageError, UserError
        No such data, or of no use.
    """
    side = cfg.side or None
    if cfg.dataset == FILES:
        train, valid, test = _load_files(cfg, seed, side)
    else:
        train, valid, test = load_named(cfg.dataset, seed, cfg.data_dir, side)
    check_splits(train, valid, test)
    train, valid = _take(train, cfg.n_train, "n_train", seed), _take(valid, cfg.n_valid, "n_valid", seed)
    test = _take(test, cfg.n_test, "n_test", _TEST_SEED)    # all trials are measured on the same images
    if cfg.features:
        train, valid, test = with_features((train, valid, test), cfg.features, cfg.feature_values)
    elif min(train.shape[1:]) < 8:
        raise UsageError(f"side = {train.shape[1]}: the network halves the images three times, so 8 at least")
    train, flipped = flip_labels(train, cfg.flip_labels, seed)
    return train, valid, test, flipped


def _load_files(cfg, seed, side):
    def warn(errors):
        say(f"warning: {len(errors)} images cannot be read and are left out, the first: {errors[0]}")

    on_damaged = warn if cfg.damaged == "skip" else None
    known = load_files(cfg.data_dir, side=side, on_damaged=on_damaged)
    if cfg.test_dir:
        test = load_files(cfg.test_dir, known, on_damaged=on_damaged)
    else:
        known, test = _hold_out(cfg.data_dir, known, _TEST_SEED)
    if cfg.valid_dir:
        return known, load_files(cfg.valid_dir, known, on_damaged=on_damaged), test
    return *_hold_out(cfg.data_dir, known, seed), test


def _hold_out(source, images, seed):
    if len(images) < 5:
        raise UsageError(f"{source}: {len(images)} images are too few to hold a fifth out for validation or test; give "
                         "valid_dir and test_dir, or more images")
    return tuple(images.subset(rows) for rows in split(len(images), len(images) // 5, seed))


def _take(images, num, key, seed):
    """Choose `num` of the images at random, in their order; all of them for 0."""
    if num > len(images):
        raise UsageError(f"{key} = {num}: there are only {len(images)} such images; 0 takes all")
    if num in (0, len(images)):
        return images
    return images.subset(np.sort(np.random.default_rng((_TAKE_SEED, seed)).choice(len(images), num, replace=False)))


def flip_labels(images: Images, share: float, seed: int) -> tuple[Images, np.ndarray]:
    """Give a share of the images, 0 to 1, a wrong label, drawn from the other classes.

    Returns
    -------
    images : Images
    flipped : bool (len(images),)
        Which ones got a wrong label.
    """
    rng = np.random.default_rng((_FLIP_SEED, seed))
    flipped = np.zeros(len(images), bool)
    flipped[rng.choice(len(images), round(share * len(images)), replace=False)] = True
    num_classes = len(images.class_names)
    offsets = np.where(flipped, rng.integers(1, num_classes, len(images)), 0)
    return attrs.evolve(images, labels=(images.labels + offsets) % num_classes), flipped


def list_path(path: str | Path, folder: str | Path) -> str:
    """Name an image in a list in `folder`: relative to it if the image is a file, otherwise as it is named."""
    return Path(os.path.relpath(path, folder)).as_posix() if Path(path).exists() else str(path)
