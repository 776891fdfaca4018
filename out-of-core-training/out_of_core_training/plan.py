"""Say what a network needs to train out of core, and how fast that will be; no GPU is needed (arXiv 2010.14109).

    python out-of-core-training/plan.py resnet50 --batch-size 1440 --gpu-memory 16GB
    python out-of-core-training/plan.py densenet121 --gpu-memory 16GB --sweep

Prints a table, and draws how memory and time are used.
"""
import argparse
from collections.abc import Sequence
from pathlib import Path

import attrs

from common.console import cli
from common.console.values import positive_int
from common.machine.context import use_context
from common.machine.errors import UsageError, UserError
from common.machine.files import make_folder
from common.out_of_core.device import format_bytes, parse_bytes
from out_of_core_training import models
from out_of_core_training.config import parse_size
from out_of_core_training.planner import Plan, Step, plan, plan_record
from out_of_core_training.planning.devices import DEVICES, Device, measured_device
from out_of_core_training.planning.plots import plot_sweep, plot_timeline
from out_of_core_training.planning.timeline import Timeline, estimated_seconds, make_timeline
from out_of_core_training.planning.what_if import Growth, what_if_rows

DOMINATES = 0.9    # copying dominates below this share of the speed in-core
SWEEP_POINTS = 6
FAR = 64    # batch size that needs are extrapolated from, with those of one image


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument("network", help=f"one of {', '.join(models.NETWORKS)}")
    parser.add_argument("--batch-size", type=positive_int, default=64, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--image-size", metavar="N or HxW", help="height and width in pixels (default: as published)")
    parser.add_argument("--gpu-memory", "--budget", metavar="SIZE",
                        help="memory that arrays may take, such as 16GB (default: all of the device)")
    parser.add_argument("--prefetch", metavar="SIZE", help="prefetch window (default: 1.5 times the memory)")
    parser.add_argument("--device", choices=(*DEVICES, "mine"), default="V100-16GB",
                        help="device to predict the speed of; mine: the one here, which is measured (default: "
                             "%(default)s)")
    parser.add_argument("--sweep", action="store_true", help="predict the speed over batch sizes up to the largest")
    parser.add_argument("--output", "-o", default="plan.png", metavar="PNG", help="(default: %(default)s)")
    cli.add_context_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    context = args.context if args.device == "mine" else "cpu"    # a plan allocates nothing on the device
    use_context(context, args.device_id)
    device = measured_device() if args.device == "mine" else DEVICES[args.device]
    memory = parse_bytes(args.gpu_memory, "--gpu-memory") if args.gpu_memory else int(device.memory)
    if memory > device.memory:
        raise UsageError(f"--gpu-memory {args.gpu_memory}: {device.name} has {format_bytes(device.memory)}")
    prefetch = parse_bytes(args.prefetch, "--prefetch") if args.prefetch else None
    case = Case(args.network, parse_size(args.image_size), device, memory, prefetch)
    make_folder(Path(args.output).resolve().parent)
    if args.sweep:
        sweep(case, args.output)
    else:
        show_plan(case, args.batch_size, args.output)
    print(f"picture: {args.output}")


@attrs.frozen
class Case:
    """A network whose arrays are to take `memory` bytes of a device, with a prefetch window of `prefetch` bytes."""

    network: str
    image_size: tuple[int, int] | None
    device: Device
    memory: int
    prefetch: int | None

    def needs(self, batch_size: int) -> tuple[Plan, Sequence[Step]]:
        """Plan an iteration without a budget; returns it with the steps that it was made of."""
        graph = models.build(self.network, batch_size, self.image_size)
        return plan(graph.steps, graph.typed_inputs), graph.steps

    def predict(self, needs: Plan, steps: Sequence[Step]) -> tuple[Plan, Timeline]:
        """Plan the transfers within the memory, and when they happen."""
        swapped = plan_record(needs.record, self.memory, self.prefetch)
        return swapped, make_timeline(swapped, estimated_seconds(swapped, steps, self.device), self.device.link)


def show_plan(case: Case, batch_size: int, picture: str) -> None:
    """Print the table of one batch size, and draw its timeline."""
    needs, steps = case.needs(batch_size)
    one, _ = case.needs(1)
    print(f"{case.network}, batch {batch_size}: {needs.function_blocks} blocks of functions")
    print_rows([("in-core, all arrays together", format_bytes(needs.in_core_bytes)),
                ("smallest budget", f"{format_bytes(needs.minimum_budget)} ({needs.minimum_budget} bytes)"),
                ("  which is set by", needs.minimum_function)])
    if batch_size > 1:
        print("\nlargest batch with " + format_bytes(case.memory) + ", and what each image takes:")
        print_rows(what_if_rows(Growth(one, needs, batch_size), case.memory))
    swapped, timeline = case.predict(needs, steps)
    print(f"\nwith {format_bytes(case.memory)} on {case.device.name} ({case.device.source}):")
    print_rows(timeline_rows(swapped, timeline, batch_size, case.device))
    plot_timeline(picture, swapped, timeline, case.memory, f"{case.network}, batch {batch_size}, {case.device.name}")


def timeline_rows(swapped: Plan, timeline: Timeline, batch_size: int, device: Device) -> list[tuple[str, str]]:
    """Rows of the table on the transfers and times of a plan."""
    counts = swapped.counts()
    moved = {name: f"{number} arrays, {format_bytes(num_bytes)}" for name, (number, num_bytes) in counts.items()}
    bound = max(timeline.in_core_seconds, *(counts[name][1] / device.link for name in ("swap_in", "swap_out")))
    return [("peak", format_bytes(swapped.peak_bytes)),
            ("to the GPU", moved["swap_in"]), ("to the host, at most", moved["swap_out"]),
            ("cleared ahead", moved["preclear"]),
            ("iteration", f"{timeline.seconds:.3f} s, of which nothing is computed for {timeline.stall:.3f} s; not "
                          f"below {bound:.3f} s"),
            ("speed", f"{batch_size / timeline.seconds:.1f} images/s, {timeline.share:.0%} of the in-core speed")]


def sweep(case: Case, picture: str) -> None:
    """Print and draw the predicted speed over batch sizes up to the largest that can be planned."""
    memory, device = case.memory, case.device
    one, many = (case.needs(n)[0] for n in (1, FAR))
    growth = Growth(one, many, FAR)
    largest, in_core = growth.largest_batch(growth.blocks, memory), growth.largest_batch(growth.in_core, memory)
    if not largest:
        raise UserError(f"{case.network} does not fit: one image needs {one.minimum_budget} bytes "
                        f"({one.minimum_function}), and there are {memory}")
    batches = sorted({max(1, round(largest * (n + 1) / SWEEP_POINTS)) for n in range(SWEEP_POINTS)} | {max(1, in_core)})
    print(f"{case.network} with {format_bytes(memory)} on {device.name} ({device.source}): largest batch in-core "
          f"{in_core}, swapped {largest}")
    rows = []
    for batch in batches:
        _, timeline = case.predict(*case.needs(batch))
        rows.append((batch, batch / timeline.seconds, batch / timeline.in_core_seconds))
        print(f"  batch {batch:5d}: {rows[-1][1]:8.1f} images/s, {timeline.share:4.0%} of the in-core speed",
              flush=True)
    dominated = [batch for batch, speed, alone in rows if batch >= in_core and speed < DOMINATES * alone]
    print(f"copying dominates from batch {dominated[0]} of these" if dominated else "copying never dominates")
    plot_sweep(picture, rows, in_core, f"{case.network}, {format_bytes(memory)}, {device.name}")


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    for name, value in rows:
        print(f"  {name:<42} {value}")


if __name__ == "__main__":
    cli.run(main)
