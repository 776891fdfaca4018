"""The log of a run as curves, and as the text files of nnabla's monitors."""
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.machine.files import write_text
from common.pictures.figures import figure_style, legend_beside, save_figure

SERIES_SUFFIX = ".series.txt"    # of the files of nnabla's monitors
_DASHES = ("-", (0, (4, 2)), ":")


@figure_style()
def plot_curves(path: str | Path, rows: Sequence[Mapping[str, float]], panels: Sequence[tuple[str, Sequence[str]]],
                x: str = "epoch") -> None:
    """Plot columns of a log as curves, one panel below the other.

    Parameters
    ----------
    path
        PNG file to write.
    rows
        One for each epoch.
    panels
        Label of the vertical axis, and columns to draw; columns that `rows` do not have are left out. Of curves in one
        place, the later ones are broken, so that all can be seen.
    x
        Column of the horizontal axis.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels = [(label, [c for c in columns if c in rows[0]]) for label, columns in panels]
    panels = [(label, columns) for label, columns in panels if columns]
    figure = Figure(figsize=(7, 2.4 * len(panels)))
    stack = figure.subplots(len(panels), squeeze=False, sharex=True)[:, 0]
    for axes, (label, columns) in zip(stack, panels, strict=True):
        for number, column in enumerate(columns):
            axes.plot([row[x] for row in rows], [row[column] for row in rows], label=column.replace("_", " "),
                      linestyle=_DASHES[number % len(_DASHES)], marker="o" if len(rows) < 30 else None, markersize=3)
        axes.set_ylabel(label)
        legend_beside(axes)
    axes.set_xlabel(x)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.tight_layout()
    save_figure(path, figure)


def write_series(folder: str | Path, name: str, values: Sequence[float], indices: Sequence[int] | None = None) -> None:
    """Write `<name>.series.txt` as nnabla's monitors do: a line for each value, with its index.

    Parameters
    ----------
    folder
    name
        Blanks become hyphens in the file's name.
    values
        One for each epoch, unless `indices` says otherwise.
    indices
        0, 1, 2... if not given.
    """
    indices = range(len(values)) if indices is None else indices
    lines = (f"{index} {value:g}\n" for index, value in zip(indices, values, strict=True))
    write_text(Path(folder) / f"{name.replace(' ', '-')}{SERIES_SUFFIX}", "".join(lines))
