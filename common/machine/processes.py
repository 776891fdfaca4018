"""Work that is done in processes of its own, several at a time."""
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from common.machine.errors import UserError, as_user_error, was_interrupted
from common.machine.partial_imports import forget_partial_nnabla
from common.machine.streams import flush, printing

_SECONDS_TO_END = 30    # that a process has to save its state when it is interrupted


def for_each(work: Callable[..., object], pieces: Mapping[str, tuple], at_once: int = 1) -> None:
    """Call `work(*arguments)` for all pieces, as `attempts` does.

    Raises
    ------
    UserError, KeyboardInterrupt
        The first that a piece ends with. The others are interrupted, too.
    """
    with contextlib.closing(attempts(work, pieces, at_once)) as ended:
        for _, error in ended:
            if error is not None:
                raise error


def attempts(work: Callable[..., object], pieces: Mapping[str, tuple],
             at_once: int = 1) -> Generator[tuple[str, UserError | None], None, None]:
    """Call `work(*arguments)` for all pieces, in this process one after the other, or several at once in others.

    Close the iterator unless it is read to the end, as that of `in_processes`.

    Parameters
    ----------
    work : callable
        As for `in_processes`.
    pieces : dict of str to tuple
        Name of the piece, for errors -> arguments.
    at_once : int
        With 1, or for a single piece, no process is started.

    Yields
    ------
    name, error
        As `in_processes` does.
    """
    if at_once < 2 or len(pieces) < 2:
        for name, arguments in pieces.items():
            try:
                work(*arguments)
            except UserError as error:
                yield name, error
            else:
                yield name, None
        return
    yield from in_processes(work, pieces.items(), at_once)


def in_processes(work: Callable[..., object], pieces: Iterable[tuple[str, tuple]],
                 at_once: int) -> Generator[tuple[str, UserError | None], None, None]:
    """Call `work(*arguments)` for each piece in a process of its own.

    Close the iterator (`contextlib.closing`) unless it is read to the end: that interrupts what is still running, and
    waits for it. The processes also end when this one is killed. Ctrl-C does not reach them but through this one.

    Parameters
    ----------
    work : callable
        Of module level, or a `functools.partial` of one, because it travels to other processes. What it returns is
        lost. It is interrupted by a KeyboardInterrupt.
    pieces : iterable of (name, arguments)
        The next one is taken from it while `at_once` others are worked on.
    at_once : int

    Yields
    ------
    name : str
        Of each piece when it has ended.
    error : UserError or None
        What it ended with. A process that was killed, or that had too little memory, is such an error.

    Raises
    ------
    UserError
        A process failed for a bug of ours, whose traceback it has printed.
    KeyboardInterrupt
        A process was interrupted.
    BrokenPipeError
        The reader of our output is gone, as with `| head`.
    """
    running: dict[Connection, tuple[SpawnProcess, str]] = {}
    try:
        for name, arguments in pieces:
            yield from _ended(running, at_most=at_once - 1)
            _start(running, name, work, arguments)
        yield from _ended(running, at_most=0)
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.join(_SECONDS_TO_END)
            process.kill()
            process.join()


def _start(running, name, work, arguments):
    """Begin a piece in a process, and enter it in `running`."""
    context = multiprocessing.get_context("spawn")    # threads, BLAS and compiled code do not survive a fork
    ours, theirs = context.Pipe()
    process = context.Process(target=_work_apart, args=(theirs,), daemon=True)
    with _interrupts_blocked():    # the process inherits that
        process.start()
        running[ours] = process, name
    theirs.close()    # otherwise this end would hide that the process has gone
    with contextlib.suppress(ConnectionError):    # it was killed; `_ended` will tell
        ours.send((name, work, arguments))    # as arguments they would block this process if that one died early


@contextlib.contextmanager
def _interrupts_blocked():
    """Inside, Ctrl-C waits; a terminal sends it to all processes, but this one ends the others."""
    if not hasattr(signal, "pthread_sigmask"):    # Windows
        yield
        return
    resource_tracker.ensure_running()    # otherwise it is started with the process, and unblocks the signal
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _ended(running, at_most):
    """Wait until at most so many are running; yield what ended, as `in_processes` does."""
    while len(running) > at_most:
        for connection in multiprocessing.connection.wait(list(running)):
            process, name = running.pop(connection)
            yield name, _error_of(name, process, connection)


def _error_of(name, process, connection):
    """Return the error that a process has ended with, or None."""
    with connection:
        try:
            error = connection.recv()
            process.join()
        except (EOFError, ConnectionError):
            process.join()
            if process.exitcode >= 0:
                raise UserError(f"{name}: its process ended with status {process.exitcode}; this is a bug, please "
                                "report what it printed") from None
            error = UserError(f"{name}: its process was killed (signal {-process.exitcode}), likely for want of "
                              "memory; run fewer at once")
    if isinstance(error, (KeyboardInterrupt, BrokenPipeError)):
        raise error
    return error


def _work_apart(connection):
    """Do the piece of work that `connection` brings, in a process of its own, and send what it ended with.

    Within `_attempt` a SIGTERM interrupts the work; before and after it ends the process, which prints nothing.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with printing():
        try:
            signal.signal(signal.SIGTERM, _interrupt_once)
            error = _attempt(connection)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        except KeyboardInterrupt as interrupt:    # as the work began or ended
            error = interrupt
        with contextlib.suppress(OSError):    # of what was printed before an error, which is told by itself
            flush()
    forget_partial_nnabla()
    with contextlib.suppress(ConnectionError):    # the parent is gone
        connection.send(error)


def _interrupt_once(number, frame):
    """Interrupt this process; the next signal ends it."""
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt


def _attempt(connection):
    """Do the piece of work; returns the error that it ended with, or None."""
    name = "a process"
    try:
        name, work, arguments = connection.recv()
        work(*arguments)
        flush()
    except (UserError, KeyboardInterrupt, BrokenPipeError) as error:
        return error
    except (SystemError, ImportError) as error:
        if not was_interrupted(error):
            raise
        return KeyboardInterrupt("interrupted")
    except EOFError:
        if _parent().is_alive():
            raise
    except MemoryError:
        return UserError(f"{name}: too little memory; run fewer at once")
    except (RuntimeError, OSError) as error:
        if (told := as_user_error(error)) is None:
            raise
        return told
    return None


def _end_with_parent():
    """Wait until the parent is gone, however it went, and interrupt this process: nobody would look at its work."""
    _parent().join()
    os.kill(os.getpid(), signal.SIGTERM)


def _parent():
    parent = multiprocessing.parent_process()
    assert parent is not None
    return parent
