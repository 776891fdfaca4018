"""When an out-of-core iteration computes and copies: two copy streams beside the computation."""
import math
from collections.abc import Sequence

import attrs

from common.out_of_core.recorder import backward_functions, functions_of
from out_of_core_training.planner import Plan, Step
from out_of_core_training.planning.devices import Device


@attrs.frozen
class Timeline:
    """An iteration in time; all times in seconds from its start.

    Attributes
    ----------
    compute, swap_in, swap_out
        Start and end of each block, of each copy to the GPU, and of each copy to the host.
    seconds
        Length of the iteration.
    in_core_seconds
        What computation alone takes.
    """

    compute: list[tuple[float, float]]
    swap_in: list[tuple[float, float]]
    swap_out: list[tuple[float, float]]
    seconds: float
    in_core_seconds: float

    @property
    def stall(self) -> float:
        """Seconds in which nothing is computed."""
        return self.seconds - self.in_core_seconds

    @property
    def share(self) -> float:
        """Speed as a share of the speed in-core."""
        return self.in_core_seconds / self.seconds if self.seconds else 1.0


def make_timeline(plan: Plan, seconds: Sequence[float], link: float) -> Timeline:
    """Lay out the events of a plan in time.

    A block begins when the one before has ended and its arrays have arrived; a copy to the host begins when its block
    has ended; copies of one direction follow each other; a wait holds up all that comes later. An array that was only
    read since it came needs no copy back, since the host still has it.

    Parameters
    ----------
    plan
        Made with a budget.
    seconds
        What each block computes for.
    link
        Bytes per second each way.
    """
    written = _written(plan)
    arrived, gone = {}, {}
    issued = computed = incoming = outgoing = 0.0
    compute, swap_in, swap_out = [], [], []
    schedule = plan.transfers
    for block, accesses in enumerate(plan.record.blocks):
        for event in schedule.begin[block]:
            if event.kind == "wait":
                issued = max(issued, gone[event.index])
            else:
                start = max(incoming, issued)
                incoming = start + event.access.num_bytes / link
                swap_in.append((start, incoming))
                arrived[event.access.array] = incoming
        start = max(computed, issued, *(arrived.get(access.array, 0.0) for access in accesses), 0.0)
        computed = start + seconds[block]
        compute.append((start, computed))
        for event in schedule.end[block]:
            if event.kind == "out":
                start = max(outgoing, computed)
                num_bytes = event.access.num_bytes if event.index in written else 0
                outgoing = start + num_bytes / link
                gone[event.index] = outgoing
                swap_out.append((start, outgoing))
    return Timeline(compute, swap_in, swap_out, max(computed, outgoing, issued), sum(seconds))


def _written(plan):
    """Indices of the swap-outs that copy: of arrays that were written since they came."""
    ends = {event.index for events in plan.transfers.end for event in events if event.kind == "out"}
    fetched = {event.index for events in plan.transfers.begin for event in events if event.kind == "in"}
    changed, copied = set(), set()
    for index, access in enumerate(access for block in plan.record.blocks for access in block):
        if index in fetched:
            changed.discard(access.array)
        if access.kind == "cast" or access.creates:
            changed.add(access.array)
        if index in ends and access.array in changed:
            copied.add(index)
    return copied


def estimated_seconds(plan: Plan, steps: Sequence[Step], device: Device) -> list[float]:
    """Seconds of each block by the rates of a device: what arithmetic takes, or memory if that takes longer.

    Parameters
    ----------
    plan, steps
        The plan, and what `out_of_core_training.planner.plan` made it of.
    device
        Whose rates count.

    Returns
    -------
    list of float
        One for each block; 0 for the inputs.
    """
    operations = [0.0]
    for loss, _ in steps:
        operations += [_operations(f) for f in functions_of(loss)]
        operations += [_operations(f) * _products_backward(f) for f in backward_functions(loss)]
        operations += [0.0] * _solver_blocks(plan, len(operations))
    return [max(count / device.flops, size / device.bandwidth) if block else 0.0
            for block, (count, size) in enumerate(zip(operations, plan.block_bytes, strict=True))]


def _solver_blocks(plan, start):
    """Number of blocks from `start` that are a solver's."""
    count = 0
    while start + count < len(plan.labels) and plan.labels[start + count].startswith(("update of", "weight_decay of")):
        count += 1
    return count


def _operations(f):
    """Multiplications and additions of a function forward, where they are what takes time."""
    if f.info.type_name == "Convolution":
        return 2 * math.prod(f.inputs[1].shape[1:]) * f.outputs[0].size
    if f.info.type_name == "Deconvolution":
        return 2 * math.prod(f.inputs[1].shape[1:]) * f.inputs[0].size
    if f.info.type_name == "Affine":
        return 2 * f.inputs[1].shape[0] * f.outputs[0].size
    return 0


def _products_backward(f):
    """As many products of the forward's size as there are gradients of its first two inputs."""
    return sum(v.need_grad for v in f.inputs[:2])
