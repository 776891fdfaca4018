"""Image files: read as they are meant to be seen, and written whole or not at all.

All pictures of others are opened here: regular files, of the formats in `FORMATS`, of `MOST_PIXELS` at most. An
animation gives its first picture.
"""
import contextlib
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from common.machine.errors import UserError
from common.machine.files import replacing
from common.reading.files import reading

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")    # looked for in folders
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF")    # as Pillow calls them
MOST_PIXELS = 1 << 26    # 8192 x 8192; to read as many takes 0.9 GB
_BYTES = 1 << 30    # of a file
_REMEDY = "copy or convert it again"
_ORIENTATION = 0x0112    # in the notes of a camera (EXIF)
# Warnings of damaged notes about a good picture, and of many pixels; the filter is as `warnings` keeps it.
_OF_PILLOW = "ignore", None, Warning, re.compile(r"PIL\."), 0
_SILENCING = threading.Lock()    # or a thread would take the silence of another for what stderr was


def read_image(path: str | Path) -> np.ndarray:
    """Read an image in colour: grey, palette, CMYK and 16-bit ones are converted, transparency is dropped.

    The orientation that a camera notes in the file (EXIF) is applied.

    Returns
    -------
    uint8 (height, width, 3), BGR

    Raises
    ------
    UsageError
        There is no such file, or it is no regular one.
    UserError
        It cannot be decoded, is larger than `MOST_PIXELS`, or holds floating-point values.
    """
    import cv2

    return cv2.cvtColor(read_image_as(path, lambda image: np.asarray(image.convert("RGB"))), cv2.COLOR_RGB2BGR)


def read_image_as(path: str | Path, convert: Callable[["Image"], np.ndarray]) -> np.ndarray:
    """Return what `convert` makes of an image of Pillow, upright and of 8 bits a channel; errors as `read_image`."""
    with _opened(path) as (_, image):
        return convert(_eight_bits(path, _upright(image)))


def read_crop(source: str | Path | np.ndarray, choose_box: Callable[[int, int], tuple[float, float, float, float]],
              size: int) -> np.ndarray:
    """Read a part of a picture, resized to a square, which needs no more of a JPEG file than the result shows.

    Parameters
    ----------
    source : path, or uint8 (height, width, 3), RGB
    choose_box
        `choose_box(width, height)` of the upright picture in pixels returns (left, top, right, bottom).
    size : int, pixels

    Returns
    -------
    uint8 (size, size, 3), RGB

    Raises
    ------
    UsageError, UserError
        As `read_image`.
    """
    from PIL import Image

    if isinstance(source, np.ndarray):
        image = Image.fromarray(source)
        return _resized(image, choose_box(*image.size), image.size, size)
    with _opened(source) as (_, image):
        sides = (image.height, image.width) if _is_turned(image) else image.size
        box = choose_box(*sides)
        # The decoder of JPEG can leave out detail that resizing would average away, several times faster.
        least = [int(side * size / (box[2 + k] - box[k])) + 1 for k, side in enumerate(sides)]
        image.draft(None, (least[1], least[0]) if _is_turned(image) else (least[0], least[1]))
        return _resized(_eight_bits(source, _upright(image)), box, sides, size)


def _resized(image: "Image", box: tuple[float, float, float, float], sides: tuple[int, int], size: int) -> np.ndarray:
    """Resize a part of `image`, which may be smaller than `sides`, whose pixels `box` counts."""
    from PIL.Image import Resampling

    (width, height), (across, down) = image.size, (now / side for now, side in zip(image.size, sides, strict=True))
    left, right = (min(x * across, width) for x in box[::2])
    top, bottom = (min(y * down, height) for y in box[1::2])
    return np.asarray(image.convert("RGB").resize((size, size), Resampling.BILINEAR, (left, top, right, bottom)))


def read_indices(path: str | Path, missing: str | None = None) -> np.ndarray:
    """Read a PNG file that numbers something, as it stands: grey of 1 to 16 bits, or a palette, which is not looked at.

    Parameters
    ----------
    path
    missing
        The whole message where there is no such file.

    Returns
    -------
    uint8 (height, width), uint16 from a file of 16 bits

    Raises
    ------
    UsageError, UserError
        As `read_image`; it is no PNG file, or has colours.
    """
    with _opened(path, ("PNG",), missing) as (header, image):
        depth, is_grey = header[24], header[25] == 0    # of the first chunk of a PNG file
        if image.mode not in ("1", "L", "P", "I", "I;16"):
            raise UserError(f"{path}: a label image has one number a pixel, this one is of mode {image.mode}; colours "
                            "cannot be labels")
        values = np.array(image)
    if depth > 8:
        return values.astype(np.uint16)
    # Pillow scales fewer bits to the range of a byte.
    return values.astype(np.uint8) if not is_grey or depth in (1, 8) else values // (255 // (2 ** depth - 1))


@contextlib.contextmanager
def _opened(path: str | Path, formats: Collection[str] = FORMATS, missing: str | None = None
            ) -> Iterator[tuple[bytes, "Image"]]:
    """Open an image of which nothing is decoded yet; yields the first bytes of the file, too."""
    with reading(path, "an image", _REMEDY, _BYTES, missing or f"{path}: no such image file") as stream:
        header = stream.read(64)
        with _recognized(path, stream, formats) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise UserError(f"{path}: {width} x {height} pixels, more than {MOST_PIXELS / 1e6:.0f} million; scale "
                                "it down")
            yield header, image


def _recognized(path: str | Path, stream: BinaryIO, formats: Collection[str]) -> "Image":
    from PIL import Image, UnidentifiedImageError

    if _OF_PILLOW not in warnings.filters:    # to add one again lets all warnings of a process be shown again
        warnings.filterwarnings("ignore", module=_OF_PILLOW[3].pattern)
    try:
        return Image.open(stream, formats=list(formats))
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: not an image, or a damaged one ({', '.join(formats)} are read); {_REMEDY}") from error


def _upright(image: "Image") -> "Image":
    """Decode an image, and turn it as the notes of the camera say."""
    from PIL.Image import Transpose

    turns = {2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM,
             5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90}
    with _silenced() if _is_of_libtiff(image) else contextlib.nullcontext():
        image.load()
    turn = turns.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _is_of_libtiff(image: "Image") -> bool:
    return any(tile[0] == "libtiff" for tile in getattr(image, "tile", ()))


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Drop what is written to stderr: libtiff prints lines about damage, which is an error of ours in one line."""
    with _SILENCING, Path(os.devnull).open("wb") as nowhere:
        if sys.stderr is not None:
            sys.stderr.flush()
        kept = os.dup(2)
        try:
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _is_turned(image: "Image") -> bool:
    """Tell whether width and height change places in the upright image."""
    return _orientation(image) in (5, 6, 7, 8)


def _orientation(image: "Image") -> int:
    # Phones write MPO, several JPEG pictures. In PNG notes may follow the pixels, and come with these.
    if image.format not in ("JPEG", "MPO", "TIFF"):
        image.load()
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:    # damaged notes make Pillow raise what it likes; the picture is good all the same
        return 1


def _eight_bits(path: str | Path, image: "Image") -> "Image":
    """Return the image itself, or the high bytes of one of 16 bits."""
    from PIL import Image

    if image.mode == "F":
        raise UserError(f"{path}: holds floating-point values; convert it to 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    return Image.fromarray((np.clip(values, 0, 0xFFFF) >> 8).astype(np.uint8))


def write_png(path: str | Path, pixels: np.ndarray) -> None:
    """Write a PNG file; it appears whole or not at all.

    Parameters
    ----------
    pixels : uint8 (height, width), grey, or (height, width, 3), BGR

    Raises
    ------
    UserError
        It cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(encode_png(pixels))


def encode_png(pixels: np.ndarray) -> bytes:
    """Return the bytes of a PNG file of what `write_png` takes."""
    import cv2

    done, content = cv2.imencode(".png", pixels)
    assert done, pixels.shape
    return content.tobytes()
