"""Pictures of every depth and orientation, and files that only pretend to be pictures."""
import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.datasets import cityscapes, photographs
from common.machine.errors import UsageError, UserError
from common.pictures import image_files as images

pytestmark = pytest.mark.usefixtures("own_folder")
READERS = (images.read_image, images.read_indices, lambda path: photographs.decode(path, 8))


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(values, depth, colour=0, size=None):
    """A PNG file of numbers of `depth` bits, made by hand: libraries would scale them."""
    rows = [row.astype(f">u{max(1, depth // 8)}").tobytes() for row in values] if depth >= 8 else [
        np.packbits((row[:, None] >> np.arange(depth)[::-1] & 1).astype(np.uint8)).tobytes() for row in values]
    height, width = size or values.shape
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    palette = chunk(b"PLTE", np.random.default_rng(0).bytes(3 << min(depth, 8))) if colour == 3 else b""
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette
            + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b""))


def saved(name, content):
    Path(name).write_bytes(content)
    return Path(name)


# Labels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth, colour", [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (1, 3), (2, 3), (4, 3), (8, 3)])
def test_numbers_of_all_depths_are_read_as_they_stand(depth, colour):
    values = np.random.default_rng(depth).integers(0, 1 << depth, (5, 13))
    values[0, :2] = 0, (1 << depth) - 1
    made = images.read_indices(saved("a.png", png(values, depth, colour)))
    assert made.dtype == (np.uint16 if depth == 16 else np.uint8)
    np.testing.assert_array_equal(made, values)


@pytest.mark.parametrize("depth, colour", [(2, 0), (4, 0), (8, 0), (16, 0), (4, 3)])
def test_labels_of_all_depths_are_classes(depth, colour):
    values = np.random.default_rng(0).integers(0, 4, (5, 9))
    made = cityscapes.read_label(saved("a_gtFine_labelTrainIds.png", png(values, depth, colour)))
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, values)


def test_a_label_beyond_a_byte_is_refused():
    path = saved("a_gtFine_labelTrainIds.png", png(np.full((2, 2), 256 + 3), 16))
    with pytest.raises(UserError, match="holds the label 259"):
        cityscapes.read_label(path)


def test_labels_are_no_jpeg_files_nor_coloured():
    Image.new("L", (4, 4)).save("a.jpg")
    for mode in ("RGB", "RGBA", "LA"):
        Image.new(mode, (4, 4)).save(f"{mode}.png")
    for name in ("a.jpg", "RGB.png", "RGBA.png", "LA.png"):
        with pytest.raises(UserError, match=name):
            images.read_indices(name)


# Pictures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_pictures_are_turned_upright(suffix, orientation):
    corners = np.zeros((48, 48, 3), np.uint8)    # square, so that the ImageNet loader sees all of it
    corners[:24, :24], corners[:24, 24:] = 255, (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(corners).save(f"a.{suffix}", exif=exif, quality=95)
    turned = images.read_image(f"a.{suffix}")[..., ::-1].astype(int)
    photograph = photographs.decode(Path(f"a.{suffix}"), 48).astype(int)
    spots = np.s_[4::40, 4::40]    # a pixel of each corner, away from the edges of colours
    assert np.abs(photograph[spots] - turned[spots]).max() < 40
    white = np.argwhere(turned[spots].min(-1) > 200).tolist()
    assert white == [[[0, 0], [0, 1], [1, 1], [1, 0], [0, 0], [0, 1], [1, 1], [1, 0]][orientation - 1]]


def test_a_wide_photograph_is_cropped_as_if_it_had_been_stored_upright():
    smooth = np.linspace(0, 255, 60 * 90 * 3).reshape(60, 90, 3).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(smooth).save("turned.png", exif=exif)
    Image.fromarray(np.rot90(smooth, -1)).save("upright.png")
    for seed in (None, 0, 1, 2):
        turned, upright = (photographs.decode(Path(name), 16, None if seed is None else np.random.default_rng(seed))
                           for name in ("turned.png", "upright.png"))
        np.testing.assert_array_equal(turned, upright)


def test_damaged_notes_of_a_camera_do_no_harm():
    Image.new("RGB", (8, 8), (9, 9, 9)).save("a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(20))
    assert images.read_image("a.jpg").shape == (8, 8, 3)
    assert photographs.decode(Path("a.jpg"), 8).shape == (8, 8, 3)


@pytest.mark.parametrize("read", [lambda path: photographs.decode(path, 6), images.read_image])
def test_sixteen_bits_become_eight_everywhere(read):
    np.testing.assert_array_equal(read(saved("a.png", png(np.full((6, 6), 0x80FF), 16))), np.full((6, 6, 3), 0x80))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "YCbCr", "LAB"])
def test_every_mode_is_read_or_refused_in_one_line(mode):
    for suffix in ("png", "jpg", "tiff", "gif", "webp", "bmp", "ppm"):
        try:
            Image.new(mode, (5, 4)).save(f"a.{suffix}")
            Image.open(f"a.{suffix}").load()
        except (OSError, ValueError):    # the format has no such mode, or Pillow writes it and does not read it
            continue
        assert images.read_image(f"a.{suffix}").shape == (4, 5, 3)
        assert photographs.decode(Path(f"a.{suffix}"), 8).shape == (8, 8, 3)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_an_animation_gives_its_first_picture(suffix):
    first, second = (Image.new("RGB", (4, 4), colour) for colour in ("white", "black"))
    first.save(f"a.{suffix}", save_all=True, append_images=[second])
    assert images.read_image(f"a.{suffix}").min() == 255


# What is no picture ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("size", [(12_000, 12_000), (1, 1 << 30), (1 << 30, 1), ((1 << 31) - 1, (1 << 31) - 1),
                                  (8193, 8192)])
def test_a_header_of_too_many_pixels_is_refused_before_anything_is_allocated(read, size):
    path = saved("a.png", png(np.zeros((1, 1)), 8, size=size))
    tracemalloc.start()
    with pytest.raises(UserError, match="pixels, more than 67 million|cannot be read as an image"):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("content", [
    b"", b"\0" * 100, png(np.zeros((1, 1)), 8, size=(0, 0)), png(np.zeros((1, 1)), 8, size=(5, 0)),
    png(np.zeros((4, 4)), 8)[:40], b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    b"8BPS\0\1" + bytes(60), b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\0\0\1\0\1\0" + bytes(60),
    b"P7\nWIDTH 1\n",
    b"P6 99999999 99999999 255\n"], ids=lambda content: repr(content[:12]))
def test_what_is_no_picture_is_one_line(read, content):
    path = saved("a.png", content)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith("a.png: ") and str(caught.value).isprintable()


def test_formats_that_are_not_listed_are_refused():
    for suffix in ("ico", "tga", "pcx", "jp2", "eps", "pdf", "im", "sgi", "dds", "icns"):
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16)).save(buffer, {"jp2": "JPEG2000", "icns": "ICNS"}.get(suffix, suffix.upper()))
        with pytest.raises(UserError, match="a: not an image"):
            images.read_image(saved("a", buffer.getvalue()))


@pytest.mark.parametrize("read", READERS)
def test_pipes_folders_and_devices_are_refused(read):
    os.mkfifo("pipe")
    for path in ("pipe", "/dev/zero", "."):
        with pytest.raises(UsageError, match="not an image"):
            read(Path(path))
    path = saved(os.fsdecode(b"caf\xe9.png"), png(np.zeros((4, 4)), 8))
    assert read(path).size
