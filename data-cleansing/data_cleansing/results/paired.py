"""What removing images changes, by pairs of trainings: the published replay beside new trainings.

Every training without images is compared with its pair: nothing removed, and as many images removed at random. In the
replay a pair is a trial. Of new trainings of several trials, those of a trial are averaged and the trial is the pair,
because they share a list of images; of a single trial each training is a pair, and the test speaks of that list alone.
"""
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np

from common.console.tables import align
from common.machine.files import make_folder, write_csv
from common.pictures.figures import figure_style, legend_beside, save_figure
from common.runs.significance import CONFIDENCE, PairedDifference, holm, paired_difference
from data_cleansing.influence.methods import METHODS, RANDOM
from data_cleansing.results import accuracy
from data_cleansing.results.accuracy import NONE
from data_cleansing.results.score_files import MEASURES, new_training_path, read_measures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REPLAY, NEW = "replay", "new trainings"
ENOUGH_PAIRS = 8
HEADER = ("protocol", "against", "method", "n_drops", "pairs", "accuracy", "difference", "low", "high", "p", "p_holm")
Accuracies = dict[tuple[str, int], dict[int, float]]    # (method or NONE, removed) -> {pair: test accuracy}
_TEST_ACCURACY = MEASURES.index("test_accuracy")


@attrs.frozen
class Comparison:
    """The test accuracy without the worst images of a method, against that of its pairs.

    Attributes
    ----------
    protocol : str
        `REPLAY` or `NEW`.
    against : str
        `NONE`, or `RANDOM`: as many images removed at random.
    method : str
    removed : int
    accuracy : float
        Mean over pairs.
    difference : PairedDifference
        Of the test accuracies.
    p_holm : float
        Corrected for all comparisons of this protocol against the same.
    """

    protocol: str
    against: str
    method: str
    removed: int
    accuracy: float
    difference: PairedDifference
    p_holm: float = float("nan")

    @property
    def is_significant(self) -> bool:
        return self.p_holm < 1 - CONFIDENCE

    def row(self) -> tuple:
        """Return a row in the order of `HEADER`, empty where there is no number."""
        d = self.difference
        values = (self.accuracy, d.mean, d.low, d.high, d.p, self.p_holm)
        return (self.protocol, self.against, self.method, self.removed, d.pairs,
                *("" if math.isnan(value) else value for value in values))


def summarize(folder: str | Path) -> list[Comparison]:
    """Write `summary/paired_differences.csv` and `fig/paired_differences.png` of a run; returns what they show."""
    folder = Path(folder)
    comparisons = compare_run(folder)
    make_folder(folder / "summary")
    write_csv(folder / "summary" / "paired_differences.csv", HEADER, [comparison.row() for comparison in comparisons])
    make_folder(folder / "fig")
    save_figure(folder / "fig" / "paired_differences.png", draw({"": comparisons}))
    return comparisons


def compare_run(folder: str | Path) -> list[Comparison]:
    """Compare all retrainings of a run with their pairs, by both protocols."""
    return [comparison for protocol, accuracies in ((REPLAY, _replayed(folder)), (NEW, _new_trainings(folder)))
            for against in (NONE, RANDOM) for comparison in compare(accuracies, protocol, against)]


def _replayed(folder) -> Accuracies:
    return {key: {seed: float(values[_TEST_ACCURACY]) for seed, values in by_seed.items()}
            for key, by_seed in accuracy.collect(folder).items()}


def _new_trainings(folder) -> Accuracies:
    """Read the new trainings; each is the mean over the epochs that were measured."""
    found = defaultdict(lambda: defaultdict(dict))
    for method in (None, *METHODS):
        some = new_training_path(folder, method, 0, 0, 0)
        for path in sorted(some.parent.glob(some.name.replace("0", "*"))):
            removed, seed, number = map(int, re.findall(r"\d+", path.stem))
            found[method or NONE, removed][seed][number] = float(np.mean(read_measures(path), axis=0)[_TEST_ACCURACY])
    return pairs_of(found)


def pairs_of(found: Mapping[tuple[str, int], Mapping[int, Mapping[int, float]]]) -> Accuracies:
    """Take trials as pairs, or the trainings of a single trial.

    Parameters
    ----------
    found : dict
        (method or NONE, removed) -> {seed of the trial: {number of the training: accuracy}}
    """
    seeds = {seed for by_seed in found.values() for seed in by_seed}
    if len(seeds) == 1:
        return {key: dict(by_number) for key, by_seed in found.items() for by_number in by_seed.values()}
    unchanged = found.get((NONE, 0), {})
    return {key: {seed: float(np.mean(list(by_number.values()))) for seed, by_number in by_seed.items()
                  if set(by_number) == set(unchanged.get(seed, ()))}    # as long as trainings are missing, no pair
            for key, by_seed in found.items()}


def compare(accuracies: Accuracies, protocol: str, against: str) -> list[Comparison]:
    """Compare each method and number removed with `NONE` or `RANDOM`; pairs that lack a part are left out."""
    comparisons = []
    for (method, removed), own in sorted(accuracies.items()):
        others = accuracies.get((NONE, 0) if against == NONE else (against, removed), {})
        pairs = sorted(set(own) & set(others))
        if method in (NONE, against) or not pairs:
            continue
        values = [own[pair] for pair in pairs]
        difference = paired_difference(values, [others[pair] for pair in pairs])
        comparisons.append(Comparison(protocol, against, method, removed, float(np.mean(values)), difference))
    corrected = holm([comparison.difference.p for comparison in comparisons])
    return [attrs.evolve(comparison, p_holm=p) for comparison, p in zip(comparisons, corrected, strict=True)]


def format_table(comparisons: Sequence[Comparison]) -> str:
    """Return a table of the differences in percentage points, one line for each protocol and method."""
    if not comparisons:
        return "paired differences: there are none yet"
    removals = _removals(comparisons)
    table = [["change of test accuracy, points", "pairs", *(f"without {removed}" for removed in removals)]]
    for (protocol, against, method), line in _lines(comparisons).items():
        cells = {comparison.removed: format_difference(comparison) for comparison in line}
        pairs = _span(comparison.difference.pairs for comparison in line)
        table.append([f"{protocol}, {method} against {against}", pairs, *(cells.get(n, "") for n in removals)])
    level = 1 - CONFIDENCE
    notes = [*_accuracies_before(comparisons),
             f"[{CONFIDENCE:.0%} confidence band]; *: significant, p < {level:.2f} by a paired t test, Holm-corrected "
             "for all of a protocol against the same"]
    if min(comparison.difference.pairs for comparison in comparisons) < ENOUGH_PAIRS:
        notes.append(f"fewer than {ENOUGH_PAIRS} pairs say little: more --n-trials, or for a single trial more "
                     "--new-trainings")
    return "\n".join([align(table), *notes])


def _accuracies_before(comparisons):
    """Say what the differences against nothing removed start from, in a line for each protocol."""
    before = {c.protocol: c.accuracy - c.difference.mean for c in comparisons if c.against == NONE}
    return [f"{protocol}, nothing removed: test accuracy {value:.2%}" for protocol, value in before.items()]


def format_difference(comparison: Comparison) -> str:
    """Return a difference with its band in percentage points, as `+1.2 [+0.3, +2.1]*`."""
    d = comparison.difference
    band = "" if math.isnan(d.low) else f" [{100 * d.low:+.2f}, {100 * d.high:+.2f}]"
    return f"{100 * d.mean:+.2f}{band}{'*' if comparison.is_significant else ''}"


def _removals(comparisons):
    return sorted({comparison.removed for comparison in comparisons})


def _lines(comparisons: Iterable[Comparison]) -> dict[tuple[str, str, str], list[Comparison]]:
    """Group by protocol, what against, and method, in the order of `METHODS`."""
    order = list(METHODS)
    lines = defaultdict(list)
    for comparison in sorted(comparisons, key=lambda c: (c.protocol == NEW, c.against == RANDOM,
                                                         order.index(c.method), c.removed)):
        lines[comparison.protocol, comparison.against, comparison.method].append(comparison)
    return dict(lines)


def _span(numbers):
    low, *_, high = sorted(numbers) * 2
    return str(low) if low == high else f"{low}-{high}"


@figure_style()
def draw(runs: dict[str, Sequence[Comparison]]) -> "Figure":
    """Draw the differences against nothing removed, with their bands: a row for each run, a column for each protocol.

    Parameters
    ----------
    runs : dict
        Title of the row -> what `compare_run` returned.
    """
    from matplotlib.figure import Figure

    protocols = [protocol for protocol in (REPLAY, NEW)
                 if any(c.protocol == protocol for run in runs.values() for c in run)] or [REPLAY]
    figure = Figure(figsize=(5.5 * len(protocols), 3.6 * len(runs)), layout="constrained")
    grid = figure.subplots(len(runs), len(protocols), squeeze=False)
    for axes_of_run, (title, comparisons) in zip(grid, runs.items(), strict=True):
        for axes, protocol in zip(axes_of_run, protocols, strict=True):
            _draw_lines(axes, [c for c in comparisons if c.protocol == protocol and c.against == NONE])
            axes.set_title(", ".join(filter(None, (title, protocol))))
    legend_beside(grid[0][-1])
    return figure


def _draw_lines(axes: "Axes", comparisons):
    axes.axhline(0, color="black", linewidth=0.8, label=NONE)
    places = accuracy.Places(_removals(comparisons), [comparison.method for comparison in comparisons])
    for (_, _, method), line in _lines(comparisons).items():
        means, lows, highs = (100 * np.array([getattr(comparison.difference, name) for comparison in line])
                              for name in ("mean", "low", "high"))
        axes.errorbar(places.of(method, [comparison.removed for comparison in line]), means,
                      [(means - lows).tolist(), (highs - means).tolist()], marker="o", markersize=4, capsize=3,
                      linestyle="none", color=accuracy.COLOUR_OF[method], label=method)
    places.label(axes)
    axes.set_ylabel("change of test accuracy [points]")
