"""Batches of a data set: shuffled, normalized, augmented, and made ahead in a thread."""
import abc
from collections.abc import Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import numpy as np

from common.datasets.placement import make_batch
from common.datasets.prefetching import prefetch
from common.machine.cores import num_threads
from common.machine.distributed import World
from common.machine.errors import UsageError

CENTERED = ((np.arange(256) / 255 - 0.5) * 2).astype(np.float32)    # byte -> [-1, 1]
ORDER, PLACEMENT = 0, 1    # streams of random numbers
LARGEST_SEED = 2 ** 63 - 1    # of an example


@attrs.frozen
class PadCropFlip:
    """Augmentation by a shift and a mirror image, drawn for each image anew.

    Attributes
    ----------
    pad : int, pixels
        Zeros on each side, after normalization; a crop of the old size follows, offset by 0..2*pad in y and x.
    flip
        Then swap left and right with probability 1/2.
    """

    pad: int = attrs.field(default=4, converter=int, validator=attrs.validators.ge(0))
    flip: bool = attrs.field(default=True, validator=attrs.validators.instance_of(bool))

    def draw(self, rng: np.random.Generator, num: int) -> tuple[np.ndarray, np.ndarray]:
        """Return offsets int64 (num, 2), in y and x, and flips bool (num,)."""
        offsets = rng.integers(0, 2 * self.pad + 1, (num, 2))
        return offsets, (rng.random(num) < 0.5) & self.flip


def check_batch_size(batch_size: int, num: int, ranks: int, things: str, whole: bool = True) -> None:
    """Raise a UsageError if so many processes find no batch in an epoch of `num` examples.

    Parameters
    ----------
    batch_size
        Of each process.
    num, ranks
    things
        What the examples are called, for the error.
    whole
        Whether a batch has to be whole.
    """
    if whole and num < ranks:
        raise UsageError(f"{num} {things} for {ranks} process{'es' if ranks > 1 else ''}: each needs at least one; add "
                         f"some{', or start fewer processes' if ranks > 1 else ''}")
    if whole and not 1 <= batch_size <= num // ranks:
        raise UsageError(f"batch size {batch_size}: choose 1 to {num // ranks}, the number of {things}"
                         f"{' for each process' if ranks > 1 else ''}")
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size}: choose at least 1")


class Batches:
    """Batches of a data set, epoch by epoch.

    Iterating over it gives epoch 0; `len` is the number of batches in an epoch. Where several ranks train together,
    each has its rows of batches that are larger by their number.

    Parameters
    ----------
    dataset
        Subclasses take other examples.
    batch_size
        Of a rank.
    seed
        Shuffle, anew each epoch. Not given: the order of the data set.
    augment
        Needs a seed.
    normalize : float32 (256,)
        Table from bytes to values of an image.
    drop_last
        Leave out the last batch of an epoch if it is smaller than the others.
    steps
        End each epoch after this many batches.
    world
        The ranks that share the batches, which needs `drop_last`. Not given: this process is alone.

    Raises
    ------
    UsageError
        `batch_size` or `steps` is not positive, or there is no whole batch and `drop_last` is set.
    """

    def __init__(self, dataset: Sized, batch_size: int, seed: int | None = None, augment: PadCropFlip | None = None,
                 normalize: np.ndarray = CENTERED, drop_last: bool = False, steps: int | None = None,
                 world: World | None = None):
        self.world = world or World()
        check_batch_size(batch_size, len(dataset), self.world.size, "examples", whole=drop_last)
        if self.world.size > 1 and not drop_last:
            raise ValueError("a batch that is smaller than the others cannot be shared")
        if steps is not None and steps < 1:
            raise UsageError(f"{steps} steps per epoch: choose at least 1")
        if augment is not None and seed is None:
            raise ValueError("augmentation is random and needs a seed")
        self.dataset: Any = dataset
        self.batch_size, self.seed, self.augment = batch_size, seed, augment
        self.table = np.ascontiguousarray(normalize, dtype=np.float32)
        whole, partial = divmod(len(dataset), batch_size * self.world.size)
        self.num_batches = whole + (partial > 0 and not drop_last)
        if steps is not None:
            self.num_batches = min(self.num_batches, steps)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        return self.epoch(0)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[np.ndarray, ...]]:
        """Return an iterator over the batches of an epoch, from batch number `start` (0..len) on.

        What it yields depends on the arguments only, not on what was yielded before. The next batches are made in a
        thread, which ends with the iterator.

        Yields
        ------
        image : float32 (batch, channels, height, width)
        label : int32 (batch, 1)
            Both belong to the caller.
        """
        if not 0 <= start <= len(self):
            raise ValueError(f"batch {start} of an epoch of {len(self)}")
        return self._ahead(self._plan(epoch), start)

    def _plan(self, epoch: int) -> tuple[np.ndarray, ...]:
        """Draw what is random in an epoch: index int64 (n,), offsets int64 (n, 2), flips bool (n,)."""
        num = len(self.dataset)
        index = self._order(epoch)
        if self.augment is None:
            return index, np.zeros((num, 2), dtype=np.int64), np.zeros(num, dtype=bool)
        return index, *self.augment.draw(self._rng(PLACEMENT, epoch), num)

    def _order(self, epoch: int) -> np.ndarray:
        num = len(self.dataset)
        return np.arange(num) if self.seed is None else self._rng(ORDER, epoch).permutation(num)

    def _rng(self, stream: int, epoch: int) -> np.random.Generator:
        assert self.seed is not None
        return np.random.default_rng((self.seed, stream, epoch))

    def _ahead(self, plan: tuple[np.ndarray, ...], start: int) -> Iterator[tuple[np.ndarray, ...]]:
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        try:
            for made in prefetch(pool.submit(self._make, plan, number) for number in range(start, len(self))):
                yield made.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _make(self, plan: tuple[np.ndarray, ...], number: int) -> tuple[np.ndarray, ...]:
        part = self.world.rows(self.batch_size, number)
        index, offsets, flips = (array[part] for array in plan)
        pad = 0 if self.augment is None else self.augment.pad
        image = make_batch(self.dataset.pixels, index, self.table, offsets, flips, pad)
        return image, self.dataset.labels[index][:, np.newaxis]


class ReadBatches(Batches, abc.ABC):
    """Batches of examples that are read when they are needed, several at a time. Subclasses say how.

    Parameters
    ----------
    dataset, batch_size, seed, drop_last, steps, world
        As for `Batches`.
    workers
        Threads that read; as many as there are cores if not given.
    """

    def __init__(self, dataset: Sized, batch_size: int, seed: int | None = None, drop_last: bool = False,
                 steps: int | None = None, world: World | None = None, workers: int | None = None):
        super().__init__(dataset, batch_size, seed, drop_last=drop_last, steps=steps, world=world)
        if workers is not None and workers < 1:
            raise UsageError(f"{workers} workers: choose at least 1")
        self._readers = ThreadPoolExecutor(workers or num_threads(), thread_name_prefix="reader")

    @abc.abstractmethod
    def read(self, k: int, rng: np.random.Generator | None) -> Any:
        """Read example `k` of the data set; `rng` is None where nothing is to be random."""

    def _plan(self, epoch: int) -> tuple[np.ndarray, ...]:
        """Draw what is random in an epoch: index int64 (n,), and a seed for each example, int64 (n,)."""
        index = self._order(epoch)
        if self.seed is None:
            return index, np.zeros_like(index)
        return index, self._rng(PLACEMENT, epoch).integers(0, LARGEST_SEED, len(index))

    def _make(self, plan: tuple[np.ndarray, ...], number: int) -> tuple[np.ndarray, ...]:
        part = self.world.rows(self.batch_size, number)
        index, seeds = (array[part] for array in plan)
        return self._batch(index, list(self._readers.map(self._read, index, seeds)))

    def _read(self, k: int, seed: int) -> Any:
        return self.read(k, None if self.seed is None else np.random.default_rng(seed))

    def _batch(self, index: np.ndarray, examples: list) -> tuple[np.ndarray, ...]:
        """Put together what was read of the examples at `index`, each of which is a sequence of arrays."""
        return tuple(np.stack(arrays) for arrays in zip(*examples, strict=True))
