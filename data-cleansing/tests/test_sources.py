"""Lists, folders and named data sets of labelled images."""
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from common import datasets
from common.machine.errors import UsageError, UserError
from data_cleansing.config import Config
from data_cleansing.data.sets import load_data
from data_cleansing.data.sources import _sorted_classes, check_splits, load_files, load_named
from data_cleansing.data.splits import split


def write_image(path, value, mode="L", size=(32, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


@pytest.fixture
def listing(tmp_path):
    """A list of three grey images of the classes 10 and 9."""
    for number, value in enumerate((10, 20, 30)):
        write_image(tmp_path / "images" / f"{number}.png", value)
    path = tmp_path / "list.csv"
    path.write_text("x:image,y:label\nimages/2.png,10\nimages/0.png,9\nimages/1.png,10\n")
    return path


def test_rows_of_a_list_are_its_lines(listing):
    images = load_files(listing)
    assert images.pixels[:, 0, 0, 0].tolist() == [30, 10, 20]
    assert images.class_names == ("9", "10")    # in the order of numbers
    assert images.labels.tolist() == [1, 0, 1]
    assert images.paths[1] == str(listing.parent / "images" / "0.png")


def test_a_folder_for_each_class(tmp_path):
    for name, value in (("cat/b.png", 2), ("cat/a.png", 1), ("ant/c.JPG", 3), ("empty/notes.txt", None)):
        if value is None:
            (tmp_path / "empty").mkdir()
        else:
            write_image(tmp_path / name, value)
    images = load_files(tmp_path)
    assert images.class_names == ("ant", "cat")
    assert images.labels.tolist() == [0, 1, 1]
    assert images.pixels[1:, 0, 0, 0].tolist() == [1, 2]


def test_classes_whose_names_are_one_number_have_the_same_order_in_every_process():
    for names in (["01", "1", "001", "2"], ["2", "001", "1", "01"]):
        assert _sorted_classes(dict.fromkeys(names)) == ["001", "01", "1", "2"]


def test_photographs_are_not_all_held_in_memory_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("data_cleansing.data.sources.num_threads", lambda: 2)
    write_image(tmp_path / "a.png", 1, size=(800, 600))
    write_image(tmp_path / "b.png", 200, size=(32, 32))    # stays as it is, among others that are resized
    path = tmp_path / "list.csv"
    path.write_text("x:image,y:label\n" + "a.png,0\n" * 100 + "b.png,1\n")
    load_files(path, side=32)    # imports what it needs
    tracemalloc.start()
    try:
        images = load_files(path, side=32)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * 800 * 600 / 2    # the pixels of all photographs would take twice that
    expected = np.float32([1, 200]) / 255
    assert np.abs(images.pixels[[0, 99, 100], 0].mean((1, 2)) - expected[[0, 0, 1]]).max() < 1e-6


def test_other_sets_follow_the_training_images(listing, tmp_path):
    train = load_files(listing)
    write_image(tmp_path / "colour.png", (90, 90, 90), "RGB", size=(64, 50))
    other = tmp_path / "valid.csv"
    other.write_text("x:image,y:label\ncolour.png,10\n")
    valid = load_files(other, like=train)
    assert (valid.shape, valid.labels.tolist(), valid.class_names) == (train.shape, [1], train.class_names)
    other.write_text("x:image,y:label\ncolour.png,7\n")
    with pytest.raises(UserError, match="valid.csv: label '7' is none of the 2 classes"):
        load_files(other, like=train)


@pytest.mark.parametrize("content, message", [
    ("", "first line must have the columns 'x:image,y:label'"), ("image,label\na.png,0\n", "first line must have"),
    ("x:image,y:label\n", "lists no images"), ("x:image,y:label\na.png\n", "line 2: 1 columns"),
    ("x:image,y:label\nmissing.png,0\n", "missing.png: no such image"), (b"\xff\xfe\x00", "cannot be read"),
])
def test_damaged_lists_are_told(tmp_path, content, message):
    path = tmp_path / "list.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        load_files(path)


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(UsageError, match="no such list of images, nor a folder"):
        load_files(tmp_path / "nothing.csv")
    with pytest.raises(UserError, match="no folders with images"):
        load_files(tmp_path)


def test_named_data_sets_are_split_as_published():
    train, valid, test = load_named("digits", split_seed=2)
    known = datasets.load("digits", "train")
    train_rows, valid_rows = split(len(known), len(known) // 5, 2)
    np.testing.assert_array_equal(train.pixels, known.pixels[train_rows, :1])
    np.testing.assert_array_equal(valid.labels, known.labels[valid_rows])
    assert train.shape == valid.shape == test.shape == (1, 32, 32)
    check_splits(train, valid, test)


def test_lists_call_classes_of_named_data_sets_by_numbers_and_others_by_name(listing):
    train, _, _ = load_named("digits", side=8)
    assert train.list_names == tuple("0123456789") and train.subset([3]).list_names == train.list_names
    assert load_files(listing).list_names == load_files(listing).class_names


def test_stl10_is_read_from_its_binary_files(tmp_path):
    rng = np.random.default_rng(0)
    upright = rng.integers(0, 256, (1010, 3, 96, 96), dtype=np.uint8)
    for part, num in (("train", 1010), ("test", 3)):
        upright[:num].swapaxes(2, 3).tofile(tmp_path / f"{part}_X.bin")
        (np.arange(num) % 10 + 1).astype(np.uint8).tofile(tmp_path / f"{part}_y.bin")
    train, valid, test = load_named("stl10", split_seed=0, data_dir=tmp_path)
    train_rows, valid_rows = split(1010, 1000, 0)
    np.testing.assert_array_equal(train.pixels, upright[train_rows])
    np.testing.assert_array_equal(valid.labels, valid_rows % 10)
    assert len(test) == 3 and train.class_names[1] == "bird" and train.list_names[1] == "1"
    check_splits(train, valid, test)


def test_so_many_images_are_taken_and_the_same_test_images_by_all_trials():
    cfg = Config(dataset="digits", side=8, n_train=20, n_valid=7, n_test=9)
    first, second, again = (load_data(cfg, seed) for seed in (0, 1, 0))
    assert [len(images) for images in first[:3]] == [20, 7, 9] and len(first[3]) == 20
    assert first[0].paths == again[0].paths and set(first[0].paths) != set(second[0].paths)
    assert first[2].paths == second[2].paths
    assert not set(first[0].paths) & set(first[1].paths)


def test_sets_that_do_not_belong_together_are_told(listing, random_images):
    train = load_files(listing)
    with pytest.raises(UserError, match="validation images"):
        check_splits(train, random_images(3), train)
    with pytest.raises(UserError, match="two are needed"):
        check_splits(random_images(3, num_classes=1), train, train)


@pytest.mark.parametrize("side", [0, -1, 2.5, "8"])
def test_a_side_that_is_no_number_of_pixels_is_refused(side, tmp_path):
    for load in (lambda: load_named("digits", side=side), lambda: load_files(tmp_path, side=side)):
        with pytest.raises(ValueError, match=f"side {side!r}"):
            load()
