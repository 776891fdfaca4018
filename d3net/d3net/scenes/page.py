"""A page of segmented pictures: each with its classes laid over it, as strongly as a slider says, and a legend."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from common.machine.files import write_text
from common.pages.document import document, escape
from common.pages.pictures import indexed_uri, picture_uri

MOST_PICTURES = 60    # some 10 MB
LARGEST = 1024    # pixels: the longer side of a picture in the page
OPACITY = 50    # per cent, at first


class ScenePage:
    """Gathers pictures for a page; those after `MOST_PICTURES` are only counted.

    Parameters
    ----------
    names
        Of the classes.
    palette : (classes, 3), 0..255, RGB
    """

    def __init__(self, names: Sequence[str], palette: ArrayLike):
        self._names, self._palette = names, np.asarray(palette, np.uint8)
        self._scenes: list[str] = []
        self._count = 0

    def add(self, name: str, image: np.ndarray, labels: np.ndarray) -> None:
        """Add a picture.

        Parameters
        ----------
        name
        image : uint8 (height, width, 3), BGR
        labels : uint8 (height, width)
        """
        self._count += 1
        if self._count <= MOST_PICTURES:
            self._scenes.append(self._scene(name, image, labels))

    def write(self, path: str | Path) -> str:
        """Write the page, and return how many pictures are in it: '60 of 200 pictures'.

        Raises
        ------
        UserError
            It cannot be written.
        """
        said = f"{len(self._scenes)} of {self._count} pictures"
        body = (f"<h1>Segmented pictures</h1><p class='faint'>{said}, scaled to {LARGEST} pixels at most. Shares are "
                "those of all pixels of a picture.</p><div id='all'><label>Classes over all pictures "
                f"<input id='opacity' type='range' min='0' max='100' value='{OPACITY}'></label></div>\n"
                f"<main>{''.join(self._scenes)}</main>")
        write_text(path, document("Segmented pictures", body, __file__))
        return said

    def _scene(self, name, image, labels):
        label = escape(name)
        photo, classes = _shrunk(image, labels)
        opacity = f"value='{OPACITY}' aria-label='Opacity of the classes of {label}'"
        return (f"<section class='scene'><h2>{label}</h2><div class='layers'><img alt='{label}' src='{photo}'>"
                f"<img class='classes' alt='Classes of {label}' src='{indexed_uri(classes, self._palette)}'></div>"
                f"<input class='opacity' type='range' min='0' max='100' {opacity}>"
                f"<ul class='legend'>{self._legend(labels)}</ul></section>\n")

    def _legend(self, labels):
        shares = np.bincount(labels.ravel(), minlength=len(self._names)) / labels.size
        return "".join(
            f"<li><span class='colour' style='background: rgb({', '.join(map(str, self._palette[number]))})'></span>"
            f"{escape(self._names[number])} <b>{_percent(shares[number])}</b></li>"
            for number in np.argsort(-shares, kind="stable").tolist() if shares[number] > 0)


def _shrunk(image: np.ndarray, labels: np.ndarray) -> tuple[str, np.ndarray]:
    """Return an image as a `data:` address, and its labels, both of `LARGEST` pixels at most."""
    from PIL import Image

    photo = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    photo.thumbnail((LARGEST, LARGEST))
    classes = Image.fromarray(labels).resize(photo.size, Image.Resampling.NEAREST)
    return picture_uri(photo, exact=False), np.asarray(classes)


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0005 else "< 0.1%"
