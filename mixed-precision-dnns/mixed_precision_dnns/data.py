"""The images that an experiment is about, and networks of their shape."""
from collections.abc import Iterator

import numpy as np

from common import datasets
from common.datasets import imagenet
from common.datasets.batches import Batches, PadCropFlip
from common.datasets.imagenet import ImageBatches
from common.machine.distributed import world
from common.machine.errors import UsageError
from mixed_precision_dnns.config import Experiment, ImageNetConfig
from mixed_precision_dnns.quantized_network import QuantizedNetwork, build_network

VALIDATION_BATCH = 100
PHOTOGRAPHS_BATCH = 32    # for validation, too: they take fifty times the memory of small images


def load_data(cfg: Experiment) -> tuple[Batches, Batches, Batches]:
    """Load the data set of `cfg` as it is used in training.

    Returns
    -------
    (train, valid, test) : Batches
        Augmented images to train on, shared by the ranks of `common.machine.distributed`; those that the best
        parameters are chosen by, a share `held_out` of the training images, or the test images if `published`; the
        test images, for ImageNet those of its validation folder.

    Raises
    ------
    UsageError
        There are no data where they should be.
    UserError
        The data are missing or damaged.
    """
    return _load_photographs(cfg) if isinstance(cfg, ImageNetConfig) else _load_small_images(cfg)


def _load_small_images(cfg):
    train_set = datasets.load(cfg.dataset, "train", cfg.data_dir)
    test_set = datasets.load(cfg.dataset, "test", cfg.data_dir)
    valid_set = test_set
    if not cfg.published:
        train_set, valid_set = _hold_out(train_set, cfg)
    augment = PadCropFlip(flip=datasets.DATASETS[cfg.dataset].mirrored)
    train = Batches(train_set, cfg.batch_size, seed=cfg.seed, augment=augment, drop_last=True,
                    steps=cfg.steps_per_epoch or None, world=world())
    return train, Batches(valid_set, VALIDATION_BATCH), Batches(test_set, VALIDATION_BATCH)


def _load_photographs(cfg):
    if cfg.data_dir is None:
        raise UsageError("ImageNet cannot be downloaded without an account: name its folder by --data-dir, or "
                         "try --data-dir synthetic")
    train_set, test_set = (imagenet.load(split, cfg.data_dir, cfg.per_class or None, cfg.limit or None, cfg.val_labels)
                           for split in imagenet.SPLITS)
    train_set, valid_set = _hold_out(train_set, cfg)
    settings = {"size": cfg.image_size, "workers": cfg.workers or None, "skip_damaged": cfg.skip_damaged}
    train = ImageBatches(train_set, cfg.batch_size, seed=cfg.seed, drop_last=True, steps=cfg.steps_per_epoch or None,
                         world=world(), **settings)
    return train, ImageBatches(valid_set, PHOTOGRAPHS_BATCH, **settings), ImageBatches(test_set, PHOTOGRAPHS_BATCH,
                                                                                       **settings)


def _hold_out(train_set, cfg):
    return datasets.hold_out(train_set, max(1, round(cfg.held_out * len(train_set))))


def require_classes(batches: Batches, num_classes: int) -> None:
    """Raise a UsageError if a network of so many classes was not trained on data like these."""
    found = len(batches.dataset.class_names)
    if found != num_classes:
        raise UsageError(f"the data have {found} classes, the network has {num_classes}; name the data that it was "
                         "trained on by --data-dir")


def all_images(cfg: Experiment, num_classes: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Load the test, validation and training images, in this order and not augmented.

    Yields
    ------
    image : float32 (batch, channels, height, width)
    label : int32 (batch, 1)

    Raises
    ------
    UsageError, UserError
        As `load_data`, and `require_classes` for a network of `num_classes`.
    """
    train, valid, test = load_data(cfg)
    require_classes(train, num_classes)
    if isinstance(cfg, ImageNetConfig):
        train = ImageBatches(train.dataset, PHOTOGRAPHS_BATCH, size=cfg.image_size, workers=cfg.workers or None,
                             skip_damaged=cfg.skip_damaged)
    else:
        train = Batches(train.dataset, VALIDATION_BATCH)
    for batches in (test, train) if cfg.as_published else (test, valid, train):
        yield from batches


def shape_of_images(cfg: Experiment) -> tuple[int, int, int]:
    """(channels, height, width) of the images of an experiment."""
    if isinstance(cfg, ImageNetConfig):
        return 3, cfg.image_size, cfg.image_size
    return datasets.DATASETS[cfg.dataset].shape


def build_network_for(cfg: Experiment, batches: Batches, train: bool) -> QuantizedNetwork:
    """Build the network of `cfg` for batches like these, as `build_network` does."""
    return build_network(cfg, batches.batch_size, train, shape_of_images(cfg), len(batches.dataset.class_names))


def print_skipped(*data: Batches) -> None:
    """Print how many damaged images were left out, if any."""
    skipped = sorted(str(path) for batches in data if isinstance(batches, ImageBatches) for path in batches.skipped)
    if skipped:
        print(f"{len(skipped)} damaged images were left out, the first {skipped[0]}")
