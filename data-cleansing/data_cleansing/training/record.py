"""The order of images in training, and the record of a training run that influence scores are computed from."""
from collections.abc import Collection
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from common.machine.files import replacing
from common.reading.arrays import read_npz
from common.reading.files import decoding
from data_cleansing.data.splits import permutation

AGAIN = "run the training again"
NOT_AUGMENTED = -1    # in place of an augmentation seed


def _array(dtype: type) -> Any:
    return attrs.field(converter=lambda values: np.ascontiguousarray(values, dtype=dtype), repr=False)


@attrs.frozen(eq=False)
class TrainingRecord:
    """Which images each step of a training used, how they were augmented, and its learning rate.

    Steps count through all epochs. Step t used the images `rows[bounds[t]:bounds[t + 1]]`.

    Attributes
    ----------
    num_images : int
        In the training set.
    rows : int64 (uses,), 0..num_images-1
        The published results call them datasource indices.
    seeds : int64 (uses,)
        Of the augmentation, or `NOT_AUGMENTED`.
    bounds : int64 (steps + 1,)
    epochs : int64 (steps,)
        Epoch of each step, ascending from 0.
    learning_rates : float64 (steps,)
    momentum : float, 0 <= momentum < 1
        Share of the last update in the next one.
    weight_decay : float, >= 0
        Times each parameter is added to its gradient.

    Raises
    ------
    ValueError
        Lengths or values do not fit.
    """

    num_images: int = attrs.field(converter=int)
    rows: np.ndarray = _array(np.int64)
    seeds: np.ndarray = _array(np.int64)
    bounds: np.ndarray = _array(np.int64)
    epochs: np.ndarray = _array(np.int64)
    learning_rates: np.ndarray = _array(np.float64)
    momentum: float = attrs.field(default=0.0, converter=float)
    weight_decay: float = attrs.field(default=0.0, converter=float)

    def __attrs_post_init__(self) -> None:
        steps, uses = len(self.epochs), len(self.rows)
        fits = (steps > 0 and len(self.bounds) == steps + 1 and len(self.learning_rates) == steps
                and len(self.seeds) == uses and self.bounds[0] == 0 and self.bounds[-1] == uses
                and (np.diff(self.bounds) > 0).all() and self.epochs[0] == 0 and (np.diff(self.epochs) >= 0).all()
                and (np.diff(self.epochs) <= 1).all() and self.rows.min() >= 0 and self.rows.max() < self.num_images
                and 0 <= self.momentum < 1 and 0 <= self.weight_decay < np.inf)
        if not fits:
            raise ValueError("the arrays of the record do not fit together")

    @property
    def num_steps(self) -> int:
        return len(self.epochs)

    @property
    def num_epochs(self) -> int:
        return int(self.epochs[-1]) + 1

    def first_step(self, epoch: int) -> int:
        """First step of an epoch; of the epoch after the last one, the number of steps."""
        return int(np.searchsorted(self.epochs, epoch))

    @property
    def epoch_starts(self) -> list[int]:
        """First step of each epoch, and the number of steps."""
        return [self.first_step(epoch) for epoch in range(self.num_epochs + 1)]

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return rows and augmentation seeds of a step, int64 (batch,) each; None for seeds if not augmented."""
        part = slice(self.bounds[step], self.bounds[step + 1])
        seeds = self.seeds[part]
        return self.rows[part], None if (seeds == NOT_AUGMENTED).any() else seeds

    def save(self, path: str | Path) -> None:
        """Write the record to an .npz file without pickles."""
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **attrs.asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "TrainingRecord":
        """Read what `save` wrote.

        Raises
        ------
        UsageError
            There is no such file.
        UserError
            It holds no record.
        """
        what, names = "the record of a training", [field.name for field in attrs.fields(cls)]
        arrays = read_npz(path, what, names, AGAIN, missing=f"{path}: no such record of a training")
        with decoding(path, what, AGAIN):
            return cls(**arrays)


def published_record(num_images: int, epochs: int, batch_size: int, learning_rate: float, split_seed: int = 0,
                     augment: bool = True, momentum: float = 0.0, weight_decay: float = 0.0) -> TrainingRecord:
    """Plan a training as the published code runs it.

    Positions of epoch e are permuted by the seed e, and positions in the training set by `split_seed`: the order is the
    same for every training with a split seed. Augmentation seeds count the uses of images, from 0.

    Parameters
    ----------
    num_images, epochs, batch_size : int
        The last batch of an epoch may be smaller.
    momentum, weight_decay : float
        As in `TrainingRecord`; the published code has neither.

    Raises
    ------
    ValueError
        A number that is not allowed.
    """
    _check_plan(learning_rate, num_images=num_images, epochs=epochs, batch_size=batch_size)
    order = permutation(num_images, split_seed)
    rows = np.stack([order[permutation(num_images, epoch)] for epoch in range(epochs)])
    seeds = np.arange(rows.size).reshape(rows.shape) if augment else np.full(rows.shape, NOT_AUGMENTED)
    record = _in_batches(num_images, rows, seeds, batch_size, learning_rate)
    return attrs.evolve(record, momentum=momentum, weight_decay=weight_decay)


def new_record(num_images: int, epochs: int, batch_size: int, learning_rate: float, seed: int, augment: bool = True,
               without: Collection[int] = frozenset()) -> TrainingRecord:
    """Plan a training with an order of its own on the images that are left.

    A seed draws the order and the augmentation of all images. Those left out are then taken away, and the others fill
    the batches: trainings of one seed differ by them alone. All batches are full, where there are images for one: what
    is left at the end of an epoch is left out. Otherwise the number of images would set the size of the last batch, and
    the accuracy after a small one is lower, by several points, whatever the images.

    Parameters
    ----------
    num_images, epochs, batch_size : int
        As for `published_record`.
    without : set of int
        Rows of the training set; not all of them.

    Raises
    ------
    ValueError
        A number that is not allowed.
    """
    _check_plan(learning_rate, num_images=num_images, epochs=epochs, batch_size=batch_size)
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(num_images) for _ in range(epochs)])
    seeds = rng.integers(0, 2 ** 31, rows.shape) if augment else np.full(rows.shape, NOT_AUGMENTED)
    kept = ~np.isin(rows, list(without))    # as many in each epoch
    rows, seeds = (array[kept].reshape(epochs, -1) for array in (rows, seeds))
    used = max(rows.shape[1] // batch_size, 1) * batch_size
    return _in_batches(num_images, rows[:, :used], seeds[:, :used], batch_size, learning_rate)


def _check_plan(learning_rate: float, **counts: int) -> None:
    """Raise a ValueError for a learning rate that is no finite number, or a count, by its name, below 1."""
    for name, count in counts.items():
        if not isinstance(count, (int, np.integer)) or count < 1:
            raise ValueError(f"{name} {count!r}: a whole number, at least 1, is wanted")
    if not isinstance(learning_rate, (int, float, np.number)) or not np.isfinite(learning_rate):
        raise ValueError(f"learning_rate {learning_rate!r}: a finite number is wanted")


def _in_batches(num_images, rows, seeds, batch_size, learning_rate):
    """Cut epochs into steps; rows and seeds are int (epochs, uses)."""
    epochs, uses = rows.shape
    starts = np.arange(0, uses, batch_size)
    bounds = np.append((np.arange(epochs)[:, np.newaxis] * uses + starts).ravel(), epochs * uses)
    return TrainingRecord(num_images, rows.ravel(), seeds.ravel(), bounds, np.repeat(np.arange(epochs), len(starts)),
                          np.full(epochs * len(starts), learning_rate))
