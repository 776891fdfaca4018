"""What nnabla's allocators take for the arrays of an iteration, by hand, and where the arrays lie."""
import numpy as np
import pytest

from common.out_of_core.allocators import LARGE_STEP, SMALL, CachingAllocator, VirtualAllocator, rounded
from common.out_of_core.record import Access, Record
from common.out_of_core.replay import replay
from common.out_of_core.schedule import make_schedule

MIB = 1 << 20


@pytest.mark.parametrize("num_bytes, size", [(0, 512), (1, 512), (512, 512), (513, 1024), (MIB - 1, MIB), (MIB, MIB),
                                             (MIB + 1, MIB + LARGE_STEP), (2 * MIB, 2 * MIB)])
def test_rounding_of_the_caching_allocator(num_bytes, size):
    assert rounded(num_bytes) == size


def test_small_arrays_share_what_is_taken_at_a_time():
    allocator = CachingAllocator()
    blocks = [allocator.allocate(1000) for _ in range(1024)]
    assert allocator.taken == SMALL
    allocator.allocate(1)
    assert allocator.taken == 2 * SMALL
    for block in blocks:
        allocator.free(block)
    allocator.allocate(SMALL)    # what was cut has grown together
    assert allocator.taken == 2 * SMALL


def test_the_best_fit_is_cut_and_grows_together():
    allocator = CachingAllocator()
    large, middle = allocator.allocate(10 * MIB), allocator.allocate(4 * MIB)
    allocator.free(large)
    allocator.free(middle)
    allocator.allocate(4 * MIB)                              # the middle one fits best
    parts = [allocator.allocate(3 * MIB) for _ in range(3)]    # the large one is cut; 1 MiB is left with the third
    assert allocator.taken == 14 * MIB
    allocator.allocate(2 * MIB)
    assert allocator.taken == 16 * MIB
    for part in (parts[0], parts[2], parts[1]):
        allocator.free(part)
    allocator.allocate(10 * MIB)
    assert allocator.taken == 16 * MIB


def test_chunks_go_where_they_are_needed():
    allocator = VirtualAllocator(MIB)
    blocks = [allocator.allocate(size) for size in (1, 3 * MIB, 2 * MIB)]
    assert (allocator.taken, allocator.mapped) == (6 * MIB, 6)
    for block in blocks:
        allocator.free(block)
    allocator.allocate(3 * MIB)    # as it is
    assert (allocator.taken, allocator.mapped) == (6 * MIB, 6)
    whole = allocator.allocate(3 * MIB)    # two chunks stay, one is mapped to them
    assert (allocator.taken, allocator.mapped) == (6 * MIB, 7)
    allocator.free(whole)
    allocator.allocate(1)    # a larger one is cut
    assert (allocator.taken, allocator.mapped) == (6 * MIB, 8)
    allocator.allocate(2 * MIB)    # of the rest
    assert (allocator.taken, allocator.mapped) == (6 * MIB, 10)


def random_blocks(allocator):
    """Take and free blocks at random, then free the rest."""
    rng, used = np.random.default_rng(0), []
    for _ in range(2000):
        if used and rng.random() < 0.5:
            allocator.free(used.pop(rng.integers(len(used)))[0])
        else:
            size = int(10 ** rng.uniform(0, 7))
            used.append((allocator.allocate(size), size))
        assert sum(size for _, size in used) <= allocator.taken
    for block, _ in used:
        allocator.free(block)


def test_nothing_is_lost():
    caching, virtual = CachingAllocator(), VirtualAllocator(MIB)
    random_blocks(caching)
    blocks = [block for cache in caching._caches.values() for *_, block in cache]
    assert sum(block.size for block in blocks) == caching.taken
    assert not any(block.before or block.after for block in blocks)    # all has grown together
    random_blocks(virtual)
    assert (sum(virtual._ready) + virtual._loose) * MIB == virtual.taken


def iteration(*blocks):
    """A record of blocks of (kind, array, bytes); what is not cleared lives on."""
    made = [[Access(kind, array, size // 4, "float32", transfers=kind == "get") for kind, array, size in block]
            for block in blocks]
    held = {access.array: "float32" for block in made for access in block}
    for array in {access.array for block in made for access in block if access.kind == "clear"}:
        del held[array]
    return Record(made, [f"block {i}" for i in range(len(blocks))], held)


# The input 0 and the parameter 2 live on; 1 is a map that is cleared.
CHAIN = iteration([("cast", 0, 4 * MIB)], [("get", 0, 4 * MIB), ("get", 2, 2 * MIB), ("cast", 1, 8 * MIB)],
                  [("get", 1, 8 * MIB), ("cast", 2, 2 * MIB), ("clear", 1, 8 * MIB)])


def test_in_core_all_is_on_the_device_and_the_inputs_on_the_host():
    occupancy = replay(CHAIN, None, CachingAllocator())
    assert occupancy.device_bytes == 14 * MIB
    assert occupancy.host_bytes == 4 * MIB
    assert max(CHAIN.in_core()) == 14 * MIB


def test_swapped_arrays_lie_on_the_host_between_iterations():
    occupancy = replay(CHAIN, make_schedule(CHAIN, 14 * MIB), VirtualAllocator(MIB))
    assert occupancy.device_bytes == 14 * MIB
    # Input and parameter. The map is cleared in time, and goes to the host in the iteration that is recorded.
    assert occupancy.host_bytes == (4 + 8 + 2) * MIB
    assert sum(occupancy.mapped) >= 0


def test_chunks_that_are_too_large_take_many_times_what_arrays_have():
    record = iteration([], *([("get", i, 512), ("get", i + 1, 512)] for i in range(20)))
    budget = 2 * 512
    small, large = (replay(record, make_schedule(record, budget), allocator).device_bytes
                    for allocator in (CachingAllocator(), VirtualAllocator(20 * MIB)))
    assert small == MIB
    assert large == 2 * 20 * MIB
