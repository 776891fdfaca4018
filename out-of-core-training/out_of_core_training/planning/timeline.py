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
        What computation alone takes. In-core, the inputs are written while the GPU is still busy with the iteration
        before; a swapped iteration ends with a synchronization, and they come after it.
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


def make_timeline(plan: Plan, seconds: Sequence[float], device: Device, mapped: Sequence[int] = ()) -> Timeline:
    """Lay out the events of a plan in time, as nnabla's streams order them.

    There are three streams: one computes, two copy. A copy begins when the copy before it in its direction has ended
    and all has been computed that was asked for before it. A block begins when the one before has ended, its arrays
    have arrived, and the swap-outs that are waited for before it have ended. An array that was only read since it came
    needs no copy back, since the host still has it. Inputs come first, before anything else happens.

    Parameters
    ----------
    plan
        Made with a budget.
    seconds
        What each block computes for; of the first one, what the inputs take.
    device
        Has the rates of the link.
    mapped
        Chunks of virtual memory that are mapped in each block; none if not given.
    """
    written = _written(plan)
    arrived, gone = {}, {}
    computed = incoming = outgoing = 0.0
    compute, swap_in, swap_out = [], [], []
    schedule = plan.transfers
    mapping = [device.mapping * count for count in mapped] or [0.0] * (len(plan.record.blocks) + 1)
    for block, accesses in enumerate(plan.record.blocks):
        for event in schedule.begin[block]:
            if event.kind == "wait":
                computed = max(computed, gone[event.index])
            else:
                start = max(incoming, computed)
                incoming = start + event.access.num_bytes / device.to_device
                swap_in.append((start, incoming))
                arrived[event.access.array] = incoming
        start = max(computed, *(arrived.get(access.array, 0.0) for access in accesses), 0.0) + mapping[block]
        computed = start + seconds[block]
        compute.append((start, computed))
        for event in schedule.end[block]:
            if event.kind == "out":
                start = max(outgoing, computed)
                num_bytes = event.access.num_bytes if event.index in written else 0
                outgoing = start + num_bytes / device.to_host
                gone[event.index] = outgoing
                swap_out.append((start, outgoing))
    end = max(computed, incoming, outgoing) + mapping[-1]
    return Timeline(compute, swap_in, swap_out, end, sum(seconds[1:]))


def functions_ahead(plan: Plan) -> list[int]:
    """Return how far the window reaches in each block: blocks up to the last for which an array has been fetched."""
    block_of = [block for block, accesses in enumerate(plan.record.blocks) for _ in accesses]
    fetched, ahead = 0, []
    for block in range(len(plan.record.blocks)):
        used = [block_of[event.index] for event in plan.transfers.begin[block] if event.kind == "in"]
        fetched = max(fetched, block, *used)
        ahead.append(fetched - block)
    return ahead


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
        One for each block; of the first one, what writing the inputs takes.
    """
    operations = [0.0]
    for loss, _ in steps:
        operations += [_operations(f) for f in functions_of(loss)]
        operations += [_operations(f) * _products_backward(f) for f in backward_functions(loss)]
        operations += [0.0] * _solver_blocks(plan, len(operations))
    sizes = _own_bytes(plan)
    alone = [max(count / device.flops, size / device.bandwidth) if block else size / device.input_rate
             for block, (count, size) in enumerate(zip(operations, sizes, strict=True))]
    repeated = {block: sum(alone[forward] for forward in again) for block, (_, again) in plan.record.again.items()}
    return [seconds + repeated.get(block, 0.0) for block, seconds in enumerate(alone)]


def _own_bytes(plan):
    """Bytes of the arrays of each block, without what is computed again at its end."""
    record = plan.record
    own = [accesses[:record.again[block][0]] if block in record.again else accesses
           for block, accesses in enumerate(record.blocks)]
    return attrs.evolve(record, blocks=own).block_bytes()


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
