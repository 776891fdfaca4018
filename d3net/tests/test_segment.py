"""The command that segments, with a small network."""
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.datasets.synthetic_scenes import make_scene
from common.machine.errors import UsageError, UserError
from common.pictures.image_files import read_image, read_indices, write_png
from common.workbench.pages import Page
from common.workbench.testing import assert_one_line, disturbed, run_python, script_of
from d3net import segment
from d3net.hyperparameters import load_segmentation
from d3net.scenes import segmenter as scenes
from d3net.scenes.flags import SegmenterFlags
from d3net.scenes.overlay import colour_map, overlay

pytestmark = pytest.mark.usefixtures("own_folder")
SUFFIXES = ("_color.png", "_labelTrainIds.png", "_overlay.png")


@pytest.fixture(scope="module")
def segmenter(segmentation_weights):
    return segment.Segmenter(segmentation_weights, "tiny", engine="nnabla")


@pytest.fixture
def run(segmenter, monkeypatch):
    """Run the command with the small network, which is made once; return its status."""
    monkeypatch.setattr(SegmenterFlags, "make", lambda flags: segmenter)
    return lambda *argv: segment.main([*map(str, argv)])


def scene(path, number=0, size=(48, 64)):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image = make_scene("val", number, *size)[0]
    write_png(path, image)
    return image


def written(folder="segmented"):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def results(*names):
    return sorted(f"{name}{suffix}" for name in names for suffix in SUFFIXES)


def test_three_pictures_of_an_image(run, capsys):
    image = scene("street.png")
    assert run("-i", "street.png") == 0
    assert written() == results("street")
    labels = read_indices("segmented/street_labelTrainIds.png")
    palette = load_segmentation("tiny").palette
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(read_image("segmented/street_overlay.png"), overlay(image, labels, palette))
    np.testing.assert_array_equal(read_image("segmented/street_color.png"), colour_map(labels, palette))
    assert "1 of 1 images are segmented in segmented" in capsys.readouterr().out


def test_folders_keep_their_structure_and_results_are_no_inputs(run):
    for name in ("frames/a/1.png", "frames/b/1.png", "frames/2.JPG"):
        scene(name)
    Path("frames/notes.txt").write_text("no image")
    assert run("frames", "-o", "frames") == 0
    assert run("frames", "-o", "again") == 0
    assert written("again") == results("a/1", "b/1", "2")


def test_images_of_one_name_do_not_overwrite_each_other(run):
    images = {name: scene(name, number) for number, name in enumerate(("a/x.png", "b/x.png", "x-2.png"))}
    assert run(*images) == 0
    assert written() == results("x", "x-3", "x-2")
    labels = read_indices("segmented/x-3_labelTrainIds.png")
    np.testing.assert_array_equal(read_image("segmented/x-3_overlay.png"), overlay(images["b/x.png"], labels))


def test_a_bad_image_does_not_keep_others_from_being_done(run, capsys):
    scene("good.png")
    Path("bad.png").write_bytes(b"no image")
    assert run("bad.png", "missing.png", "good.png") == 1
    assert written() == results("good")
    captured = capsys.readouterr()
    bad, missing = captured.err.splitlines()
    assert bad.startswith("error: bad.png: not an image") and missing.startswith("error: missing.png: no such")
    assert "1 of 3 images" in captured.out


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "I;16", "rotated"])
def test_images_of_all_sorts(run, mode):
    image = Image.fromarray(make_scene("val", 0, 48, 64)[0])
    exif = Image.Exif()
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 256)
    elif mode == "rotated":
        exif[0x0112] = 8
    else:
        image = image.convert(mode)
    image.save("image.tif", exif=exif)
    assert run("image.tif") == 0
    assert read_indices("segmented/image_labelTrainIds.png").shape == ((64, 48) if mode == "rotated" else (48, 64))


def test_a_page_shows_all_that_were_segmented(run, capsys):
    for number, name in enumerate(("a/x.png", "a/y.png")):
        scene(name, number)
    Path("a/bad.png").write_bytes(b"no image")
    assert run("a", "--page") == 1
    assert written() == sorted([*results("x", "y"), "page.html"])
    page = Page("segmented/page.html")
    page.assert_whole(num_scripts=1)
    assert page.texts["h2"] == "xy" and "segmented/page.html: 2 of 2 pictures" in capsys.readouterr().out
    labels = [read_indices(f"segmented/{name}_labelTrainIds.png") for name in "xy"]
    shares = [np.mean(image == number) for image in labels for number in np.unique(image)]
    found = sorted(float(number) / 100 for number in re.findall(r"([\d.]+)%", page.texts["b"]))
    np.testing.assert_allclose(found, np.sort(shares), atol=0.0011)    # below 0.05 % it says "< 0.1%"


def test_no_page_of_nothing(run):
    Path("bad.png").write_bytes(b"no image")
    assert run("bad.png", "--page") == 1
    assert not Path("segmented/page.html").exists()


def test_generated_scenes(run, monkeypatch):
    monkeypatch.setattr("common.datasets.synthetic_scenes.NUM", {"train": 1, "val": 2})
    assert run("-i", "synthetic") == 0
    assert written() == results("synthetic/0000", "synthetic/0001")


@pytest.mark.parametrize("argv, message", [
    ([], "no arguments are given"),
    (["missing.png"], "missing.png: no such image"),
    (["missing.png", "gone.png"], "nor any other of the inputs"),
    (["empty"], "empty: no image in this folder"),
    (["a.png", "-o", "a.png"], "a.png: not a folder"),
    (["a.png", "a_overlay.png", "-o", "."], "a_overlay.png: an input that would be overwritten"),
    (["a.png", "--precision", "bf"], "--precision"),
])
def test_wrong_usage_is_one_line_and_writes_nothing(run, argv, message):
    scene("a.png")
    scene("a_overlay.png")
    Path("empty").mkdir()
    before = written(".")
    with pytest.raises(UsageError) as error:
        run(*argv)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert written(".") == before


def test_ctrl_c_leaves_whole_files(run, run_main):
    for number in range(3):
        scene(f"frames/{number}.png", number)
    with disturbed(segment, "overlay", 2, KeyboardInterrupt()):
        status, _, err = run_main(lambda argv: run(*argv), "frames")
    assert status == 130 and "interrupted; 1 of 3 images" in err
    assert written() == results("0")


def test_results_appear_together_or_not_at_all(run):
    scene("a.png")
    with disturbed(segment, "encode_png", 3, OSError(28, "No space left on device")):
        assert run("a.png") == 1
    assert written() == []


def test_published_flags_and_the_default_model():
    args = segment.parse_args(["--test-image-file", "a.png", "-cfg", "D3Net_S", "-c", "cpu", "-m", "w.h5"])
    assert (args.inputs, args.config, args.context, args.model) == (["a.png"], "D3Net_S", "cpu", "w.h5")
    for argv, name in (([], "D3Net-L"), (["--config", "D3Net_S"], "D3Net-S"), (["--config", "mine.yaml"], "D3Net-L")):
        assert SegmenterFlags.of_flags(segment.parse_args(["a.png", *argv])).model == name


@pytest.mark.slow
def test_the_command_itself(segmentation_weights):
    scene("a.png")
    argv = ["-i", "a.png", "-o", "out", "-m", segmentation_weights, "-cfg", "tiny", "-c", "cpu"]
    status, out, err = run_python(script_of(segment), *argv)
    assert status == 0, err
    assert written("out") == results("a") and "a.png -> out/a_*.png: " in out
    assert_one_line(run_python(script_of(segment), "--imput", "a.png"), 2, "--imput")


def test_a_picture_beyond_the_memory_of_the_machine_is_one_line(segmenter, monkeypatch, own_folder):
    monkeypatch.setattr(scenes, "machine_memory", lambda: (0, 10**9))
    scenes.check_memory(1000, 2000)
    write_png("a.png", np.zeros((1000, 2001), np.uint8))
    with pytest.raises(UserError, match="^a.png: 2001 x 1000 pixels take about 1 GB to segment, and "):
        segment.segment_file(segmenter, segment.Input(Path("a.png"), "a"), own_folder)
    monkeypatch.setattr(scenes, "machine_memory", unknown_memory)
    scenes.check_memory(1 << 20, 1 << 20)    # nothing is known against it


def unknown_memory():
    raise UserError("this system does not tell")
