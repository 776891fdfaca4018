"""The picture of a scene, its classes and those that are found."""
import numpy as np
import pytest

from common.datasets.cityscapes import CLASSES, PALETTE
from common.datasets.synthetic_scenes import IGNORE, make_scene
from common.pictures.image_files import read_image
from d3net import plot_scene
from d3net.scenes.flags import SegmenterFlags
from d3net.scenes.overlay import colour_map
from d3net.segment import Segmenter


def test_the_command_says_what_its_picture_shows(segmentation_weights, tmp_path, monkeypatch, capsys):
    segmenter = Segmenter(segmentation_weights, "tiny", engine="nnabla")
    monkeypatch.setattr(SegmenterFlags, "make", lambda flags: segmenter)
    plot_scene.main(["--scene", "1", "-o", str(tmp_path / "scene.png")])
    image, label = make_scene("val", 1)
    share = plot_scene.share_right(label, segmenter.segment(image))
    assert f"{share:.1%} of the pixels of scene 1" in capsys.readouterr().out
    assert read_image(tmp_path / "scene.png").std() > 10


def test_pixels_without_a_class_are_neither_right_nor_wrong():
    label = np.array([[0, 1, IGNORE, IGNORE]], np.uint8)
    assert plot_scene.share_right(label, np.array([[0, 2, 3, 4]], np.uint8)) == 0.5


@pytest.mark.parametrize("number, without_class", [(0, False), (1, True)])
def test_the_legend_has_the_classes_of_the_picture(number, without_class):
    image, label = make_scene("val", number)
    found = np.full_like(label, CLASSES.index("train"))
    axes = plot_scene.draw(image, label, found, CLASSES, PALETTE).axes
    np.testing.assert_array_equal(axes[1].get_images()[0].get_array(), colour_map(label)[..., ::-1])
    np.testing.assert_array_equal(axes[2].get_images()[0].get_array(), colour_map(found)[..., ::-1])
    listed = [text.get_text() for text in axes[3].get_legend().get_texts()]
    wanted = [CLASSES[k] for k in np.unique(label) if k < len(CLASSES)]
    assert sorted(listed) == sorted({*wanted, "train", *(["no class"] if without_class else [])})
