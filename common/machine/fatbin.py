"""Machine code for GPUs inside a shared library, and the masks in it that leave lanes of a warp out.

nnabla 1.39's CUDA extension calls its warp shuffles with the mask 0xfffffff, seven Fs: lanes 28 to 31 are not in it.
The code for compute capability 9.0 begins every shuffle with WARPSYNC and that mask, where the missing lanes trap. That
for older ones does so only where a warp has diverged, and works as it is.

A library of nvcc's is an ELF file whose section `.nv_fatbin` holds fatbins one after the other: a header, and entries
with a header each, whose content is PTX or an ELF file of machine code for one compute capability ("cubin"), maybe
compressed. A cubin has a section `.text.NAME` for each kernel, in instructions of 16 bytes; an immediate operand is the
second of their four little-endian words.
"""
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

WRONG_MASK, RIGHT_MASK = 0x0FFFFFFF, 0xFFFFFFFF
_FATBIN_MAGIC = 0xBA55ED50
_CUBIN, _COMPRESSED = 2, 0x2000    # a kind of entry; a bit of its flags
# The lower 12 bits of an instruction of compute capability 7.0 to 9.0: its operation and the kind of its operands.
_MOVES = (0x802, 0x882, 0x424)    # MOV, UMOV, IMAD.MOV.U32 of an immediate, which set the register of a mask
_SHUFFLES = (0x389, 0x589, 0x989, 0xF89)    # SHFL with registers or immediates for lane and bound
Buffer = bytes | bytearray | memoryview


class Entry(NamedTuple):
    """One content of a fatbin: `size` bytes from `start` on, for a compute capability such as 90."""

    start: int
    size: int
    capability: int
    is_cubin: bool
    is_compressed: bool


def wrong_masks(library: Buffer, capability: int = 90) -> list[int]:
    """Find the shuffle masks 0xfffffff in the machine code for one compute capability.

    Compressed code is left out: nvcc did not compress nnabla's, and that of the libraries linked in is right.

    Parameters
    ----------
    library
        The content of the shared library.
    capability
        10 times the compute capability.

    Returns
    -------
    list of int
        Where each of the immediates begins in `library`, in ascending order; 4 bytes, little-endian. Only kernels with
        a shuffle count, and only instructions that move the immediate into a register.

    Raises
    ------
    ValueError
        It is no ELF file of 64 bits, or its fatbins are not as described above.
    """
    found: list[int] = []
    for entry in entries(library):
        if entry.capability == capability and entry.is_cubin and not entry.is_compressed:
            cubin = memoryview(library)[entry.start:entry.start + entry.size]
            found += (entry.start + at for at in _masks_of_cubin(cubin))
    return found


def entries(library: Buffer) -> Iterator[Entry]:
    """Walk through all fatbins of a shared library; raises ValueError as `wrong_masks` does."""
    for name, start, size in _sections(library):
        if name == ".nv_fatbin":
            yield from _entries_between(library, start, start + size)


def _entries_between(library, at, stop):
    while at + 16 <= stop:
        magic, _, header, size = struct.unpack_from("<IHHQ", library, at)
        if magic != _FATBIN_MAGIC:    # fatbins are aligned to 8 bytes
            at += 8
            continue
        at, end = at + header, at + header + size
        while at < end:
            kind, _, header, size = struct.unpack_from("<HHIQ", library, at)
            capability, = struct.unpack_from("<I", library, at + 28)
            flags, = struct.unpack_from("<Q", library, at + 40)
            at += header
            if header < 48 or at + size > end:
                raise ValueError(f"the fatbin that ends at byte {end} has an entry that does not fit into it")
            yield Entry(at, size, capability, kind == _CUBIN, bool(flags & _COMPRESSED))
            at += size


def _sections(elf: Buffer) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and size of each section of an ELF file of 64 bits."""
    if bytes(elf[:5]) != b"\x7fELF\x02":
        raise ValueError("not an ELF file of 64 bits")
    table, = struct.unpack_from("<Q", elf, 0x28)
    size, count, of_names = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + k * size) for k in range(count)]
    names = bytes(elf[headers[of_names][4]:][:headers[of_names][5]]) if headers else b""
    for name, _, _, _, start, length in headers:
        yield names[name:names.index(b"\0", name)].decode(), start, length


def _masks_of_cubin(cubin: memoryview) -> Iterator[int]:
    for name, start, size in _sections(cubin):
        if not name.startswith(".text."):
            continue
        words = np.frombuffer(cubin, "<u4", size // 16 * 4, start).reshape(-1, 4)    # (instructions, 4)
        operation = words[:, 0] & 0xFFF
        if np.isin(operation, _SHUFFLES).any():
            moves_mask = np.isin(operation, _MOVES) & (words[:, 1] == WRONG_MASK)
            yield from (start + 16 * int(k) + 4 for k in np.flatnonzero(moves_mask))
