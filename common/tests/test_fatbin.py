"""Masks in the machine code of a library: one is built here, of the layout that nvcc writes."""
import struct

import pytest

from common.machine.fatbin import entries, wrong_masks

MOV, UMOV, IMAD_MOV, LOP3, SHFL = 0x7802, 0x3882, 0xFF007424, 0x7812, 0x3F89    # with predicate and register
WRONG = 0x0FFFFFFF


def instructions(*pairs):
    """Instructions of 16 bytes, of (operation, second word)."""
    return b"".join(struct.pack("<IIQ", operation, immediate, 0) for operation, immediate in pairs)


def elf(sections):
    """An ELF file of 64 bits with named sections."""
    names, body, headers = b"\0", b"", []
    for name, content in {**sections, ".shstrtab": b""}.items():
        start, names = len(names), names + name.encode() + b"\0"
        headers.append([start, 64 + len(body), content])
        body += content + bytes(-len(content) % 16)
    headers[-1][1:] = 64 + len(body), names
    body += names
    table = 64 + len(body)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, len(headers), len(headers) - 1)
    return head + body + b"".join(struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, at, len(content), 0, 0, 1, 0)
                                  for name, at, content in headers)


def entry(content, capability, kind=2, flags=0x11, header=64):
    content += bytes(-len(content) % 8)
    head = struct.pack("<HHIQQIIQQ", kind, 0x101, header, len(content), 0, 0, capability, 0, flags)
    return head.ljust(header, b"\0") + content


def fatbin(*contents):
    content = b"".join(contents)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(content)) + content


def kernels(mask=WRONG):
    """A cubin: kernels with and without a shuffle, and data."""
    return elf({
        ".nv.constant0": struct.pack("<4I", MOV, mask, 0, 0),
        ".text.reduce": instructions((MOV, mask), (SHFL, 0), (IMAD_MOV, mask), (LOP3, mask), (UMOV, mask), (MOV, 7)),
        ".text.no_shuffle": instructions((MOV, mask), (UMOV, mask)),
    })


def library(*fatbins, gap=b""):
    return elf({".text": instructions((MOV, WRONG)), ".nv_fatbin": gap.join(fatbins), ".data": b"abc"})


@pytest.fixture
def whole():
    """Two fatbins, with code for two GPUs, PTX, and what is compressed."""
    return library(fatbin(entry(kernels(), 80), entry(b"\x13// PTX of 9.0", 90, kind=1, flags=0x2011, header=72),
                          entry(kernels(), 90)),
                   fatbin(entry(b"\xa2\x7fEL, compressed", 90, flags=0x2011), entry(kernels(), 90)), gap=bytes(24))


def corrected(content, places):
    content = bytearray(content)
    for at in places:
        assert content[at:at + 4] == b"\xff\xff\xff\x0f"
        content[at:at + 4] = b"\xff\xff\xff\xff"
    return bytes(content)


def test_masks_of_kernels_with_shuffles_are_found(whole):
    places = wrong_masks(whole)
    assert places == sorted(set(places))
    # Three moves in each of two cubins of 9.0: MOV, IMAD.MOV, UMOV.
    assert [struct.unpack_from("<I", whole, at - 4)[0] for at in places] == [MOV, IMAD_MOV, UMOV] * 2


def test_nothing_but_the_masks_changes(whole):
    found = corrected(whole, wrong_masks(whole))
    cubins = {e.capability: found[e.start:e.start + e.size] for e in entries(found)
              if e.is_cubin and not e.is_compressed}
    assert cubins[80].startswith(kernels())
    right = elf({
        ".nv.constant0": struct.pack("<4I", MOV, WRONG, 0, 0),
        ".text.reduce": instructions((MOV, 2**32 - 1), (SHFL, 0), (IMAD_MOV, 2**32 - 1), (LOP3, WRONG),
                                     (UMOV, 2**32 - 1), (MOV, 7)),
        ".text.no_shuffle": instructions((MOV, WRONG), (UMOV, WRONG)),
    })
    assert cubins[90].startswith(right)
    assert sum(a != b for a, b in zip(whole, found, strict=True)) == 6
    assert wrong_masks(found) == []


def test_another_compute_capability_is_another_code(whole):
    assert len(wrong_masks(whole, 80)) == 3
    assert wrong_masks(whole, 70) == []


def test_entries_are_told_apart(whole):
    assert [(e.capability, e.is_cubin, e.is_compressed) for e in entries(whole)] == [
        (80, True, False), (90, False, True), (90, True, False), (90, True, True), (90, True, False)]


def test_a_library_without_code_for_gpus_has_none():
    assert wrong_masks(elf({".text": instructions((MOV, WRONG), (SHFL, 0))})) == []


@pytest.mark.parametrize("content", [b"", b"MZ", b"\x7fELF\x01" + bytes(80)])
def test_what_is_no_library_is_refused(content):
    with pytest.raises(ValueError, match="not an ELF file of 64 bits"):
        wrong_masks(content)


def test_an_entry_beyond_its_fatbin_is_refused():
    broken = bytearray(fatbin(entry(kernels(), 90)))
    struct.pack_into("<Q", broken, 16 + 8, 1 << 20)    # the size of the entry
    with pytest.raises(ValueError, match="does not fit"):
        wrong_masks(library(bytes(broken)))
