"""Plan out-of-core training of a graph without running it: the memory it needs, and its swaps by nnabla's scheduler."""
import functools
from collections.abc import Sequence
from typing import Any

import attrs
import nnabla as nn
import numpy as np

from common.machine.errors import UsageError, UserError
from common.out_of_core.allocators import CachingAllocator, VirtualAllocator
from common.out_of_core.backends import backend_named
from common.out_of_core.device import format_bytes, parse_bytes
from common.out_of_core.record import BYTES, Record
from common.out_of_core.recorder import Recorder
from common.out_of_core.replay import Occupancy, affordable, replay
from common.out_of_core.schedule import PlanError, Schedule, limit_too_small, make_schedule
from common.out_of_core.smallest import smallest_budget

Step = tuple[nn.Variable, Any]    # a loss and the solver that it is for, or None


@attrs.frozen
class Plan:
    """A training iteration on paper.

    Attributes
    ----------
    record
        Its array accesses, block by block.
    schedule
        The transfers, if a budget was given.
    """

    record: Record
    schedule: Schedule | None = None

    @property
    def function_blocks(self) -> int:
        """Number of blocks: the inputs, each function forward and backward, each parameter of each solver call."""
        return len(self.record.blocks)

    @property
    def recorded_accesses(self) -> int:
        """Gets, casts and clears of an iteration."""
        return self.record.num_accesses()

    @property
    def block_bytes(self) -> list[int]:
        """Bytes of the distinct (array, dtype) pairs of each block."""
        return self.record.block_bytes()

    @property
    def labels(self) -> Sequence[str]:
        """What each block computes."""
        return self.record.labels

    @functools.cached_property
    def _smallest(self) -> tuple[int, int]:    # where inputs are converted, plans are tried for it
        return smallest_budget(self.record)

    @property
    def minimum_budget(self) -> int:
        """Smallest feasible budget in bytes."""
        return self._smallest[0]

    @property
    def minimum_function(self) -> str:
        """What sets the smallest feasible budget."""
        return self.labels[self._smallest[1]]

    @property
    def in_core_bytes(self) -> int:
        """Most bytes that live at a time if nothing is swapped."""
        return max(self.record.in_core())

    def occupancy(self, chunk: int | None = None) -> Occupancy:
        """What some iterations take of the device and of the host, with what nnabla's allocators round up and keep.

        Parameters
        ----------
        chunk
            Bytes of a chunk where arrays of the device are `CudaCachedVirtualArray`; None: they are `CudaCachedArray`.
        """
        return replay(self.record, self.schedule, VirtualAllocator(chunk) if chunk else CachingAllocator())

    def affordable(self, budget: int, prefetch: int | None = None) -> int:
        """Bytes of arrays that `common.out_of_core.OutOfCore` plans with where it has a budget on a GPU."""
        return affordable(self.record, budget, (self.minimum_budget, budget), CachingAllocator, prefetch)

    @property
    def transfers(self) -> Schedule:
        """The schedule of a plan that was made with a budget; ValueError if it was made without."""
        if self.schedule is None:
            raise ValueError("there are no transfers in a plan without a budget: give one to `plan`")
        return self.schedule

    @property
    def peak_bytes(self) -> int:
        """Most bytes on the GPU or on their way out at a time, as nnabla's scheduler counts them."""
        return self.transfers.peak_bytes

    def counts(self) -> dict[str, tuple[int, int]]:
        """Number and bytes of the events of an iteration.

        Returns
        -------
        dict
            `swap_in`, `swap_out`, `wait`, `preclear` -> (number, bytes by the type of the recorded use).
        """
        kinds = {"swap_in": "in", "swap_out": "out", "wait": "wait", "preclear": "preclear"}
        return {name: self.transfers.count(kind) for name, kind in kinds.items()}


def plan(steps: nn.Variable | Sequence[Step], inputs: Sequence[nn.Variable | tuple[nn.Variable, str]] = (),
         budget: str | float | None = None, prefetch: str | float | None = None, weight_decay: bool = False,
         save_host_memory: bool = False, backend: str | None = None, workspace: int = 0) -> Plan:
    """Plan a training iteration as nnabla's scheduler would after it has recorded one.

    The iteration writes the inputs and takes the steps: for each `forward(clear_no_need_grad=True)`, `zero_grad()`,
    `backward(clear_buffer=True)`, `weight_decay(...)` if asked for, `update()`. For another order of calls, make a
    record with `common.out_of_core.recorder.Recorder` and give it to `plan_record`.

    Parameters
    ----------
    steps
        Losses and what they update; without a solver, forward and backward alone. A loss may stand for itself.
    inputs
        What is written from the host; `float32` unless said otherwise.
    budget
        Bytes of the GPU that arrays may take, also as a text such as `12GB`; without it, no transfers are planned.
    prefetch
        Bytes of the prefetch window, likewise; 1.5 times the budget by default.
    weight_decay, save_host_memory
        As for `common.out_of_core.OutOfCore`.
    backend
        What is to compute, `cpu`, `cudnn`, `cpu:half` or `cudnn:half`; it need not be here, nor the graph be built for
        it. By default the backend of the current context.
    workspace
        Bytes to count for each workspace of cuDNN: one for a convolution forward, two backward. How many it takes is
        known on the device alone; `common.out_of_core.device.workspace_limit` has the most.

    Raises
    ------
    UsageError
        There is no such backend or type of an input; the budget or the window is no amount of memory.
    UserError
        The budget or the window is too small; the message names the smallest feasible one and what sets it.
    """
    if isinstance(steps, nn.Variable):
        steps = [(steps, None)]
    limit, window = (None if value is None else parse_bytes(value, what)
                     for value, what in ((budget, "budget"), (prefetch, "prefetch window")))
    recorder = Recorder(backend_named(backend, workspace))
    for entry in inputs:
        variable, dtype = (entry, "float32") if isinstance(entry, nn.Variable) else entry
        recorder.write(variable, _type_name(dtype))
    for step in steps:
        loss, solver = (step, None) if isinstance(step, nn.Variable) else step
        recorder.forward(loss)
        if solver is not None:
            recorder.zero_grad(solver)
        recorder.backward(loss)
        if solver is not None and weight_decay:
            recorder.solver_call(solver, "weight_decay")
        if solver is not None:
            recorder.solver_call(solver, "update")
    return plan_record(recorder.finish(), limit, window, save_host_memory)


def _type_name(dtype: Any) -> str:
    """Name of a type of numpy, or of what numpy takes for one; UsageError if arrays of nnabla do not have it."""
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = ""
    if name not in BYTES:
        raise UsageError(f"an input of type {dtype!r}: choose one of {', '.join(BYTES)}")
    return name


def plan_record(record: Record, budget: int | None = None, prefetch: int | None = None,
                save_host_memory: bool = False) -> Plan:
    """Plan the transfers for a record; arguments and errors as for `plan`."""
    result = Plan(record)
    if budget is None:
        return result
    try:
        return attrs.evolve(result, schedule=make_schedule(record, budget, prefetch, save_host_memory))
    except PlanError as error:
        smallest = result.minimum_budget
        raise UserError(f"{limit_too_small(budget, prefetch, smallest)} is too small: the smallest feasible one is "
                        f"{smallest} bytes ({format_bytes(smallest)}), set by {result.minimum_function}; no room for "
                        f"{record.labels[error.block]}") from None
