"""How the needed memory grows with the batch, the largest batch that fits, and changes that would raise it."""
from collections.abc import Callable, Sequence

import attrs

from common.out_of_core.device import format_bytes
from common.out_of_core.record import Access
from out_of_core_training.planner import Plan

Needs = Callable[[Plan], Sequence[float]]    # bytes that a plan needs in each of its blocks

# Functions whose output could take the place of an input, and the gradient of the input that of the output.
IN_PLACE = ("BatchNormalization", "ReLU", "LeakyReLU", "Tanh", "Sigmoid", "Add2", "Dropout")
# Functions that can be computed again in a small part of the time of a convolution.
CHEAP = (*IN_PLACE, "MaxPooling", "AveragePooling", "Concatenate", "Pad", "Reshape")
LIMIT = 1 << 20    # no batch is larger


class Growth:
    """The bytes that a network needs over the batch size: lines through the plans of two batches, and other plans.

    Parameters
    ----------
    plan_at
        Returns the plan for a batch size.
    batch
        From 2; the plan of this one and that of one image give the lines.
    """

    def __init__(self, plan_at: Callable[[int], Plan], batch: int) -> None:
        self._plan_at, self._plans = plan_at, {}
        self.batch = batch

    def plan(self, batch: int) -> Plan:
        """The plan for a batch size, made once."""
        if batch not in self._plans:
            self._plans[batch] = self._plan_at(batch)
        return self._plans[batch]

    def slopes(self, needs: Needs) -> list[float]:
        """Bytes that each block needs for a further image."""
        return [(many - one) / (self.batch - 1)
                for one, many in zip(needs(self.plan(1)), needs(self.plan(self.batch)), strict=True)]

    def estimate(self, needs: Needs, memory: float) -> int:
        """Largest batch with which every line is within `memory` bytes, 0 if there is none."""
        first = needs(self.plan(1))
        if max(first) > memory:
            return 0
        return min((1 + int((memory - one) / slope) for one, slope in zip(first, self.slopes(needs), strict=True)
                    if slope > 0), default=LIMIT)

    def largest_batch(self, needs: Needs, memory: float) -> int:
        """Largest batch that fits, 0 if there is none: it was planned and fits, the next one was planned and does not.

        The search begins at the estimate and goes on in growing steps.
        """
        low, high = 0, LIMIT + 1    # fits, does not fit
        trial, step = self.estimate(needs, memory), 1
        while high - low > 1:
            trial = min(max(trial, low + 1), high - 1)
            if max(needs(self.plan(trial))) <= memory:
                low, trial = trial, trial + step
            else:
                high, trial = trial, trial - step
            step *= 2
            if low and high <= LIMIT and not low < trial < high:
                trial = (low + high) // 2
        return low


def swapped_needs(plan: Plan) -> list[int]:
    """Bytes of each block: the largest one is the smallest budget."""
    return plan.block_bytes[1:]


def in_core_needs(plan: Plan) -> list[int]:
    """Bytes that live at a time in each block if nothing is swapped."""
    return plan.record.in_core()


def what_if_rows(growth: Growth, memory: float) -> list[tuple[str, str]]:
    """Rows of a table: the largest batch in `memory` bytes, as it is, and about that after each of three changes."""
    slopes = growth.slopes(swapped_needs)
    labels = growth.plan(1).labels[1:]
    kinds = sorted({_kind(label) for slope, label in zip(slopes, labels, strict=True) if slope > 0.99 * max(slopes)})

    def about(name: str, needs: Needs) -> tuple[str, int, Needs]:
        return name, growth.estimate(needs, memory), needs

    cases = [("swapped", growth.largest_batch(swapped_needs, memory), swapped_needs),
             about("swapped, elementwise functions in place, about", _in_place),
             about(f"swapped, halves of {', '.join(kinds)}, about", lambda plan: _halved(plan, kinds)),
             ("in-core", growth.largest_batch(in_core_needs, memory), in_core_needs),
             about("in-core, all but convolutions recomputed, about", _recomputed)]
    return [(name, f"{batch:6d}  ({format_bytes(max(growth.slopes(needs)))})") for name, batch, needs in cases]


def _kind(label):
    return label.split()[0]


def _in_place(plan):
    """Bytes of the blocks if the output of an elementwise function took the place of its input."""
    return [size - (_written(accesses) if _kind(label) in IN_PLACE else 0) for size, label, accesses in _blocks(plan)]


def _halved(plan, kinds):
    """Bytes of the blocks if functions of these kinds were computed in two halves."""
    return [size / 2 if _kind(label) in kinds else size for size, label, _ in _blocks(plan)]


def _blocks(plan):
    return list(zip(plan.block_bytes, plan.labels, plan.record.blocks, strict=True))[1:]


def _written(accesses):
    """Bytes of the largest array that is written."""
    return max((access.num_bytes for access in accesses if access.kind == "cast"), default=0)


def _recomputed(plan):
    """Bytes in-core if the outputs of cheap functions did not wait for the backward pass, but came again in it."""
    record = plan.record
    forward = [(number, label, accesses) for number, (label, accesses) in enumerate(
        zip(record.labels, record.blocks, strict=True)) if label.endswith("forward")]
    outputs = {access.array for _, label, accesses in forward if _kind(label) in CHEAP
               for access in accesses if access.kind == "cast"} - record.dtypes.keys()
    last = {access.array: (number, access.size) for number, _, accesses in forward
            for access in accesses if access.array in outputs}
    blocks = [list(accesses) for accesses in record.blocks]
    for array, (number, size) in last.items():
        blocks[number].append(Access("clear", array, size, "bool"))
    return attrs.evolve(record, blocks=blocks).in_core()
