"""Interrupts that wait until what has been begun is whole."""
import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[list[int]]:
    """Yield a list into which a first Ctrl-C or SIGTERM puts its number; only a second one interrupts."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handle(number, frame):
        if received:
            raise KeyboardInterrupt("interrupted; the last checkpoint is as it was")
        received.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
