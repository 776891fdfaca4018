"""Damaged and hostile copies of a file, made of it at random: for tests of what reads such files."""
import re
from collections.abc import Callable, Sequence

import numpy as np

NUMBERS = (b"0", b"-1", b"1e999", b"nan", b"99999999999", b"1" * 40, b"0x", b"2001-99-99")    # in texts
_DIGITS = re.compile(rb"\d+")
_HEAD = 512    # bytes at either end, where headers are; half of the places are there

Mutation = Callable[[bytearray, np.random.Generator, Sequence[bytes]], object]


def mutant(content: bytes, rng: np.random.Generator, tokens: Sequence[bytes] = ()) -> bytes:
    """Return another content: a few mutations of a file, one in most cases.

    Parameters
    ----------
    content
    rng
    tokens
        Bytes that mean something in the format; they are written over others, and between them.
    """
    result = bytearray(content)
    for _ in range(min(rng.geometric(0.6), 6)):
        _MUTATIONS[rng.integers(len(_MUTATIONS))](result, rng, tokens)
    return bytes(result)


def _place(content: bytearray, rng: np.random.Generator) -> int:
    """Choose a place: in one case of two near the beginning or the end."""
    size = len(content) + 1
    where = int(rng.integers(4))
    if where == 0:
        return int(rng.integers(min(_HEAD, size)))
    if where == 1:
        return size - 1 - int(rng.integers(min(_HEAD, size)))
    return int(rng.integers(size))


def _flip_bits(content, rng, tokens):
    for _ in range(rng.integers(1, 9)):
        at = _place(content, rng)
        content[at:at + 1] = bytes(byte ^ (1 << int(rng.integers(8))) for byte in content[at:at + 1])


def _truncate(content, rng, tokens):
    del content[_place(content, rng):]


def _remove_block(content, rng, tokens):
    at = _place(content, rng)
    del content[at:at + _length(rng)]


def _double_block(content, rng, tokens):
    at = _place(content, rng)
    content[at:at] = content[at:at + _length(rng)] * int(rng.integers(1, 4))


def _move_block(content, rng, tokens):
    at, size = _place(content, rng), _length(rng)
    block = content[at:at + size]
    del content[at:at + size]
    target = _place(content, rng)
    content[target:target] = block


def _length(rng):
    return int(2 ** rng.uniform(0, 12))


def _set_field(content, rng, tokens):
    """Write an extreme number of 1, 2, 4 or 8 bytes over others."""
    size = 1 << int(rng.integers(4))
    bits = 8 * size
    value = (0, 1, (1 << (bits - 1)) - 1, 1 << (bits - 1), (1 << bits) - 1, 1 << (bits // 2))[rng.integers(6)]
    at = _place(content, rng) // size * size
    content[at:at + size] = value.to_bytes(size, ("little", "big")[rng.integers(2)])


def _set_number(content, rng, tokens):
    """Write another number over one in a text."""
    found = list(_DIGITS.finditer(content))
    if found:
        start, end = found[rng.integers(len(found))].span()
        content[start:end] = NUMBERS[rng.integers(len(NUMBERS))]


def _write_noise(content, rng, tokens):
    at, size = _place(content, rng), _length(rng) % 64
    content[at:at + size] = rng.bytes(size)


def _write_token(content, rng, tokens):
    if tokens:
        token, at = tokens[rng.integers(len(tokens))], _place(content, rng)
        content[at:at + len(token) * int(rng.integers(2))] = token


_MUTATIONS: tuple[Mutation, ...] = (_flip_bits, _truncate, _remove_block, _double_block, _move_block, _set_field,
                                    _set_field, _set_number, _write_noise, _write_token)
