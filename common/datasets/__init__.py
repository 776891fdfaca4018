"""Data sets of labelled images by name."""
from common.datasets.dataset import Dataset, DatasetInfo, hold_out
from common.datasets.table import CIFAR10, DATASETS, DIGITS, MNIST, STL10, SYNTHETIC, load

__all__ = ["CIFAR10", "DATASETS", "DIGITS", "MNIST", "STL10", "SYNTHETIC", "Dataset", "DatasetInfo", "hold_out", "load"]
