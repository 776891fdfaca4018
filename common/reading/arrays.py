"""NumPy's files .npy and .npz, of plain numbers and texts, with sizes that their bytes bear out."""
import math
import os
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np

from common.machine.errors import UserError
from common.reading.files import REMEDY, reading

KINDS = "biufcSU?"    # of dtypes: numbers and texts, nothing that could execute
DEFLATE = 1032    # deflate makes no more than this of a byte


def read_npy(path: str | Path, what: str = "an array of NumPy (.npy)", remedy: str = REMEDY,
             missing: str | None = None) -> np.ndarray:
    """Read a .npy file; parameters and errors are those of `common.reading.files.reading`."""
    with reading(path, what, remedy, missing=missing) as stream:
        return _read_array(stream, os.fstat(stream.fileno()).st_size)


def read_npz(path: str | Path, what: str = "arrays of NumPy (.npz)", names: Collection[str] = (),
             remedy: str = REMEDY, missing: str | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of a .npz file.

    Parameters
    ----------
    names
        Arrays that there must be; others are not read. All are read if none is named.

    The other parameters and the errors are those of `common.reading.files.reading`.

    Returns
    -------
    dict of str to array
        Writable.
    """
    with reading(path, what, remedy, missing=missing) as stream, zipfile.ZipFile(stream) as members:
        found = {info.filename.removesuffix(".npy"): info for info in members.infolist()}
        if absent := [name for name in names if name not in found]:
            raise UserError(f"{path}: cannot be read as {what} (no array {absent[0]!r} in it); {remedy}")
        total = os.fstat(stream.fileno()).st_size
        arrays = {}
        for name in names or found:
            _check_member(found[name], total)
            with members.open(found[name]) as member:
                arrays[name] = _read_array(member, found[name].file_size)
        return arrays


def _check_member(info: zipfile.ZipInfo, total: int) -> None:
    """Raise a ValueError if the bytes of a member cannot be what its entry promises."""
    stored = info.compress_type == zipfile.ZIP_STORED
    largest = info.compress_size if stored else DEFLATE * info.compress_size
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{info.filename!r} is compressed in an unknown way")
    if info.compress_size > total or info.file_size > largest:
        raise ValueError(f"{info.filename!r} promises {info.file_size} bytes in {info.compress_size}")


def _read_array(stream: IO[bytes], size: int) -> np.ndarray:
    """Read an array of a stream that has `size` bytes; raises what damage makes NumPy raise, and ValueError."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the format")
    read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
    shape, is_fortran, dtype = read_header(stream)
    if dtype.kind not in KINDS or dtype.hasobject or dtype.itemsize == 0:
        raise ValueError(f"values of type {dtype}, refused")
    if any(type(side) is not int or side < 0 for side in shape):
        raise ValueError(f"shape {shape}")
    promised = math.prod(shape) * dtype.itemsize
    if promised > size:
        raise ValueError(f"its header promises {promised} bytes, and there are no more than {size}")
    array = np.empty(math.prod(shape), dtype)
    target = array.view(np.uint8).data    # .view also of texts, which give no buffer of bytes
    filled = 0
    while filled < promised and (num := stream.readinto(target[filled:])):    # pyright: ignore[reportAttributeAccessIssue]
        filled += num
    if filled < promised or stream.read(1):
        raise ValueError(f"its header promises {promised} bytes, and it holds others")
    return array.reshape(shape[::-1]).transpose() if is_fortran else array.reshape(shape)
