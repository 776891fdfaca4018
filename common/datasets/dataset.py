"""What a data set of labelled images is, and what its sources share."""
import attrs
import numpy as np
import scipy.ndimage

from common.machine.errors import UsageError

SPLITS = ("train", "test")


def _read_only(dtype):
    """Return a converter to a contiguous array of `dtype` that cannot be written to; the caller's own still can."""
    def convert(array):
        view = np.ascontiguousarray(array, dtype=dtype).view()
        view.flags.writeable = False
        return view
    return convert


def _images(images):
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        raise ValueError("images must be uint8 (n, channels, height, width), not empty, "
                         f"got {images.dtype} {images.shape}")
    return _read_only(np.uint8)(images)


@attrs.frozen(eq=False)
class Dataset:
    """Labelled images in memory, not to be changed.

    Attributes
    ----------
    images : uint8 (n, channels, height, width), 0..255
    labels : int32 (n,), 0..len(class_names)-1
    class_names : tuple of str

    Raises
    ------
    ValueError
        Shapes, types or labels do not fit, or there is no image.
    """

    images = attrs.field(converter=_images, repr=lambda images: f"<uint8 {images.shape}>")
    labels = attrs.field(converter=_read_only(np.int32), repr=False)
    class_names = attrs.field(converter=tuple)

    def __attrs_post_init__(self):
        if self.labels.shape != (len(self.images),):
            raise ValueError(f"{len(self.images)} images need as many labels, got shape {self.labels.shape}")
        if self.labels.min() < 0 or self.labels.max() >= len(self.class_names):
            raise ValueError(f"labels must be in 0..{len(self.class_names) - 1}, "
                             f"got {self.labels.min()}..{self.labels.max()}")

    def __len__(self):
        return len(self.images)

    def subset(self, index):
        """Return the `Dataset` of the examples at `index`, int (k,), in that order."""
        return attrs.evolve(self, images=self.images[index], labels=self.labels[index])


def hold_out(dataset, num, seed=0):
    """Set `num` examples aside, chosen at random without replacement; equal arguments choose equal ones.

    Returns
    -------
    (rest, held_out) : Dataset, Dataset
        Both in the order of `dataset`.

    Raises
    ------
    UsageError
        `num` does not leave at least one example on either side.
    """
    if not 0 < num < len(dataset):
        raise UsageError(f"{num} examples cannot be held out of {len(dataset)}: choose 1 to {len(dataset) - 1}")
    held = np.zeros(len(dataset), dtype=bool)
    held[np.random.default_rng(seed).choice(len(dataset), num, replace=False)] = True
    return dataset.subset(np.flatnonzero(~held)), dataset.subset(np.flatnonzero(held))


def check_split(split):
    """Raise UsageError unless `split` is 'train' or 'test'."""
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: choose from {', '.join(SPLITS)}")


def enlarge(images, height, width):
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
    vertical, horizontal = (
        scipy.ndimage.zoom(np.eye(old), (new / old, 1), order=3, mode="nearest", grid_mode=True)    # (new, old)
        for old, new in zip(images.shape[-2:], (height, width), strict=True))
    return vertical @ images @ horizontal.T
