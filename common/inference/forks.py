"""Engines in the children of a fork, which takes none of the threads along that an engine computes with.

An engine there would wait for its threads for ever: to compute, to make another network, or to take a network down.
"""
import ctypes
import os
import weakref
from typing import TypeVar

from common.machine.errors import UserError

T = TypeVar("T")

_processes: dict[str, int] = {}    # engine -> the process in which it runs
_living: weakref.WeakSet = weakref.WeakSet()


def check_process(engine: str) -> None:
    """Let an engine run in one process, the first that calls this, and not in those that are forked from it.

    Raises
    ------
    UserError
        The engine runs in the process that this one was forked from.
    """
    if _processes.setdefault(engine, os.getpid()) != os.getpid():
        raise UserError(f"{engine} already runs in the process that this one was forked from, and does not survive a "
                        'fork: start processes by multiprocessing.get_context("spawn"), or fork before the first '
                        "network is made")


def left_alone_by_forks(running: T) -> T:
    """Return what holds a network of an engine; a child of a fork will never take it down, not even when it ends."""
    _living.add(running)
    return running


def _keep_forever():
    for running in _living:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(running))


if hasattr(os, "register_at_fork"):    # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_keep_forever)
