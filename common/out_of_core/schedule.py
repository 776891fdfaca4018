"""The window scheduler of out-of-core training (arXiv 2010.14109) as nnabla 1.39 runs it, on a record of accesses.

nnabla's `SwapInOutScheduler` makes its plan from the record of one iteration and says nothing about it. This port makes
the same plan from the same record, event for event, without running anything.
"""
import copy

import attrs

from common.out_of_core.order import Order
from common.out_of_core.record import BYTES, Access, Record

_WORD = 2**64    # nnabla counts bytes in unsigned words, and a difference below zero comes out huge

_SAVED = 64    # plans that are kept on the way, at most, to go on from

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
    saved = [planner.copy()]
    while (forbidden := planner.plan(saved)) is not None:
        # nnabla plans again from the first block. The plan stays as it was up to where the head passed this access.
        while saved[-1].head > forbidden:
            saved.pop()
        planner = saved[-1].copy()
    return planner.schedule()


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


class _Planner:
    """A plan while it is made; the methods are nnabla's steps.

    `head` and `tail` are positions in the list of accesses: the next one to prefetch, and the oldest swap-out that has
    not been waited for. `used`, `leaving` and `window` are bytes: on the GPU, on their way out, in the window.

    For each pair of array and dtype there is a state, its number of uses between the current block and the head, and
    the access after which it was last sent out. `uses` has the numbers for the arrays.
    """

    def __init__(self, record: Record, budget: int, prefetch: int, save_host_memory: bool) -> None:
        self.budget, self.prefetch, self.save_host_memory = budget, prefetch, save_host_memory
        self.order = Order(record)
        self.accesses, self.ends, self.pairs = self.order.accesses, self.order.ends, self.order.pairs
        self.forbidden_before = [1] * len(self.accesses)    # block from which each access may be prefetched
        self.clears = self.order.clears()
        self.converted = self.order.converted(record.dtypes) if save_host_memory else set()
        self.dtypes = dict(record.dtypes)    # array -> dtype of its valid copy, or of the last one that it had
        self.valid = set(record.dtypes)
        num_pairs = len(self.order.dtypes)
        self.states, self.counts = [_NONE] * num_pairs, [0] * num_pairs
        self.sent_after: list[int | None] = [None] * num_pairs
        self.uses = dict.fromkeys(self.order.pairs_of, 0)
        self.begun: list[tuple[int, str, int]] = []    # block, kind and access of the events before blocks
        self.ended: list[str | None] = [None] * len(self.accesses)    # kind of each access's event after its block
        self.last_out: dict[int, int] = {}             # array -> access of its last swap-out
        self.resident: list[int] = []
        self.block = self.head = self.tail = 0
        self.used = self.leaving = self.window = self.peak = 0
        self._enter()

    def copy(self) -> "_Planner":
        """Another planner as far as this one is. What is forbidden holds for both."""
        other = copy.copy(self)
        for name in ("dtypes", "valid", "states", "counts", "sent_after", "uses", "begun", "ended", "last_out",
                     "resident"):
            setattr(other, name, getattr(self, name).copy())
        return other

    def plan(self, saved: list["_Planner"]) -> int | None:
        """Plan the blocks that are left, and save copies on the way.

        Returns
        -------
        int or None
            If prefetches had to be forbidden, the first access of which that is so; the plan ends there unfinished.
        """
        for block in range(self.block + 1, len(self.ends)):
            self.block = block
            self._swap_in()
            if (forbidden := self._reserve()) is not None:
                return forbidden
            if self.head < self.ends[block]:
                raise PlanError(block, "Some arrays were not prefetched probably due to out of GPU memory.")
            self._note_peak()
            self.resident.append(self.used + self.leaving)
            self._follow_dtypes()
            if block == 1:
                self._swap_out(0)
            self._swap_out(block)
            if block % (1 + len(self.ends) // _SAVED) == 0:
                saved.append(self.copy())
        self.block = len(self.ends)
        while self.tail < len(self.accesses):
            self._wait()
        return None

    def schedule(self) -> Schedule:
        """The plan, once it is finished."""
        begin: list[list[Event]] = [[] for _ in range(len(self.ends) + 1)]
        for block, kind, index in self.begun:
            begin[block].append(Event(kind, index, self.accesses[index]))
        starts = [0, *self.ends]
        end = [[Event(kind, index, self.accesses[index]) for index in range(start, stop)
                if (kind := self.ended[index]) is not None] for start, stop in zip(starts, self.ends, strict=False)]
        return Schedule(begin, end, self.peak, self.resident)

    def _note_peak(self):
        self.peak = max(self.peak, self.used + self.leaving)

    def _bytes(self, access, pair):
        """Bytes of the array of an access in the dtype of a pair."""
        return access.size * self.order.element_bytes[pair]

    def _count(self, access, pair, change):
        self.counts[pair] += change
        self.uses[access.array] += change

    def _enter(self):
        """Count what block 0 leaves on the GPU."""
        for access, pair in zip(self.accesses[:self.ends[0]] if self.ends else (), self.pairs, strict=False):
            self.head += 1
            if access.kind == "clear":
                continue
            self._follow_dtype(access)
            if not self.counts[pair]:
                self.used += access.num_bytes
                self.window += access.num_bytes
                self.states[pair] = _IN
            self._count(access, pair, 1)
        self._note_peak()

    def _swap_in(self):
        """Move the head on over the uses that the budget and the window have room for."""
        while self.head < len(self.accesses):
            access, pair = self.accesses[self.head], self.pairs[self.head]
            if access.kind != "clear":
                if self.forbidden_before[self.head] > self.block:
                    return
                if not self.counts[pair] and not self._fetch(access, pair):
                    return
                self._count(access, pair, 1)
            self.head += 1

    def _fetch(self, access, pair):
        """Plan how an array comes to the GPU that is not in the window yet; False, and no change, if it has no room."""
        num_bytes = access.num_bytes
        if self.window + num_bytes > self.prefetch or self.used + num_bytes > self.budget:
            return False
        if self.states[pair] in (_OUT, _DROPPED):
            self._cancel_swap_out(access)
        elif not access.transfers:
            self.window += num_bytes
            self.states[pair] = _PLANNED
        else:
            converted = 0    # bytes of the copy that the wanted one is made from
            if access.array in self.valid and self.dtypes[access.array] != access.dtype:
                converted = access.size * BYTES[self.dtypes[access.array]]
            if self.used + num_bytes + converted > self.budget:
                return False
            self._make_room(num_bytes + converted)
            self.begun.append((self.block, "in", self.head))
            self._note_dtype_of_fetch(access)
            self.used += num_bytes
            self.window += num_bytes
            self.states[pair] = _IN
            self._note_peak()
        return True

    def _note_dtype_of_fetch(self, access):
        by_cast = self.save_host_memory and (
            access.array not in self.converted or access.kind == "cast" and not self.uses[access.array])
        if by_cast:
            self.valid.add(access.array)
        if by_cast or access.array not in self.valid:
            self.dtypes[access.array] = access.dtype

    def _cancel_swap_out(self, access):
        self.ended[self.last_out[access.array]] = None
        for pair in self.order.pairs_of[access.array]:
            if self.states[pair] in (_OUT, _DROPPED):
                num_bytes = self._bytes(access, pair)
                self.leaving -= num_bytes if self.states[pair] == _OUT else 0
                self.used += num_bytes
                self.window += num_bytes
                self.states[pair] = _IN

    def _make_room(self, num_bytes):
        """Wait for swap-outs until so many bytes are free, or none is left before this block."""
        while self.used + self.leaving + num_bytes > self.budget and self.tail != self.ends[self.block - 1]:
            self._wait()

    def _wait(self):
        pair = self.pairs[self.tail]
        if self.states[pair] in (_OUT, _DROPPED) and self.sent_after[pair] == self.tail:
            self.begun.append((self.block, "wait", self.tail))
            access = self.accesses[self.tail]
            for other in self.order.pairs_of[access.array]:
                if self.states[other] == _OUT:
                    self.leaving -= self._bytes(access, other)
                    self.states[other] = _WAITED
                elif self.states[other] == _DROPPED:
                    self.states[other] = _NONE
            self.sent_after[pair] = None
        self.tail += 1

    def _reserve(self):
        """Give room to what this block writes without having been fetched.

        Returns the first access whose prefetch had to be forbidden for that, if any.
        """
        start, stop = self.ends[self.block - 1], self.ends[self.block]
        planned = {self.pairs[index]: access.num_bytes for index, access in enumerate(self.accesses[start:stop], start)
                   if access.kind != "clear" and self.states[self.pairs[index]] == _PLANNED}
        needed = sum(planned.values())
        while needed and (free := (self.budget - self.used - self.leaving) % _WORD) < needed:
            if self.tail == start:
                return self._cancel_prefetches(needed, free)
            self._wait()
        self.used += needed
        for pair in planned:
            self.states[pair] = _IN
        return None

    def _cancel_prefetches(self, needed, free):
        """Go back from the head and forbid the last prefetches to come before the next block, until there is room."""
        uses, head = self.uses.copy(), self.head
        while head >= self.ends[self.block]:
            head -= 1
            access = self.accesses[head]
            if access.kind == "clear":
                continue
            if uses[access.array] == 1:
                free += sum(self._bytes(access, pair) for pair in self.order.pairs_of[access.array]
                            if self.states[pair] == _IN)
                self.forbidden_before[head] = self.block + 1
            if free >= needed:
                return head
            uses[access.array] -= 1
        raise PlanError(self.block, "A function is out of memory.")

    def _follow_dtypes(self):
        for access in self.accesses[self.ends[self.block - 1]:self.ends[self.block]]:
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
            access = self.accesses[index]
            if access.kind == "clear":
                continue
            if self.uses[access.array] == 1:
                if index in self.clears[block]:
                    self._forget(access)
                    if self.clears[block][index]:
                        self.ended[index] = "preclear"
                        self.valid.discard(access.array)
                elif access.temporary:
                    self._forget(access)
                    self.valid.discard(access.array)
                else:
                    self._send_out(index, access)
            self._count(access, self.pairs[index], -1)

    def _forget(self, access):
        for pair in self.order.pairs_of[access.array]:
            if self.states[pair] == _IN:
                self.used -= self._bytes(access, pair)
                self.window -= self._bytes(access, pair)
            self.states[pair] = _NONE

    def _send_out(self, index, access):
        self.ended[index], self.last_out[access.array] = "out", index
        for pair in self.order.pairs_of[access.array]:
            if self.states[pair] != _IN:
                continue
            num_bytes = self._bytes(access, pair)
            self.used -= num_bytes
            self.window -= num_bytes
            self.sent_after[pair] = index
            if self.order.dtypes[pair] == self.dtypes.get(access.array):
                self.leaving += num_bytes
                self.states[pair] = _OUT
            else:
                self.states[pair] = _DROPPED
