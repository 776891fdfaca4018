"""A data set of labelled images in memory, and what is known of one before it is read."""
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import attrs
import numpy as np

from common.datasets.published import PublishedArchive, PublishedFiles
from common.machine.errors import UsageError
from common.runs.comparison import fingerprint

SPLITS = ("train", "test")


def _read_only(dtype: type) -> Callable[[Any], np.ndarray]:
    """Return a converter to a contiguous array of `dtype` that cannot be written to; the caller's own still can."""
    def convert(array):
        view = np.ascontiguousarray(array, dtype=dtype).view()
        view.flags.writeable = False
        return view
    return convert


def _pixels(pixels: Any) -> np.ndarray:
    pixels = np.asarray(pixels)
    if pixels.dtype not in (np.uint8, np.float32) or pixels.ndim != 4 or pixels.size == 0:
        raise ValueError("images must be uint8 or float32 (n, channels, height, width), not empty, "
                         f"got {pixels.dtype} {pixels.shape}")
    return _read_only(pixels.dtype.type)(pixels)


@attrs.frozen(eq=False)
class Dataset:
    """Labelled images in memory, not to be changed.

    Attributes
    ----------
    pixels : uint8 0..255 or float32 in [0, 1], (n, channels, height, width)
    labels : int32 (n,), 0..len(class_names)-1

    Raises
    ------
    ValueError
        Shapes, types or labels do not fit, or there is no image.
    """

    pixels: np.ndarray = attrs.field(converter=_pixels, repr=lambda pixels: f"<{pixels.dtype} {pixels.shape}>")
    labels: np.ndarray = attrs.field(converter=_read_only(np.int32), repr=False)
    class_names: tuple[str, ...] = attrs.field(converter=tuple)

    def __attrs_post_init__(self) -> None:
        if self.labels.shape != (len(self.pixels),):
            raise ValueError(f"{len(self.pixels)} images need as many labels, got shape {self.labels.shape}")
        if self.labels.min() < 0 or self.labels.max() >= len(self.class_names):
            raise ValueError(f"labels must be in 0..{len(self.class_names) - 1}, "
                             f"got {self.labels.min()}..{self.labels.max()}")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    @property
    def identity(self) -> tuple[int, str]:
        """How many examples there are, and a hash of them and of the names of their classes."""
        return len(self), fingerprint(self.pixels, self.labels, self.class_names)

    def subset(self, index: np.ndarray) -> "Dataset":
        """Return the examples at `index`, int (k,), in that order."""
        return attrs.evolve(self, pixels=self.pixels[index], labels=self.labels[index])


@attrs.frozen(kw_only=True)
class DatasetInfo:
    """What is known of a data set without reading it.

    Attributes
    ----------
    read
        `read(info, found)` returns images uint8 (n, *shape) and labels int (n,) from 0 on, in the order of the files.
        `found` is what `files.find` returns for a split; without files it is the name of the split. If a file is
        damaged, it raises a UserError.
    shape : (channels, height, width)
    files
        Where it comes from. Not given: it needs no files.
    mirrored
        The mirror image of an example is an example of the same class.
    grey
        The channels are equal.
    num_valid
        Training images that published experiments hold out for validation. Not given: there are no such experiments.
    """

    read: Callable[..., tuple[np.ndarray, np.ndarray]]
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    files: PublishedArchive | PublishedFiles | None = None
    mirrored: bool = True
    grey: bool = False
    num_valid: int | None = None


class _Examples(Protocol):
    def __len__(self) -> int: ...

    def subset(self, index: np.ndarray) -> Any: ...


Examples = TypeVar("Examples", bound=_Examples)


def hold_out(dataset: Examples, num: int, seed: int = 0) -> tuple[Examples, Examples]:
    """Set `num` examples aside, chosen at random without replacement; equal arguments choose equal ones.

    Parameters
    ----------
    dataset : Dataset or common.datasets.imagenet.Pictures

    Returns
    -------
    (rest, held_out)
        Two of the kind of `dataset`, both in its order.

    Raises
    ------
    UsageError
        `num` does not leave at least one example on either side.
    """
    check_held_out(num, len(dataset), "examples")
    held = np.zeros(len(dataset), dtype=bool)
    held[np.random.default_rng(seed).choice(len(dataset), num, replace=False)] = True
    return dataset.subset(np.flatnonzero(~held)), dataset.subset(np.flatnonzero(held))


def check_held_out(num: int, total: int, things: str) -> None:
    """Raise a UsageError if to hold `num` of `total` examples out leaves none on one of both sides.

    `things` is what they are called.
    """
    if total < 2:
        raise UsageError(f"{total} {things}: some are held out for validation and others trained with, so 2 are needed "
                         "at least; add some")
    if not 0 < num < total:
        raise UsageError(f"{num} {things} cannot be held out of {total}: choose 1 to {total - 1}")


def enlarge(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize by cubic splines; the outer edges of the pixels stay in place.

    Parameters
    ----------
    images : float (..., h, w)
    height, width : int, pixels

    Returns
    -------
    float64 (..., height, width)
        Overshoots the range of `images` a little at steep edges.
    """
    # Takes half a second to import, which only some commands need.
    from scipy.ndimage import zoom

    vertical, horizontal = (
        zoom(np.eye(old), (new / old, 1), order=3, mode="nearest", grid_mode=True)    # (new, old)
        for old, new in zip(images.shape[-2:], (height, width), strict=True))
    return vertical @ images @ horizontal.T
