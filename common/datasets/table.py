"""All data sets of labelled images: what is known of each stands in its row of `DATASETS`, and nowhere else."""
from pathlib import Path

from common.datasets import cifar10, digits, mnist, stl10, synthetic
from common.datasets.dataset import SPLITS, Dataset, DatasetInfo
from common.datasets.published import PublishedArchive, PublishedFile, PublishedFiles
from common.machine.errors import UsageError

CIFAR10, MNIST, STL10, DIGITS, SYNTHETIC = "cifar10", "mnist", "stl10", "digits", "synthetic"

# The rows are called as on the command line; other code takes the names above, or asks for a property.
DATASETS = {
    CIFAR10: DatasetInfo(
        # A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. 50000 to train with, 10000 to test
        read=cifar10.read, shape=(3, 32, 32), num_valid=10000,
        class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        files=PublishedArchive(
            title="the Python version of CIFAR-10", url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            size=170498071, digest="md5:c58f30108f718f92721af3b95e74349a", folder="cifar-10-batches-py",
            names={"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
            limit=1 << 26)),    # the published batch files have 31 million bytes
    MNIST: DatasetInfo(
        # Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits, 1998. 60000 and 10000.
        read=mnist.read, shape=(1, 28, 28), num_valid=10000, mirrored=False, class_names=tuple("0123456789"),
        files=PublishedFiles(
            title="the four MNIST files", url="https://ossci-datasets.s3.amazonaws.com/mnist/", folder="mnist",
            files={"train": (PublishedFile("train-images-idx3-ubyte", 9912422, "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873"),
                             PublishedFile("train-labels-idx1-ubyte", 28881, "md5:d53e105ee54ea40749a09fcbcd1e9432")),
                   "test": (PublishedFile("t10k-images-idx3-ubyte", 1648877, "md5:9fb629c4189551a2d022fa330f9573f3"),
                            PublishedFile("t10k-labels-idx1-ubyte", 4542, "md5:ec29112dd5afa0611ce80d1b7f02629c"))})),
    STL10: DatasetInfo(
        # A. Coates, H. Lee, A. Y. Ng, An Analysis of Single Layer Networks in Unsupervised Feature Learning, 2011.
        # 5000 and 8000; most of the archive holds images without labels.
        read=stl10.read, shape=(3, 96, 96), num_valid=1000,
        class_names=("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
        files=PublishedArchive(
            title="the binary files of STL-10", url="https://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
            size=2640397119, digest="md5:91f7769df0f17e558f3565bffb0c7dfb", folder="stl10_binary",
            names={"train": ("train_X.bin", "train_y.bin"), "test": ("test_X.bin", "test_y.bin")},
            limit=1 << 29)),    # the largest published one of those read has 221 million bytes
    DIGITS: DatasetInfo(
        # E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits (the test part), 1998. 1438 and 359.
        read=digits.read, shape=(3, 32, 32), mirrored=False, grey=True, class_names=tuple("0123456789")),
    SYNTHETIC: DatasetInfo(
        read=synthetic.read, shape=(3, 32, 32), class_names=tuple(f"class {label}" for label in range(10))),
}


def load(name: str, split: str, data_dir: str | Path | None = None) -> Dataset:
    """Load one split of a data set.

    Parameters
    ----------
    name : str, one of `DATASETS`
    split : 'train' or 'test'
    data_dir
        Folder of the files, see `common.datasets.published`. Not given: they are found in the cache or downloaded.

    Raises
    ------
    UsageError
        Unknown name or split, or a folder that does not hold the data set.
    UserError
        The files are damaged, or cannot be had.
    """
    if name not in DATASETS:
        raise UsageError(f"unknown data set {name!r}: choose from {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: choose from {', '.join(SPLITS)}")
    info = DATASETS[name]
    if info.files is None and data_dir is not None:
        raise UsageError(f"--data-dir {data_dir}: data set '{name}' reads no files; leave this out")
    found = split if info.files is None else info.files.find(split, data_dir)
    return Dataset(*info.read(info, found), info.class_names)
