"""Accuracy over the number of images removed: the summary of all trials, as a table and as a figure."""
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.console.tables import align
from common.datasets import MNIST
from common.machine.files import make_folder, write_csv
from common.pictures.figures import COLOURS, GREY, figure_style, legend_beside, save_figure
from data_cleansing.influence.methods import EVERY_STEP, FINAL, METHODS, RANDOM
from data_cleansing.results.score_files import MEASURES, read_measures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUMMARY_HEADER = ("method", "seed", "n_drops", *MEASURES)
NONE = "nothing removed"
Measures = dict[tuple[str, int], dict[int, np.ndarray]]    # what `collect` returns
# Test accuracy after removing so many images of MNIST, read off the figure of arXiv 2103.11807 (+-0.00003).
PUBLISHED_REMOVALS = (1, 10, 40, 100, 200, 600, 1000, 3000, 5000, 10000, 30000)
PUBLISHED = {
    EVERY_STEP: (.9897, .9898, .9900, .9898, .9899, .9909, .9916, .9916, .9919, .9916, .9911),
    FINAL: (.9896, .9899, .9897, .9899, .9904, .9911, .9915, .9917, .9919, .9916, .9908),
    RANDOM: (.9897, .9897, .9898, .9898, .9897, .9898, .9898, .9898, .9896, .9895, .9896),
}
PUBLISHED_NONE = 0.98966
COLOUR_OF = dict(zip(METHODS, COLOURS, strict=False))    # method -> its colour in all figures


class Places:
    """Where numbers of removed images stand on a horizontal axis: evenly, and the methods of one number side by side.

    Parameters
    ----------
    removals
        All numbers of removed images.
    methods
        Those that are drawn.
    """

    SPREAD = 0.5    # of the methods of one number; the next number is 1 away

    def __init__(self, removals: Iterable[int], methods: Sequence[str]):
        self._numbers = sorted(set(removals))
        self._methods = [method for method in METHODS if method in methods]

    def of(self, method: str | None, removals: Iterable[int]) -> list[float]:
        """Return the places of a method, or without one the middle of each number."""
        count = len(self._methods)
        shift = 0.0 if method is None else self.SPREAD * ((self._methods.index(method) + 0.5) / count - 0.5)
        return [self._numbers.index(removed) + shift for removed in removals]

    def label(self, axes: "Axes") -> None:
        """Write the numbers below the axis."""
        axes.set_xticks(range(len(self._numbers)), [str(number) for number in self._numbers])
        axes.set_xlim(-0.5, max(0.5, len(self._numbers) - 0.5))
        axes.set_xlabel("images removed")


def collect(folder: str | Path) -> Measures:
    """Read the last row of all score files.

    Returns
    -------
    dict
        (method, removed) -> {seed: float64 (4,), in the order of `MEASURES`}; the method is a key of `METHODS`, or
        `NONE`.
    """
    measures = defaultdict(dict)
    for name, method in METHODS.items():
        for path in sorted((Path(folder) / "score" / method.folder).glob("score_delete_worst_*_seed_*.csv")):
            parts = path.stem.split("_")
            removed, seed = int(parts[3]), int(parts[5])
            measures[(name if removed else NONE), removed][seed] = np.array(read_measures(path)[-1])
    return dict(measures)


def _published_name(method: str) -> str:
    return "No Removal" if method == NONE else METHODS[method].folder


def summarize(folder: str | Path) -> Measures:
    """Write `summary/summary.csv`: all trials, their means and standard deviations; returns what `collect` does.

    Methods have their published names there. Nothing removed is repeated for every number, and a single trial has no
    deviation.
    """
    measures = collect(folder)
    removals = sorted({removed for method, removed in measures if method != NONE})
    groups = {key: by_seed for key, by_seed in measures.items() if key[0] != NONE}
    groups.update({(NONE, removed): measures[NONE, 0] for removed in (0, *removals) if (NONE, 0) in measures})
    rows = [(method, seed, removed, *by_seed[seed]) for (method, removed), by_seed in groups.items()
            for seed in sorted(by_seed)]
    stacks = {key: np.stack(list(by_seed.values())) for key, by_seed in groups.items()}
    rows += [(method, "mean", removed, *stack.mean(0)) for (method, removed), stack in stacks.items()]
    rows += [(method, "std", removed, *(stack.std(0, ddof=1) if len(stack) > 1 else [""] * len(MEASURES)))
             for (method, removed), stack in stacks.items()]
    make_folder(Path(folder) / "summary")
    write_csv(Path(folder) / "summary" / "summary.csv", SUMMARY_HEADER,
              [(_published_name(method), *values) for method, *values in rows])
    return measures


def curves(measures: Measures, measure: str = "test_accuracy") -> dict[str, tuple[list, list, list]]:
    """Return {method: (removals, means, deviations)} of what `collect` found; deviations are 0 for a single trial."""
    column = MEASURES.index(measure)
    lines = defaultdict(lambda: ([], [], []))
    for method, removed in sorted(measures):
        values = np.array([values[column] for values in measures[method, removed].values()])
        point = removed, values.mean(), values.std(ddof=1) if len(values) > 1 else 0.0
        for line, value in zip(lines[method], point, strict=True):
            line.append(value)
    return dict(lines)


def format_table(measures: Measures) -> str:
    """Return a table of the mean test accuracy, with standard deviations over trials where there are several."""
    lines = curves(measures)
    removals = sorted({removed for method, (numbers, _, _) in lines.items() if method != NONE for removed in numbers})
    num_columns = max(1, len(removals))
    table = [["test accuracy, removed:", *(removals or [""])]]
    for method, (numbers, means, deviations) in lines.items():
        cells = {removed: f"{mean:.2%}" + (f" ± {deviation:.2%}" if deviation else "")
                 for removed, mean, deviation in zip(numbers, means, deviations, strict=True)}
        if method == NONE:    # one number, which stands in the first column
            table.append([method, *cells.values(), *[""] * (num_columns - 1)])
        else:
            table.append([method, *(cells.get(removed, "") for removed in removals)])
    return align(table)


@figure_style()
def draw_accuracy(measures: Measures, dataset: str, measure: str = "test_accuracy") -> "Figure":
    """Draw accuracy over the number of removed images, with the points of the paper for MNIST; returns the figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5))
    axes = figure.add_subplot()
    lines = curves(measures, measure)
    beside_paper = dataset == MNIST and measure == "test_accuracy"
    places = Places([*(removed for method, (removals, _, _) in lines.items() if method != NONE for removed in removals),
                     *(PUBLISHED_REMOVALS if beside_paper else ())], [method for method in lines if method != NONE])
    for method, (removals, means, deviations) in lines.items():
        if method == NONE:
            axes.axhline(means[0], color="black", label=NONE)
            axes.axhspan(means[0] - deviations[0], means[0] + deviations[0], color="black", alpha=0.1, linewidth=0)
        else:
            axes.errorbar(places.of(method, removals), means, deviations, marker="o", markersize=4, capsize=3,
                          color=COLOUR_OF[method], label=method)
    if beside_paper:
        for method, values in PUBLISHED.items():
            axes.plot(places.of(None, PUBLISHED_REMOVALS), values, "--", linewidth=1, color=COLOUR_OF[method],
                      label=f"{method}, paper")
        axes.axhline(PUBLISHED_NONE, color=GREY, linestyle="--", linewidth=1, label=f"{NONE}, paper")
    places.label(axes)
    axes.set_ylabel(measure.replace("_", " ") + (" [share]" if measure.endswith("accuracy") else ""))
    legend_beside(axes)
    return figure


def write_figure(folder: str | Path, measures: Measures, dataset: str) -> None:
    """Write `fig/result.png`."""
    make_folder(Path(folder) / "fig")
    save_figure(Path(folder) / "fig" / "result.png", draw_accuracy(measures, dataset))
