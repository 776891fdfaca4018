"""The accesses of an iteration one after the other, with what a plan must know of each."""
import collections

from common.out_of_core.record import BYTES, Record


class Order:
    """The order of a record's accesses.

    Attributes
    ----------
    accesses
        All of them.
    ends
        For each block, how many accesses there are up to its end.
    pairs
        For each access the number of its pair (array, dtype).
    pairs_of
        array -> numbers of its pairs.
    dtypes, element_bytes
        Of each pair.
    """

    def __init__(self, record: Record) -> None:
        self.accesses = [access for block in record.blocks for access in block]
        self.ends: list[int] = []
        for block in record.blocks:
            self.ends.append(len(block) + (self.ends[-1] if self.ends else 0))
        numbers: dict[tuple[int, str], int] = {}
        self.pairs = [numbers.setdefault((access.array, access.dtype), len(numbers)) for access in self.accesses]
        self.pairs_of = collections.defaultdict(list)
        for (array, _), pair in numbers.items():
            self.pairs_of[array].append(pair)
        self.dtypes = [dtype for _, dtype in numbers]
        self.element_bytes = [BYTES[dtype] for dtype in self.dtypes]

    def clears(self) -> list[dict[int, bool]]:
        """For each block, the accesses after which their array is cleared unused: index -> whether in a later block."""
        found: list[dict[int, bool]] = [{} for _ in self.ends]
        cleared_in = {}    # array -> block of the clear that comes next
        for block in range(len(self.ends) - 1, 1, -1):
            ends_with_clear = {}
            for index in range(self.ends[block] - 1, self.ends[block - 1] - 1, -1):
                access = self.accesses[index]
                ends_with_clear.setdefault(access.array, access.kind == "clear")
                if access.kind == "clear":
                    cleared_in[access.array] = block
                elif access.array in cleared_in:
                    later = cleared_in.pop(access.array) > block
                    if later or ends_with_clear[access.array]:
                        found[block][index] = later
        return found

    def converted(self, dtypes: dict[int, str]) -> set[int]:
        """Arrays of several dtypes: that in `dtypes` and those of their uses; a clear is one in bool to nnabla."""
        used = collections.defaultdict(set, {array: {dtype} for array, dtype in dtypes.items()})
        for access in self.accesses:
            used[access.array].add(access.dtype)
        return {array for array, kinds in used.items() if len(kinds) > 1}
