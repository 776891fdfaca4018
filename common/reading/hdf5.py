"""HDF5 files: the data sets that lie in the file itself, of sizes that its bytes bear out."""
import contextlib
import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from common.machine.errors import UserError
from common.reading.files import REMEDY, reading

DEFLATE = 1032    # deflate makes no more than this of a byte
FILTERS = ("gzip", "lzf", None)    # ways of compression that h5py itself brings; no plug-ins
LARGEST_CHUNK = 1 << 28    # bytes; HDF5 allocates a whole one


@contextlib.contextmanager
def read_hdf5(path: str | Path, what: str = "an HDF5 file", remedy: str = REMEDY,
              missing: str | None = None) -> Iterator["Hdf5"]:
    """Open an HDF5 file to read it in a block that holds nothing but that.

    Parameters and errors are those of `common.reading.files.reading`.
    """
    with reading(path, what, remedy, missing=missing) as stream, h5py.File(stream, "r") as file:
        yield Hdf5(path, file, os.fstat(stream.fileno()).st_size)


class Hdf5:
    """What an open file holds.

    Parameters
    ----------
    path
        For errors.
    file
    size
        Bytes of the file.

    Attributes
    ----------
    datasets : dict of str to h5py.Dataset
        By full name. Those that lie in other files (links, external storage, virtual data sets) are left out.
    """

    def __init__(self, path: str | Path, file: h5py.File, size: int):
        self._path, self._file, self._size = path, file, size

    @functools.cached_property
    def datasets(self) -> dict[str, Any]:
        found = {}

        def visit(name: bytes, info: Any) -> None:
            if info.type == h5py.h5o.TYPE_DATASET:
                item = h5py.Dataset(h5py.h5o.open(self._file.id, name))
                if not item.is_virtual and not item.external:
                    found[name.decode()] = item

        # Half the time of `visititems`, which opens the groups as well. Follows neither symbolic links nor those to
        # other files.
        h5py.h5o.visit(self._file.id, visit, info=True)
        return found

    def group(self, name: str) -> Any:
        """Return the h5py.Group of this full name, '' for the file itself; None if there is none in the file itself."""
        found = self._file
        for part in name.split("/") if name else ():
            link = found.get(part, getlink=True)
            if not isinstance(link, h5py.HardLink) or found.get(part, getclass=True) is not h5py.Group:
                return None
            found = found[part]
        return found

    def array(self, name: str) -> np.ndarray:
        """Read a data set of numbers.

        Raises
        ------
        UserError
            There is none of this name, it holds no numbers, or it promises more than the file can hold.
        """
        if name not in self.datasets:
            raise UserError(f"{self._path}: no data set {name!r} in it")
        dataset = self.datasets[name]
        self._check(name, dataset)
        return np.asarray(dataset[()])

    def _check(self, name: str, dataset: h5py.Dataset) -> None:
        stored = dataset.id.get_storage_size()
        promised = math.prod(dataset.shape) * dataset.dtype.itemsize
        chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
        if dataset.dtype.kind not in "biuf":
            raise UserError(f"{self._path}: {name!r} holds values of type {dataset.dtype}, and numbers are expected")
        if dataset.compression not in FILTERS or chunk > LARGEST_CHUNK:
            raise UserError(f"{self._path}: {name!r} is stored in a way that is not read; write it without compression")
        if stored > self._size or promised > stored * (DEFLATE if dataset.compression else 1):
            raise UserError(f"{self._path}: {name!r} promises {promised} bytes, and the file has {stored} of it")
