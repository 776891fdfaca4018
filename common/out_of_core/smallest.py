"""The smallest budget of an iteration."""
import collections

from common.out_of_core.record import Record
from common.out_of_core.schedule import PlanError, make_schedule


def smallest_budget(record: Record) -> tuple[int, int]:
    """Smallest budget in bytes with which nnabla plans a record, and the index of the block that sets it.

    That is what the largest block needs (`Record.minimum`), but for inputs that are written in another type than they
    are read in. One that is used again before its swap-out has been waited for is back in both types, of which the plan
    keeps room for both. So with such inputs, plans are tried.
    """
    smallest, block = record.minimum()
    if not _converts_inputs(record):
        return smallest, block
    failure = _failure(record, smallest)
    if failure is None:
        return smallest, block
    too_small, enough = smallest, 2 * smallest
    while (worse := _failure(record, enough)) is not None:
        too_small, enough, failure = enough, 2 * enough, worse
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        worse = _failure(record, middle)
        if worse is None:
            enough = middle
        else:
            too_small, failure = middle, worse
    return enough, failure.block


def _converts_inputs(record):
    """Whether arrays that are written before the first function, and no others, are used in several types."""
    inputs = {access.array for access in record.blocks[0]} if record.blocks else set()
    used = collections.defaultdict(set)
    for access in (access for block in record.blocks for access in block if access.kind != "clear"):
        used[access.array].add(access.dtype)
    converted = {array for array, kinds in used.items() if len(kinds) > 1}
    return bool(converted) and converted <= inputs


def _failure(record, budget):
    """The error of planning with a budget; None if there is a plan."""
    try:
        make_schedule(record, budget)
    except PlanError as error:
        return error
    return None
