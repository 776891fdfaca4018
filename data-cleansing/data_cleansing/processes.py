"""Work of which each piece is done in a process of its own, several at a time."""
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading

from common.machine.errors import UserError


def for_each(work, items, jobs=1):
    """Call `work(item)` for all items, in this process one after the other, or in `jobs` processes at a time.

    Parameters
    ----------
    work : callable
        Of module level, or a `functools.partial` of one, as it travels to other processes. What it returns is lost.
    items : sequence
    jobs : int
        For a single item, too, no other process is started.

    Raises
    ------
    UserError, KeyboardInterrupt
        The first one that a process ends with. The others are interrupted, too.
    """
    if jobs < 2 or len(items) < 2:
        for item in items:
            work(item)
        return
    # Threads and compiled code do not survive a fork.
    context, waiting, running = multiprocessing.get_context("spawn"), list(items), {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_work_apart, args=(sender, work, waiting.pop(0)))
                process.start()
                sender.close()    # the process has it; here its end would hide that of the process
                running[receiver] = process
            for receiver in multiprocessing.connection.wait(list(running)):
                _receive(receiver, running.pop(receiver))
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()


def _receive(receiver, process):
    """Wait for the end of a process, and raise what it ended with."""
    try:
        error = receiver.recv()
        process.join()
    except EOFError:
        process.join()
        error = UserError(f"a process ended with status {process.exitcode}; if it was killed for want of memory, run "
                          "fewer of them at a time")
    if error is not None:
        raise error


def _work_apart(sender, work, item):
    """Do a piece of work in a process of its own, and send what it ended with: None or an error."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    error = None
    try:
        work(item)
    except (UserError, KeyboardInterrupt) as caught:
        error = caught
    sender.send(error)


def _end_with_parent():
    """Wait until the parent is gone, however it went, and interrupt this process: nobody would look at its work."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGINT)
