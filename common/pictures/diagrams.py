"""Drawings of boxes, arrows and texts, in inches from the lower left corner."""
from typing import TYPE_CHECKING, Any

from common.pictures.figures import BLACK, GREY

if TYPE_CHECKING:
    from matplotlib.text import Text

Point = tuple[float, float]


class Diagram:
    """A figure to draw on; inches are inches, so that texts of a size fit where they fit once.

    Parameters
    ----------
    width, height
        Inches.

    Attributes
    ----------
    figure : matplotlib.figure.Figure
    axes : matplotlib.axes.Axes
        Without ticks, for what else is to be drawn.
    """

    def __init__(self, width: float, height: float):
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(width, height))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.set_axis_off()

    def box(self, left: float, bottom: float, width: float, height: float, text: str = "", colour: str = GREY,
            **settings: Any) -> None:
        """Draw a box with a text in its middle; `settings` are those of `text`."""
        from matplotlib.patches import FancyBboxPatch

        rounding = 0.05
        patch = FancyBboxPatch((left + rounding, bottom + rounding), width - 2 * rounding, height - 2 * rounding,
                               boxstyle=f"round,pad={rounding}", facecolor=lighter(colour), edgecolor=colour)
        self.axes.add_patch(patch)
        if text:
            self.text(left + width / 2, bottom + height / 2, text, **settings)

    def text(self, x: float, y: float, text: str, **settings: Any) -> "Text":
        """Write a text; its middle is at (x, y), unless `settings`, which are those of matplotlib, say otherwise."""
        return self.axes.text(x, y, text, **{"ha": "center", "va": "center", "fontsize": 8.5, **settings})

    def arrow(self, start: Point, end: Point, colour: str = BLACK, **settings: Any) -> None:
        """Draw an arrow; `settings` are those of matplotlib's `FancyArrowPatch`."""
        from matplotlib.patches import FancyArrowPatch

        self.axes.add_patch(FancyArrowPatch(start, end, **{
            "arrowstyle": "-|>", "mutation_scale": 8, "color": colour, "linewidth": 1, "shrinkA": 0, "shrinkB": 0,
            **settings}))


def lighter(colour: str) -> str:
    """Return a tint of a colour that black text can be read on.

    Examples
    --------
    >>> lighter("#0072B2")
    '#d6e8f3'
    """
    from matplotlib.colors import to_hex, to_rgb

    red, green, blue = (1 - 0.16 * (1 - part) for part in to_rgb(colour))
    return to_hex((red, green, blue))
