"""Say what a network needs to train out of core, and how fast that will be; no GPU is needed (arXiv 2010.14109).

    python out-of-core-training/plan.py resnet50 --batch-size 1440 --gpu-memory 16GB    # five seconds
    python out-of-core-training/plan.py densenet121 --gpu-memory 16GB --sweep
    python out-of-core-training/plan.py resnet50 --device mine --measure

Prints a table, and draws how memory and time are used. What is predicted is a GPU with cuDNN, or with `-c cpu` a CPU;
`--device mine` measures the device here instead of taking the rates of a data sheet.
"""
import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import attrs
import nnabla as nn

from common.console import cli
from common.console.values import number_above_0, positive_int
from common.machine.context import on_gpu, use_context
from common.machine.errors import UsageError, UserError
from common.machine.files import make_folder, new_path
from common.machine.memory import machine_memory
from common.out_of_core import InCore, OutOfCore
from common.out_of_core.device import (
    WORKSPACE_LIMIT,
    chunk_for,
    format_bytes,
    parse_bytes,
    synchronize,
    workspace_limit,
)
from common.out_of_core.recompute import LEVELS
from common.out_of_core.replay import Occupancy
from out_of_core_training import models
from out_of_core_training.config import RECOMPUTE, parse_size
from out_of_core_training.data import RandomBatches
from out_of_core_training.planner import Plan, Step, plan, plan_record
from out_of_core_training.planning import h100
from out_of_core_training.planning.devices import DEVICES, Device, measured_device
from out_of_core_training.planning.plots import plot_sweep, plot_timeline, plot_validation
from out_of_core_training.planning.profile import Profile, measure_profile
from out_of_core_training.planning.timeline import Timeline, estimated_seconds, make_timeline
from out_of_core_training.planning.what_if import Growth, in_core_needs, swapped_needs, what_if_rows

PICTURE = "plan.png"
DOMINATES = 0.9    # copying dominates below this share of the speed in-core
SWEEP_POINTS = 6
FAR = 64    # batch size that needs are extrapolated from, with those of one image
PROFILED = 64    # largest batch size that a network is measured with
WARM_UP, ITERATIONS = 3, 5    # of what `--measure` trains


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument("network", help=f"one of {', '.join(models.NETWORKS)}")
    parser.add_argument("--batch-size", type=positive_int, default=64, metavar="N",
                        help="images per iteration (default: %(default)s)")
    parser.add_argument("--image-size", metavar="N or HxW", help="height and width in pixels (default: as published)")
    parser.add_argument("--width", type=number_above_0, default=1.0, metavar="X",
                        help="factor of all numbers of channels (default: %(default)s)")
    parser.add_argument("--gpu-memory", "--budget", metavar="SIZE",
                        help="memory of the GPU that may be taken, such as 16GB (default: all of the device)")
    parser.add_argument("--prefetch", metavar="SIZE", help="prefetch window (default: 1.5 times the memory)")
    parser.add_argument("--device", choices=(*DEVICES, "mine"), default="V100-16GB",
                        help="device to predict the speed of; mine: the one here, which is measured (default: "
                             "%(default)s)")
    parser.add_argument("--recompute", choices=LEVELS, default=LEVELS[0], help=f"{RECOMPUTE} (default: %(default)s)")
    parser.add_argument("--half", action="store_true", help="plan for functions of a GPU in float16 (cudnn:half)")
    parser.add_argument("--workspace", metavar="SIZE",
                        help="count so much for each workspace of cuDNN (default: they are not counted, as only the "
                             "device knows them)")
    parser.add_argument("--host-memory", metavar="SIZE",
                        help="memory of the host that arrays are swapped to (default: what this machine has)")
    parser.add_argument("--sweep", action="store_true", help="predict the speed over batch sizes up to the largest")
    parser.add_argument("--measure", action="store_true",
                        help="with --device mine: also train some iterations, and print how far the prediction is")
    parser.add_argument("--validate", action="store_true",
                        help="with resnet50: only print and draw predictions beside what was measured on an H100")
    parser.add_argument("--output", "-o", metavar="PNG",
                        help=f"picture to write (default: the first of {PICTURE}, plan-2.png, ... that is new)")
    cli.add_context_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    mine = args.device == "mine"
    picture = args.output or str(new_path(Path(PICTURE)))
    if args.validate:
        validate(args.network, picture)
        return
    if args.measure and (not mine or args.sweep):
        raise UsageError("--measure: needs --device mine, and no --sweep")
    use_context(args.context if mine else "cpu", args.device_id)    # a plan allocates nothing on the device
    backend = backend_of(args)
    size = parse_size(args.image_size)
    models.checked_size(known(args.network), size)
    models.check_options(args.network, {"width": args.width})
    device = measured_device(args.device_id) if mine else DEVICES[args.device]
    memory = parse_bytes(args.gpu_memory, "--gpu-memory") if args.gpu_memory else int(device.memory)
    if memory > device.memory:
        raise UsageError(f"--gpu-memory {args.gpu_memory}: {device.name} has {format_bytes(device.memory)}")
    prefetch = parse_bytes(args.prefetch, "--prefetch") if args.prefetch else None
    workspace = parse_bytes(args.workspace, "--workspace") if args.workspace else 0
    host = parse_bytes(args.host_memory, "--host-memory") if args.host_memory else memory_here()
    case = Case(args.network, size, args.width, args.recompute, device, memory, prefetch, backend, workspace, host)
    make_folder(Path(picture).resolve().parent)
    if mine:
        case = case.profiled(args.batch_size)
    print(f"{args.network} on {backend}, {case.device.name} ({case.device.source}){case.workspace_note()}")
    if args.sweep:
        sweep(case, picture)
    else:
        timeline = show_plan(case, args.batch_size, picture)
        if args.measure:
            show_measured(case, args.batch_size, timeline)
    print(f"picture: {picture}")


def validate(network: str, picture: str) -> None:
    """Print and draw the predictions for the network that was measured on an H100."""
    if network != h100.NETWORK:
        raise UsageError(f"--validate: only {h100.NETWORK} was measured")
    use_context("cpu")
    print(h100.table())
    make_folder(Path(picture).resolve().parent)
    plot_validation(picture, *h100.curves(), "ResNet-50 on an H100: in-core in 80 GB, swapped with 8 GB to plan with")
    print(f"picture: {picture}")


def memory_here() -> int | None:
    """Memory of this machine in bytes; None where the system does not tell."""
    try:
        return machine_memory()[1]
    except UserError:
        return None


def known(network: str) -> str:
    """Return the name of a network; raises a UsageError for one that does not exist."""
    if network not in models.NETWORKS:
        raise UsageError(f"unknown network {network!r}: choose from {', '.join(models.NETWORKS)}")
    return network


def backend_of(args: argparse.Namespace) -> str:
    """Name of the backend to plan for: data sheets are of GPUs, and a device that is measured computes as it is."""
    cpu = not on_gpu() if args.device == "mine" else args.context == "cpu"
    if cpu and args.half:
        raise UsageError("--half: a CPU computes in float32; plan for a GPU with -c cudnn")
    if args.half and args.device == "mine":
        raise UsageError("--half: what is measured with --device mine computes in float32; choose a data sheet")
    return "cpu" if cpu else "cudnn:half" if args.half else "cudnn"


@attrs.frozen
class Case:
    """A network that is to take `memory` bytes of a device, with a prefetch window of `prefetch` bytes.

    `profile` has the times of its functions where they were measured; otherwise the rates of the device give them.
    """

    network: str
    image_size: tuple[int, int] | None
    width: float
    recompute: str
    device: Device
    memory: int
    prefetch: int | None
    backend: str
    workspace: int
    host_memory: int | None
    profile: Profile | None = None

    def workspace_note(self) -> str:
        """How cuDNN's workspaces are counted."""
        if self.backend == "cpu":
            return ""
        if self.workspace:
            return f"; {format_bytes(self.workspace)} for each workspace of cuDNN"
        limit = workspace_limit(self.memory)
        most = f"with no limit ({WORKSPACE_LIMIT} sets one)" if limit is None else f"at most {format_bytes(limit)} each"
        return f"; workspaces of cuDNN come on top, one for a convolution forward and two backward, {most}"

    def build(self, batch_size: int) -> models.TrainingGraph:
        """Build the iteration for a batch size."""
        return models.build(self.network, batch_size, self.image_size, width=self.width, recompute=self.recompute)

    def profiled(self, batch_size: int) -> "Case":
        """Measure the functions of the network, with batches up to `batch_size` that fit in-core."""
        fitting = Growth(self.plan, FAR).estimate(in_core_needs, self.memory / 2)
        if fitting < 2:
            raise UserError(f"{self.network} cannot be measured: two images do not fit in-core in half of "
                            f"{format_bytes(self.memory)}; choose a smaller --image-size or --width")
        return attrs.evolve(self, profile=measure_profile(self.build, min(max(2, batch_size), PROFILED, fitting)))

    def plan(self, batch_size: int) -> Plan:
        """Plan an iteration without a budget."""
        return self.needs(batch_size)[0]

    def needs(self, batch_size: int) -> tuple[Plan, Sequence[Step]]:
        """Plan an iteration without a budget; returns it with the steps that it was made of."""
        graph = self.build(batch_size)
        needs = plan(graph.steps, graph.typed_inputs, backend=self.backend, workspace=self.workspace)
        return needs, graph.steps

    def predict(self, batch_size: int) -> tuple[Plan, Occupancy, Timeline]:
        """Plan the transfers within the memory: what they take of the device and the host, and when they happen."""
        needs, steps = self.needs(batch_size)
        memory = self.memory if self.backend == "cpu" else needs.affordable(self.memory, self.prefetch)
        swapped = plan_record(needs.record, memory, self.prefetch)
        occupancy = swapped.occupancy()
        seconds = self.profile.at(batch_size) if self.profile else estimated_seconds(swapped, steps, self.device)
        return swapped, occupancy, make_timeline(swapped, seconds, self.device, occupancy.mapped)


def show_plan(case: Case, batch_size: int, picture: str) -> Timeline:
    """Print the table of one batch size, and draw its timeline, which is returned."""
    growth = Growth(case.plan, FAR)
    needs = growth.plan(batch_size)
    parameters = sum(parameter.size for parameter in nn.get_parameters().values())
    print(f"batch {batch_size}: {needs.function_blocks} blocks of functions, {parameters:,} parameters")
    print_rows([("in-core, all arrays together", format_bytes(needs.in_core_bytes)),
                ("  taken of the device by the allocator", format_bytes(needs.occupancy().device_bytes)),
                ("smallest budget", f"{format_bytes(needs.minimum_budget)} ({needs.minimum_budget} bytes)"),
                ("  which is set by", needs.minimum_function)])
    print("\nlargest batch with " + format_bytes(case.memory) + ", and what each further image takes:")
    changed = {f"--recompute {level}": Growth(attrs.evolve(case, recompute=level).plan, FAR)
               for level in LEVELS if level != case.recompute}
    print_rows(what_if_rows(growth, case.memory, changed))
    swapped, occupancy, timeline = case.predict(batch_size)
    print(f"\nswapped, with {format_bytes(case.memory)}:")
    print_rows(memory_rows(case, swapped, occupancy) + timeline_rows(swapped, timeline, batch_size, case.device))
    plot_timeline(picture, swapped, timeline, case.memory, f"{case.network}, batch {batch_size}, {case.device.name}")
    return timeline


def memory_rows(case: Case, swapped: Plan, occupancy: Occupancy) -> list[tuple[str, str]]:
    """Rows of the table on the memory of a plan, on the device and on the host."""
    rows = [("peak as the scheduler counts it", format_bytes(swapped.peak_bytes))]
    rows.append(("  taken of the device", format_bytes(occupancy.device_bytes)))
    if case.backend != "cpu":
        mapped = swapped.occupancy(chunk_for(case.memory))
        rows.append(("  the same plan at virtual addresses", format_bytes(mapped.device_bytes)))
    on_host = format_bytes(occupancy.host_bytes)
    if case.host_memory is not None:
        fits = "fits" if occupancy.host_bytes <= case.host_memory else "does not fit"
        on_host += f", which {fits} into {format_bytes(case.host_memory)}"
    return [*rows, ("arrays on the host", on_host)]


def timeline_rows(swapped: Plan, timeline: Timeline, batch_size: int, device: Device) -> list[tuple[str, str]]:
    """Rows of the table on the transfers and times of a plan."""
    counts = swapped.counts()
    moved = {name: f"{number} arrays, {format_bytes(num_bytes)}" for name, (number, num_bytes) in counts.items()}
    bound = max(timeline.in_core_seconds, counts["swap_in"][1] / device.to_device)
    return [("to the GPU", moved["swap_in"]), ("to the host, at most", moved["swap_out"]),
            ("cleared ahead", moved["preclear"]),
            ("iteration", f"{timeline.seconds:.3f} s, of which nothing is computed for {timeline.stall:.3f} s; not "
                          f"below {bound:.3f} s"),
            ("speed", f"{batch_size / timeline.seconds:.4g} images/s, {timeline.share:.0%} of the in-core speed "
                      f"({batch_size / timeline.in_core_seconds:.4g} images/s)")]


def sweep(case: Case, picture: str) -> None:
    """Print and draw the predicted speed over batch sizes up to the largest that can be planned."""
    memory = case.memory
    growth = Growth(case.plan, FAR)
    largest, in_core = (growth.largest_batch(needs, memory) for needs in (swapped_needs, in_core_needs))
    if not largest:
        one = growth.plan(1)
        raise UserError(f"{case.network} does not fit: one image needs {one.minimum_budget} bytes "
                        f"({one.minimum_function}), and there are {memory}")
    batches = sorted({max(1, round(largest * (n + 1) / SWEEP_POINTS)) for n in range(SWEEP_POINTS)} | {max(1, in_core)})
    print(f"{format_bytes(memory)}: largest batch in-core {in_core}, swapped {largest}")
    rows = []
    for batch in batches:
        _, occupancy, timeline = case.predict(batch)
        rows.append((batch, batch / timeline.seconds, batch / timeline.in_core_seconds))
        print(f"  batch {batch:5d}: {rows[-1][1]:8.1f} images/s, {timeline.share:4.0%} of the in-core speed, "
              f"{format_bytes(occupancy.host_bytes)} on the host", flush=True)
    dominated = [batch for batch, speed, alone in rows if batch >= in_core and speed < DOMINATES * alone]
    print(f"copying dominates from batch {dominated[0]} of these" if dominated else "copying never dominates")
    plot_sweep(picture, rows, in_core, f"{case.network}, {format_bytes(memory)}, {case.device.name}")


def show_measured(case: Case, batch_size: int, timeline: Timeline) -> None:
    """Train some iterations, swapped on a GPU and in-core on a CPU, and print how far the prediction is."""
    memory = OutOfCore(case.memory, case.prefetch) if on_gpu() else InCore()
    predicted = timeline.seconds if on_gpu() else timeline.in_core_seconds
    network = case.build(batch_size)
    memory.attach(*(solver for _, solver in network.steps))
    arrays = RandomBatches(network, 1).arrays
    for _ in range(WARM_UP):
        memory.run(models.iterate, network, arrays)
    synchronize()
    started = time.perf_counter()
    for _ in range(ITERATIONS):
        memory.run(models.iterate, network, arrays)
    synchronize()
    measured = (time.perf_counter() - started) / ITERATIONS
    print_rows([("measured" if on_gpu() else "measured in-core",
                 f"{batch_size / measured:.4g} images/s; the prediction is off by {measured / predicted - 1:+.0%}")])


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    for name, value in rows:
        print(f"  {name:<46} {value}")


if __name__ == "__main__":
    cli.run(main)
