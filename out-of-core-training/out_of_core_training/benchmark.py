"""Largest batch, and speed over batch sizes: in-core, with the scheduler, with virtual addressing (arXiv 2010.14109).

    python out-of-core-training/benchmark.py resnet50 densenet121 --memory 8GB [--batches 64 128 256] [--output DIR]
    python out-of-core-training/benchmark.py --memory 8MB --image-size 32 --width 0.125 -c cpu    # a minute, dry run

Each trial runs in a process of its own, as a GPU that has run out of memory is in no clear state. On a CPU this is a
dry run: the planner decides what fits within --memory, and nothing is swapped; choose a small --width and --image-size.
Writes benchmark.json, benchmark.csv, and benchmark.png with the published points.
"""
import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import nnabla as nn

from common.console import cli
from common.console.values import number_above_0, positive_int
from common.machine.context import on_gpu, use_context
from common.machine.errors import UsageError, UserError
from common.machine.files import write_csv, write_json
from common.machine.output_folders import claimed
from common.out_of_core.device import device_memory, parse_budget
from common.out_of_core.recompute import LEVELS
from out_of_core_training import models
from out_of_core_training.comparison import figure
from out_of_core_training.comparison.search import largest
from out_of_core_training.comparison.trial import Outcome, Trial, build, run_trial
from out_of_core_training.config import RECOMPUTE, parse_size
from out_of_core_training.planner import plan
from out_of_core_training.planning.what_if import Growth, in_core_needs, swapped_needs

RESULTS = "benchmark.json"
COLUMNS = ("network", "mode", "batch_size", "images_per_second", "planned_bytes", "peak_bytes")
NEAR = 0.03    # share of a batch: a GPU is not asked for a closer limit, as each try takes a while
FAR = 64       # batch size that needs are extrapolated from
DRY_RUN = ("dry run on a CPU: the planner decides what fits within the memory; nothing is swapped, and speeds are "
           "those of the CPU")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", default=["resnet50"],
                        help=f"some of {', '.join(models.NETWORKS)} (default: resnet50)")
    parser.add_argument("--memory", metavar="SIZE", help="memory of the GPU to use, such as 8GB; needed on a CPU "
                                                         "(default: all that is free)")
    parser.add_argument("--modes", nargs="+", choices=tuple(figure.MODES), default=list(figure.MODES),
                        help="what to compare (default: all)")
    parser.add_argument("--batches", nargs="+", type=positive_int, metavar="N",
                        help="batch sizes to measure, each as long as it fits (default: the largest that fits is "
                             "searched for, and those up to it are doubled)")
    parser.add_argument("--first", type=positive_int, metavar="N",
                        help="where the search for the largest batch begins (default: on a GPU where the planner "
                             "expects it, otherwise 1)")
    parser.add_argument("--limit", type=positive_int, default=4096, metavar="N",
                        help="where it ends (default: %(default)s)")
    parser.add_argument("--iterations", type=positive_int, default=10, metavar="N",
                        help="iterations that are timed (default: %(default)s)")
    parser.add_argument("--image-size", metavar="SIZE", help="pixels, such as 224 or 1024x2048 (default: as published)")
    parser.add_argument("--width", type=number_above_0, default=1.0, metavar="X",
                        help="factor of all numbers of channels (default: %(default)s)")
    parser.add_argument("--recompute", choices=LEVELS, default=LEVELS[0], help=f"{RECOMPUTE} (default: %(default)s)")
    parser.add_argument("--output", "-o", default="benchmark", metavar="DIR",
                        help="where results go (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace the results that are there")
    parser.add_argument("--trial", type=json.loads, help=argparse.SUPPRESS)
    cli.add_context_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    device = use_context(args.context, args.device_id)
    if args.trial:
        print(json.dumps(attrs.asdict(run_trial(Trial(**args.trial)))))
        return
    setting = Setting(args.memory, args.image_size, args.width, args.recompute, args.context, args.device_id)
    for network in args.networks:
        check(network, setting)
    with claimed(args.output) as folder:
        if (folder / RESULTS).exists() and not args.overwrite:    # they may have taken hours on a GPU
            raise UsageError(f"{folder}: holds results of a benchmark already; add --overwrite to replace them, or "
                             "choose another --output")
        rows, limits = compare(setting, args)
        note = f"{device}, {args.memory or 'all memory'}" + ("" if on_gpu() else f"; {DRY_RUN}")
        write(folder, {"note": note, "dry_run": not on_gpu(), "largest_batch": limits, "rows": rows})


def compare(setting: "Setting", args: argparse.Namespace
            ) -> tuple[list[dict[str, Any]], dict[str, dict[str, int]]]:
    """Try what the flags name; returns the rows of the table, and {network: {mode: largest batch that was measured}}.

    Once a batch does not fit, no larger one is tried.
    """
    rows, limits = [], {}
    for network in args.networks:
        for mode in args.modes:
            batches = args.batches or batches_up_to(search(setting, network, mode, args))
            tried = (measure(setting, network, mode, batch, args.iterations) for batch in sorted(set(batches)))
            fitting = list(itertools.takewhile(lambda row: row["images_per_second"], tried))
            rows += fitting
            limits.setdefault(network, {})[mode] = max((row["batch_size"] for row in fitting), default=0)
    return rows, limits


def search(setting: "Setting", network: str, mode: str, args: argparse.Namespace) -> int:
    """Find the largest batch that fits, and print it; 0 if none does."""
    first = args.first or (expected_batch(setting, network, mode) if on_gpu() else 1)
    best = largest(lambda batch: setting.attempt(network, mode, batch).fits, first, args.limit, NEAR if on_gpu() else 0)
    print(f"{network}, {mode}: largest batch {best}", flush=True)
    return best


@attrs.frozen
class Setting:
    """What all trials have in common. Each field is the value of the flag of its name."""

    memory: str | None
    image_size: str | None
    width: float
    recompute: str
    context: str
    device_id: str

    def trial(self, network: str, mode: str, batch: int, iterations: int = 0) -> Trial:
        """A trial with these values."""
        return Trial(network=network, mode=mode, batch_size=batch, iterations=iterations, memory=self.memory,
                     image_size=self.image_size, width=self.width, recompute=self.recompute)

    def attempt(self, network: str, mode: str, batch: int, iterations: int = 0) -> Outcome:
        """Run a trial in a process of its own; where nothing is computed, in this one."""
        trial = self.trial(network, mode, batch, iterations)
        if not (iterations or on_gpu()):
            return run_trial(trial)
        command = [sys.executable, "-m", "out_of_core_training.benchmark", "-c", self.context, "-d", self.device_id,
                   "--trial", json.dumps(attrs.asdict(trial))]
        done = subprocess.run(command, text=True, capture_output=True)
        if done.returncode < 0:    # the system ends a process that takes all memory of the host
            return Outcome(False, f"killed by signal {-done.returncode}")
        if done.returncode:
            raise UserError(f"{network}, {mode}, batch {batch}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
        return Outcome(**json.loads(done.stdout.strip().splitlines()[-1]))


def expected_batch(setting: Setting, network: str, mode: str) -> int:
    """The largest batch by the planner, at least 1."""
    def plan_at(batch):
        nn.clear_parameters()
        graph = build(setting.trial(network, mode, batch))
        return plan(graph.steps, graph.typed_inputs)

    memory = parse_budget(setting.memory or "auto", *device_memory())
    needs = in_core_needs if mode == "in-core" else swapped_needs
    return max(1, Growth(plan_at, FAR).estimate(needs, memory))


def check(network: str, setting: Setting) -> None:
    """Raise a UsageError for what would fail in every trial."""
    if not on_gpu() and setting.memory is None:
        raise UsageError("on a CPU, --memory says how much the GPU of this dry run has, such as --memory 1GB")
    if setting.memory is not None:
        parse_budget(setting.memory, *device_memory())
    if network not in models.NETWORKS:
        raise UsageError(f"unknown network {network!r}: choose from {', '.join(models.NETWORKS)}")
    models.checked_size(network, parse_size(setting.image_size))
    models.check_options(network, {"width": setting.width})


def batches_up_to(best: int) -> list[int]:
    """Powers of two up to the largest batch that fits, and that one."""
    return sorted({best, *(2 ** power for power in range(best.bit_length()))} - {0})


def measure(setting: Setting, network: str, mode: str, batch: int, iterations: int) -> dict[str, Any]:
    """Time a batch size, and return the row of the table."""
    outcome = setting.attempt(network, mode, batch, iterations)
    speed = batch * iterations / outcome.seconds if outcome.seconds else None
    print(f"{network}, {mode}, batch {batch}: " + (f"{speed:.3g} images/s" if speed else str(outcome.reason)),
          flush=True)
    return dict(zip(COLUMNS, (network, mode, batch, speed, outcome.planned_bytes, outcome.peak_bytes), strict=True))


def write(folder: Path, results: dict[str, Any]) -> None:
    """Write the numbers as JSON and CSV, and the figure."""
    curves = {network: {mode: {} for mode in modes} for network, modes in results["largest_batch"].items()}
    for row in results["rows"]:
        if row["images_per_second"]:
            curves[row["network"]][row["mode"]][row["batch_size"]] = row["images_per_second"]
    write_json(folder / RESULTS, results)
    write_csv(folder / "benchmark.csv", COLUMNS, [[row[column] for column in COLUMNS] for row in results["rows"]])
    figure.draw(folder / "benchmark.png", curves, results["note"])
    print(f"wrote {folder / RESULTS}, .csv and .png; {results['note']}")


if __name__ == "__main__":
    cli.run(main)
