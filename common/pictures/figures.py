"""Figures of matplotlib, written whole or not at all."""
from pathlib import Path
from typing import TYPE_CHECKING

from common.machine.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(path: str | Path, figure: "Figure") -> None:
    """Write a matplotlib figure as PNG; the file appears whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight")
