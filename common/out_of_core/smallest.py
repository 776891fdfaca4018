"""The smallest budget of an iteration."""
import bisect
import collections
from collections.abc import Callable

from common.out_of_core.record import BYTES, Record
from common.out_of_core.schedule import PlanError, make_schedule


def smallest_budget(record: Record) -> tuple[int, int]:
    """Smallest budget in bytes with which nnabla plans a record, and the index of the block that sets it.

    That is what the largest block needs (`Record.minimum`), but for arrays that are written in one type and read in
    another. One that is used again before its swap-out has been waited for is back in both types, of which the plan
    keeps room for both. So with such arrays, plans are tried.
    """
    smallest, block = record.minimum()
    types = _types_of_converted(record)
    failure = _failure(record, smallest) if types else None
    if failure is None:
        return smallest, block

    def is_enough(budget):
        nonlocal failure
        error = _failure(record, budget)
        failure = error or failure
        return error is None

    # As a rule it is what a block needs with all types of its arrays: few plans then find it, and confirm it.
    likely = sorted(need for need in _needs_in_all_types(record, types) if need > smallest)
    index = bisect.bisect_left(likely, True, key=is_enough)
    too_small = likely[index - 1] if index else smallest
    enough = likely[index] if index < len(likely) else _doubled_until(is_enough, 2 * too_small)
    if is_enough(enough - 1):
        enough = too_small + 1 + bisect.bisect_left(range(too_small + 1, enough), True, key=is_enough)
    return enough, failure.block


def _types_of_converted(record):
    """Bytes of each type of the arrays that are used in several, {array: {dtype: bytes}}."""
    sizes = collections.defaultdict(dict)
    for access in (access for block in record.blocks for access in block if access.kind != "clear"):
        sizes[access.array][access.dtype] = access.size * BYTES[access.dtype]
    return {array: kinds for array, kinds in sizes.items() if len(kinds) > 1}


def _needs_in_all_types(record, types):
    """What blocks with arrays of several types need if all types of these lie there."""
    needs = set()
    for block, need in zip(record.blocks, record.needs(), strict=True):
        used = collections.defaultdict(set)
        for access in (access for access in block if access.kind != "clear" and access.array in types):
            used[access.array].add(access.dtype)
        needs.add(need + sum(num_bytes for array, here in used.items() for dtype, num_bytes in types[array].items()
                             if dtype not in here))
    return needs


def _doubled_until(is_enough: Callable[[int], bool], budget: int) -> int:
    while not is_enough(budget):
        budget *= 2
    return budget


def _failure(record, budget):
    """The error of planning with a budget; None if there is a plan."""
    try:
        make_schedule(record, budget)
    except PlanError as error:
        return error
    return None
