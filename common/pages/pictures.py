"""Pictures written within a page, as `data:` addresses."""
import base64
import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

_QUALITY = 85    # of JPEG


def picture_uri(picture: "Image", exact: bool = True) -> str:
    """Return a picture of Pillow as PNG, or as JPEG if it need not be exact."""
    buffer = io.BytesIO()
    if exact:
        picture.save(buffer, format="png", optimize=True)
    else:
        picture.save(buffer, format="jpeg", quality=_QUALITY)
    return f"data:image/{'png' if exact else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def indexed_uri(indices: np.ndarray, palette: np.ndarray) -> str:
    """Return a picture of few colours as PNG.

    Parameters
    ----------
    indices : uint8 (height, width)
    palette : uint8 (colours, 3), RGB
    """
    from PIL import Image

    picture = Image.fromarray(indices, mode="P")
    picture.putpalette(np.ascontiguousarray(palette, np.uint8).tobytes())
    return picture_uri(picture)


def figure_uri(figure: "Figure") -> str:
    """Return a figure of matplotlib as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, bbox_inches="tight")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
