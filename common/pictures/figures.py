"""Figures of matplotlib, written whole or not at all."""
from common.machine.files import replacing


def save_figure(path, figure):
    """Write a matplotlib figure as PNG; the file appears whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight")
