"""How fast arrays go to the device and back: asynchronous copies of pinned memory, each way alone and both together."""
import ctypes
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import attrs
import numpy as np

from common.machine.errors import UserError

TO_DEVICE, TO_HOST = "to_device", "to_host"
NUM_BYTES = 256 << 20    # of a copy; long enough that starting it takes no time
TIMES = 3
_RUNTIME = "libcudart.so.12"
_KINDS = {TO_DEVICE: 1, TO_HOST: 2}    # of CUDA's copies
_NON_BLOCKING = 1                      # streams that do not wait for the computation


class Copies(Protocol):
    """Copies of `num_bytes` bytes each way, one stream for each direction."""

    num_bytes: int

    def start(self, direction: str) -> None:
        """Begin a copy, and do not wait for its end."""
        ...

    def wait(self) -> None:
        """Wait until all copies have ended."""
        ...


@attrs.frozen
class Link:
    """Bytes per second each way: of copies that run alone, and while a copy of the other direction runs."""

    to_device_alone: float
    to_host_alone: float
    to_device: float
    to_host: float


def measure_link(copies: Copies, clock: Callable[[], float] = time.perf_counter) -> Link:
    """Measure the link of some copies; `clock` tells seconds."""
    to_device, to_host, both = (copies.num_bytes / _seconds(copies, directions, clock)
                                for directions in ((TO_DEVICE,), (TO_HOST,), (TO_DEVICE, TO_HOST)))
    # Both together take as long as the slower one, which then has the link to itself for a while.
    return Link(to_device, to_host, min(both, to_device), min(both, to_host))


def _seconds(copies: Copies, directions: Sequence[str], clock: Callable[[], float]) -> float:
    """Least seconds of copies in these directions, after one try that does not count."""
    tries = []
    for _ in range(1 + TIMES):
        started = clock()
        for direction in directions:
            copies.start(direction)
        copies.wait()
        tries.append(clock() - started)
    return min(tries[1:])


class HostCopies:
    """Copies in the memory of this machine, where the CPU is the device: a thread for each direction."""

    def __init__(self, num_bytes: int = NUM_BYTES // 8) -> None:
        self.num_bytes = num_bytes
        self._arrays = {direction: [np.ones(num_bytes, np.uint8) for _ in range(2)] for direction in _KINDS}
        self._threads = ThreadPoolExecutor(len(_KINDS))
        self._running = []

    def start(self, direction: str) -> None:
        """Begin a copy."""
        source, target = self._arrays[direction]
        self._running.append(self._threads.submit(np.copyto, target, source))

    def wait(self) -> None:
        """Wait until all copies have ended."""
        while self._running:
            self._running.pop().result()

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()


class CudaCopies:
    """Asynchronous copies between pinned memory and a GPU, by the CUDA runtime that nnabla's extension has loaded.

    Parameters
    ----------
    device_id
        Which GPU.
    num_bytes
        Of each copy. It takes twice that on both sides until `close`.
    runtime
        The library; by default it is found as the extension finds it.

    Raises
    ------
    UserError
        There is no such library, or a call of it failed.
    """

    def __init__(self, device_id: str = "0", num_bytes: int = NUM_BYTES, runtime: Any = None) -> None:
        try:
            self._runtime = runtime or ctypes.CDLL(_RUNTIME)
        except OSError as error:
            raise UserError(f"the link cannot be measured: {error}") from error
        self.num_bytes = num_bytes
        self._call("cudaSetDevice", ctypes.c_int(int(device_id)))
        self._host, self._device, self._streams = {}, {}, {}
        for direction in _KINDS:
            self._host[direction] = self._new("cudaHostAlloc", ctypes.c_size_t(num_bytes), ctypes.c_uint(0))
            self._device[direction] = self._new("cudaMalloc", ctypes.c_size_t(num_bytes))
            self._streams[direction] = self._new("cudaStreamCreateWithFlags", ctypes.c_uint(_NON_BLOCKING))

    def start(self, direction: str) -> None:
        """Begin a copy."""
        ends = [self._device[direction], self._host[direction]]    # target, source
        if direction == TO_HOST:
            ends.reverse()
        self._call("cudaMemcpyAsync", *ends, ctypes.c_size_t(self.num_bytes), ctypes.c_int(_KINDS[direction]),
                   self._streams[direction])

    def wait(self) -> None:
        """Wait until all copies have ended."""
        for stream in self._streams.values():
            self._call("cudaStreamSynchronize", stream)

    def close(self) -> None:
        """Free all memory."""
        for release, things in (("cudaStreamDestroy", self._streams), ("cudaFreeHost", self._host),
                                ("cudaFree", self._device)):
            for thing in things.values():
                self._call(release, thing)
            things.clear()

    def _new(self, name, *args):
        made = ctypes.c_void_p()
        self._call(name, ctypes.byref(made), *args)
        return made

    def _call(self, name, *args):
        status = getattr(self._runtime, name)(*args)
        if status:
            raise UserError(f"the link cannot be measured: {name} failed with CUDA error {status}")
