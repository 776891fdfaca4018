"""Data sets of labelled images by name."""
from common.datasets import cifar10, digits, mnist, synthetic
from common.datasets.dataset import Dataset, hold_out
from common.machine.errors import UsageError

__all__ = ["DATASETS", "Dataset", "hold_out", "load"]

FROM_FILES = {"cifar10": cifar10.load, "mnist": mnist.load}
EMBEDDED = {"digits": digits.load, "synthetic": synthetic.load}
DATASETS = (*FROM_FILES, *EMBEDDED)


def load(name, split, data_dir=None):
    """Load one split of a data set, as the module of that name does.

    Parameters
    ----------
    name : str, one of `DATASETS`
    split : 'train' or 'test'
    data_dir : path, optional
        Folder of the files; not given, they are found in the cache or downloaded.

    Returns
    -------
    Dataset

    Raises
    ------
    UsageError
        Unknown name or split, or a folder that does not hold the data set.
    UserError
        The files are damaged, or cannot be had.
    """
    if name not in DATASETS:
        raise UsageError(f"unknown data set {name!r}: choose from {', '.join(DATASETS)}")
    if name in FROM_FILES:
        return FROM_FILES[name](split, data_dir)
    if data_dir is not None:
        raise UsageError(f"--data-dir {data_dir}: data set '{name}' reads no files; leave this out")
    return EMBEDDED[name](split)
