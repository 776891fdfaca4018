"""The log of a run as curves, and as the text files of nnabla's monitors."""
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.machine.files import write_text
from common.pictures.figures import save_figure


def plot_curves(path, rows, panels, x="epoch"):
    """Plot columns of a log as curves, one panel below the other.

    Parameters
    ----------
    path : str or pathlib.Path
        PNG file to write.
    rows : list of dict
        One for each epoch.
    panels : list of (str, sequence of str)
        Label of the vertical axis, and columns to draw; columns that `rows` do not have are left out.
    x : str
        Column of the horizontal axis.
    """
    panels = [(label, [c for c in columns if c in rows[0]]) for label, columns in panels]
    panels = [(label, columns) for label, columns in panels if columns]
    figure = Figure(figsize=(7, 2.4 * len(panels)))
    stack = figure.subplots(len(panels), squeeze=False, sharex=True)[:, 0]
    for axes, (label, columns) in zip(stack, panels, strict=True):
        for column in columns:
            axes.plot([row[x] for row in rows], [row[column] for row in rows], label=column.replace("_", " "),
                      marker="o" if len(rows) < 30 else None, markersize=3)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    axes.set_xlabel(x)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.tight_layout()
    save_figure(path, figure)


def write_series(folder, name, values):
    """Write `<name>.series.txt` as nnabla's monitors do: a line with index and value for each epoch.

    Parameters
    ----------
    folder : path
    name : str
        Blanks become hyphens in the file's name.
    values : sequence of float
    """
    lines = (f"{epoch} {value:g}\n" for epoch, value in enumerate(values))
    write_text(Path(folder) / f"{name.replace(' ', '-')}.series.txt", "".join(lines))
