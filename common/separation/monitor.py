"""How far a separation is, told to those who ask, and its end before its time."""
import math
import threading
import time
from collections.abc import Callable

from common.machine.errors import UserError

Report = Callable[[float], None]    # takes the fraction that is done, from 0 to 1


class CancelledError(UserError):
    """A separation was asked to end."""


class Monitor:
    """Passes on how far a separation is, and ends it when asked.

    Parameters
    ----------
    on_progress
        Called with the fraction that is done, from 0 to 1, and the seconds that are left: an estimate, infinity as long
        as nothing is done. It runs in the thread that separates; what it raises ends the separation.
    cancel
        Once it is set, the separation ends with `CancelledError` before its next chunk or patch.

    Raises
    ------
    ValueError
        They are neither a function nor an event.
    """

    def __init__(self, on_progress: Callable[[float, float], object] | None = None,
                 cancel: threading.Event | None = None):
        if on_progress is not None and not callable(on_progress):
            raise ValueError(f"on_progress {on_progress!r}: a function is wanted")
        if cancel is not None and not hasattr(cancel, "is_set"):
            raise ValueError(f"cancel {cancel!r}: a threading.Event is wanted")
        self._on_progress, self._cancel = on_progress, cancel
        self._began, self._done = time.monotonic(), 0.0

    def __call__(self, fraction: float) -> None:
        """Take note that so much is done; less than before counts as what was done before.

        Raises
        ------
        CancelledError
        """
        self._done = max(self._done, min(1.0, fraction))
        if self._on_progress is not None:
            took = time.monotonic() - self._began
            self._on_progress(self._done, took / self._done - took if self._done else math.inf)
        if self._cancel is not None and self._cancel.is_set():
            raise CancelledError("the separation was cancelled")


def part(report: Report, start: float, stop: float) -> Report:
    """Return a report for a part of the work, of which 0 is `start` of the whole and 1 is `stop`."""
    return lambda fraction: report(start + (stop - start) * fraction)


def unobserved(fraction: float) -> None:
    """Take note of a fraction that nobody asks for."""
