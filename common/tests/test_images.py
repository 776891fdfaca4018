"""Image files of all sorts."""
import warnings

import numpy as np
import pytest
from PIL import Image

from common.machine.errors import UsageError, UserError
from common.pictures import image_files as images

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
GREY = RGB[..., 0]


def save(path, pixels, mode=None, **kwargs):
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **kwargs)
    return path


def test_colours_come_as_bgr(tmp_path):
    np.testing.assert_array_equal(images.read_image(save(tmp_path / "a.png", RGB)), RGB[..., ::-1])


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P"])
def test_images_without_colours_get_three_channels(tmp_path, mode):
    made = images.read_image(save(tmp_path / "a.png", GREY, mode))
    assert made.shape == (6, 9, 3) and (made[..., 0] == made[..., 2]).all()
    if mode != "1":
        np.testing.assert_array_equal(made[..., 1], GREY)


def test_a_picture_that_is_read_lets_no_warning_be_shown_again(tmp_path):
    path = save(tmp_path / "a.png", RGB)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        images.read_image(path)
        for _ in range(3):
            warnings.warn("of the user", stacklevel=1)
            images.read_image(path)
    assert [str(warning.message) for warning in shown] == ["of the user"]


def test_transparency_is_dropped(tmp_path):
    pixels = np.dstack([RGB, np.zeros((6, 9), np.uint8)])
    np.testing.assert_array_equal(images.read_image(save(tmp_path / "a.png", pixels)), RGB[..., ::-1])


def test_sixteen_bits_become_eight(tmp_path):
    values = GREY.astype(np.uint16) * 256 + 7
    for suffix in ("png", "tiff"):
        made = images.read_image(save(tmp_path / f"a.{suffix}", values))
        np.testing.assert_array_equal(made, GREY[..., None].repeat(3, 2))


def test_cmyk_becomes_colours(tmp_path):
    smooth = np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)
    made = images.read_image(save(tmp_path / "a.jpg", smooth, "CMYK", quality=95))
    assert np.abs(made.astype(int) - smooth[..., ::-1]).mean() < 4


def test_the_orientation_of_the_camera_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6    # the right side of what was stored is up
    smooth = np.zeros((16, 32, 3), np.uint8)
    smooth[:, 16:] = 255
    made = images.read_image(save(tmp_path / "a.jpg", smooth, exif=exif))
    assert made.shape == (32, 16, 3) and made[:12].max() < 30 and made[20:].min() > 220


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + 30 * b"\0"])
def test_what_is_no_image_is_one_line(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    for read in (images.read_image, images.read_indices):
        with pytest.raises(UserError, match=r"a\.png: (not an image|cannot be read as an image)") as error:
            read(tmp_path / "a.png")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_image_is_one_line(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = save(tmp_path / f"a.{suffix}", noise)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(UserError, match="cannot be read as an image"):
        images.read_image(path)


def test_floating_point_folders_and_missing_files_are_one_line(tmp_path):
    with pytest.raises(UserError, match="floating-point"):
        images.read_image(save(tmp_path / "a.tiff", GREY.astype(np.float32)))
    with pytest.raises(UserError, match="a folder"):
        images.read_image(tmp_path)
    with pytest.raises(UsageError, match="no such image file"):
        images.read_image(tmp_path / "b.png")


def test_indices_are_read_as_they_stand(tmp_path):
    image = Image.fromarray(GREY % 19)
    image.putpalette(np.random.default_rng(1).integers(0, 256, 768, np.uint8).tobytes())
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(images.read_indices(tmp_path / "a.png"), GREY % 19)
    with pytest.raises(UserError, match="mode RGB"):
        images.read_indices(save(tmp_path / "b.png", RGB))


def test_what_is_written_is_read_again(tmp_path):
    images.write_png(tmp_path / "a.png", RGB)
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.png"), RGB)
    images.write_png(tmp_path / "b.png", GREY)
    np.testing.assert_array_equal(images.read_indices(tmp_path / "b.png"), GREY)
    with pytest.raises(UserError, match="cannot be written"):
        images.write_png(tmp_path / "no" / "a.png", GREY)
