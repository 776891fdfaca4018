"""The layout of Cityscapes, in small."""
import numpy as np
import pytest

from common.datasets import cityscapes
from common.datasets.cityscapes import CLASSES, IGNORE, find_pairs, read_image, read_label, read_pair
from common.machine.errors import UsageError, UserError
from common.pictures.image_files import write_png

IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
LABEL = np.arange(24, dtype=np.uint8).reshape(4, 6) % 19


def add(root, name, split="train", label=LABEL, kind="labelTrainIds", image=IMAGE):
    paths = [root / "leftImg8bit" / split / f"{name}_leftImg8bit.png",
             root / "gtFine" / split / f"{name}_gtFine_{kind}.png"]
    for path, pixels in zip(paths, (image, label), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        if pixels is not None:
            write_png(path, pixels)
    return paths


@pytest.fixture
def root(tmp_path):
    for name in ("bonn/1", "aachen/2", "aachen/1"):
        add(tmp_path, name)
    add(tmp_path, "ulm/1", "val")
    return tmp_path


def test_pairs_are_found_in_the_order_of_their_names(root):
    assert [pair.name for pair in find_pairs(root, "train")] == ["aachen/1", "aachen/2", "bonn/1"]
    pair, = find_pairs(root, "val")
    image, label = read_pair(pair)
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(label, LABEL)


def test_a_list_in_the_root_chooses_and_orders(root):
    (root / "train.txt").write_text("bonn/1\n\naachen/1 \n")
    assert [pair.name for pair in find_pairs(root, "train")] == ["bonn/1", "aachen/1"]


def test_ids_are_converted_where_there_are_no_train_ids(root):
    ids = np.arange(34, dtype=np.uint8).reshape(2, 17)
    add(root, "bonn/2", label=ids, kind="labelIds", image=np.zeros((2, 17, 3), np.uint8))
    label = read_pair(find_pairs(root, "train")[-1])[1]
    scored = {7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
              20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car",
              27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}
    for number, found in zip(ids.ravel(), label.ravel(), strict=True):
        assert found == (CLASSES.index(scored[number]) if number in scored else IGNORE)


def test_train_ids_are_preferred(root):
    add(root, "bonn/1", label=np.full_like(LABEL, 7), kind="labelIds")
    np.testing.assert_array_equal(read_pair(find_pairs(root, "train")[-1])[1], LABEL)


@pytest.mark.parametrize("change, split, message", [
    (lambda root: None, "test", "split 'test'"),
    (lambda root: root.rename(root.with_name("moved")), "val", "no such folder"),
    (lambda root: (root / "leftImg8bit").rename(root / "images"), "val", "no leftImg8bit/val in it"),
    (lambda root: (root / "leftImg8bit/val/ulm/1_leftImg8bit.png").unlink(), "val", "no image <city>/<id>"),
    (lambda root: (root / "gtFine/val/ulm/1_gtFine_labelTrainIds.png").unlink(), "val", "no such label"),
    (lambda root: (root / "val.txt").write_text("ulm/1\nulm/9\n"), "val", "val.txt, line 2: no image"),
    (lambda root: (root / "val.txt").write_text("\n"), "val", "lists no image"),
])
def test_what_is_missing_is_one_line(root, change, split, message):
    change(root)
    with pytest.raises(UsageError) as error:
        find_pairs(root, split)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("label, kind, message", [
    (np.full_like(LABEL, 19), "labelTrainIds", "holds the label 19; 0..18 and 255"),
    (np.full_like(LABEL, 34), "labelIds", "holds the label 34; 0..33 and 255"),
    (LABEL[:3], "labelTrainIds", "6 x 3 pixels, and its image 6 x 4"),
    (IMAGE, "labelTrainIds", "one number a pixel"),
])
def test_a_label_that_does_not_fit_is_one_line(root, label, kind, message):
    add(root, "zwickau/1", label=label, kind=kind)
    with pytest.raises(UserError, match=message):
        read_pair(find_pairs(root, "train")[-1])


def test_an_image_that_is_none_is_one_line(root):
    pair = find_pairs(root, "val")[0]
    pair.image.write_bytes(b"no image")
    with pytest.raises(UserError, match="not an image"):
        read_pair(pair)


def test_generated_scenes_are_a_data_set(tmp_path):
    train, val = (find_pairs("synthetic", split) for split in cityscapes.SPLITS)
    assert len(train) == 64 and len(val) == 16 and train[0].name == "synthetic/0000"
    image, label = read_pair(val[3])
    np.testing.assert_array_equal(image, read_image(val[3].image))
    np.testing.assert_array_equal(label, read_label(val[3].label))
    assert (image != read_pair(train[3])[0]).any()


def test_every_class_has_a_colour():
    assert len(CLASSES) == len(cityscapes.PALETTE) == 19 == len(np.unique(cityscapes.PALETTE, axis=0))
