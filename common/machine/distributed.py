"""Training on several processes: `mpirun -n N python SCRIPT`, each with its part of every batch.

One process needs no MPI. Several compute as one process with the whole batch would: gradients are averaged after every
backward pass, and batch normalization takes its statistics over all processes. On CPUs they talk through mpi4py, on
GPUs through nnabla's communicator (NCCL), which averages gradients while others are still computed, or all of them
afterwards where a loss uses a parameter more than once.

A process is called a rank, as in MPI. Rank 0 alone writes files and prints; see `common.machine.files` and
`common.console.cli`.
"""
import contextlib
import functools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import nnabla as nn
import numpy as np
from numpy.typing import ArrayLike

from common.machine.context import on_gpu, use_context
from common.machine.errors import UsageError
from common.machine.launching import launched_local_rank, launched_size

_PACK = 2 << 20    # gradients that NCCL reduces together, in numbers
Items = TypeVar("Items", bound=Sequence)
INSTALL = "run 'pip install -r requirements-distributed.txt', or start without mpirun"


class World:
    """The processes that train together. This class itself is for a process that trains alone.

    Attributes
    ----------
    rank, size : int
        Number of this process, and how many there are.
    communicator : nnabla communicator or None
        Where ranks compute on GPUs.
    """

    rank: int = 0
    size: int = 1
    communicator: Any = None

    def sum(self, array: ArrayLike) -> np.ndarray:
        """Add up an array over the ranks.

        Parameters
        ----------
        array
            Of one shape on all ranks.

        Returns
        -------
        numpy.ndarray, float64
            The same bits on all ranks.
        """
        return np.array(array, np.float64)

    def mean(self, array: ArrayLike) -> np.ndarray:
        """As `sum`, divided by the number of ranks."""
        return self.sum(array) / self.size

    def any(self, flags: Iterable[object]) -> list[bool]:
        """For each of several conditions, whether it holds on any rank."""
        return [bool(total) for total in self.sum([bool(flag) for flag in flags])]

    def share(self, items: Items) -> Items:
        """Every `size`-th of a sequence, so that each item belongs to one rank."""
        return items[self.rank::self.size]    # pyright: ignore[reportReturnType] - a slice has the type of its sequence

    def rows(self, batch_size: int, number: int = 0) -> slice:
        """Where the rows of this rank in batch `number` lie, if a batch has `batch_size` rows for each rank."""
        start = (number * self.size + self.rank) * batch_size
        return slice(start, start + batch_size)

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Let rank 0 do the block before the others, who find in the cache what it has fetched or computed."""
        if self.rank:
            self.sum(0)
        yield
        if not self.rank:
            self.sum(0)

    def backward(self, loss: nn.Variable, solver: Any) -> None:
        """Compute the gradients of `solver`'s parameters, averaged over the ranks; all have to call it.

        Parameters
        ----------
        loss : nn.Variable ()
            After its forward pass; a mean over the rows of this rank.
        solver : nnabla solver
        """
        loss.backward(clear_buffer=True)


class _CPUWorld(World):
    """Ranks that exchange arrays of the host through mpi4py."""

    def __init__(self):
        from mpi4py import MPI

        self._mpi, self._in_place = MPI.COMM_WORLD, MPI.IN_PLACE
        self.rank, self.size = self._mpi.rank, self._mpi.size

    def sum(self, array: ArrayLike) -> np.ndarray:
        array = np.array(array, np.float64)
        self._mpi.Allreduce(self._in_place, array)
        return array

    def backward(self, loss: nn.Variable, solver: Any) -> None:
        loss.backward(clear_buffer=True)
        gradients = [parameter.grad for parameter in solver.get_parameters().values()]
        packed = np.concatenate([gradient.data.ravel() for gradient in gradients])
        self._mpi.Allreduce(self._in_place, packed)
        packed /= self.size
        start = 0
        for gradient in gradients:
            gradient.data = packed[start:start + gradient.size].reshape(gradient.shape)
            start += gradient.size


class GPUWorld(World):
    """Ranks with a GPU each, that exchange its arrays through NCCL.

    `communicator` is one of nnabla's, after its `init`.
    """

    def __init__(self, communicator: Any) -> None:
        self.communicator, self.rank, self.size = communicator, communicator.rank, communicator.size

    def sum(self, array: ArrayLike) -> np.ndarray:
        array = np.array(array, np.float64)
        # NCCL adds what the context computes with, float32, which ends to count at 2^24. So each rank puts the bits of
        # its numbers, 16 to a float32, where the others put zeros: these sums are exact. Only then is added.
        parts = np.zeros((self.size, array.size, 4), np.float32)
        parts[self.rank] = array.reshape(-1, 1).view(np.uint16)
        on_device = nn.NdArray.from_numpy_array(parts)
        self.communicator.all_reduce(on_device, division=False, inplace=True)
        return np.ascontiguousarray(on_device.data.astype(np.uint16)).view(np.float64).sum(0).reshape(array.shape)

    def backward(self, loss: nn.Variable, solver: Any) -> None:
        gradients = [parameter.grad for parameter in solver.get_parameters().values()]
        if _any_used_twice(loss, gradients):
            # The callback averages a gradient after the first function that adds to it, and does not wait for others.
            loss.backward(clear_buffer=True)
            self.communicator.all_reduce(gradients, division=True, inplace=False)
            return
        averaging = self.communicator.all_reduce_callback(gradients, _PACK, division=True)
        loss.backward(clear_buffer=True, communicator_callbacks=averaging)


def _any_used_twice(loss, gradients):
    """Whether functions that lead to `loss` use a parameter more than once; `gradients` are the parameters' own."""
    uses = dict.fromkeys(map(hash, gradients), 0)

    def count(f):
        for v in f.inputs:
            if v.need_grad and v.parent is None and hash(v.grad) in uses:
                uses[hash(v.grad)] += 1

    loss.visit(count)
    return any(number > 1 for number in uses.values())


_joined = World()


def world() -> World:
    """Return the processes that train together: this one alone, unless `join_ranks` has found others."""
    return _joined


def join_ranks(context: str = "auto", device_id: str | int = "0") -> str:
    """Choose where to compute, as `common.machine.context.use_context` does, and find the other processes of mpirun.

    Each takes the GPU of its number on its machine. What ranks other than 0 print to stdout is dropped.

    Returns
    -------
    str
        What was chosen, for people.

    Raises
    ------
    UsageError
        As `use_context`; mpirun was used, and a library that several processes need is missing.
    """
    global _joined
    size = launched_size()
    if size == 1:
        return use_context(context, device_id)
    where = use_context(context, str(launched_local_rank()))
    _joined = _world_of(on_gpu())
    if _joined.size != size:
        raise UsageError(f"mpirun started {size} processes, and MPI connects {_joined.size}: is the mpirun that of "
                         "the MPI library in use?")
    if _joined.rank:
        sys.stdout = open(os.devnull, "w", errors="backslashreplace")    # noqa: SIM115, PTH123 - until the process ends
    return f"{where.partition(', GPU')[0]}, {size} processes"


def _nccl_communicator():
    import nnabla.communicators as C  # noqa: N812

    try:
        communicator = C.MultiProcessDataParallelCommunicator(nn.get_current_context())
    except RuntimeError as error:
        raise UsageError("nnabla found no libmpi.so (Open MPI) or libnccl.so.2, which several GPUs need: install "
                         "them and name their folders in LD_LIBRARY_PATH, or start without mpirun") from error
    communicator.init()
    return communicator


@functools.cache
def _world_of(gpu):
    if gpu:
        return GPUWorld(_nccl_communicator())
    try:
        return _CPUWorld()
    except (ImportError, RuntimeError) as error:
        raise UsageError(f"mpi4py does not work ({error}): {INSTALL}") from error
