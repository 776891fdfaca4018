"""Largest batch, and speed over batch sizes: in-core, with the scheduler, with virtual addressing (arXiv 2010.14109).

    python out-of-core-training/benchmark.py resnet50 densenet121 --memory 8GB [--batches 64 128 256] [--output DIR]

Each try runs in a process of its own, as a GPU that has run out of memory is in no clear state. On a CPU this is a dry
run: nothing runs out of memory there, so what fits is what the planner counts to be within --memory, and nothing is
swapped; choose a small --width and --image-size. Writes benchmark.json, benchmark.csv, and benchmark.png with the
published points.
"""
import argparse
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import nnabla as nn

from common.console import cli
from common.console.values import positive_int
from common.machine.context import on_gpu, use_context
from common.machine.errors import UsageError, UserError
from common.machine.files import make_folder, write_csv, write_json
from common.machine.seeding import seed_everything
from common.out_of_core import InCore, OutOfCore
from common.out_of_core.device import device_memory, parse_budget
from out_of_core_training import figure, models
from out_of_core_training.config import parse_size
from out_of_core_training.data import RandomBatches
from out_of_core_training.planner import plan
from out_of_core_training.planning.search import largest

WARM_UP = 3    # iterations: the first is recorded, the second is planned
COLUMNS = ("network", "mode", "batch_size", "images_per_second", "planned_bytes", "peak_bytes")
DRY_RUN = ("dry run on a CPU: what fits is what the planner counts to be within the memory; nothing is swapped, and "
           "speeds are those of the CPU")


def parse_args(argv):
    parser = cli.parser(__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", default=["resnet50"],
                        help=f"some of {', '.join(models.NETWORKS)} (default: resnet50)")
    parser.add_argument("--memory", metavar="SIZE", help="bytes of GPU memory to use, such as 8GB; needed on a CPU "
                                                         "(default: all that is free)")
    parser.add_argument("--modes", nargs="+", choices=tuple(figure.MODES), default=list(figure.MODES),
                        help="what to compare (default: all)")
    parser.add_argument("--batches", nargs="+", type=positive_int, metavar="N",
                        help="batch sizes to measure (default: doubled up to the largest that fits)")
    parser.add_argument("--first", type=positive_int, default=1, metavar="N",
                        help="where the search for the largest batch begins (default: %(default)s)")
    parser.add_argument("--limit", type=positive_int, default=4096, metavar="N",
                        help="where it ends (default: %(default)s)")
    parser.add_argument("--iterations", type=positive_int, default=10, metavar="N",
                        help="iterations that are timed (default: %(default)s)")
    parser.add_argument("--image-size", metavar="SIZE", help="pixels, such as 224 or 1024x2048 (default: as published)")
    parser.add_argument("--width", type=float, default=1.0, metavar="X",
                        help="factor of all numbers of channels (default: %(default)s)")
    parser.add_argument("--output", "-o", default="benchmark", metavar="DIR",
                        help="where results go (default: %(default)s)")
    parser.add_argument("--attempt", type=json.loads, help=argparse.SUPPRESS)
    cli.add_context_flags(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    device = use_context(args.context, args.device_id)
    if args.attempt:
        print(json.dumps(attempt(**args.attempt)))
        return
    check(args)
    folder = make_folder(args.output)
    rows, limits = [], {}
    for network in args.networks:
        for mode in args.modes:
            best = largest(lambda batch, of=(network, mode): try_out(args, *of, batch)["fits"], args.first, args.limit)
            limits.setdefault(network, {})[mode] = best
            print(f"{network}, {mode}: largest batch {best}", flush=True)
            rows += [measure(args, network, mode, batch) for batch in batches_up_to(best, args.batches)]
    note = f"{device}, {args.memory or 'all memory'}" + ("" if on_gpu() else f"; {DRY_RUN}")
    write(folder, {"note": note, "dry_run": not on_gpu(), "largest_batch": limits, "rows": rows})


def check(args):
    """Raise a UsageError for what would fail in every try."""
    if not on_gpu() and args.memory is None:
        raise UsageError("on a CPU, --memory says how much the GPU of this dry run has, such as --memory 1GB")
    if args.memory is not None:
        parse_budget(args.memory, *device_memory())
    for network in args.networks:
        if network not in models.NETWORKS:
            raise UsageError(f"unknown network {network!r}: choose from {', '.join(models.NETWORKS)}")
        models.checked_size(network, parse_size(args.image_size))
        models.check_options(network, {"width": args.width})


def batches_up_to(best, batches=None):
    """Batch sizes to measure: those of `batches` that fit, or powers of two and the largest that fits."""
    if batches is None:
        batches = {best, *(2 ** power for power in range(best.bit_length()))}
    return sorted(batch for batch in batches if 0 < batch <= best)


def measure(args, network, mode, batch):
    """Time a batch size; the row of the table."""
    result = try_out(args, network, mode, batch, args.iterations)
    speed = batch * args.iterations / result["seconds"] if result["fits"] else None
    print(f"{network}, {mode}, batch {batch}: " + (f"{speed:.3g} images/s" if speed else result["why"]), flush=True)
    return dict(zip(COLUMNS, (network, mode, batch, speed, result["planned_bytes"], result["peak_bytes"]), strict=True))


def try_out(args, network, mode, batch, iterations=0):
    """Call `attempt` in a process of its own."""
    what = {"network": network, "mode": mode, "batch_size": batch, "iterations": iterations, "memory": args.memory,
            "image_size": args.image_size, "width": args.width}
    command = [sys.executable, "-m", "out_of_core_training.benchmark", "-c", args.context, "-d", args.device_id,
               "--attempt", json.dumps(what)]
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode < 0:    # the system ends a process that takes all memory of the host
        return {"fits": False, "why": f"killed by signal {-done.returncode}", "planned_bytes": None, "peak_bytes": None}
    if done.returncode:
        raise UserError(f"{network}, {mode}, batch {batch}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def attempt(network, mode, batch_size, iterations, memory, image_size, width):
    """Train for some iterations on random data, and tell whether the memory sufficed.

    Parameters
    ----------
    network, mode : str
    batch_size : int
    iterations : int
        How many to time; 0: only find out whether it fits.
    memory : str or None
        As for `--out-of-core`; None: what the GPU has free.
    image_size : str or None
    width : float

    Returns
    -------
    dict
        `fits`, `why` not, `seconds` of the iterations, `planned_bytes`: what the planner counts, `peak_bytes`: most
        that was taken of the GPU in the first iterations, None on a CPU.
    """
    limit = None if memory is None else parse_budget(memory, *device_memory())
    seed_everything(0)
    swapped = InCore() if mode == "in-core" else OutOfCore(memory or "auto", virtual=mode == "virtual")
    built = models.build(network, batch_size, parse_size(image_size), width=width)
    planned = plan(built.steps, built.typed_inputs)
    result = {"fits": True, "why": None, "seconds": None, "peak_bytes": None,
              "planned_bytes": planned.in_core_bytes if mode == "in-core" else planned.minimum_budget}
    if not on_gpu():
        if result["planned_bytes"] > limit:
            return result | {"fits": False, "why": f"needs {result['planned_bytes'] / 1e9:.3g} GB"}
        if not iterations:
            return result
    try:
        peak, seconds = train(built, swapped, iterations, limit if mode == "in-core" else None)
    except (MemoryError, RuntimeError, UserError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
            raise
        return result | {"fits": False, "why": str(error).strip().splitlines()[-1]}
    return result | {"peak_bytes": peak, "seconds": seconds}


def train(network, memory, iterations, limit):
    """Warm up, then time iterations; most bytes taken of the GPU, and seconds.

    Raises
    ------
    MemoryError
        More than `limit` was taken.
    """
    arrays = RandomBatches(network, 1).arrays
    memory.attach(*(solver for _, solver in network.steps))
    with sampled_memory(limit) as peak:
        for _ in range(WARM_UP):
            memory.run(models.iterate, network, arrays)
    synchronize()
    started = time.perf_counter()
    for _ in range(iterations):
        memory.run(models.iterate, network, arrays)
    synchronize()
    return (max(peak) if peak else None), time.perf_counter() - started


@contextlib.contextmanager
def sampled_memory(limit):
    """Yield a list that gets the bytes taken of the GPU after each function; nothing on a CPU."""
    taken = []
    if not on_gpu():
        yield taken
        return
    from nnabla_ext.cuda import init

    free_before, _ = init.get_device_memory_size()

    def look(function):
        taken.append(free_before - init.get_device_memory_size()[0])
        if limit is not None and taken[-1] > limit:
            raise MemoryError(f"{taken[-1] / 1e9:.3g} GB are taken")

    nn.callback.set_function_post_hook("sampled_memory", look)
    try:
        yield taken
    finally:
        nn.callback.unset_function_post_hook("sampled_memory")


def synchronize():
    """Wait until the GPU has done what it was told."""
    if on_gpu():
        from nnabla_ext.cuda import init

        init.device_synchronize(nn.get_current_context().device_id)


def write(folder, results):
    """Write the numbers as JSON and CSV, and the figure."""
    curves = {network: {mode: {} for mode in modes} for network, modes in results["largest_batch"].items()}
    for row in results["rows"]:
        if row["images_per_second"]:
            curves[row["network"]][row["mode"]][row["batch_size"]] = row["images_per_second"]
    write_json(folder / "benchmark.json", results)
    write_csv(folder / "benchmark.csv", COLUMNS, [[row[column] for column in COLUMNS] for row in results["rows"]])
    figure.draw(folder / "benchmark.png", curves, results["note"])
    print(f"wrote {Path(folder) / 'benchmark.json'}, .csv and .png; {results['note']}")


if __name__ == "__main__":
    cli.run(main)
