import numpy as np
import pytest
from PIL import Image

from common.datasets import hold_out, imagenet, photographs
from common.datasets.imagenet import MEAN, STD, ImageBatches
from common.machine.errors import UsageError, UserError

WNIDS = ("n01", "n02", "n10")
COLOURS = {"n01": (250, 10, 10), "n02": (10, 250, 10), "n10": (10, 10, 250)}


def write_picture(path, mode="RGB", colour=(200, 100, 50), size=(60, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, "JPEG", quality=95)
    return path


@pytest.fixture
def root(tmp_path):
    """Three classes of one colour each: 4 training and 2 validation pictures of each."""
    for split, num in (("train", 4), ("val", 2)):
        for wnid in WNIDS:
            for k in range(num):
                write_picture(tmp_path / split / wnid / f"{wnid}_{k}.JPEG", colour=COLOURS[wnid])
    return tmp_path


@pytest.fixture
def flat(root):
    """The same with a flat validation folder, to which a label file is missing."""
    for k, path in enumerate(sorted((root / "val").rglob("*.JPEG"))):
        path.rename(root / "val" / f"ILSVRC2012_val_{5 - k:08}.JPEG")    # classes in descending order
    for wnid in WNIDS:
        (root / "val" / wnid).rmdir()
    return root


def colours(batch):
    """Mean bytes of the colours of each picture of a normalized batch, (batch, 3)."""
    return (batch.mean((2, 3)) * STD + MEAN) * 255


def test_classes_are_the_sorted_folders(root):
    train = imagenet.load("train", root)
    assert train.class_names == WNIDS and train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert [path.name for path in train.sources[:2]] == ["n01_0.JPEG", "n01_1.JPEG"]


def test_validation_has_the_classes_of_the_training_folder(root):
    for path in (root / "val" / "n01").iterdir():
        path.unlink()
    (root / "val" / "n01").rmdir()
    assert imagenet.load("val", root).labels.tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize("line, name", [
    ("{stem} {wnid}", "val_labels.txt"), ("{stem}.JPEG {number}", "val.txt"),
    ("{stem},{wnid} 85 1 499 272", "LOC_val_solution.csv"), ("{wnid}", "val_labels.txt")])
def test_labels_of_a_flat_folder(line, name, flat):
    classes = [2, 2, 1, 1, 0, 0]
    lines = [line.format(stem=f"ILSVRC2012_val_{k:08}", wnid=WNIDS[c], number=c) for k, c in enumerate(classes)]
    header = ["ImageId,PredictionString"] if "," in line else []
    (flat / name).write_text("\n".join(header + lines) + "\n")
    pictures = imagenet.load("val", flat)
    assert pictures.labels.tolist() == classes
    (x, y), = ImageBatches(pictures, 6)
    np.testing.assert_allclose(colours(x), [COLOURS[WNIDS[label]] for label in y[:, 0]], atol=3)


@pytest.mark.parametrize("content, says", [
    ("1\n2\n3\n1\n2\n3\n", "name the classes by their wnid"), ("n01\n", "1 labels for 6 pictures"),
    ("ILSVRC2012_val_00000000 n01\n", "no label for ILSVRC2012_val_00000001.JPEG"),
    ("".join(f"ILSVRC2012_val_{k:08} n99\n" for k in range(6)), "'n99' is none of the 3 classes"),
    ("".join(f"ILSVRC2012_val_{k:08} 3\n" for k in range(6)), r"'3' is none of .* 0\.\.2")])
def test_refuses_label_files_that_do_not_fit(content, says, flat):
    (flat / "val.txt").write_text(content)
    with pytest.raises(UserError, match=says) as caught:
        imagenet.load("val", flat)
    assert "\n" not in str(caught.value)


def test_refuses_folders_that_hold_no_pictures(flat, tmp_path):
    with pytest.raises(UsageError, match="need a label file"):
        imagenet.load("val", flat)
    with pytest.raises(UsageError, match="no such label file"):
        imagenet.load("val", flat, val_labels="missing.txt")
    with pytest.raises(UsageError, match="no such folder"):
        imagenet.load("train", tmp_path / "nowhere")
    (tmp_path / "train" / "n11").mkdir()
    with pytest.raises(UsageError, match="n11: no pictures"):
        imagenet.load("train", tmp_path)
    with pytest.raises(UsageError, match="unknown split 'test'"):
        imagenet.load("test", flat)


def test_refuses_a_class_that_training_does_not_know(root):
    write_picture(root / "val" / "n77" / "a.jpg")
    with pytest.raises(UsageError, match="n77: a class that has no folder"):
        imagenet.load("val", root)


def test_limits_take_from_all_classes(root):
    assert imagenet.load("train", root, per_class=2).labels.tolist() == [0, 0, 1, 1, 2, 2]
    limited = imagenet.load("train", root, limit=4)
    assert limited.labels.tolist() == [0, 0, 1, 2] and limited.class_names == WNIDS
    assert imagenet.load("train", root, per_class=1, limit=2).labels.tolist() == [0, 1]
    with pytest.raises(UsageError, match="0 pictures in all"):
        imagenet.load("train", root, limit=0)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colour_spaces_become_rgb(mode, tmp_path):
    pixels = photographs.decode(write_picture(tmp_path / "a.JPEG", mode), 32)
    expected = {"L": 3 * (124,), "CMYK": (200, 100, 50)}[mode]    # 0.299 R + 0.587 G + 0.114 B
    assert pixels.shape == (32, 32, 3)
    np.testing.assert_allclose(pixels.mean((0, 1)), expected, atol=3)


def test_transparent_pictures_become_rgb(tmp_path):
    Image.new("RGBA", (50, 50), (9, 8, 7, 200)).save(tmp_path / "a.png")
    assert photographs.decode(tmp_path / "a.png", 32)[0, 0].tolist() == [9, 8, 7]


def test_validation_agrees_with_resizing_and_cropping(tmp_path):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (10, 8, 3), dtype=np.uint8)).resize((512, 640), Image.BICUBIC)
    picture.save(tmp_path / "a.png")
    expected = picture.resize((256, 320), Image.BILINEAR).crop((16, 48, 16 + 224, 48 + 224))
    difference = photographs.decode(tmp_path / "a.png", 224) - np.asarray(expected, np.float64)
    assert np.abs(difference).max() <= 1    # grey level


def test_draft_mode_changes_little(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((800, 600), Image.BICUBIC).save(
        tmp_path / "a.JPEG", quality=98)
    fast = photographs.decode(tmp_path / "a.JPEG", 64, np.random.default_rng(3)).astype(int)
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.draft", lambda *args: None)
    exact = photographs.decode(tmp_path / "a.JPEG", 64, np.random.default_rng(3)).astype(int)
    assert np.abs(fast - exact).mean() < 2 and exact.std() > 20


def test_random_crops_have_the_stated_areas_and_ratios():
    rng = np.random.default_rng(0)
    boxes = np.array([photographs.random_crop(500, 400, rng) for _ in range(500)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 500 and boxes[:, 3].max() <= 400
    assert (width / height).min() > 0.74 and (width / height).max() < 1.35
    areas = width * height / 200000
    assert areas.min() > 0.079 and 0.4 < areas.mean() < 0.6 and areas.max() > 0.9


def test_crop_of_an_extreme_picture_is_its_centre():
    assert photographs.random_crop(1000, 3, np.random.default_rng(0)) == (498, 0, 502, 3)


def test_batches_follow_from_seed_epoch_and_step():
    pictures = imagenet.load("train", "synthetic", limit=20)
    one, other = (ImageBatches(pictures, 8, size=32, seed=1, drop_last=True, workers=k) for k in (1, 3))
    assert len(one) == 2
    late = list(one.epoch(3, start=1))
    for a, b in zip(list(other.epoch(3))[1], late[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(next(one.epoch(4, 1))[0], late[0][0])
    assert not np.array_equal(next(ImageBatches(pictures, 8, size=32, seed=2).epoch(3, 1))[0], late[0][0])
    assert late[0][0].dtype == np.float32 and late[0][0].flags.c_contiguous and late[0][1].dtype == np.int32


def test_validation_keeps_the_order_and_the_rest(root):
    batches = ImageBatches(imagenet.load("val", root), 4, size=32)
    assert [y[:, 0].tolist() for _, y in batches] == [[0, 0, 1, 1], [2, 2]]


def test_a_damaged_picture_stops_with_its_name(root):
    path = root / "train" / "n02" / "n02_1.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="n02_1.JPEG: cannot be read as an image") as caught:
        list(ImageBatches(imagenet.load("train", root), 4, size=32, seed=0))
    assert "\n" not in str(caught.value)


def test_damaged_pictures_are_skipped_and_counted(root):
    bad = root / "train" / "n02" / "n02_1.JPEG", root / "val" / "n10" / "n10_0.JPEG"
    for path in bad:
        path.write_bytes(b"no picture")
    train = ImageBatches(imagenet.load("train", root), 4, size=32, seed=0, skip_damaged=True)
    assert [len(x) for x, _ in train] == [4, 4, 4] and train.skipped == {bad[0]}
    for x, y in train:    # a picture that takes the place of another brings its own label
        np.testing.assert_allclose(colours(x), [COLOURS[WNIDS[label]] for label in y[:, 0]], atol=3)
    valid = ImageBatches(imagenet.load("val", root), 3, size=32, skip_damaged=True)
    assert [y[:, 0].tolist() for _, y in valid] == [[0, 0, 1], [1, 2]] and valid.skipped == {bad[1]}


def test_a_batch_of_damaged_pictures_stops(root):
    for path in (root / "val" / "n01").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="all 2 pictures of a batch"):
        list(ImageBatches(imagenet.load("val", root), 2, size=32, skip_damaged=True))


def test_synthetic_classes_can_be_told_apart():
    train, val = (imagenet.load(split, "synthetic") for split in ("train", "val"))
    (x, y), = ImageBatches(train, len(train), size=16)
    means = np.stack([x[y[:, 0] == label].mean(0) for label in range(10)])
    (x, y), = ImageBatches(val, len(val), size=16)
    distances = ((x[:, None] - means) ** 2).sum((2, 3, 4))
    assert (distances.argmin(1) == y[:, 0]).mean() > 0.9


def test_pictures_can_be_held_out():
    rest, held_out = hold_out(imagenet.load("train", "synthetic"), 10)
    assert (len(rest), len(held_out)) == (150, 10)
    assert not {id(a) for a in rest.sources} & {id(a) for a in held_out.sources}


def test_refuses_no_workers():
    with pytest.raises(UsageError, match="0 workers"):
        ImageBatches(imagenet.load("val", "synthetic"), 2, workers=0)
