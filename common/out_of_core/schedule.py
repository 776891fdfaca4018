"""The window scheduler of out-of-core training (arXiv 2010.14109) as nnabla 1.39 runs it, on a record of accesses.

nnabla's `SwapInOutScheduler` makes its plan from the record of one iteration and says nothing about it. This port makes
the same plan from the same record, event for event, without running anything.
"""
import collections

import attrs

from common.out_of_core.record import BYTES, Access, Record

_WORD = 2**64    # nnabla counts bytes in unsigned words, and a difference below zero comes out huge

# States of an array in one dtype. PLANNED: is to be written by the function itself, its room is reserved when its block
# comes. DROPPED: a copy beside the one that goes out.
_NONE, _IN, _OUT, _PLANNED, _WAITED, _DROPPED = "none", "in", "out", "planned", "waited", "dropped"


class PlanError(Exception):
    """No plan exists for this budget.

    Attributes
    ----------
    block : int
        The function block that has no room.
    reason : str
        The last line of nnabla's own error.
    """

    def __init__(self, block: int, reason: str) -> None:
        super().__init__(reason)
        self.block, self.reason = block, reason


@attrs.frozen
class Event:
    """A step of the plan: `in`, `out`, `wait` (for an `out`) or `preclear`, for the array of access `index`."""

    kind: str
    index: int
    access: Access


@attrs.frozen
class Schedule:
    """The plan of an iteration.

    Attributes
    ----------
    begin, end
        What happens before and after each block. `begin` has one more, for the end of the iteration.
    peak_bytes
        Most bytes that are on the GPU or on their way out at a time, as the scheduler counts them.
    resident
        Bytes on the GPU or on their way out while each block runs.
    """

    begin: list[list[Event]]
    end: list[list[Event]]
    peak_bytes: int
    resident: list[int]

    def count(self, kind: str) -> tuple[int, int]:
        """Number of events of a kind in an iteration, and the sum of their bytes."""
        events = [event for events in self.begin + self.end for event in events if event.kind == kind]
        return len(events), sum(event.access.num_bytes for event in events)


def make_schedule(record: Record, budget: float, prefetch: float | None = None,
                  save_host_memory: bool = False) -> Schedule:
    """Plan the transfers of an iteration.

    Parameters
    ----------
    record
    budget
        Bytes of the GPU that arrays may take.
    prefetch
        Bytes of the window in which arrays are fetched ahead; 1.5 times the budget if it is None.
    save_host_memory
        Whether an array on the GPU gives up its copy on the host.

    Raises
    ------
    PlanError
        The budget or the window is too small.
    """
    planner = _Planner(record, int(budget), int(budget * 1.5 if prefetch is None else prefetch), save_host_memory)
    while not planner.try_plan():
        pass
    return Schedule(planner.begin, planner.end, planner.peak, planner.resident)


def limit_too_small(budget: int, prefetch: int | None, smallest: int) -> str:
    """Name the limit that leaves no plan, with its bytes.

    Parameters
    ----------
    budget, prefetch
        As for `make_schedule`.
    smallest
        Smallest feasible budget in bytes. The window must be as large: it counts what is on the GPU, too.
    """
    if prefetch is not None and prefetch < budget and smallest <= budget:
        return f"prefetch window {prefetch} bytes"
    return f"budget {budget} bytes"


class _State:
    __slots__ = ("count", "tag", "out_index")

    def __init__(self) -> None:
        self.count: int = 0
        self.tag: str = _NONE
        self.out_index: int | None = None


class _Planner:
    """A plan while it is made; the methods are nnabla's steps.

    `head` and `tail` are positions in the list of accesses: the next one to prefetch, and the oldest swap-out that has
    not been waited for. `used`, `leaving` and `window` are bytes: on the GPU, on their way out, in the window.
    """

    def __init__(self, record: Record, budget: int, prefetch: int, save_host_memory: bool) -> None:
        self.budget, self.prefetch, self.save_host_memory = budget, prefetch, save_host_memory
        self.order = [access for block in record.blocks for access in block]
        self.ends, total = [], 0
        for block in record.blocks:
            total += len(block)
            self.ends.append(total)
        self.first_dtypes = record.dtypes
        self.forbidden_before = [1] * len(self.order)    # block from which each access may be prefetched
        self.clears = _clears(self.order, self.ends)
        self.converted = _converted(self.order, self.first_dtypes) if save_host_memory else set()

    def try_plan(self) -> bool:
        """Make the plan; False if prefetches had to be forbidden and it must be made again."""
        self.begin: list[list[Event]] = [[] for _ in range(len(self.ends) + 1)]
        self.end: list[list[Event]] = [[] for _ in self.ends]
        self.dtypes = dict(self.first_dtypes)    # array -> dtype of its valid copy, or of the last one that it had
        self.valid = set(self.first_dtypes)
        self.states = collections.defaultdict(dict)
        self.head = self.tail = self.block = 0
        self.used = self.leaving = self.window = self.peak = 0
        self.resident = []
        self._enter()
        for block in range(1, len(self.ends)):
            self.block = block
            self._swap_in()
            if not self._reserve():
                return False
            if self.head < self.ends[self.block]:
                raise PlanError(
                    self.block, "Some arrays were not prefetched probably due to out of GPU memory.")
            self._note_peak()
            self.resident.append(self.used + self.leaving)
            self._follow_dtypes()
            if self.block == 1:
                self._swap_out(0)
            self._swap_out(self.block)
        self.block = len(self.ends)
        while self.tail < len(self.order):
            self._wait()
        return True

    def _state(self, access):
        return self.states[access.array].setdefault(access.dtype, _State())

    def _uses(self, array):
        """Number of uses of an array between the current block and the head."""
        return sum(state.count for state in self.states[array].values())

    def _note_peak(self):
        self.peak = max(self.peak, self.used + self.leaving)

    def _enter(self):
        """Count what block 0 leaves on the GPU."""
        for access in self.order[:self.ends[0]] if self.ends else ():
            self.head += 1
            if access.kind == "clear":
                continue
            self._follow_dtype(access)
            state = self._state(access)
            if not state.count:
                self.used += access.num_bytes
                self.window += access.num_bytes
                state.tag = _IN
            state.count += 1
        self._note_peak()

    def _swap_in(self):
        """Move the head on over the uses that the budget and the window have room for."""
        while self.head < len(self.order):
            access = self.order[self.head]
            if access.kind != "clear":
                if self.forbidden_before[self.head] > self.block:
                    return
                state = self._state(access)
                if not state.count and not self._fetch(access, state):
                    return
                state.count += 1
            self.head += 1

    def _fetch(self, access, state):
        """Plan how an array comes to the GPU that is not in the window yet; False if it has no room."""
        num_bytes = access.num_bytes
        if self.window + num_bytes > self.prefetch or self.used + num_bytes > self.budget:
            return False
        if state.tag in (_OUT, _DROPPED):
            self._cancel_swap_out(access)
        elif not access.transfers:
            self.window += num_bytes
            state.tag = _PLANNED
        else:
            converted = 0    # bytes of the copy that the wanted one is made from
            if access.array in self.valid and self.dtypes[access.array] != access.dtype:
                converted = access.size * BYTES[self.dtypes[access.array]]
            if self.used + num_bytes + converted > self.budget:
                return False
            self._make_room(num_bytes + converted)
            self.begin[self.block].append(Event("in", self.head, access))
            self._note_dtype_of_fetch(access)
            self.used += num_bytes
            self.window += num_bytes
            state.tag = _IN
            self._note_peak()
        return True

    def _note_dtype_of_fetch(self, access):
        by_cast = self.save_host_memory and (
            access.array not in self.converted or access.kind == "cast" and not self._uses(access.array))
        if by_cast:
            self.valid.add(access.array)
        if by_cast or access.array not in self.valid:
            self.dtypes[access.array] = access.dtype

    def _cancel_swap_out(self, access):
        for events in reversed(self.end):
            position = next((i for i in reversed(range(len(events))) if events[i].kind == "out"
                             and events[i].access.array == access.array), None)
            if position is not None:
                del events[position]
                break
        for dtype, state in self.states[access.array].items():
            if state.tag in (_OUT, _DROPPED):
                num_bytes = access.size * BYTES[dtype]
                self.leaving -= num_bytes if state.tag == _OUT else 0
                self.used += num_bytes
                self.window += num_bytes
                state.tag = _IN

    def _make_room(self, num_bytes):
        """Wait for swap-outs until so many bytes are free, or none is left before this block."""
        while self.used + self.leaving + num_bytes > self.budget and self.tail != self.ends[self.block - 1]:
            self._wait()

    def _wait(self):
        access = self.order[self.tail]
        state = self._state(access)
        if state.tag in (_OUT, _DROPPED) and state.out_index == self.tail:
            self.begin[self.block].append(Event("wait", self.tail, access))
            for dtype, other in self.states[access.array].items():
                if other.tag == _OUT:
                    self.leaving -= access.size * BYTES[dtype]
                    other.tag = _WAITED
                elif other.tag == _DROPPED:
                    other.tag = _NONE
            state.out_index = None
        self.tail += 1

    def _reserve(self):
        """Give room to what this block writes without having been fetched; False if prefetches had to go."""
        start, stop = self.ends[self.block - 1], self.ends[self.block]
        planned = [access for access in self.order[start:stop]
                   if access.kind != "clear" and self._state(access).tag == _PLANNED]
        needed = sum({(access.array, access.dtype): access.num_bytes for access in planned}.values())
        while needed and (free := (self.budget - self.used - self.leaving) % _WORD) < needed:
            if self.tail == start:
                self._cancel_prefetches(needed, free)
                return False
            self._wait()
        self.used += needed
        for access in planned:
            self._state(access).tag = _IN
        return True

    def _cancel_prefetches(self, needed, free):
        """Go back from the head and forbid the last prefetches to come before the next block, until there is room."""
        uses = {array: sum(state.count for state in states.values()) for array, states in self.states.items()}
        head = self.head
        while head >= self.ends[self.block]:
            head -= 1
            access = self.order[head]
            if access.kind == "clear":
                continue
            if uses[access.array] == 1:
                free += sum(access.size * BYTES[dtype] for dtype, state in self.states[access.array].items()
                            if state.tag == _IN)
                self.forbidden_before[head] = self.block + 1
            if free >= needed:
                return
            uses[access.array] -= 1
        if free < needed:
            raise PlanError(self.block, "A function is out of memory.")

    def _follow_dtypes(self):
        for access in self.order[self.ends[self.block - 1]:self.ends[self.block]]:
            self._follow_dtype(access)

    def _follow_dtype(self, access):
        if access.kind == "clear":
            self.valid.discard(access.array)
        elif access.kind == "cast" or access.array not in self.valid:
            self.valid.add(access.array)
            self.dtypes[access.array] = access.dtype

    def _swap_out(self, block):
        """Plan what happens after the last use of each array of a block."""
        for index in range(self.ends[block - 1] if block else 0, self.ends[block]):
            access = self.order[index]
            if access.kind == "clear":
                continue
            if self._uses(access.array) == 1:
                if index in self.clears[block]:
                    self._forget(access)
                    if self.clears[block][index]:
                        self.end[block].append(Event("preclear", index, access))
                        self.valid.discard(access.array)
                elif access.temporary:
                    self._forget(access)
                    self.valid.discard(access.array)
                else:
                    self._send_out(block, index, access)
            self._state(access).count -= 1

    def _forget(self, access):
        for dtype, state in self.states[access.array].items():
            if state.tag == _IN:
                self.used -= access.size * BYTES[dtype]
                self.window -= access.size * BYTES[dtype]
            state.tag = _NONE

    def _send_out(self, block, index, access):
        self.end[block].append(Event("out", index, access))
        for dtype, state in self.states[access.array].items():
            if state.tag != _IN:
                continue
            num_bytes = access.size * BYTES[dtype]
            self.used -= num_bytes
            self.window -= num_bytes
            state.out_index = index
            if dtype == self.dtypes.get(access.array):
                self.leaving += num_bytes
                state.tag = _OUT
            else:
                state.tag = _DROPPED


def _clears(order, ends):
    """For each block, the accesses after which their array is cleared unused: index -> whether in a later block."""
    found = [{} for _ in ends]
    cleared_in = {}    # array -> block of the clear that comes next
    for block in range(len(ends) - 1, 1, -1):
        ends_with_clear = {}
        for index in range(ends[block] - 1, ends[block - 1] - 1, -1):
            access = order[index]
            ends_with_clear.setdefault(access.array, access.kind == "clear")
            if access.kind == "clear":
                cleared_in[access.array] = block
            elif access.array in cleared_in:
                later = cleared_in.pop(access.array) > block
                if later or ends_with_clear[access.array]:
                    found[block][index] = later
    return found


def _converted(order, dtypes):
    """Arrays that are used in several dtypes; nnabla counts a clear as a use in bool."""
    used = collections.defaultdict(set)
    for access in order:
        used[access.array].add(access.dtype)
    for array, dtype in dtypes.items():
        used[array].add(dtype)
    return {array for array, kinds in used.items() if len(kinds) > 1}
