"""How the needed memory grows with the batch, the largest batch that fits, and changes that would raise it."""
from collections.abc import Callable, Sequence

from common.out_of_core.device import format_bytes
from out_of_core_training.planner import Plan

Line = tuple[float, float]    # bytes for one image, and for each further one

# Functions whose output could take the place of an input, and the gradient of the input that of the output.
IN_PLACE = ("BatchNormalization", "ReLU", "LeakyReLU", "Tanh", "Sigmoid", "Add2", "Dropout")
# Functions that can be computed again in a small part of the time of a convolution.
CHEAP = (*IN_PLACE, "MaxPooling", "AveragePooling", "Concatenate", "Pad", "Reshape")


class Growth:
    """The bytes that a network needs as straight lines over the batch size, from the plans of two batches.

    Parameters
    ----------
    one, many
        For one image and for `batch_size` images.
    batch_size
        From 2.

    Attributes
    ----------
    blocks, in_core
        Bytes for one image, and for each further one. `blocks` has a line for each function block, `in_core` one for
        the arrays that live at the same time.
    """

    def __init__(self, one: Plan, many: Plan, batch_size: int) -> None:
        self.one, self.many, self.batch_size = one, many, batch_size
        self.blocks = self.lines(lambda plan: plan.block_bytes[1:])
        self.in_core = self.lines(lambda plan: [plan.in_core_bytes])

    def lines(self, needs: Callable[[Plan], Sequence[float]]) -> list[Line]:
        """Lines through the bytes that `needs` returns for each of the two plans."""
        return [(first, (last - first) / (self.batch_size - 1))
                for first, last in zip(needs(self.one), needs(self.many), strict=True)]

    @staticmethod
    def largest_batch(lines: Sequence[Line], memory: float) -> int:
        """Largest batch with which every line is within `memory` bytes, 0 if there is none."""
        if any(first > memory for first, _ in lines):
            return 0
        return min(1 + int((memory - first) / slope) for first, slope in lines if slope > 0)


def what_if_rows(growth: Growth, memory: float) -> list[tuple[str, str]]:
    """Rows of a table: the largest batch in `memory` bytes, as it is and after each of three changes."""
    steepest = max(slope for _, slope in growth.blocks)
    kinds = sorted({_kind(label) for (_, slope), label in zip(growth.blocks, growth.one.labels[1:], strict=True)
                    if slope > 0.99 * steepest})
    cases = [("swapped", growth.blocks),
             ("swapped, elementwise functions in place", growth.lines(_in_place)),
             (f"swapped, halves of {', '.join(kinds)}", growth.lines(lambda plan: _halved(plan, kinds))),
             ("in-core", growth.in_core),
             ("in-core, all but convolutions recomputed", growth.lines(lambda plan: [_recomputed(plan)]))]
    return [(name, f"{growth.largest_batch(lines, memory):6d}  ({format_bytes(max(slope for _, slope in lines))})")
            for name, lines in cases]


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
    """Bytes in-core without the outputs of cheap functions, which otherwise wait for the backward pass."""
    cleared = {access.array for _, label, accesses in _blocks(plan) if label.endswith("forward")
               for access in accesses if access.kind == "clear"}
    waiting = 0
    for _, label, accesses in _blocks(plan):
        written = [access for access in accesses if access.kind == "cast" and access.array not in cleared]
        if label.endswith("forward") and _kind(label) in CHEAP and written:
            waiting += max(access.num_bytes for access in written)
    return plan.in_core_bytes - waiting
