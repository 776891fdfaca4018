"""The images that an experiment is about, and networks of their shape."""
from common import datasets
from common.datasets.batches import Batches, PadCropFlip
from mixed_precision_dnns import network

VALIDATION_BATCH = 100
_MIRRORED = ("cifar10", "synthetic")    # a digit's mirror image is no digit


def load_data(cfg):
    """Load the data set of `cfg` as it is used in training.

    Parameters
    ----------
    cfg : mixed_precision_dnns.config.Config

    Returns
    -------
    (train, valid, test) : Batches
        Augmented images to train on; those that the best parameters are chosen by, a share `held_out` of the training
        images, or the test images if `published`; the test images.

    Raises
    ------
    UserError
        The data are missing or damaged.
    """
    train_set = datasets.load(cfg.dataset, "train", cfg.data_dir)
    test_set = datasets.load(cfg.dataset, "test", cfg.data_dir)
    valid_set = test_set
    if not cfg.published:
        train_set, valid_set = datasets.hold_out(train_set, max(1, round(cfg.held_out * len(train_set))))
    train = Batches(train_set, cfg.batch_size, seed=cfg.seed, augment=PadCropFlip(flip=cfg.dataset in _MIRRORED),
                    drop_last=True, steps=cfg.steps_per_epoch or None)
    return train, Batches(valid_set, VALIDATION_BATCH), Batches(test_set, VALIDATION_BATCH)


def build_network(cfg, batches, train):
    """Build the network of `cfg` for the images of `batches`; see `mixed_precision_dnns.network.build_network`."""
    data = batches.dataset
    return network.build_network(cfg, batches.batch_size, train, data.images.shape[1:], len(data.class_names))
