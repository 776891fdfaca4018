"""How much memory nnabla's allocators take of a device for the arrays that are asked of them, without a device.

Both keep what is freed and give it to later arrays, so that the most that they have taken is what the device must have.
They follow `CachingAllocatorWithBuckets` and `VirtualCachingAllocator` of nnabla 1.39.
"""
import bisect
import itertools
from typing import Any, Protocol

import attrs

SMALL_STEP, LARGE_STEP = 512, 128 << 10    # sizes are multiples of these, bytes
SMALL = 1 << 20                            # largest size of a small block, and what is taken for small ones at a time


class Allocator(Protocol):
    """What both allocators have.

    Attributes
    ----------
    taken
        Bytes taken of the device so far; nothing goes back to it.
    mapped
        Chunks mapped to addresses so far.
    """

    taken: int
    mapped: int

    def allocate(self, num_bytes: int) -> Any:
        """Return a block for so many bytes."""
        ...

    def free(self, block: Any) -> None:
        """Keep a block for later arrays."""
        ...


@attrs.define(eq=False)
class _Block:
    size: int
    number: int
    before: "_Block | None" = None
    after: "_Block | None" = None
    free: bool = False


def rounded(num_bytes: int) -> int:
    """Bytes of the block that `CachingAllocator` gives to an array."""
    return in_chunks(num_bytes, SMALL_STEP if num_bytes < SMALL else LARGE_STEP)


def in_chunks(num_bytes: int, chunk: int) -> int:
    """Bytes of the whole chunks, at least one, that an array takes."""
    return max(1, -(-num_bytes // chunk)) * chunk


class CachingAllocator:
    """nnabla's allocator for the classes of arrays whose names have `Cached`: the best fit, split and merged.

    Small and large blocks lie apart. What is left of a block after a split goes back to the cache; neighbours of one
    allocation that are both free become one block. Among free blocks of one size nnabla takes any, here it is the
    oldest: how much the cuts waste differs with that, by up to a quarter where arrays are swapped.
    """

    def __init__(self) -> None:
        self.taken = self.mapped = 0
        self._numbers = itertools.count()
        self._caches: dict[bool, list[tuple[int, int, _Block]]] = {True: [], False: []}    # small or not -> free ones

    def allocate(self, num_bytes: int) -> _Block:
        """Return a block for so many bytes."""
        size = rounded(num_bytes)
        small = size <= SMALL
        cache = self._caches[small]
        position = bisect.bisect_left(cache, (size, -1))
        if position < len(cache):
            block = cache.pop(position)[2]
            block.free = False
        else:
            block = _Block(SMALL if small else size, next(self._numbers))
            self.taken += block.size
        if block.size - size >= (SMALL_STEP if small else SMALL + 1):
            rest = _Block(block.size - size, next(self._numbers), block, block.after)
            if block.after:
                block.after.before = rest
            block.size, block.after = size, rest
            self._keep(rest)
        return block

    def free(self, block: _Block) -> None:
        """Keep a block for later arrays."""
        for other in (block.after, block.before):
            if other and other.free:
                self._drop(other)
        if block.after and block.after.free:
            self._merge(block, block.after)
        if block.before and block.before.free:
            block = self._merge(block.before, block)
        self._keep(block)

    def _merge(self, first, second):
        first.size += second.size
        first.after = second.after
        if second.after:
            second.after.before = first
        return first

    def _keep(self, block):
        block.free = True
        bisect.insort(self._caches[block.size <= SMALL], (block.size, block.number, block))

    def _drop(self, block):
        cache = self._caches[block.size <= SMALL]
        del cache[bisect.bisect_left(cache, (block.size, block.number))]


class VirtualAllocator:
    """nnabla's allocator for `CudaCachedVirtualArray`: chunks of one size, mapped to addresses as they are needed.

    Parameters
    ----------
    chunk
        Bytes of a chunk. An array takes a whole number of them.
    """

    def __init__(self, chunk: int) -> None:
        self.taken = self.mapped = 0
        self.chunk = chunk
        self._ready: list[int] = []    # chunks of the free blocks that are mapped, rising
        self._loose = 0                # free chunks that are not mapped

    def allocate(self, num_bytes: int) -> int:
        """Return the number of chunks for so many bytes.

        A free block of this size is taken as it is. Otherwise the largest smaller one grows, by loose chunks, those of
        other free blocks and new ones; or the next larger one is cut.
        """
        needed = in_chunks(num_bytes, self.chunk) // self.chunk
        position = bisect.bisect_left(self._ready, needed)
        if position < len(self._ready) and self._ready[position] == needed:
            return self._ready.pop(position)
        if position == 0 and self._ready:
            self._loose += self._ready.pop(0) - needed
            self.mapped += needed
            return needed
        have = self._ready.pop(position - 1) if self._ready else 0
        self.mapped += needed - have
        have += self._take_loose(needed - have)
        while have < needed and self._ready:
            position = min(bisect.bisect_left(self._ready, needed - have), len(self._ready) - 1)
            self._loose += self._ready.pop(position)
            have += self._take_loose(needed - have)
        self.taken += (needed - have) * self.chunk
        return needed

    def free(self, block: int) -> None:
        """Keep a block for later arrays."""
        bisect.insort(self._ready, block)

    def _take_loose(self, wanted):
        count = min(self._loose, wanted)
        self._loose -= count
        return count
