"""Where the arrays of an iteration lie while it runs: what the device and the host must have for them."""
from collections.abc import Callable

import attrs

from common.out_of_core.allocators import Allocator
from common.out_of_core.record import BYTES, Access, Record
from common.out_of_core.schedule import Event, PlanError, Schedule, make_schedule

ITERATIONS = 3    # the caches of the allocators do not grow after that
LESS = 0.9        # factor from a plan that takes too much to the next, at most
MARGIN = 0.05     # of a budget: on an H100 the caching allocator took up to 3 % more than here


@attrs.frozen
class Occupancy:
    """What iterations take.

    Attributes
    ----------
    device_bytes
        Most bytes that the allocator takes of the device, with all that it rounds up and keeps, the iteration that is
        recorded included.
    host_bytes
        Most bytes of arrays that lie on the host.
    mapped
        Chunks of virtual memory that are mapped in each block of a planned iteration, and at its end.
    """

    device_bytes: int
    host_bytes: int
    mapped: list[int]


def replay(record: Record, schedule: Schedule | None, allocator: Allocator) -> Occupancy:
    """Follow the arrays of some iterations from device to host and back.

    Parameters
    ----------
    record
        The iteration.
    schedule
        Its transfers; None: nothing is swapped.
    allocator
        Where memory of the device is taken; new.
    """
    places = _Places(allocator)
    if schedule is not None:
        places.run_recorded(record)
    mapped: list[int] = []
    for _ in range(ITERATIONS):
        mapped = places.run(record, schedule)
    return Occupancy(allocator.taken, places.host_peak, mapped)


def affordable(record: Record, budget: int, sizes: tuple[int, int], new_allocator: Callable[[], Allocator],
               prefetch: int | None = None, save_host_memory: bool = False) -> int:
    """Bytes of arrays that nnabla may plan with, so that its allocator takes no more than a budget of the device.

    Plans with less and less are replayed until one does. The first iteration, which is recorded, takes little.

    Parameters
    ----------
    record
    budget
        Bytes.
    sizes
        The smallest feasible budget, which is returned if no plan takes so little, and the largest size to try. Where
        the latter is below the former, it is returned.
    new_allocator
        Makes an allocator.
    prefetch, save_host_memory
        As for `common.out_of_core.schedule.make_schedule`.
    """
    smallest, size = sizes
    while size > smallest:
        try:
            schedule = make_schedule(record, size, prefetch, save_host_memory)
        except PlanError:
            return smallest
        taken = replay(record, schedule, new_allocator()).device_bytes
        if taken <= budget * (1 - MARGIN):
            return size
        size = max(smallest, int(size * min(LESS, budget / taken)))
    return min(size, smallest)


class _Places:
    """Blocks and bytes of the arrays: `device[array][dtype]` is a block, `host[array]` a number of bytes."""

    def __init__(self, allocator: Allocator) -> None:
        self.allocator = allocator
        self.device: dict[int, dict[str, object]] = {}
        self.leaving: dict[int, list[object]] = {}    # index of a swap-out -> blocks that wait for its end
        self.host: dict[int, int] = {}
        self.host_now = self.host_peak = 0

    def run_recorded(self, record: Record) -> None:
        """The first iteration: after each block all that it used goes to the host."""
        self._write_inputs(record)
        for block in record.blocks[1:]:
            self._compute(block)
            for access in block:
                if access.array in self.device:
                    self._free(self._send(access))

    def run(self, record: Record, schedule: Schedule | None) -> list[int]:
        """An iteration by its plan, or without one; returns the chunks that were mapped block by block."""
        mapped, before = [], self.allocator.mapped
        for number, block in enumerate(record.blocks):
            for event in schedule.begin[number] if schedule else ():
                self._begin(event)
            if number:
                self._compute(block)
            else:
                self._write_inputs(record)
            for event in schedule.end[number] if schedule else ():
                if event.kind == "out":
                    self.leaving[event.index] = self._send(event.access)
                else:
                    self._clear(event.access.array)
            mapped.append(self.allocator.mapped - before)
            before = self.allocator.mapped
        for event in schedule.begin[-1] if schedule else ():
            self._begin(event)
        return [*mapped, self.allocator.mapped - before]

    def _begin(self, event: Event) -> None:
        if event.kind == "wait":
            self._free(self.leaving.pop(event.index, []))
        else:
            self._touch(event.access)

    def _write_inputs(self, record):
        for access in record.blocks[0]:
            self._clear(access.array)
            if access.kind != "clear":
                self._set_host(access.array, access.num_bytes)

    def _compute(self, block):
        for access in block:
            if access.kind == "clear":
                self._clear(access.array)
                continue
            self._touch(access)
            if access.kind == "cast":    # a copy that is written is the only one that is left
                self._set_host(access.array, 0)
                copies = self.device[access.array]
                self._free([copies.pop(dtype) for dtype in list(copies) if dtype != access.dtype])
        for access in block:
            if access.temporary:
                self._clear(access.array)

    def _touch(self, access: Access) -> None:
        copies = self.device.setdefault(access.array, {})
        if access.dtype not in copies:
            copies[access.dtype] = self.allocator.allocate(access.num_bytes)

    def _send(self, access):
        """Move an array to the host; returns the blocks that it had."""
        copies = self.device.pop(access.array, {})
        if copies and not self.host.get(access.array):
            self._set_host(access.array, access.size * BYTES[next(iter(copies))])
        return list(copies.values())

    def _clear(self, array):
        self._free(self.device.pop(array, {}).values())
        self._set_host(array, 0)

    def _free(self, blocks):
        for block in blocks:
            self.allocator.free(block)

    def _set_host(self, array, num_bytes):
        self.host_now += num_bytes - self.host.get(array, 0)
        self.host[array] = num_bytes
        self.host_peak = max(self.host_peak, self.host_now)
