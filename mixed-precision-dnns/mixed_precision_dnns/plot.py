"""Draw what runs have learned.

    python plot.py bits RUN_DIR [RUN_DIR ...]       bit width of every layer, as in figure 5 of the paper
    python plot.py scalars RUN_DIR [RUN_DIR ...]    step sizes, ranges and bit widths over epochs
    python plot.py tradeoff RUN_DIR RUN_DIR ...     test error against size of the weights
    python plot.py bits runs/demo                   # seconds, after demo.py

A picture goes into the folder of its run, the last one into the current folder, unless --output names a file.
"""
import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.console import cli
from common.machine.errors import UsageError, UserError
from common.machine.files import new_path
from common.pictures.figures import BLUE, ORANGE, ORDERED, as_label, figure_style, legend_beside, save_figure
from common.quantizers import QUANTIZERS, SCALARS
from mixed_precision_dnns.finished_run import read_error_and_size, read_layers, read_scalars

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = {"weights": BLUE, "activations": ORANGE}
TENSOR = {"tensor": str, "kind": str, "quantizer": str}    # columns of layers.json and their types
NUM_SCALARS = 2    # of each quantizer that learns
LEGEND_COLUMNS = 2
MARKERS = "osD^vP*X"


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument("picture", choices=tuple(PICTURES), help="the picture to draw")
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="output folders of train_resnet.py")
    parser.add_argument("--output", "-o", metavar="FILE", help="PNG to write; for one picture only")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    runs = [Path(run) for run in args.runs]
    draw, one_each = PICTURES[args.picture]
    if args.output and one_each and len(runs) > 1:
        raise UsageError(f"--output {args.output}: {len(runs)} runs make as many pictures; leave it out")
    for group in ([[run] for run in runs] if one_each else [runs]):
        folder = group[0] if one_each else Path()
        default = folder / f"{args.picture}.png"    # in the folder of a run it is that of the run, and made anew
        path = Path(args.output) if args.output else default if one_each else new_path(default)
        with figure_style():
            save_figure(path, draw(*group))
        print(path)


def draw_bits(run: Path) -> "Figure":
    """Draw the bit width of each weight and activation tensor of a run as bars, in the order of the network."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = read_layers(run, TENSOR | {"bits": int, "elements": int, "kbytes": float})
    kinds = [kind for kind in KINDS if any(row["kind"] == kind and row["quantizer"] != "float" for row in rows)]
    if not kinds:
        raise UserError(f"{run}: a float network, there are no bit widths to draw")
    widest = max(sum(row["kind"] == kind for row in rows) for kind in kinds)
    figure = Figure(figsize=(max(6.0, 0.25 * widest), 3.2 * len(kinds)), layout="constrained")
    for axes, kind in zip(figure.subplots(len(kinds), squeeze=False)[:, 0], kinds, strict=True):
        of_kind = [row for row in rows if row["kind"] == kind]
        names = [short_name(row) for row in of_kind]
        bars = axes.bar(names, [row["bits"] for row in of_kind], color=KINDS[kind])
        axes.bar_label(bars, fontsize=8, padding=1)
        axes.set_ylabel(f"bits, {kind}")
        kbytes, in_float = (sum(sizes) for sizes in zip(*((row["kbytes"], row["elements"] * 4 / 1024)
                                                          for row in of_kind), strict=True))
        axes.set_title(f"{as_label(run.name)}: {kind}, {kbytes:.1f} kB instead of {in_float:.0f} kB in float32")
        axes.tick_params(axis="x", labelsize=8, labelrotation=60)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0.01, y=0.12)
        axes.grid(visible=False, axis="x")
    return figure


def short_name(row: Mapping[str, Any]) -> str:
    """What a figure calls a tensor, a row of `layers.json`."""
    return (row["tensor"].replace("/quantized_conv/W", "").replace("/quantized_affine/W", "")
            .replace("basicblock", "block"))


def draw_scalars(run: Path) -> "Figure":
    """Draw the scalars of all quantizers of a run over epochs: a column for each kind of tensor, a row for each scalar.

    The checkpoint of the run holds them; a line is a tensor, lighter towards the end of the network.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    tensors = [row for row in read_layers(run, TENSOR) if row["quantizer"] in QUANTIZERS]
    epochs = read_scalars(run, len(tensors)) if tensors else []
    found = {kind: [k for k, row in enumerate(tensors) if row["kind"] == kind] for kind in KINDS}
    kinds = {kind: indices for kind, indices in found.items() if indices}
    if not kinds or not epochs:
        raise UserError(f"{run}: nothing was learned by quantizers of weights or activations")
    figure = Figure(figsize=(5.5 * len(kinds), 2.8 * NUM_SCALARS), layout="constrained")
    panels = figure.subplots(NUM_SCALARS, len(kinds), squeeze=False, sharex=True)
    for column, (kind, indices) in zip(panels.T, kinds.items(), strict=True):
        # Those of weights may be others than those of activations.
        names = [name for name in SCALARS if name in epochs[0][indices[0]]]
        for axes, name in zip(column, names, strict=True):
            _draw_scalar(axes, epochs, indices, name, [short_name(tensors[k]) for k in indices])
        column[-1].legend(ncols=LEGEND_COLUMNS, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.3))
        column[0].set_title(f"{as_label(run.name)}: {kind}", fontsize=10)
        column[-1].set_xlabel("epoch")
        column[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _draw_scalar(axes, epochs, indices, name, labels):
    from matplotlib import colormaps

    colours = colormaps[ORDERED](np.linspace(0, 0.95, len(indices)))
    for place, (k, label) in enumerate(zip(indices, labels, strict=True)):
        # Neighbours in the legend differ in their dashes, too.
        axes.plot(range(1, len(epochs) + 1), [scalars[k][name] for scalars in epochs], linewidth=1.2, label=label,
                  color=colours[place], linestyle="-" if place % 2 == 0 else (0, (4, 1.5)),
                  marker="." if len(epochs) < 30 else None)
    axes.set_ylabel(SCALARS[name].label)
    if SCALARS[name].is_log:
        values = np.log2([scalars[k][name] for scalars in epochs for k in indices])
        axes.set_yscale("log", base=2)
        axes.set_ylim(2 ** np.floor(values.min() - 0.1), 2 ** np.ceil(values.max() + 0.1))


def draw_tradeoff(*runs: Path) -> "Figure":
    """Draw the test error of several runs against the size of their weights."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    results = sorted(((*read_error_and_size(run), run.name) for run in runs), key=lambda result: result[1])
    for number, (error, size, name) in enumerate(results):    # in the order of the legend, colours and markers go round
        axes.plot(size, 100 * error, MARKERS[number % len(MARKERS)], label=as_label(name))
    axes.set_xlabel("size of the weights [kB]")
    axes.set_ylabel("test error [%]")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.margins(0.15)
    legend_beside(axes)
    return figure


# What to draw -> function of the runs, and whether each run has a picture of its own.
PICTURES: "dict[str, tuple[Callable[..., Figure], bool]]" = {
    "bits": (draw_bits, True), "scalars": (draw_scalars, True), "tradeoff": (draw_tradeoff, False)}


if __name__ == "__main__":
    cli.run(main)
