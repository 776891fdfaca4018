"""Figures of matplotlib in one style, written whole or not at all."""
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from common.machine.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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

    settings = {"axes.prop_cycle": cycler(color=COLOURS), "axes.grid": True, "grid.alpha": 0.3,
                "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10, "legend.fontsize": 8,
                "legend.frameon": False}
    with matplotlib.rc_context(settings):
        yield


def save_figure(path: str | Path, figure: "Figure") -> None:
    """Write a matplotlib figure as PNG; the file appears whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight")
