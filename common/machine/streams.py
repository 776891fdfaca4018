"""The standard streams of a process: there, and safe to write names to."""
import codecs
import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from common.machine.errors import one_line, printable

_PLAIN = "plain"    # the error handler below


def _spell(error):
    """Escape what a terminal cannot show; the sign of deviations is spelled."""
    escaped, end = codecs.backslashreplace_errors(error)
    assert isinstance(escaped, str)    # it is bytes for other handlers
    return escaped.replace(r"\xb1", "+-"), end


codecs.register_error(_PLAIN, _spell)


class _Printing:
    """A stream that writes all but line breaks and tabs as `printable` does; otherwise the one that it wraps."""

    def __init__(self, stream: Any) -> None:
        self._wrapped = stream    # tqdm knows a wrapped stream by this name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def write(self, text: str) -> int:
        plain = text if text.isprintable() else "".join(
            part if part in "\n\t" else printable(part) for part in text)
        self._wrapped.write(plain)
        return len(text)


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Within, what is printed moves no cursor, and all can be printed: names that are not UTF-8, `±` in ASCII.

    A stream that was closed before the process began, as by `>&-`, takes what is written and drops it. NumPy says
    nothing of numbers that run over: a training that diverges ends with an error of its own. Nor do matplotlib and
    openvino's telemetry say what files they do not find in a new home.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_PLAIN)
    sys.stdout, sys.stderr = map(_Printing, before)
    try:
        with warnings.catch_warnings(), _quiet_loggers():
            warnings.filterwarnings("ignore", r"(overflow|invalid value|divide by zero) encountered", RuntimeWarning)
            yield
    finally:
        sys.stdout, sys.stderr = before


@contextlib.contextmanager
def _quiet_loggers():
    """Within, some loggers keep to themselves what is at their level or below; nnabla lets all print from INFO on.

    The one without a name is openvino's telemetry's, and that of a program around us, which is left alone otherwise.
    """
    filters = {name: lambda record, most=most: record.levelno > most for name, most in (
        (None, logging.INFO), ("matplotlib.font_manager", logging.INFO), ("matplotlib", logging.WARNING))}
    for name, passes in filters.items():
        logging.getLogger(name).addFilter(passes)
    try:
        yield
    finally:
        for name, passes in filters.items():
            logging.getLogger(name).removeFilter(passes)


def _open_closed():
    """Open what is closed of the descriptors 0, 1 and 2: a file opened later would take its place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                while os.open(os.devnull, os.O_RDWR) < number:
                    pass
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w"))    # noqa: SIM115, PTH123


def say(text: str) -> None:
    """Print a warning or an error on stderr: one line of bounded length, whatever it quotes."""
    # At once: a signal may come before the next write.
    print(f"{one_line(text)}\n", end="", file=sys.stderr, flush=True)


def unescaped_stderr() -> Any:
    """Return stderr for a progress bar, which does move the cursor."""
    return getattr(sys.stderr, "_wrapped", sys.stderr)


def flush() -> None:
    """Write out what was printed.

    Raises
    ------
    BrokenPipeError
        The reader is gone, as with `| head`; nothing more will be written.
    OSError
        The disk is full.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _drop(stream)    # otherwise Python tries again when it ends
            raise


def _drop(stream):
    with contextlib.suppress(OSError, ValueError):    # a stream of a test has no descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
