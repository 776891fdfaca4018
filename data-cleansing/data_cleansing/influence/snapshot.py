"""The state of a long computation in a file, from which it goes on to the same bits."""
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from common.machine.errors import UserError
from common.machine.files import replacing
from common.reading.arrays import read_npz

_SECONDS_BETWEEN_SAVES = 60


class Snapshot:
    """Named arrays that are saved from time to time, and when the computation is interrupted.

    As a context manager it saves what it was last given when an interrupt or an error leaves the context.

    Parameters
    ----------
    path : path or None
        An .npz file; without it nothing is saved.
    fingerprint : str
        Of everything that the computation depends on.
    shapes : dict of str to tuple of int
        Of the arrays.
    start : callable
        `start()` returns the arrays to begin with, where there is no file yet.

    Raises
    ------
    UserError
        The file is damaged, or belongs to another computation.
    """

    def __init__(self, path: str | Path | None, fingerprint: str, shapes: Mapping[str, tuple[int, ...]],
                 start: Callable[[], dict[str, np.ndarray]]) -> None:
        self.path = None if path is None else Path(path)
        self.fingerprint = fingerprint
        self._saved = time.monotonic()
        if self.path is not None and self.path.exists():
            self.values = self._load(self.path, shapes)
        else:
            self.values = start()

    def update(self, **values: np.ndarray) -> None:
        """Replace all arrays by new ones, which must not change afterwards."""
        self.values = values
        if time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        """Write the arrays."""
        if self.path is not None:
            with replacing(self.path) as temporary, temporary.open("wb") as stream:
                np.savez(stream, fingerprint=np.array(self.fingerprint), **self.values)
            self._saved = time.monotonic()

    def _load(self, path, shapes):
        remedy = "delete it to start anew"
        values = read_npz(path, "the state of a computation", remedy=remedy)
        if str(values.pop("fingerprint", "")) != self.fingerprint:
            raise UserError(f"{path}: made with other settings or data; {remedy}")
        if {name: value.shape for name, value in values.items()} != dict(shapes):
            raise UserError(f"{path}: holds other arrays than {', '.join(shapes)}; {remedy}")
        return values

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *error: object) -> None:
        self.save()
