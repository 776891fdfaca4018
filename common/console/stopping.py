"""What Ctrl-C and SIGTERM do to a command: they interrupt its work, and end the process at once before and after it."""
import contextlib
import os
import signal
import types
from collections.abc import Callable
from typing import NoReturn

INTERRUPTED = 130    # exit status


class Stop:
    """The handler of both signals.

    An interrupt may come while the work is unwound, too. But whatever is raised while modules load, while an error is
    told or while Python ends would become a traceback, or be swallowed.
    """

    def __init__(self) -> None:
        self._told = False    # whether what became of the work is, or will be

    def install(self) -> None:
        """Handle the signals from here on; a process that ignores Ctrl-C, as in the background, goes on ignoring it."""
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self)
        signal.signal(signal.SIGTERM, self)

    def work(self, main: Callable[[], int | None]) -> int:
        """Return the exit status of `main()`, which a signal interrupts by a KeyboardInterrupt."""
        try:
            return main() or 0
        finally:
            self._told = True

    def __call__(self, number: int, frame: types.FrameType | None) -> None:
        # The stack tells what no variable can, which would be set a moment too late.
        while frame is not None:
            if frame.f_code is Stop.work.__code__:
                raise KeyboardInterrupt
            frame = frame.f_back
        self._leave()

    def _leave(self) -> NoReturn:
        if not self._told:
            with contextlib.suppress(OSError):    # stderr was closed
                os.write(2, b"interrupted\n")
        os._exit(INTERRUPTED)
