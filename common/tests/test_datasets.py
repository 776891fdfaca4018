"""Data sets: the same arrays from every form of their files, and one line for files that are something else."""
import ast
import gzip
import hashlib
import io
import pickle
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import attrs
import numpy as np
import pytest

from common import datasets
from common.datasets import DATASETS, Dataset, digits, hold_out, mnist, synthetic
from common.machine.errors import UsageError, UserError

NAMES = ("one", "two", "three")


@pytest.fixture(autouse=True)
def cache(cache, monkeypatch):
    """Keep the tests away from the user's cache, and from the network."""
    for name, info in DATASETS.items():
        if info.files is not None:
            _, slash, archive = info.files.url.rpartition("/")
            change_files(monkeypatch, name, url=f"http://127.0.0.1:1{slash}{archive}")
    return cache


def change_files(monkeypatch, name, **values):
    """Change where a data set comes from."""
    info = DATASETS[name]
    monkeypatch.setitem(DATASETS, name, attrs.evolve(info, files=attrs.evolve(info.files, **values)))


def small_dataset(num=20):
    images = np.arange(num * 12, dtype=np.uint8).reshape(num, 3, 2, 2)
    return Dataset(images, np.arange(num) % 3, NAMES)


# Dataset


def test_a_dataset_cannot_be_changed():
    dataset = small_dataset()
    assert (dataset.pixels.dtype, dataset.labels.dtype, len(dataset)) == (np.uint8, np.int32, 20)
    with pytest.raises(AttributeError):
        dataset.labels = None
    for array in (dataset.pixels, dataset.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_the_arrays_of_the_caller_can_still_be_changed():
    images, labels = np.zeros((2, 3, 4, 4), np.uint8), np.zeros(2, np.int32)
    Dataset(images, labels, NAMES)
    images[0], labels[0] = 1, 1


@pytest.mark.parametrize("images, labels, message", [
    (np.zeros((2, 3, 4, 4)), [0, 1], "float64"), (np.zeros((2, 48), np.uint8), [0, 1], "channels, height, width"),
    (np.zeros((0, 3, 4, 4), np.uint8), [], "not empty"), (np.zeros((2, 3, 4, 4), np.uint8), [0], "2 images need"),
    (np.zeros((2, 3, 4, 4), np.uint8), [0, 3], "0..2"), (np.zeros((2, 3, 4, 4), np.uint8), [-1, 0], "0..2"),
    (np.zeros((2, 3, 4, 4), np.uint8), [[0], [1]], "2 images need"),
])
def test_arrays_that_do_not_fit_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        Dataset(images, labels, NAMES)


def test_held_out_examples_and_the_rest_are_the_whole_in_its_order():
    dataset = small_dataset()
    rest, held = hold_out(dataset, 6, seed=1)
    first = [part.pixels[:, 0, 0, 0] for part in (rest, held)]
    assert [len(part) for part in first] == [14, 6]
    assert all((np.diff(part) > 0).all() for part in first)
    assert sorted(np.concatenate(first)) == sorted(dataset.pixels[:, 0, 0, 0])
    np.testing.assert_array_equal(held.pixels, dataset.pixels[first[1] // 12])
    np.testing.assert_array_equal(held.labels, first[1] // 12 % 3)


def test_held_out_examples_depend_on_the_seed_alone():
    def chosen(seed):
        np.random.default_rng().random()
        return hold_out(small_dataset(200), 30, seed)[1].labels.tolist()
    assert chosen(0) == chosen(0)
    assert chosen(0) != chosen(1)


@pytest.mark.parametrize("num", [0, -1, 20, 21])
def test_both_sides_keep_an_example(num):
    with pytest.raises(UsageError, match="choose 1 to 19"):
        hold_out(small_dataset(), num)


def test_one_example_cannot_be_on_both_sides():
    with pytest.raises(UsageError, match="^1 examples: .* so 2 are needed at least; add some$"):
        hold_out(small_dataset(1), 1)


# by name


def test_an_unknown_name_or_split_is_answered_with_the_choices():
    with pytest.raises(UsageError, match=f"unknown data set 'cifar': choose from {', '.join(DATASETS)}"):
        datasets.load("cifar", "train")
    for name in DATASETS:
        with pytest.raises(UsageError, match="unknown split 'valid': choose from train, test"):
            datasets.load(name, "valid")


def test_a_folder_for_data_that_need_none_is_refused(tmp_path):
    with pytest.raises(UsageError, match="'digits' reads no files"):
        datasets.load("digits", "train", tmp_path)


FROM_FILES = [name for name, info in DATASETS.items() if info.files is not None]


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
@pytest.mark.parametrize("name", FROM_FILES)
def test_a_folder_with_nothing_of_use_says_what_was_expected(tmp_path, name, folder):
    (tmp_path / "empty").mkdir()
    wrong, title = "no .* in it" if folder == "empty" else "no such folder", DATASETS[name].files.title
    with pytest.raises(UsageError, match=f"--data-dir .*{folder}: {wrong}; it should hold {title} ") as caught:
        datasets.load(name, "test", tmp_path / folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FROM_FILES)
def test_without_files_or_network_it_says_what_goes_where(name):
    with pytest.raises(UserError, match="put the file at .*cache/.*gz by hand"):
        datasets.load(name, "train")


@pytest.mark.parametrize("name", [name for name, info in DATASETS.items() if info.files is None])
def test_the_table_describes_what_needs_no_files(name):
    info, dataset = DATASETS[name], datasets.load(name, "test")
    assert (dataset.shape, dataset.class_names) == (info.shape, info.class_names)
    assert set(dataset.labels.tolist()) == set(range(len(info.class_names)))
    assert info.grey == all((channel == dataset.pixels[:, 0]).all() for channel in dataset.pixels.swapaxes(0, 1))


def test_no_other_module_spells_the_name_of_a_data_set():
    """Or a new one would have to be added there, too."""
    top = Path(__file__).parents[2]
    spelled = [f"{path.relative_to(top)}, line {node.lineno}: {node.value!r}"
               for path in top.glob("*/**/*.py") if not {"tests", "datasets"} & set(path.parts)
               and not any(part.startswith(".") for part in path.relative_to(top).parts)
               for node in ast.walk(ast.parse(path.read_text()))
               if isinstance(node, ast.Constant) and node.value in DATASETS]
    assert spelled == []


def test_flags_and_configurations_need_nothing_that_is_slow_to_import():
    modules = "batches", "cityscapes", "imagenet", "table"
    program = "\n".join([*(f"import common.datasets.{module}" for module in modules), "import sys",
                         "print({'cv2', 'numba', 'PIL', 'scipy', 'sklearn'} & set(sys.modules))"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# CIFAR-10


def cifar_batch(seed, num=4, text=bytes, **changes):
    """Return a batch as a dict; keys are bytes as in the published files, or str."""
    rng = np.random.default_rng(seed)
    content = {"data": rng.integers(256, size=(num, 3072), dtype=np.uint8),
               "labels": rng.integers(10, size=num).tolist(), "batch_label": f"batch {seed}"} | changes
    encode = str.encode if text is bytes else str
    return {encode(key): value for key, value in content.items() if value is not None}


def write_cifar(folder, protocol=2, text=bytes):
    """Write five batches of 4 and a test batch of 4; return the batches."""
    folder.mkdir(parents=True)
    batches = {f"data_batch_{number}": cifar_batch(number, text=text) for number in range(1, 6)}
    batches["test_batch"] = cifar_batch(6, text=text)
    for name, batch in batches.items():
        (folder / name).write_bytes(pickle.dumps(batch, protocol))
    return batches


def write_cifar_archive(path, folder):
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, arcname="cifar-10-batches-py")


@pytest.mark.parametrize("text, protocol", [(bytes, 2), (str, 4)])
def test_cifar10_reads_the_batches_in_order(tmp_path, text, protocol):
    batches = write_cifar(tmp_path / "cifar-10-batches-py", protocol, text)
    content = [{str(key, "ascii") if text is bytes else key: value for key, value in batch.items()}
               for batch in batches.values()]
    train, test = (datasets.load("cifar10", split, tmp_path) for split in ("train", "test"))
    assert (train.pixels.shape, test.pixels.shape) == ((20, 3, 32, 32), (4, 3, 32, 32))
    np.testing.assert_array_equal(train.pixels.reshape(20, -1), np.concatenate([part["data"] for part in content[:5]]))
    np.testing.assert_array_equal(train.labels, sum((part["labels"] for part in content[:5]), []))
    np.testing.assert_array_equal(test.pixels.reshape(4, -1), content[5]["data"])
    assert train.class_names[3] == "cat"


def test_cifar10_is_the_same_from_every_form_of_it(tmp_path, cache):
    write_cifar(tmp_path / "a/cifar-10-batches-py")
    (tmp_path / "b").mkdir()
    write_cifar_archive(tmp_path / "b/cifar-10-python.tar.gz", tmp_path / "a/cifar-10-batches-py")
    write_cifar(cache / "cifar-10-batches-py")
    forms = [tmp_path / "a", tmp_path / "a/cifar-10-batches-py", str(tmp_path / "b"), None]
    first, *others = [datasets.load("cifar10", "train", form) for form in forms]
    for other in others:
        np.testing.assert_array_equal(first.pixels, other.pixels)
        np.testing.assert_array_equal(first.labels, other.labels)
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["cifar-10-python.tar.gz"]    # as the user left it


def test_cifar10_in_the_cache_is_checked_and_unpacked_once(tmp_path, cache, monkeypatch):
    batches = write_cifar(tmp_path / "a")
    cache.mkdir()
    archive = cache / "cifar-10-python.tar.gz"
    write_cifar_archive(archive, tmp_path / "a")
    digest = f"md5:{hashlib.md5(archive.read_bytes()).hexdigest()}"
    change_files(monkeypatch, "cifar10", size=archive.stat().st_size, digest=digest)
    for _ in range(2):
        dataset = datasets.load("cifar10", "test")
        np.testing.assert_array_equal(dataset.pixels.reshape(4, -1), batches["test_batch"][b"data"])
        archive.unlink(missing_ok=True)


def test_cifar10_without_files_or_network_says_what_goes_where(cache):
    with pytest.raises(UserError, match="put the file at .*cache/cifar-10-python.tar.gz by hand") as caught:
        datasets.load("cifar10", "train")
    assert "170498071 bytes, md5:c58f30108f718f92721af3b95e74349a" in str(caught.value)


@pytest.mark.parametrize("changes, message", [
    ({"data": None}, "no key 'data'"), ({"labels": None}, "no key 'labels'"),
    ({"data": np.zeros((4, 3071), np.uint8)}, r"uint8 array \(n, 3072\), is uint8 \(4, 3071\)"),
    ({"data": np.zeros((4, 3072), np.int64)}, "is int64"), ({"data": np.zeros((), np.uint8)}, r"is uint8 \(\)"),
    ({"data": b"x" * 3072}, "is bytes"), ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, "holds no images"),
    ({"labels": [1, 2, 3]}, "list of 4 numbers, is list of 3"), ({"labels": {1: 2}}, "is dict"),
    ({"labels": [0, 1, 2, 10]}, "from 0 to 9"), ({"labels": [0, 1, 2, -1]}, "from 0 to 9"),
    ({"labels": [0, 1, 2, 0.5]}, "from 0 to 9"), ({"labels": [0, 1, 2, [3]]}, "from 0 to 9"),
    ({"labels": np.zeros((4, 1), int)}, "from 0 to 9"), ({"labels": np.array(3)}, "is int"),
])
def test_a_cifar10_batch_of_another_kind_is_named(tmp_path, changes, message):
    (tmp_path / "test_batch").write_bytes(pickle.dumps(cifar_batch(0, **changes)))
    with pytest.raises(UserError, match=f"test_batch: .*{message}"):
        datasets.load("cifar10", "test", tmp_path)


def test_damaged_and_missing_cifar10_files_are_named(tmp_path):
    write_cifar(tmp_path / "set")
    (tmp_path / "set/data_batch_2").unlink()
    with pytest.raises(UserError, match="data_batch_2: no such file; unpack cifar-10-python.tar.gz again"):
        datasets.load("cifar10", "train", tmp_path / "set")
    (tmp_path / "set/data_batch_2").write_bytes((tmp_path / "set/data_batch_1").read_bytes()[:-100])
    with pytest.raises(UserError, match="data_batch_2: truncated"):
        datasets.load("cifar10", "train", tmp_path / "set")
    (tmp_path / "set/data_batch_2").write_bytes(pickle.dumps([1]))
    with pytest.raises(UserError, match="data_batch_2: no CIFAR-10 batch"):
        datasets.load("cifar10", "train", tmp_path / "set")


def test_a_cifar10_archive_that_holds_something_else_is_named(tmp_path):
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"xyz"))
    with pytest.raises(UserError, match="tar.gz, cifar-10-batches-py/test_batch: truncated, damaged"):
        datasets.load("cifar10", "test", tmp_path)
    with pytest.raises(UserError, match="no 'cifar-10-batches-py/data_batch_1' in this archive"):
        datasets.load("cifar10", "train", tmp_path)


# MNIST


def idx(array, magic=None):
    magic = 0x800 + array.ndim if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


def write_mnist(folder, num=5, suffix=""):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(num)
    images, labels = rng.integers(256, size=(num, 28, 28), dtype=np.uint8), rng.integers(10, size=num, dtype=np.uint8)
    for file, array in zip(DATASETS["mnist"].files.files["test"], (images, labels), strict=True):
        (folder / f"{file.name}{suffix}").write_bytes(gzip.compress(idx(array)) if suffix else idx(array))
    return images, labels


@pytest.mark.parametrize("place", ["", "mnist"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_is_the_same_from_every_form_of_it(tmp_path, place, suffix):
    images, labels = write_mnist(tmp_path / place, suffix=suffix)
    dataset = datasets.load("mnist", "test", tmp_path)
    np.testing.assert_array_equal(dataset.pixels, images[:, np.newaxis])
    np.testing.assert_array_equal(dataset.labels, labels)


def test_mnist_is_found_in_the_cache(cache):
    images, _ = write_mnist(cache / "mnist")
    np.testing.assert_array_equal(datasets.load("mnist", "test").pixels[:, 0], images)


def test_mnist_without_files_or_network_says_what_goes_where():
    with pytest.raises(UserError, match="put the file at .*cache/mnist/train-images-idx3-ubyte.gz by hand"):
        datasets.load("mnist", "train")


IMAGES = np.zeros((5, 28, 28), np.uint8)


@pytest.mark.parametrize("content, message", [
    (b"", "no idx file"), (b"\0\0\x08", "no idx file"), (idx(IMAGES, 0x801), "no idx file"),
    (idx(IMAGES, 0xd03), "no idx file"),
    (idx(IMAGES)[:-1], "less than the 3920 bytes"), (idx(IMAGES) + b"x", "more than the 3920 bytes"),
    (struct.pack(">4I", 0x803, 2 ** 32 - 1, 2 ** 32 - 1, 2 ** 32 - 1), "refused"),
    (struct.pack(">4I", 0x803, 2 ** 28, 1, 2), "refused"), (idx(IMAGES[:0]), "refused"),
    (idx(IMAGES[:4]), "4 images, but 5 labels"),
])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_idx_file_of_another_kind_is_one_line(tmp_path, content, message, suffix):
    write_mnist(tmp_path, suffix=suffix)
    path = tmp_path / f"t10k-images-idx3-ubyte{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(UserError, match=f"{path.name}: .*{message}") as caught:
        datasets.load("mnist", "test", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_gzip_file_is_one_line(tmp_path):
    write_mnist(tmp_path, suffix=".gz")
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for damaged in (whole[:-10], whole[:5], whole[:50] + b"\xff" * 9 + whole[59:], b"no gzip", whole + b"no gzip"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="t10k-images-idx3-ubyte.gz: ") as caught:
            datasets.load("mnist", "test", tmp_path)
        assert "\n" not in str(caught.value)


def test_no_more_is_unpacked_than_the_header_promises(tmp_path, monkeypatch):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(idx(IMAGES) + bytes(1 << 24)))
    sizes = []
    read = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: sizes.append(size) or read(self, size))
    with pytest.raises(UserError, match="more than"):
        mnist.read_idx(path, num_axes=3)
    assert sizes == [16, IMAGES.size + 1]


def test_a_label_that_is_no_digit_is_refused(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.array([0, 1, 2, 3, 10], np.uint8)))
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte: label 10"):
        datasets.load("mnist", "test", tmp_path)


# digits, synthetic


def test_digits_are_all_there_once_and_in_proportion():
    train, test = (datasets.load("digits", split) for split in ("train", "test"))
    assert (train.pixels.shape, test.pixels.shape) == ((1438, 3, 32, 32), (359, 3, 32, 32))
    assert (train.pixels.min(), train.pixels.max()) == (0, 255)
    np.testing.assert_allclose(np.bincount(test.labels) / np.bincount(train.labels), 0.25, atol=0.01)
    pictures = np.concatenate([train.pixels, test.pixels]).reshape(1797, -1)
    assert len(np.unique(pictures, axis=0)) == 1797    # none of the originals occurs twice


def digits_of_size(side):
    """Return the digits to test with, uint8 (n, side, side)."""
    return digits.read(attrs.evolve(DATASETS["digits"], shape=(1, side, side)), "test")[0][:, 0]


def test_digits_of_the_original_size_are_the_original_pixels():
    from sklearn.datasets import load_digits

    images = digits_of_size(8)
    originals = {image.tobytes() for image in np.rint(load_digits().images * 255 / 16).astype(np.uint8)}
    assert {image.tobytes() for image in images} <= originals


def test_enlarged_digits_look_like_the_originals():
    small, large = (digits_of_size(size).astype(float) for size in (8, 32))
    blocks = large.reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4))    # the pixels that a small one became
    assert np.corrcoef(blocks.ravel(), small.ravel())[0, 1] > 0.97


def test_digits_can_be_told_apart_by_a_nearest_neighbour():
    train, test = (datasets.load("digits", split) for split in ("train", "test"))
    a, b = (dataset.pixels[:, 0].reshape(len(dataset), -1).astype(np.float32) for dataset in (train, test))
    nearest = ((a ** 2).sum(axis=1) - 2 * b @ a.T).argmin(axis=1)
    assert (train.labels[nearest] == test.labels).mean() > 0.97


def test_synthetic_splits_share_the_patterns_of_their_classes():
    info = attrs.evolve(DATASETS["synthetic"], shape=(2, 12, 16), class_names=tuple("abcde"))
    train, test = (Dataset(*synthetic.read(info, split, num=400), info.class_names) for split in ("train", "test"))
    means = np.stack([train.pixels[train.labels == label].mean(axis=0) for label in range(5)])
    distance = ((test.pixels[:, np.newaxis].astype(float) - means) ** 2).sum(axis=(2, 3, 4))
    assert (distance.argmin(axis=1) == test.labels).mean() > 0.95
    assert not np.array_equal(train.pixels, test.pixels)
    assert np.bincount(train.labels).tolist() == [80] * 5


def test_synthetic_data_depend_on_the_arguments_alone():
    first, second, other = (synthetic.read(DATASETS["synthetic"], "train", 8, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_defaults_of_the_synthetic_set():
    for split, num in synthetic.NUM.items():
        assert datasets.load("synthetic", split).pixels.shape == (num, 3, 32, 32)
