"""Compiled loops on all cores."""
import functools
import importlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import threadpoolctl

from common.machine.cores import num_threads

_SMALL = 1 << 18    # operations below which handing out work costs more than it saves


@functools.cache
def _workers():
    # The kernels call SciPy's BLAS from every thread; its own threads on top would fight over the cores.
    importlib.import_module("scipy.linalg.cython_blas")    # only a library that is loaded can be limited
    threadpoolctl.threadpool_limits(1, user_api="blas")
    return ThreadPoolExecutor(max(1, num_threads() - 1), thread_name_prefix="kernel")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.cache_clear)    # a fork takes no threads along


def run_parallel(kernel: Callable, num: int, operations: int, *args: Any) -> None:
    """Call `kernel(start, stop, *args)` over `range(num)`, one range per core.

    Parameters
    ----------
    kernel
        Compiled by `common.cpu.compiling`.
    num
        Units of work: samples, blocks or groups.
    operations
        Elements, or products, in all; little work stays on the calling thread.
    """
    workers = _workers()
    threads = min(num_threads(), num)
    if threads < 2 or operations < _SMALL:
        kernel(0, num, *args)
        return
    edges = [num * k // threads for k in range(threads + 1)]
    waiting = [workers.submit(kernel, start, stop, *args) for start, stop in zip(edges[1:-1], edges[2:], strict=True)]
    kernel(0, edges[1], *args)
    for future in waiting:
        future.result()
