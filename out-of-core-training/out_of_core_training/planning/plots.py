"""Pictures of a plan: memory and streams over time, and speed over batch sizes."""
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.pictures.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    figure_style,
    legend_below,
    legend_beside,
    save_figure,
)
from out_of_core_training.planner import Plan
from out_of_core_training.planning.timeline import Timeline, functions_ahead

MODE_COLORS = {"in-core": BLUE, "scheduler": ORANGE, "virtual": GREEN}
COLORS = {"computation": BLUE, "to the GPU": GREEN, "to the host": ORANGE}


@figure_style()
def plot_timeline(path: str | Path, plan: Plan, timeline: Timeline, budget: int, title: str) -> None:
    """Draw memory against the budget, the window, and the copy streams beside the computation over time, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 5.5), layout="constrained")
    memory, window, streams = figure.subplots(3, 1, sharex=True, height_ratios=(5, 3, 4))
    starts = [start for start, _ in timeline.compute[1:]]
    swapped = [size / 1e9 for size in plan.transfers.resident]
    in_core = [size / 1e9 for size in plan.record.in_core()[1:]]
    memory.step(starts, swapped, where="post", label="on the GPU or on its way out")
    memory.step(starts, in_core, where="post", color=GREY, label="in-core")
    memory.axhline(budget / 1e9, color=RED, linestyle="--", label="budget")
    memory.set(ylabel="memory [GB]", title=title, ylim=(0, None))
    window.step(starts, functions_ahead(plan)[1:], where="post", color=PURPLE, linewidth=1,
                label="window: functions ahead whose arrays are there")
    window.set(ylabel="functions", ylim=(0, None))
    rows = (timeline.compute, timeline.swap_in, timeline.swap_out)
    for row, (name, spans) in enumerate(zip(COLORS, rows, strict=True)):
        streams.broken_barh([(start, end - start) for start, end in spans], (-row - 0.4, 0.8), color=COLORS[name])
    streams.set(yticks=[0, -1, -2], yticklabels=list(COLORS), xlabel="time [s]")
    legend_below(figure, ncols=2)
    save_figure(path, figure)


@figure_style()
def plot_sweep(path: str | Path, rows: Sequence[tuple[int, float, float]], in_core: int, title: str) -> None:
    """Draw images per second over batch sizes as PNG; `rows` holds (batch, swapped, in-core)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([row[0] for row in rows], [row[1] for row in rows], "o-", label="swapped, predicted")
    fitting = [row for row in rows if row[0] <= in_core]
    axes.plot([row[0] for row in fitting], [row[2] for row in fitting], "s-", color=GREY, label="in-core, predicted")
    axes.set(xlabel="batch size", ylabel="speed [images/s]", title=title, ylim=(0, None))
    legend_beside(axes)
    save_figure(path, figure)


@figure_style()
def plot_validation(path: str | Path, measured: Mapping[str, Sequence[tuple[int, float]]],
                    predicted: Mapping[str, Sequence[tuple[int, float]]], title: str) -> None:
    """Draw images per second over batch sizes as PNG, what was measured as points, what is predicted as lines.

    Parameters
    ----------
    path
    measured, predicted
        Mode -> (batch, images/s).
    title
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for (mode, colour), marker in zip(MODE_COLORS.items(), "os^", strict=True):
        axes.plot(*zip(*predicted[mode], strict=True), "--", color=colour, linewidth=1, label=f"{mode}, predicted")
        axes.plot(*zip(*measured[mode], strict=True), marker, color=colour, label=f"{mode}, measured")
    axes.margins(0.1)
    axes.set(xlabel="batch size", ylabel="speed [images/s]", title=title, ylim=(0, None), xlim=(0, None))
    legend_below(figure, ncols=len(MODE_COLORS))
    save_figure(path, figure)
