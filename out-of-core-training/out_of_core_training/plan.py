"""Say what a network needs to train out of core, and how fast that will be; no GPU is needed (arXiv 2010.14109).

    python out-of-core-training/plan.py resnet50 --batch-size 1440 --gpu-memory 16GB
    python out-of-core-training/plan.py densenet121 --gpu-memory 16GB --sweep

Prints a table and writes how memory and time are used as a picture.
"""
from pathlib import Path

from common.console import cli
from common.console.values import flag_value, positive_int, to_integer
from common.machine.context import use_context
from common.machine.errors import UsageError, UserError
from common.machine.files import make_folder
from common.out_of_core.device import format_bytes, parse_bytes
from out_of_core_training import models
from out_of_core_training.planner import plan, plan_record
from out_of_core_training.planning.devices import DEVICES, measured_device
from out_of_core_training.planning.plots import plot_sweep, plot_timeline
from out_of_core_training.planning.timeline import estimated_seconds, make_timeline
from out_of_core_training.planning.what_if import Growth, what_if_rows

DOMINATES = 0.9    # copying dominates below this share of the speed in-core
SWEEP_POINTS = 6
FAR = 64    # batch size that needs are extrapolated from, with those of one image


def parse_args(argv):
    parser = cli.parser(__doc__)
    parser.add_argument("network", help=f"one of {', '.join(models.NETWORKS)}")
    parser.add_argument("--batch-size", type=positive_int, default=64, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--image-size", metavar="N or HxW",
                        type=flag_value("a size such as 224 or 512x1024", _image_size),
                        help="height and width in pixels (default: as published)")
    parser.add_argument("--gpu-memory", "--budget", metavar="SIZE",
                        help="memory that arrays may take, such as 16GB (default: all of the device)")
    parser.add_argument("--prefetch", metavar="SIZE", help="prefetch window (default: 1.5 times the memory)")
    parser.add_argument("--device", choices=(*DEVICES, "mine"), default="V100-16GB",
                        help="whose speed to reckon with; mine is measured (default: %(default)s)")
    parser.add_argument("--sweep", action="store_true", help="predict the speed over batch sizes up to the largest")
    parser.add_argument("--output", "-o", default="plan.png", metavar="PNG", help="(default: %(default)s)")
    cli.add_context_flags(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    context = args.context if args.device == "mine" else "cpu"    # a plan allocates nothing on the device
    use_context(context, args.device_id)
    device = measured_device() if args.device == "mine" else DEVICES[args.device]
    memory = parse_bytes(args.gpu_memory, "--gpu-memory") if args.gpu_memory else int(device.memory)
    if memory > device.memory:
        raise UsageError(f"--gpu-memory {args.gpu_memory}: {device.name} has {format_bytes(device.memory)}")
    prefetch = parse_bytes(args.prefetch, "--prefetch") if args.prefetch else None
    make_folder(Path(args.output).resolve().parent)
    if args.sweep:
        sweep(args, memory, prefetch, device)
    else:
        show_plan(args, memory, prefetch, device)
    print(f"picture: {args.output}")


def build_plan(args, batch_size, memory=None, prefetch=None):
    """Plan an iteration of the network of the command line; returns it with the steps it was made of."""
    network = models.build(args.network, batch_size, args.image_size)
    inputs = [(v, "int32" if v.name == "label" else "float32") for v in network.inputs]
    return plan(network.steps, inputs, memory, prefetch), network.steps


def show_plan(args, memory, prefetch, device):
    """Print the table of one batch size, and draw its timeline."""
    needs, steps = build_plan(args, args.batch_size)
    one, _ = build_plan(args, 1)
    print(f"{args.network}, batch {args.batch_size}: {needs.function_blocks} blocks of functions")
    print_rows([("in-core, all arrays together", format_bytes(needs.in_core_bytes)),
                ("smallest budget", f"{format_bytes(needs.minimum_budget)} ({needs.minimum_budget} bytes)"),
                ("  which is set by", needs.minimum_function)])
    if args.batch_size > 1:
        print("\nlargest batch with " + format_bytes(memory) + ", and what each image takes:")
        print_rows(what_if_rows(Growth(one, needs, args.batch_size), memory))
    swapped = plan_record(needs.record, memory, prefetch)
    timeline = make_timeline(swapped, estimated_seconds(swapped, steps, device), device.link)
    print(f"\nwith {format_bytes(memory)} on {device.name} ({device.source}):")
    print_rows(timeline_rows(swapped, timeline, args.batch_size, device))
    plot_timeline(args.output, swapped, timeline, memory, f"{args.network}, batch {args.batch_size}, {device.name}")


def timeline_rows(swapped, timeline, batch_size, device):
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


def sweep(args, memory, prefetch, device):
    """Print and draw the predicted speed over batch sizes up to the largest that can be planned."""
    one, many = (build_plan(args, n)[0] for n in (1, FAR))
    growth = Growth(one, many, FAR)
    largest, in_core = growth.largest_batch(growth.blocks, memory), growth.largest_batch(growth.in_core, memory)
    if not largest:
        raise UserError(f"{args.network} does not fit: one image needs {one.minimum_budget} bytes "
                        f"({one.minimum_function}), and there are {memory}")
    batches = sorted({max(1, round(largest * (n + 1) / SWEEP_POINTS)) for n in range(SWEEP_POINTS)} | {max(1, in_core)})
    print(f"{args.network} with {format_bytes(memory)} on {device.name} ({device.source}): largest batch in-core "
          f"{in_core}, swapped {largest}")
    rows = []
    for batch in batches:
        swapped, steps = build_plan(args, batch, memory, prefetch)
        timeline = make_timeline(swapped, estimated_seconds(swapped, steps, device), device.link)
        rows.append((batch, batch / timeline.seconds, batch / timeline.in_core_seconds))
        print(f"  batch {batch:5d}: {rows[-1][1]:8.1f} images/s, {timeline.share:4.0%} of the in-core speed",
              flush=True)
    dominated = [batch for batch, speed, alone in rows if batch >= in_core and speed < DOMINATES * alone]
    print(f"copying dominates from batch {dominated[0]} of these" if dominated else "copying never dominates")
    plot_sweep(args.output, rows, in_core, f"{args.network}, {format_bytes(memory)}, {device.name}")


def print_rows(rows):
    for name, value in rows:
        print(f"  {name:<42} {value}")


def _image_size(text):
    sides = tuple(map(to_integer, text.lower().split("x")))
    if len(sides) > 2 or min(sides) < 1:
        raise ValueError(text)
    return sides if len(sides) == 2 else sides[0]


if __name__ == "__main__":
    cli.run(main)
