"""Street scenes for training and validation, as an experiment of segmentation asks for them."""
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from common.datasets.cityscapes import CLASSES, SYNTHETIC, Pair, find_pairs, identity, read_pair
from common.datasets.prefetching import parallel_map, prefetch
from common.machine.distributed import world
from common.machine.errors import UsageError
from common.machine.seeding import derived_seed
from d3net.hyperparameters import SegmentationHyperParameters
from d3net.scenes.config import SegmentationConfig
from d3net.scenes.standardization import standardize
from d3net.segmentation_model import SMALLEST

ORDER, SAMPLE = 1, 2    # streams of random numbers


class Scenes:
    """Batches of training crops for `common.runs.training.Run.steps`, and validation images.

    Images come in an order that is drawn anew for each pass over all of them; passes go on across epochs, which have
    `cfg.epoch_length` steps, the last one perhaps less.

    Parameters
    ----------
    hparams
        With the values that `cfg` changes.
    steps
        Of all epochs together.

    Raises
    ------
    UsageError
        No images where `data_dir` says, or sizes that do not suit the network.
    """

    def __init__(self, cfg: SegmentationConfig, hparams: SegmentationHyperParameters, steps: int):
        if not cfg.data_dir:
            raise UsageError("--data-dir: name the folder of Cityscapes, or 'synthetic'")
        if hparams.num_classes != len(CLASSES):
            raise UsageError(f"num_classes = {hparams.num_classes} in the hyper-parameters: the labels have "
                             f"{len(CLASSES)}")
        self.size = hparams.image_height, hparams.image_width
        if min(self.size) < SMALLEST:
            raise UsageError(f"--image-height {self.size[0]} --image-width {self.size[1]}: the network needs "
                             f"{SMALLEST} pixels or more")
        self.cfg, self.hparams, self.steps = cfg, hparams, steps
        self.train_pairs = find_pairs(cfg.data_dir, "train")
        self.valid_pairs: list[Pair] = []    # stays empty if the data set has no such folder
        if cfg.data_dir == SYNTHETIC or (Path(cfg.data_dir) / "leftImg8bit" / "val").is_dir():
            self.valid_pairs = find_pairs(cfg.data_dir, "val")[:cfg.valid_images or None]

    @property
    def identities(self) -> dict[str, tuple[int, str]]:
        """What images are called, for `common.runs.training.Run` -> how many there are, and a hash of their names."""
        return {"training images": identity(self.train_pairs), "validation images": identity(self.valid_pairs)}

    def __len__(self) -> int:
        return min(self.cfg.epoch_length, self.steps)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Return an iterator over the batches of an epoch, from step `start` on.

        What it yields depends on the arguments only. The next batches are made in threads, which end with the iterator;
        an error of theirs is raised by it.

        Yields
        ------
        image : float32 (batch, 3, height, width)
        label : int16 (batch, 1, height, width)
            -1: ignored.
        """
        first, last = epoch * self.cfg.epoch_length, min((epoch + 1) * self.cfg.epoch_length, self.steps)
        return self._ahead(range(first + start, last))

    def _ahead(self, iterations: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        with parallel_map(self.cfg.workers, "scenes") as start_all:
            for samples in prefetch(start_all(self._sample, self._items(iteration)) for iteration in iterations):
                yield _stacked(samples)

    def _items(self, iteration: int) -> range:
        """Numbers of the samples, counted from the first epoch on, that this rank has in an iteration."""
        together = self.hparams.batch_size * world().size
        return range(iteration * together, (iteration + 1) * together)[world().rows(self.hparams.batch_size)]

    def _sample(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        # Brings OpenCV, which flags and configurations do without.
        from d3net.scenes.augmentation import training_sample

        number, place = divmod(item, len(self.train_pairs))
        order = np.random.default_rng((self.cfg.seed, ORDER, number)).permutation(len(self.train_pairs))
        image, label = read_pair(self.train_pairs[order[place]])
        rng = np.random.RandomState(derived_seed(self.cfg.seed, item, SAMPLE))
        return training_sample(image, label, rng, self.size, self.hparams.mean, self.hparams.std)

    def validation(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the validation images of this rank, whole.

        Yields
        ------
        image : float32 (3, height, width)
        label : uint8 (height, width)
            255: ignored.
        """
        with parallel_map(min(1, self.cfg.workers), "validation") as start_all:
            for image, label in start_all(read_pair, world().share(self.valid_pairs)):
                yield standardize(image, self.hparams.mean, self.hparams.std), label


def _stacked(samples: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*samples, strict=True)    # waits, and raises what a thread raised
    return np.stack(images), np.stack(labels)
