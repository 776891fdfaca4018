"""Figures of matplotlib in one style, written whole or not at all."""
import contextlib
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.machine.errors import printable
from common.machine.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

# Colours that colour-blind eyes tell apart, without yellow, which is too light for lines (M. Okabe and K. Ito, 2008).
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK = COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
GREY = "#999999"
ORDERED = "cividis"    # colour map of things in an order, for all eyes alike


@contextlib.contextmanager
def figure_style() -> Iterator[None]:
    """The style of all figures, for the function that draws one: `@figure_style()`."""
    import matplotlib
    from cycler import cycler

    settings = {"axes.prop_cycle": cycler(color=COLOURS), "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True,
                "axes.formatter.useoffset": False,
                "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10, "legend.fontsize": 8,
                "legend.frameon": False}
    with matplotlib.rc_context(settings):
        yield


def legend_beside(axes: "Axes", **settings: Any) -> None:
    """Put the legend to the right of the axes, where it covers nothing; `settings` are those of matplotlib."""
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), **settings)


def legend_below(figure: "Figure", **settings: Any) -> None:
    """Put one legend of all axes below them; the layout of the figure has to be `constrained`."""
    entries = {label: handle for axes in figure.axes
               for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", **settings)


def power_of_ten(values: "ArrayLike") -> tuple[float, str]:
    """Choose a unit for values that are all small or all large.

    Matplotlib would write the power of ten at the end of the axis, over its label.

    Returns
    -------
    unit : float
        To divide the values by; 1 where they need none.
    label : str
        How to write it behind the name of the axis, such as ` [$10^{-3}$]`.
    """
    largest = float(np.max(np.abs(values), initial=0.0))
    exponent = math.floor(math.log10(largest)) if largest > 0 else 0
    return (1.0, "") if -2 < exponent < 4 else (10.0 ** exponent, f" [$10^{{{exponent}}}$]")


def as_label(name: str) -> str:
    r"""Return a name that a user gave, as of a folder, so that matplotlib draws it: as no formula, and without bytes
    that are not UTF-8.

    Examples
    --------
    >>> print(as_label("$run_1$ \udcff"))
    \$run_1\$ \xff
    """
    return printable(name).replace("$", r"\$")


def save_figure(path: str | Path, figure: "Figure") -> None:
    """Write a matplotlib figure as PNG of 256 colours at most; the file appears whole or not at all."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120, bbox_inches="tight")
    with Image.open(drawn) as picture:    # a palette makes the file half as large, or less
        few = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    with replacing(path) as temporary:
        few.save(temporary, format="png", optimize=True)
