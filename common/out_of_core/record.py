"""What an iteration does with its arrays, access by access."""
from collections.abc import Mapping, Sequence

import attrs

BYTES = {"float32": 4, "float64": 8, "float16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8, "int16": 2,
         "uint16": 2, "int8": 1, "uint8": 1, "bool": 1}


@attrs.frozen
class Access:
    """One get, cast or clear of an array, as nnabla records it.

    Attributes
    ----------
    kind
        `get` (to read), `cast` (to write) or `clear`.
    array
        Its number.
    size
        Elements.
    transfers
        Whether the array must be on the GPU before: not so for one that is only written or made by this access.
    temporary
        Whether nobody holds the array after its block.
    creates
        Whether the array had no copy anywhere.
    """

    kind: str
    array: int
    size: int
    dtype: str
    transfers: bool = True
    temporary: bool = False
    creates: bool = False

    @property
    def num_bytes(self) -> int:
        return self.size * BYTES[self.dtype]


@attrs.frozen
class Record:
    """The accesses of one iteration.

    Attributes
    ----------
    blocks
        Block 0 is what comes before the first function.
    labels
        What each block computes.
    dtypes
        dtype of every array that exists at the end of the iteration.
    again
        Blocks at whose end something is computed again for the next one: index of the block -> (index of the first
        access that belongs to that, the forward blocks that are repeated).
    """

    blocks: Sequence[Sequence[Access]]
    labels: Sequence[str]
    dtypes: dict[int, str]
    again: Mapping[int, tuple[int, Sequence[int]]] = attrs.field(factory=dict)

    def block_bytes(self) -> list[int]:
        """Bytes of the distinct (array, dtype) pairs of each block."""
        return [sum({(a.array, a.dtype): a.num_bytes for a in block if a.kind != "clear"}.values())
                for block in self.blocks]

    def num_accesses(self) -> int:
        return sum(map(len, self.blocks))

    def in_core(self) -> list[int]:
        """Most bytes that live at a time in each block if nothing is swapped.

        What outlives the iteration lives from its start; the rest from its first access to its clear, or to the end of
        its block where nobody holds it.
        """
        sizes = {access.array: access.size for block in self.blocks for access in block}
        copies = {array: {dtype: sizes[array] * BYTES[dtype]} for array, dtype in self.dtypes.items()}
        live = sum(sum(kinds.values()) for kinds in copies.values())
        peaks = []
        for block in self.blocks:
            peak = live
            for access in block:
                before = copies.pop(access.array, {})
                if access.kind != "clear":
                    kept = before if access.kind == "get" else {}
                    copies[access.array] = kept | {access.dtype: access.num_bytes}
                live += sum(copies.get(access.array, {}).values()) - sum(before.values())
                peak = max(peak, live)
            for array in {access.array for access in block if access.temporary} & copies.keys():
                live -= sum(copies.pop(array).values())
            peaks.append(peak)
        return peaks

    def needs(self) -> list[int]:
        """Least budget in bytes with which nnabla can plan each block; 0 for block 0, which is not planned.

        That is the bytes of its arrays. While one is converted to another type, the scheduler counts both copies. What
        was written before the first function lies on the device beside the arrays of that, in whatever type.
        """
        heads, needs = dict(self.dtypes), [0]
        resident = {(a.array, a.dtype): a.num_bytes for a in self.blocks[0] if a.kind != "clear"}
        _follow(heads, self.blocks[0])
        for block in self.blocks[1:]:
            needs.append(_need(block, resident, heads))
            _follow(heads, block)
            resident = {}
        return needs

    def minimum(self) -> tuple[int, int]:
        """Smallest feasible budget in bytes, and the index of the block that sets it (block 0 does not count)."""
        needs = self.needs()
        block = max(range(1, len(needs)), key=needs.__getitem__, default=0)
        return needs[block], block


def _follow(heads, block):
    """Note the type of the valid copy of each array after a block."""
    for access in block:
        if access.kind == "clear":
            heads.pop(access.array, None)
        elif access.kind == "cast" or access.array not in heads:
            heads[access.array] = access.dtype


def _need(block, resident, heads):
    """Bytes that a block needs beside and with what is `resident`, {(array, dtype): bytes}, which it extends."""
    fetched, written, most = sum(resident.values()), 0, 0
    for access in block:
        if access.kind == "clear" or (access.array, access.dtype) in resident:
            continue
        resident[access.array, access.dtype] = access.num_bytes
        if access.transfers:
            head = heads.get(access.array, access.dtype)
            source = access.size * BYTES[head] if head != access.dtype else 0    # of the copy that it is made from
            most = max(most, fetched + access.num_bytes + source)
            fetched += access.num_bytes
        else:
            written += access.num_bytes
    return max(most, fetched + written)
