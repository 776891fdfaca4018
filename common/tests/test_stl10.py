"""STL-10: upright images from every form of its files, and one line for files that are something else."""
import hashlib
import tarfile

import attrs
import numpy as np
import pytest

from common.datasets import DATASETS, load
from common.machine.errors import UserError


@pytest.fixture(autouse=True)
def cache(cache, monkeypatch):
    """Keep the tests away from the user's cache, and from the network."""
    change(monkeypatch, url="http://127.0.0.1:1/stl10_binary.tar.gz")
    return cache


def files():
    return DATASETS["stl10"].files


def change(monkeypatch, **values):
    monkeypatch.setitem(DATASETS, "stl10", attrs.evolve(DATASETS["stl10"], files=attrs.evolve(files(), **values)))


def write_stl10(folder, num=3):
    """Write the four files, images column by column; returns the upright images by split."""
    folder.mkdir(parents=True)
    images = {}
    for seed, (split, (image_name, label_name)) in enumerate(files().names.items()):
        images[split] = np.random.default_rng(seed).integers(0, 256, (num, *DATASETS["stl10"].shape), dtype=np.uint8)
        with (folder / image_name).open("wb") as stream:
            for image in images[split]:
                for channel in image:
                    stream.write(channel.tobytes(order="F"))
        (folder / label_name).write_bytes(bytes((k % 10) + 1 for k in range(9, 9 + num)))    # 10, 1, 2
    return images


def write_archive(path, folder):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for names in files().names.values():
            for name in names:
                tar.add(folder / name, f"stl10_binary/{name}")


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_form_gives_the_same_upright_images(tmp_path, cache, split):
    images = write_stl10(tmp_path / "a" / "stl10_binary")[split]
    write_archive(tmp_path / "b" / "stl10_binary.tar.gz", tmp_path / "a" / "stl10_binary")
    write_stl10(cache / "stl10_binary")
    for form in (tmp_path / "a", tmp_path / "a" / "stl10_binary", str(tmp_path / "b"), None):
        dataset = load("stl10", split, form)
        np.testing.assert_array_equal(dataset.pixels, images)
        np.testing.assert_array_equal(dataset.labels, [9, 0, 1])
    assert dataset.class_names[0] == "airplane" and len(dataset.class_names) == 10
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["stl10_binary.tar.gz"]    # as the user left it


def test_an_archive_in_the_cache_is_checked_and_unpacked_once(tmp_path, cache, monkeypatch):
    images = write_stl10(tmp_path / "a")
    archive = cache / "stl10_binary.tar.gz"
    write_archive(archive, tmp_path / "a")
    change(monkeypatch, size=archive.stat().st_size, digest=f"md5:{hashlib.md5(archive.read_bytes()).hexdigest()}")
    for _ in range(2):
        np.testing.assert_array_equal(load("stl10", "test").pixels, images["test"])
        archive.unlink(missing_ok=True)


def test_without_files_or_network_it_says_what_goes_where():
    with pytest.raises(UserError, match="put the file at .*cache/stl10_binary.tar.gz by hand") as caught:
        load("stl10", "train")
    assert f"{files().size} bytes, {files().digest}" in str(caught.value)


@pytest.mark.parametrize("name, content, message", [
    ("train_X.bin", b"", "no whole number of images"), ("train_X.bin", bytes(27649), "no whole number of images"),
    ("train_y.bin", bytes([1, 2]), "2 labels for 3 images"), ("train_y.bin", bytes([0, 1, 2]), "labels from 0 to 2"),
    ("train_y.bin", bytes([1, 11, 2]), "labels from 1 to 11"), ("train_y.bin", None, "no such file; unpack")])
def test_damaged_files_are_named(tmp_path, name, content, message):
    write_stl10(tmp_path / "set")
    if content is None:
        (tmp_path / "set" / name).unlink()
    else:
        (tmp_path / "set" / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: .*{message}"):
        load("stl10", "train", tmp_path / "set")


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    write_stl10(tmp_path / "set")
    change(monkeypatch, limit=1000)
    with pytest.raises(UserError, match="train_X.bin: 82944 bytes, more than the 1000 that .* refused"):
        load("stl10", "train", tmp_path / "set")


def test_an_archive_without_the_files_is_named(tmp_path):
    with tarfile.open(tmp_path / "stl10_binary.tar.gz", "w:gz"):
        pass
    with pytest.raises(UserError, match="no 'stl10_binary/test_X.bin' in this archive"):
        load("stl10", "test", tmp_path)
