"""How the needed memory grows with the batch, the largest batch that fits, and changes that would raise it."""
from collections.abc import Callable, Mapping, Sequence

from common.out_of_core.device import format_bytes
from out_of_core_training.planner import Plan

Needs = Callable[[Plan], Sequence[float]]    # bytes that a plan needs in each of its blocks

# Functions whose output could take the place of an input, and the gradient of the input that of the output.
IN_PLACE = ("BatchNormalization", "ReLU", "LeakyReLU", "Tanh", "Sigmoid", "Add2", "Dropout")
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
    """Least budget of each block: the largest one is the smallest budget."""
    return plan.record.needs()[1:]


def in_core_needs(plan: Plan) -> list[int]:
    """Bytes that live at a time in each block if nothing is swapped."""
    return plan.record.in_core()


def what_if_rows(growth: Growth, memory: float, changed: Mapping[str, Growth]) -> list[tuple[str, str]]:
    """Rows of a table: the largest batch in `memory` bytes, as it is, and about that after changes.

    `changed` has the growth of the same network with other flags, by their names.
    """
    slopes = growth.slopes(swapped_needs)
    labels = growth.plan(1).labels[1:]
    kinds = sorted({_kind(label) for slope, label in zip(slopes, labels, strict=True) if slope > 0.99 * max(slopes)})

    def about(name: str, needs: Needs, growth: Growth = growth) -> tuple[str, int, Needs, Growth]:
        return f"{name}, about", growth.estimate(needs, memory), needs, growth

    def planned(name: str, needs: Needs) -> tuple[str, int, Needs, Growth]:
        return name, growth.largest_batch(needs, memory), needs, growth

    cases = [planned("swapped", swapped_needs),
             about("swapped, elementwise functions in place", _in_place),
             about(f"swapped, halves of {', '.join(kinds)}", lambda plan: _halved(plan, kinds)),
             *(about(f"swapped, {flags}", swapped_needs, other) for flags, other in changed.items()),
             planned("in-core", in_core_needs),
             *(about(f"in-core, {flags}", in_core_needs, other) for flags, other in changed.items())]
    return [(name, f"{batch:6d}  ({format_bytes(max(of.slopes(needs)))})") for name, batch, needs, of in cases]


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
