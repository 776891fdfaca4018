"""Fit the six parametrizations of a quantizer to N(0, 1) by gradient descent: section 2.3 of arXiv 1905.11452.

    python mixed-precision-dnns/fit_gaussian.py [--learning-rate 1] [--steps 300] [--seeds 10] [--output gaussian_fit]

No data set, no network: only the two scalars of a quantizer Q are learned, with the error 1/2 (Q(x) - x)^2, averaged
over samples x. Scalars are rounded in use and updated as real numbers. All parametrizations of a family start from the
same quantizers, of 2 and of 4 bits, with the same learning rate and with limits that leave them at most 8 bits. (The
step size of U2 is rounded, so that it can use one bit more than it reports.)

Measured with seed 0 after 300 steps from 2 bits: 1000 times the mean error of the last 10 % of the steps, and in
brackets 1000 times the largest rise of the error within these. Best on a grid: 0.041 uniform, 20.490 power of two.

    rate   U1 (b, d)     U2 (b, xmax)  U3 (d, xmax)  P1 (b, xmax)  P2 (b, xmin)   P3 (xmin, xmax)
    0.01   41.6   (0)    103.5  (0)    34.0   (0)    93.43  (0)     105.8  (48)   80.09  (0)
    0.1    19.0   (9.9)   15.5  (0)     4.30  (0)    22.89  (0)      27.8  (13)   21.08  (0)
    0.3    11.5   (3.2)    4.94 (0)     1.07  (0)    22.53  (0)      20.51 (0)    21.05  (0)
    1       5.0   (8)      1.25 (0)     0.27  (0)    20.493 (0)     229  (5300)   20.490 (0)
    3      10.5   (41)     0.86 (0)     0.10  (0)    20.493 (0)    2976  (4800)   20.490 (0)
    10      0.041 (0)      0.20 (0)     0.057 (0)    20.490 (0)      20.490 (0)   20.490 (0)

U3 is ahead of U1 and U2 from 0.01 to 3, and falls steadily where U1 jumps between neighbouring step sizes; at 10 the
jumps of U1 throw it onto its limits, where the best quantizer happens to be. P3 never jumps; the error of P2 does, up
to 5.3, from one start or both at every rate from 0.3 up. The power-of-two ones otherwise end close together, as their
error hardly depends on the bit width: at 0.3 P2 is ahead of P3. From 4 bits U1 and P2 are ahead at a rate of 0.01, too
small for the others to arrive, P2 is also ahead of P3 at 0.1 and 0.3, and at 1 U2 oscillates as well (1.7).
"""
import argparse
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import nnabla as nn
import numpy as np

from common.console import cli
from common.console.tables import align, with_deviation
from common.console.values import int_from_0, number_above_0, positive_int
from common.machine import files
from common.machine.context import use_context
from common.machine.errors import UserError
from common.machine.output_folders import claimed
from common.pictures.figures import GREEN, figure_style, save_figure
from common.quantizers import DEFAULT_LIMITS, GRIDS, QUANTIZERS, SCALARS, Grid, Limits, range_quantizer
from common.quantizers.layers import LIMIT_MARGIN

# Those of the published experiments, except that d and xmax, too, span no more than 8 bits: otherwise U3 would win by
# bits alone. 127/32 is beyond the largest of 10^4 samples.
LIMITS: Limits = {**DEFAULT_LIMITS, "d": (2.0 ** -5, 1.0), "xmin": (2.0 ** -16, 127 / 32),
                  "xmax": (2.0 ** -5, 127 / 32), "n": (2.0, 8.0)}

# Bits and step size, the same quantizer in all scalars: wide steps, and the first values of the published experiments.
STARTS = {"2 bits": (2, 1.0), "4 bits": (4, 2.0 ** -3)}


def first_scalars(start: str, grid: Grid) -> dict[str, float]:
    """First values of the scalars of quantizers on `grid`, from an entry of `STARTS`."""
    bits, step_size = STARTS[start]
    return grid.scalars_for(step_size, bits, True)


@attrs.frozen(eq=False)
class Fit:
    """History of a fit: arrays over steps + 1 quantizers, the first before any update.

    `scalars` are arrays by name, `error` is 1/2 the mean squared error, `bits` the bit width that the scalars mean.
    """

    name: str
    scalars: dict[str, np.ndarray]
    error: np.ndarray
    bits: np.ndarray

    @property
    def final(self) -> float:
        """Mean error of the last 10 % of the steps."""
        return float(self._last().mean())

    @property
    def oscillation(self) -> float:
        """Largest rise of the error above what it had been, within the last 10 % of the steps."""
        last = self._last()
        return float((last - np.minimum.accumulate(last)).max())

    def _last(self):
        return self.error[-max(1, math.ceil(len(self.error) / 10)):]


def fit(name: str, x: np.ndarray, initial: Mapping[str, float], learning_rate: float, steps: int,
        limits: Limits = LIMITS) -> Fit:
    """Fit the scalars of a quantizer to samples by plain gradient descent.

    Parameters
    ----------
    name
        Entry of `common.quantizers.QUANTIZERS`.
    x
        Samples, (samples,).
    initial
        First value of each scalar; other names are ignored.
    learning_rate, steps
    limits
        Lowest and highest value of each scalar.

    Raises
    ------
    UserError
        A gradient overflowed.
    """
    x = np.asarray(x, np.float32)
    scalars, y = _build(name, x, limits)
    lowest, highest = np.array([limits[scalar] for scalar in scalars]).T + [[LIMIT_MARGIN], [-LIMIT_MARGIN]]
    values = np.empty((steps + 1, len(scalars)), np.float32)
    error = np.empty(steps + 1)
    values[0] = np.clip([initial[scalar] for scalar in scalars], lowest, highest)
    for step in range(steps + 1):
        residual = _residual(scalars, values[step], y, x)
        error[step] = _half_mean_square(residual)
        if step == steps:
            break
        gradient = _gradient(scalars, y, residual)
        if not np.isfinite(gradient).all():
            raise UserError(f"{name}: diverged at step {step}; choose a smaller --learning-rate")
        updated = values[step] - learning_rate * gradient
        if QUANTIZERS[name].is_range:
            smallest, xmax = updated
            updated = np.array([min(smallest, xmax - LIMIT_MARGIN), max(xmax, smallest + LIMIT_MARGIN)])
        values[step + 1] = np.clip(updated, lowest, highest)
    history = dict(zip(scalars, values.T, strict=True))
    return Fit(name, history, error, _bits(name, history, limits))


def _build(name, x, limits):
    """Graph of a quantizer on `x`: its scalars by name, and its output."""
    samples = nn.Variable.from_numpy_array(x)
    scalars = {scalar: nn.Variable((), need_grad=True) for scalar in QUANTIZERS[name].scalars}
    return scalars, QUANTIZERS[name].quantize(samples, *scalars.values(), sign=True, limits=limits)


def _residual(scalars, values, y, x):
    """Q(x) - x with these values of the scalars."""
    for variable, value in zip(scalars.values(), values, strict=True):
        variable.d = value
    y.forward()
    return y.d - x


def _half_mean_square(residual):
    return 0.5 * float(np.mean(np.square(residual, dtype=np.float64)))


def _gradient(scalars, y, residual):
    """Gradient of the error to the scalars; to Q(x) it is the residual divided by the number of samples."""
    for variable in scalars.values():
        variable.grad.zero()
    y.backward(residual / residual.size)
    return np.array([float(variable.g) for variable in scalars.values()])


def _bits(name, scalars, limits):
    """Bit widths of arrays of scalars."""
    variables = {scalar: nn.Variable.from_numpy_array(values) for scalar, values in scalars.items()}
    bits = QUANTIZERS[name].bits(variables, limits, True, limits["n"][0])
    bits.forward()
    return bits.d.copy()


def best_error(grid: Grid, x: np.ndarray, limits: Limits = LIMITS) -> float:
    """Search step sizes, or smallest magnitudes, and ranges for the least error of quantizers on `grid`.

    `x` are samples, (samples,); `limits` are as for `fit`.
    """
    x = np.asarray(x, np.float32)
    scalars, y = _build(range_quantizer(grid), x, limits)
    smallest = 2.0 ** np.arange(*np.log2(limits[grid.smallest]) + [0, 0.5])
    largest = np.geomspace(*limits["xmax"], 29)
    ends = [(low, high) for low in smallest for high in largest if low < high]
    return min(_half_mean_square(_residual(scalars, np.array(values, np.float32), y, x)) for values in ends)


def best_of_bits(grid: Grid, bits: int, x: np.ndarray, limits: Limits = LIMITS) -> float:
    """Search step sizes, or smallest magnitudes, for the least error of quantizers on `grid` with so many bits.

    Parametrizations end with different bit widths, and more bits are better, so that their errors alone do not compare.
    """
    x = np.asarray(x, np.float32)
    scalars, y = _build(range_quantizer(grid), x, limits)
    ends = (grid.scalars_for(step, bits, True) for step in 2.0 ** np.arange(-6, 1.01, 0.125))
    return min(_half_mean_square(_residual(scalars, np.array([end[name] for name in scalars], np.float32), y, x))
               for end in ends)


def fit_all(x: np.ndarray, learning_rate: float, steps: int) -> dict[tuple[str, str], Fit]:
    """Fit every parametrization from every start; returns the fits by start and name."""
    return {(start, name): fit(name, x, first_scalars(start, quantizer.grid), learning_rate, steps)
            for start in STARTS for name, quantizer in QUANTIZERS.items()}


# Results ----------------------------------------------------------------------------------------------------------


@figure_style()
def draw(path: Path, fits: Mapping[tuple[str, str], Fit], best: Mapping[str, float]) -> None:
    """Draw error and bit width over the steps.

    Parameters
    ----------
    path
        PNG to replace.
    fits
        By start and name.
    best
        Least error on each of `GRIDS`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = figure.subplots(2, len(GRIDS), sharex=True, height_ratios=(3, 2))
    for (upper, lower), grid in zip(panels.T, GRIDS.values(), strict=True):
        for (start, name), result in fits.items():
            if QUANTIZERS[name].grid is grid:
                style = _line_style(start, name)
                upper.plot(result.error, label=f"{QUANTIZERS[name].label}, from {start}", **style)
                lower.plot(result.bits, **style)
        _finish_panels(upper, lower, best[grid.name], grid.label)
    panels[0, 0].set_ylabel("error ½ mean (Q(x) − x)²")
    panels[1, 0].set_ylabel("bit width (bits)")
    save_figure(path, figure)


def _line_style(start, name):
    """The parametrizations by a range are on top; lines from the second start are broken."""
    first = start == next(iter(STARTS))
    return {"color": QUANTIZERS[name].colour, "linestyle": "-" if first else (0, (4, 1.5)),
            "linewidth": 1.6 if first else 1.1, "zorder": 4 if QUANTIZERS[name].is_range else 3}


def _finish_panels(upper, lower, best, title):
    upper.axhline(best, color=GREEN, linestyle=":", linewidth=1.8, label="best by grid search")
    upper.set_title(title)
    upper.set_yscale("log")
    lower.set_xlabel("step")
    lower.set_ylim(LIMITS["n"][0] - 0.3, LIMITS["n"][1] + 0.3)
    *lines, dotted = upper.get_lines()
    column = len(lines) // len(STARTS)    # of the legend, one for each start
    lower.legend(handles=[*lines[:column], dotted, *lines[column:]], loc="upper center", bbox_to_anchor=(0.5, -0.22),
                 ncols=len(STARTS), frameon=False, fontsize=9)


def write_history(path: Path, fits: Mapping[tuple[str, str], Fit]) -> None:
    """Write every step of every fit as CSV; the scalars that a parametrization does not have stay empty."""
    rows = []
    for (start, name), result in fits.items():
        columns = [result.error, *(result.scalars.get(scalar, [""] * len(result.error)) for scalar in SCALARS),
                   result.bits]
        rows += [(name, start, step, *values) for step, values in enumerate(zip(*columns, strict=True))]
    files.write_csv(path, ("parametrization", "start", "step", "error", *SCALARS, "bits"), rows)


def final_numbers(fits: Mapping[tuple[str, str], Fit], x: np.ndarray, seed: int) -> list[dict[str, Any]]:
    """Final numbers of each fit to the samples `x` of a seed, for JSON."""
    best = functools.cache(lambda grid, bits: best_of_bits(GRIDS[grid], bits, x))
    return [{"parametrization": name, "start": start, "seed": seed, "error": float(result.error[-1]),
             "mean_error": result.final, "oscillation": result.oscillation, "largest_error": float(result.error.max()),
             "bits": (bits := int(result.bits[-1])),
             "times_best": result.final / best(QUANTIZERS[name].grid.name, bits)}
            for (start, name), result in fits.items()]


def print_table(results: Sequence[dict[str, Any]], best: Mapping[str, float]) -> None:
    """Print the final numbers in columns, with standard deviations where there are several seeds."""
    rows = []
    for name, quantizer in QUANTIZERS.items():
        for start in STARTS:
            of = [row for row in results if (row["parametrization"], row["start"]) == (name, start)]
            bits = sorted({row["bits"] for row in of})
            rows.append((quantizer.label, start, with_deviation([row["mean_error"] for row in of], ".7f"),
                         with_deviation([row["times_best"] for row in of], ".3f"),
                         f"{max(row['oscillation'] for row in of):.7f}",
                         f"{max(row['largest_error'] for row in of):.3g}", " ".join(map(str, bits))))
    print(align([("parametrization", "start", "error at end", "times best", "oscillation", "largest", "bits"),
                 *sorted(rows, key=lambda row: row[0])], left=2))
    print("error at end and oscillation: mean of, and largest rise within, the last 10 % of the steps")
    print("times best: the error at the end over the least one of a quantizer with as many bits")
    print("best by grid search: " + ", ".join(f"{GRIDS[name].label} {value:.7f}" for name, value in best.items()))


# Command line -----------------------------------------------------------------------------------------------------


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the flags of the command line."""
    parser = cli.parser(__doc__)
    for flag, convert, default, text in (
            ("--learning-rate", number_above_0, 1.0, "size of a step, for all parametrizations"),
            ("--steps", positive_int, 300, "number of updates"),
            ("--samples", positive_int, 10000, "number of samples of N(0, 1)"),
            ("--seed", int_from_0, 0, "of the samples"),
            ("--seeds", positive_int, 1, "how many seeds, this one and those after it")):
        parser.add_argument(flag, type=convert, default=default, metavar="N", help=f"{text} (default: %(default)s)")
    parser.add_argument("--output", "-o", default="gaussian_fit", metavar="DIR",
                        help="where fit.json goes, and fit.png and fit.csv of the first seed (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Fit, print a table, write the files."""
    args = parse_args(argv)
    with claimed(args.output) as output:
        fit_and_write(args, output)


def fit_and_write(args: argparse.Namespace, output: Path) -> None:
    """Do what the flags say, with `output` for the files."""
    use_context("cpu")    # a GPU has nothing to gain from two scalars
    x, fits, results = samples_of(args.seed, args.samples), {}, []
    for seed in range(args.seed, args.seed + args.seeds):
        samples = samples_of(seed, args.samples)
        found = fit_all(samples, args.learning_rate, args.steps)
        results += final_numbers(found, samples, seed)
        fits = fits or found
    best = {name: best_error(grid, x) for name, grid in GRIDS.items()}
    settings = {"learning_rate": args.learning_rate, "steps": args.steps, "samples": args.samples, "seed": args.seed,
                "seeds": args.seeds, "limits": LIMITS,
                "starts": {start: {grid.label: first_scalars(start, grid) for grid in GRIDS.values()}
                           for start in STARTS}}
    write_history(output / "fit.csv", fits)
    files.write_json(output / "fit.json", {"settings": settings, "results": results,
                                           "best_error": {GRIDS[name].label: value for name, value in best.items()}})
    draw(output / "fit.png", fits, best)
    print_table(results, best)
    print(f"wrote {output}/fit.png, fit.csv, fit.json")


def samples_of(seed: int, samples: int) -> np.ndarray:
    """Draw samples of N(0, 1), float32."""
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


if __name__ == "__main__":
    cli.run(main)
