"""Read pickles that hold plain data only, and nothing that they could execute.

A pickle is a program: it may name any function and call it. This one may name a handful of numpy's functions, and gets
stand-ins for them that do no more than data needs. The real ones would be too much: numpy trusts the state of a pickled
dtype, and one that lies about holding objects makes raw bytes into pointers.
"""
import io
import math
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any

import numpy as np

from common.machine.errors import UserError

PLAIN = (type(None), bool, int, float, str, bytes, bytearray)
DTYPE = re.compile(r"\?|b1|[iu][1248]|f[248]|c8|c16|[SU][1-9][0-9]{0,5}")
# What damaged or hostile input makes the unpickler and the stand-ins raise.
DAMAGE = (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError,
          OverflowError, MemoryError, RecursionError)


def loads(content: bytes, name: str | Path) -> Any:
    """Read a pickle of containers, numbers, strings, bytes and numpy arrays, of any protocol from 0 to 5.

    Parameters
    ----------
    content
        Of a file written by Python 3, or by Python 2, whose strings become bytes.
    name
        The file to complain about.

    Returns
    -------
    dict, list, tuple, set, number, str, bytes, numpy.ndarray (writable) or None, nested

    Raises
    ------
    UserError
        The content is damaged, or names anything that plain data does not need: refused, not executed.
    """
    try:
        _check_memo(content)
        return _plain(_Unpickler(content, name).load(), {})
    except DAMAGE as error:
        raise UserError(f"{name}: truncated, damaged or no pickle of plain data ({_first_line(error)}); "
                        "fetch the file again") from error


def _first_line(error):
    return str(error).partition("\n")[0][:80] or type(error).__name__


def _check_memo(content):
    """Refuse a memo index beyond any use: the unpickler would allocate, and fill, all the places below it."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "LONG_BINPUT") and argument is not None and argument > len(content):
            raise pickle.UnpicklingError(f"memo index {argument}")


class _Unpickler(pickle.Unpickler):
    def __init__(self, content, name):
        super().__init__(io.BytesIO(content), encoding="bytes")
        self.name = name

    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            asked = f"{module}.{name}"[:80]
            raise UserError(f"{self.name}: asks for {asked!r}, which plain data does not need: refused; fetch the file "
                            "again from its publisher")
        return ALLOWED[module, name]


class _Function(tuple):
    """A function in a tuple: it can be called, but a pickle cannot set attributes of it, unlike those of functions."""

    __slots__ = ()

    def __call__(self, *args):
        return self[0](*args)


class _Dtype:
    """Stands in for a `numpy.dtype` of numbers or strings."""

    __slots__ = ("dtype",)

    def __init__(self, code):
        code = _text(code)
        if not DTYPE.fullmatch(code):
            raise pickle.UnpicklingError(f"dtype {code[:20]!r} refused")
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        _, order, *structure = state[:5]
        if structure != [None] * 3 or _text(order) not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("structured dtype refused")
        self.dtype = self.dtype.newbyteorder(_text(order))    # pyright: ignore[reportArgumentType] - one of these four


class _Array:
    """Stands in for a `numpy.ndarray` until its content is known."""

    __slots__ = ("array",)

    def __setstate__(self, state):
        _, shape, dtype, is_fortran, raw = state
        self.array = _array(raw, dtype, shape, "F" if is_fortran else "C")


def _text(value):
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


def _array(raw, dtype, shape, order):
    if type(dtype) is not _Dtype or type(raw) not in (bytes, bytearray) or _text(order) not in ("C", "F"):
        raise pickle.UnpicklingError("array of other than plain data refused")
    if len(raw) != dtype.dtype.itemsize * math.prod(shape) or min(shape, default=0) < 0:
        raise pickle.UnpicklingError("the bytes of an array do not fit its shape")
    return np.ndarray(shape, dtype.dtype, raw, order="F" if _text(order) == "F" else "C").copy(order="K")


def _new_array(subtype, shape, code):
    """Stand in for numpy's `_reconstruct`: the content follows as a state."""
    if subtype is not NDARRAY:
        raise pickle.UnpicklingError("array subtype refused")
    return _Array()


def _array_from_buffer(raw, dtype, shape, order):
    """Stand in for numpy's `_frombuffer`, which protocol 5 uses."""
    result = _Array()
    result.array = _array(raw, dtype, shape, order)
    return result


def _scalar(dtype, raw):
    return _array(raw, dtype, (), "C")[()]


def _encode(text, encoding):
    """Stand in for `_codecs.encode`, by which Python 3 writes bytes in protocols 0 to 2."""
    if _text(encoding) != "latin1":
        raise pickle.UnpicklingError("encoding other than latin1 refused")
    return text.encode("latin1")


def _no_bytes():
    return b""


NDARRAY = _Function(())    # named in pickles as the type of an array; never called
ALLOWED = {
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): _Function([lambda code, align=False, copy=True: _Dtype(code)]),
    ("_codecs", "encode"): _Function([_encode]),
    ("__builtin__", "bytes"): _Function([_no_bytes]),
}
for _package in ("numpy.core", "numpy._core"):    # before and since numpy 2
    ALLOWED[f"{_package}.multiarray", "_reconstruct"] = _Function([_new_array])
    ALLOWED[f"{_package}.multiarray", "scalar"] = _Function([_scalar])
    ALLOWED[f"{_package}.numeric", "_frombuffer"] = _Function([_array_from_buffer])


def _plain(value, seen):
    """Put the arrays in place of their stand-ins, and let nothing but plain data through.

    Parameters
    ----------
    value : what the unpickler made
    seen : dict of id to (original, result)
        What was visited: containers may be shared, or hold themselves. The originals are kept so that no id is reused.
    """
    if type(value) is _Array:
        return value.array
    if type(value) in PLAIN or isinstance(value, np.generic):
        return value
    if id(value) in seen:
        return seen[id(value)][1]
    if type(value) is tuple:
        seen[id(value)] = value, tuple(_plain(item, seen) for item in value)
        return seen[id(value)][1]
    seen[id(value)] = value, value
    if type(value) is list:
        value[:] = [_plain(item, seen) for item in value]
    elif type(value) is dict:
        _check_hashed(value)
        value.update({key: _plain(item, seen) for key, item in value.items()})
    elif type(value) in (set, frozenset):
        _check_hashed(value)
    else:
        raise pickle.UnpicklingError("something other than plain data")
    return value


def _check_hashed(items):
    """Check the keys of a dict or the items of a set: plain, or tuples of plain values."""
    for item in items:
        parts = item if type(item) is tuple else (item,)
        if not all(type(part) in PLAIN or isinstance(part, np.generic) for part in parts):
            raise pickle.UnpicklingError("a key of other than plain data")
