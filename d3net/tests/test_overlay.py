"""Labels as colours."""
from pathlib import Path

import numpy as np

from common.datasets.cityscapes import PALETTE
from d3net.scenes.overlay import colour_map, overlay

REFERENCE = np.load(Path(__file__).parent / "data" / "seg_visualize.npz")


def test_overlay_as_published():
    np.testing.assert_array_equal(overlay(REFERENCE["image_bgr"], REFERENCE["labels"]), REFERENCE["overlay_bgr"])
    np.testing.assert_array_equal(overlay(REFERENCE["picture"], REFERENCE["picture_argmax"]),
                                  REFERENCE["picture_overlay"])


def test_every_pair_of_bytes_is_half_of_each_rounded_down():
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 256, 3)
    palette = np.arange(256).repeat(3).reshape(256, 3)
    labels = np.arange(256, dtype=np.uint8)[:, None]
    for label in labels:
        made = overlay(image, np.broadcast_to(label, (1, 256)), palette)
        np.testing.assert_array_equal(made, (image * 0.5 + label[0] * 0.5).astype(np.uint8))


def test_colours_are_bgr_and_ignored_pixels_black():
    made = colour_map(np.array([[0, 18, 255]], np.uint8))
    np.testing.assert_array_equal(made[0], [PALETTE[0][::-1], PALETTE[18][::-1], (0, 0, 0)])
