"""Image files: read as they are meant to be seen, and written whole or not at all."""
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.machine.errors import UsageError, UserError
from common.machine.files import replacing

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")    # looked for in folders


def read_image(path: str | Path) -> np.ndarray:
    """Read an image in colour: grey, palette, CMYK and 16-bit ones are converted, transparency is dropped.

    The orientation that a camera notes in the file (EXIF) is applied.

    Returns
    -------
    uint8 (height, width, 3), BGR

    Raises
    ------
    UsageError
        There is no such file.
    UserError
        It cannot be decoded, or holds floating-point values.
    """
    import cv2
    from PIL import ImageOps

    def rgb_of(image):
        return np.asarray(_eight_bits(path, ImageOps.exif_transpose(image)).convert("RGB"))

    return cv2.cvtColor(read_image_as(path, rgb_of), cv2.COLOR_RGB2BGR)


def read_indices(path: str | Path) -> np.ndarray:
    """Read an image of one byte a pixel, which numbers something, as it stands.

    Parameters
    ----------
    path
        Of a grey image, or one with a palette, which is not looked at.

    Returns
    -------
    uint8 (height, width)

    Raises
    ------
    UsageError, UserError
        As `read_image`; it has colours, or more than 8 bits.
    """
    return read_image_as(path, lambda image: _indices(path, image))


def read_image_as(path: str | Path, convert: Callable[["Image"], np.ndarray]) -> np.ndarray:
    """Return what `convert` makes of an image that Pillow has opened, with the errors of `read_image`."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return convert(image)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such image file") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: a folder, not an image") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error).replace(str(path), "").strip(" '\"") or type(error).__name__
        raise UserError(f"{path}: cannot be read as an image ({reason}); copy or convert it again") from error


def _eight_bits(path, image):
    """Return the image itself, or the high bytes of one of 16 bits."""
    from PIL import Image

    if image.mode == "F":
        raise UserError(f"{path}: holds floating-point values; convert it to 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    return Image.fromarray((np.clip(values, 0, 0xFFFF) >> 8).astype(np.uint8))


def _indices(path, image):
    if image.mode not in ("L", "P"):
        raise UserError(f"{path}: a label image has one byte a pixel, this one is of mode {image.mode}; colours and 16 "
                        "bits cannot be labels")
    return np.array(image)


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
