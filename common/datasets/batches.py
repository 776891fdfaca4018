"""Batches of a data set: shuffled, normalized, augmented, and made ahead in a thread."""
import collections
from concurrent.futures import ThreadPoolExecutor

import attrs
import numpy as np

from common.cpu.compiling import compile_exact
from common.machine.distributed import World
from common.machine.errors import UsageError

CENTERED = ((np.arange(256) / 255 - 0.5) * 2).astype(np.float32)    # byte -> [-1, 1]
AHEAD = 2    # batches that wait for the consumer
ORDER, PLACEMENT = 0, 1    # streams of random numbers


@attrs.frozen
class PadCropFlip:
    """Augmentation by a shift and a mirror image, drawn for each image anew.

    Attributes
    ----------
    pad : int, pixels
        Zeros on each side, after normalization; a crop of the old size follows, offset by 0..2*pad in y and x.
    flip : bool
        Then swap left and right with probability 1/2.
    """

    pad = attrs.field(default=4, converter=int, validator=attrs.validators.ge(0))
    flip = attrs.field(default=True, validator=attrs.validators.instance_of(bool))

    def draw(self, rng, num):
        """Return offsets int64 (num, 2), in y and x, and flips bool (num,)."""
        offsets = rng.integers(0, 2 * self.pad + 1, (num, 2))
        return offsets, (rng.random(num) < 0.5) & self.flip


@compile_exact
def _place(images, index, table, offsets, flips, pad, out):
    """Write to `out`, float32 (batch, channels, height, width), what `make_batch` returns."""
    height, width = images.shape[2:]
    out[:] = 0
    for example in range(len(index)):
        source, target = images[index[example]], out[example]    # (channels, height, width)
        if flips[example]:
            target = target[:, :, ::-1]
        down, right = offsets[example, 0] - pad, offsets[example, 1] - pad    # of the crop in the image
        first = min(max(0, -right), width)    # of the columns of the crop that the image covers
        last = max(first, min(width, width - right))
        for channel in range(len(source)):
            for y in range(max(0, -down), min(height, height - down)):
                # Slices counted from 0: only then does numba know that no index is negative.
                pixels = source[channel, y + down, first + right:last + right]
                values = target[channel, y, first:last]
                for x in range(len(pixels)):
                    values[x] = table[pixels[x]]


def make_batch(images, index, table, offsets, flips, pad):
    """Gather, normalize, pad, crop and flip in one pass.

    Parameters
    ----------
    images : uint8 (n, channels, height, width), contiguous
    index : int64 (batch,), 0..n-1
    table : float32 (256,)
        Normalized value of each byte.
    offsets : int64 (batch, 2), 0..2*pad
        Of the crop in the padded image, in y and x.
    flips : bool (batch,)
        Swap left and right of the crop.
    pad : int

    Returns
    -------
    float32 (batch, channels, height, width)
        The caller's own.
    """
    out = np.empty((len(index), *images.shape[1:]), dtype=np.float32)
    _place(images, index, table, offsets, flips, pad, out)
    return out


class Batches:
    """Batches of a data set, epoch by epoch.

    Iterating over it gives epoch 0; `len` is the number of batches in an epoch. Where several ranks train together,
    each has its rows of batches that are larger by their number.

    Parameters
    ----------
    dataset : Dataset
    batch_size : int
        Of a rank.
    seed : int, optional
        Shuffle, anew each epoch. Not given: the order of the data set.
    augment : PadCropFlip, optional
        Needs a seed.
    normalize : float32 (256,)
        Table from bytes to values of an image.
    drop_last : bool
        Leave out the last batch of an epoch where it is smaller than the others.
    steps : int, optional
        End each epoch after its first so many batches.
    world : common.machine.distributed.World, optional
        Who shares the batches, which needs `drop_last`. Not given: nobody.

    Raises
    ------
    UsageError
        `batch_size` or `steps` is not positive, or there is no whole batch and `drop_last` is set.
    """

    def __init__(self, dataset, batch_size, seed=None, augment=None, normalize=CENTERED, drop_last=False, steps=None,
                 world=None):
        self.world = world or World()
        largest = len(dataset) // self.world.size if drop_last else np.inf
        if not 1 <= batch_size <= largest:
            raise UsageError(f"batch size {batch_size}: choose 1 to {len(dataset) // self.world.size}, the number of "
                             f"examples{' for each rank' if self.world.size > 1 else ''}")
        if self.world.size > 1 and not drop_last:
            raise ValueError("a batch that is smaller than the others cannot be shared")
        if steps is not None and steps < 1:
            raise UsageError(f"{steps} steps per epoch: choose at least 1")
        if augment is not None and seed is None:
            raise ValueError("augmentation is random and needs a seed")
        self.dataset, self.batch_size, self.seed, self.augment = dataset, batch_size, seed, augment
        self.table = np.ascontiguousarray(normalize, dtype=np.float32)
        whole, partial = divmod(len(dataset), batch_size * self.world.size)
        self.num_batches = whole + (partial > 0 and not drop_last)
        if steps is not None:
            self.num_batches = min(self.num_batches, steps)

    def __len__(self):
        return self.num_batches

    def __iter__(self):
        return self.epoch(0)

    def epoch(self, epoch, start=0):
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

    def _plan(self, epoch):
        """Draw what is random in an epoch: index int64 (n,), offsets int64 (n, 2), flips bool (n,)."""
        num = len(self.dataset)
        index = np.arange(num) if self.seed is None else self._rng(ORDER, epoch).permutation(num)
        if self.augment is None:
            return index, np.zeros((num, 2), dtype=np.int64), np.zeros(num, dtype=bool)
        return index, *self.augment.draw(self._rng(PLACEMENT, epoch), num)

    def _rng(self, stream, epoch):
        return np.random.default_rng((self.seed, stream, epoch))

    def _ahead(self, plan, start):
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        try:
            waiting = collections.deque()
            for number in range(start, len(self)):
                waiting.append(pool.submit(self._make, plan, number))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _make(self, plan, number):
        part = self.world.rows(self.batch_size, number)
        index, offsets, flips = (array[part] for array in plan)
        pad = 0 if self.augment is None else self.augment.pad
        image = make_batch(self.dataset.pixels, index, self.table, offsets, flips, pad)
        return image, self.dataset.labels[index][:, np.newaxis]
