"""Train networks that need more memory than the GPU has, by swapping arrays with the host (arXiv 2010.14109).

    use_context("cudnn")
    memory = OutOfCore("12GB")        # before the network is built
    for image, label in batches:
        with memory:                  # one training iteration
            train_step(image, label)
    with memory.validation():         # one validation step
        evaluate(image)

nnabla's `SwapInOutScheduler` does the work. It records the first iteration and plans the later ones from it, and ends
the process if one of them touches more arrays than the first did; this module prevents that.
"""
import argparse
import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import nnabla as nn
from nnabla.lms import SwapInOutScheduler

from common.machine.context import on_gpu
from common.machine.errors import UserError
from common.machine.streams import say
from common.machine.threads import NNABLA
from common.out_of_core.allocators import Allocator, CachingAllocator, VirtualAllocator
from common.out_of_core.device import (
    chunk_for,
    device_memory,
    format_bytes,
    free_caches,
    limit_workspaces,
    parse_budget,
    parse_bytes,
    prepare_contexts,
)
from common.out_of_core.hooks import Hooks, first_error
from common.out_of_core.meter import Meter
from common.out_of_core.observer import Observer
from common.out_of_core.record import Record
from common.out_of_core.replay import affordable, replay
from common.out_of_core.schedule import limit_too_small

Result = TypeVar("Result")
_CLEARED = "Off-scheduled get or cast"
_CHANGES_NOTED = 3    # changes of the sequence that are noted; later ones are not
_SPARE = 20000    # accesses that a later iteration may have beyond those of the recorded one
_SMALLER = 0.8    # factor of the budget when memory ran out all the same
_LARGER = 1.25    # factor of what is planned with when that was too little


class OutOfCore:
    """Keeps the arrays of an iteration on the host, and on the GPU only those that are needed soon.

    As a context manager it surrounds a training iteration: inputs, forward, `zero_grad`, backward, update. The results
    are the same as without it, bit for bit. The first iteration is recorded and slow. Where a later one runs other
    functions, or more, it is recorded again. Values read within the block (`loss.d`) in some
    iterations and not in others make the plan miss its aim for that iteration; read them after the block. While a block
    runs, no other thread may use nnabla: nnabla would record what it touches, and may end the process.

    Parameters
    ----------
    budget
        Bytes of the GPU that this process may take beyond what CUDA itself does, as for
        `common.out_of_core.device.parse_budget`: `auto`, `12GB`, bytes, a fraction up to 1.0. With `auto` nothing is
        swapped if all arrays fit. Room that allocators waste is left out of the plan. What is taken is measured before
        each function: above the budget, caches are freed; if that is not enough, the next iteration is recorded anew
        with less for arrays.
    prefetch
        Bytes of the window in which arrays are fetched ahead; 1.5 times the budget if not given.
    virtual
        Take device memory in chunks at virtual addresses, which swapping does not fragment. Mapping takes time, and
        small arrays waste chunks: on an H100 it was slower where the budget held. It holds for the functions made from
        here on, as does the pinned memory of the host. No effect on a CPU.
    chunk
        Bytes of such a chunk; that of `common.out_of_core.device.chunk_for` if not given.
    save_host_memory
        Let arrays give up their copy on the host while they are on the GPU, at the price of more transfers.
    note
        Gets a line of text on what was chosen and why; by default it goes to stderr.

    Raises
    ------
    UsageError
        The budget, the window or the chunk is no positive amount of memory; a budget is larger than the device.
    """

    def __init__(self, budget: str | float = "auto", prefetch: str | int | None = None, virtual: bool = False,
                 chunk: int | None = None, save_host_memory: bool = False,
                 note: Callable[[str], object] | None = None) -> None:
        free, total = device_memory()
        self.budget = parse_budget(budget, free, total)
        self.prefetch = None if prefetch is None else parse_bytes(prefetch, "prefetch window")
        self.automatic = isinstance(budget, str) and budget.strip().lower() == "auto"
        self.virtual, self.save_host_memory = virtual, save_host_memory
        self.chunk = chunk_for(self.budget) if chunk is None else parse_bytes(chunk, "chunk")
        self.note = note or _print_note
        self.solvers: list[Any] = []
        self.host, self.device = prepare_contexts(virtual, self.chunk)
        if on_gpu():    # from a CPU it would reach what uses cuDNN later, here and in processes that this one starts
            limit_workspaces(self.budget)
        self.meter = Meter(self.budget, virtual)
        self._training, self._validation = _Iteration(self, "training"), _Iteration(self, "validation")
        where = "" if on_gpu() else "; on a CPU the transfers are planned all the same, but no memory is saved"
        self.note(f"arrays may take {format_bytes(self.budget)}{where}")

    def attach(self, *solvers: Any) -> None:
        """Name the solvers of the iteration, so that errors can name the smallest budget exactly."""
        self.solvers.extend(solvers)

    def __enter__(self) -> "OutOfCore":
        self._training.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._training.__exit__(*exception)

    def validation(self) -> AbstractContextManager:
        """Context manager for an iteration of the other kind, with a record and a plan of its own."""
        return self._validation

    def run(self, step: Callable[..., Result], *args: Any) -> Result:
        """Call `step(*args)` as one training iteration; where memory runs out, take less of it and try again.

        The second try is made only if no parameter was updated before. With a budget other than `auto` there is none.
        """
        while True:
            try:
                with self:
                    return step(*args)
            except (RuntimeError, SystemError) as error:
                if not (self.automatic and _is_out_of_memory(error)) or self._training.updated:
                    raise
                self._fall_back()

    def new_allocator(self) -> Allocator:
        """An allocator that takes memory of a GPU as nnabla's does."""
        return VirtualAllocator(self.chunk) if self.virtual else CachingAllocator()

    def _fall_back(self):
        smallest, cause, _ = self._training.minimum()
        if self.budget * _SMALLER < smallest:
            raise UserError(f"out of memory with a budget of {self.budget} bytes, and {cause} needs {smallest}; "
                            "use a smaller batch or image") from None
        self.budget = self.meter.limit = int(self.budget * _SMALLER)
        free_caches(self.virtual)
        self._training.forget()
        self._validation.forget()
        self.note(f"memory ran out: arrays may take {format_bytes(self.budget)} from here on")


class InCore:
    """What `out_of_core` returns where nothing is to be swapped: the same methods, no effect."""

    def attach(self, *solvers: Any) -> None:
        """Do nothing."""

    def __enter__(self) -> "InCore":
        return self

    def __exit__(self, *exception: Any) -> None:
        return None

    def validation(self) -> AbstractContextManager:
        """Context manager that does nothing."""
        return contextlib.nullcontext()

    def run(self, step: Callable[..., Result], *args: Any) -> Result:
        """Call `step(*args)`."""
        return step(*args)


def add_out_of_core_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--out-of-core [BUDGET]`, to be passed to `out_of_core`."""
    parser.add_argument("--out-of-core", nargs="?", const="auto", metavar="BUDGET",
                        help="swap arrays with the host so that a network may need more memory than the GPU has; "
                             "BUDGET for arrays on the GPU: auto, 12GB, bytes, or a fraction such as 0.8 (default: no "
                             "swapping; without BUDGET: auto)")


def out_of_core(budget: str | None) -> OutOfCore | InCore:
    """Return what the value of `--out-of-core` asks for; after `use_context`, before the network."""
    return InCore() if budget is None else OutOfCore(budget)


class _Iteration:
    """A kind of iteration with its scheduler; a context manager around each one.

    The sequence of functions is compared with the recorded one before nnabla hears of each: where it differs, the plan
    is given up and the rest of the iteration recorded, which is safe whatever it does; the next iteration is recorded
    anew.
    """

    _active: "_Iteration | None" = None    # the scheduler's hooks are global, so only one iteration can run at a time

    def __init__(self, owner: OutOfCore, kind: str) -> None:
        self.owner, self.kind = owner, kind
        self.updated = False
        self._longest, self._changes = [], 0
        self._told = False
        self._observer = Observer(owner.solvers)
        self._hooks = Hooks("out_of_core", self._before_function, before_update=self._before_update)
        self._size = owner.budget    # bytes of arrays that the scheduler plans with
        self._least = 0              # for less, it was seen, there is no plan
        self.forget()

    def forget(self) -> None:
        """Give up the plan, or that all arrays fit: the next iteration is recorded."""
        self._in_core = False
        self._size = min(self._size, self.owner.budget)
        self._scheduler: Any = None
        self._recorded: list | None = None

    def minimum(self) -> tuple[int, str, bool]:
        """Smallest feasible budget of the iteration recorded last, its cause, and whether that is exact."""
        return self._observer.minimum()

    def __enter__(self) -> "_Iteration":
        NNABLA.acquire()    # nnabla's hooks would record, and the plan would miss, what other threads do
        try:
            self._begin()
        except BaseException:
            NNABLA.release()
            raise
        return self

    def _begin(self):
        if _Iteration._active is not None:
            raise UserError(f"out-of-core: a {self.kind} iteration begins within a {_Iteration._active.kind} iteration"
                            "; leave that block first")
        self.updated, self._seen, self._partial, self.owner.meter.peak = False, [], False, None
        if not self._in_core:
            self._start()
        self._hooks.__enter__()
        _Iteration._active = self

    def __exit__(self, error_type: type | None, error: BaseException | None, traceback: object) -> None:
        try:
            self._leave(error_type, error, traceback)
        finally:
            NNABLA.release()

    def _leave(self, error_type, error, traceback):
        _Iteration._active = None
        try:
            self._hooks.__exit__(error_type, error, traceback)
        except BaseException:
            self._end(whole=False)
            raise
        self._end(whole=error_type is None)
        if isinstance(error, (RuntimeError, SystemError)) and _CLEARED in _reason(error):
            raise UserError(f"a value was read in a {self.kind} iteration after the plan had cleared it: read it after "
                            "the block, or in every iteration from the first") from None

    def _end(self, whole):
        """End an iteration; `whole` where it had no error."""
        if self._in_core:
            return
        recording, whole = self._recorded is None, whole and not self._partial
        if recording and whole:
            _add_spare_accesses()
        self._scheduler.end_scheduling()
        if recording:
            self._finish_recording(whole)
        elif self.owner.meter.exceeded():
            self._plan_with_less()

    def _start(self):
        if self._recorded is None:
            self._begin_recording()
        try:
            self._scheduler.start_scheduling()
            _begin_with_an_access()
        except RuntimeError as error:
            if not _is_too_small(error):
                raise
            if self._size == self.owner.budget:
                raise UserError(self._explain_too_small()) from None
            # The smallest budget is not known exactly where functions have buffers of their own.
            self.forget()
            self._least = self._size = min(int(self._size * _LARGER), self.owner.budget)
            self._start()

    def _explain_too_small(self):
        smallest, cause, exact = self._observer.minimum()
        limit = limit_too_small(self.owner.budget, self.owner.prefetch, smallest)
        return (f"{limit} is too small for this {self.kind} iteration: the smallest feasible one is "
                f"{'' if exact else 'about '}{smallest} bytes ({format_bytes(smallest)}), set by {cause}; a "
                "smaller batch or image lowers it, as does splitting that function; what was trained so far is kept")

    def _begin_recording(self):
        owner = self.owner
        window = {} if owner.prefetch is None else {"prefetch_size": owner.prefetch}
        self._scheduler = SwapInOutScheduler(owner.host, owner.device, self._size,
                                             save_host_mem=owner.save_host_memory, **window)
        self._observer = Observer(owner.solvers)

    def _finish_recording(self, whole):
        """Take the record as the plan of later iterations, unless a longer one like it is known to come."""
        shorter = len(self._seen) < len(self._longest) and self._longest[:len(self._seen)] == self._seen
        if not whole or shorter:
            self.forget()
            return
        self._recorded = self._longest = self._seen
        if on_gpu():
            self._fit_to_the_device()

    def _fit_to_the_device(self):
        """Swap nothing where that fits; otherwise plan with what leaves room for all that the allocator takes."""
        owner, record = self.owner, self._observer.record()
        if owner.automatic:
            self._stay_in_core_if_it_fits(record)
        if self._in_core:
            return
        size = affordable(record, owner.budget, (self._smallest(), self._size), owner.new_allocator, owner.prefetch,
                          owner.save_host_memory)
        if size < self._size:
            self._size = size    # of a scheduler it cannot be changed, so that another one records
            self.forget()

    def _smallest(self):
        return max(self._observer.minimum()[0], self._least)

    def _plan_with_less(self):
        """After an iteration that took more than the budget: record the next one for a plan with less."""
        owner = self.owner
        smaller = max(int(self._size * _SMALLER), self._smallest())
        if smaller < self._size:
            self._size = smaller
            self.forget()
            what = f"planning with {format_bytes(smaller)} for arrays from here on"
        elif not self._told:
            self._told = True
            what = "no plan for this iteration takes less"
        else:
            return
        owner.note(f"{self.kind}: {format_bytes(owner.meter.peak or 0)} were taken, more than the budget of "
                   f"{format_bytes(owner.budget)}; {what}")

    def _stay_in_core_if_it_fits(self, record: Record):
        needed = replay(record, None, self.owner.new_allocator()).device_bytes
        self._in_core = needed <= self.owner.budget
        fits = "fits: nothing is swapped" if self._in_core else "does not fit: arrays are swapped"
        self.owner.note(f"{self.kind}: all arrays together take {format_bytes(needed)}, which {fits}")

    def _before_function(self, f):
        # The batch size may change, and with it what fits; so the shapes are part of what is compared.
        self._meet((f.info.type_name, tuple(v.shape for v in f.outputs)), f)
        if not self._in_core:
            self._scheduler.function_pre_hook(f)
            self.owner.meter.measure()

    def _before_update(self):
        self.updated = True
        self._meet("update", None)
        if not self._in_core:
            self._scheduler.update_pre_hook()

    def _meet(self, event, f):
        """Compare what comes with the record, and give up the plan where it is something else."""
        position = len(self._seen)
        self._seen.append(event)
        if self._in_core:
            return
        if self._recorded is None:
            self._observer.functions.append(f)
        elif position >= len(self._recorded) or self._recorded[position] != event:
            self._record_the_rest(event, longer=position >= len(self._recorded))

    def _record_the_rest(self, event, longer):
        self._changes += 1
        if self._changes <= _CHANGES_NOTED:
            name = event if isinstance(event, str) else event[0]
            before = "its end" if longer else "something else"
            last = "; later changes will not be noted" if self._changes == _CHANGES_NOTED else ""
            self.owner.note(f"{self.kind}: {name} comes where the recorded iteration had {before}; recording again"
                            f"{last}")
        if longer:
            self._longest = self._seen    # grows on to the end of this iteration
        self._scheduler.end_scheduling()
        self.forget()
        self._partial = True
        self._start()


def _begin_with_an_access():
    """Give the block before the first function an access, in every iteration the same: the clear of an unused array.

    Where neither the inputs nor the first function touch an array (a reshape in place does not), nnabla's planner reads
    beyond the beginning of its list and ends the process.
    """
    nn.NdArray((1,)).zero()


def _add_spare_accesses():
    """End a record with clears of an array that nobody uses.

    nnabla reads on in its list at every access and does not look for its end. Values that are read in a later iteration
    only, without a function, are seen by no hook; they take these places. Clears take no memory in the plan.
    """
    unused = nn.NdArray((1,))
    for _ in range(_SPARE):
        unused.zero()


def _is_too_small(error):
    return str(error).startswith("memory error in") and ("Some arrays were not prefetched" in str(error)
                                                         or "A function is out of memory" in str(error))


def _is_out_of_memory(error):
    text = _reason(error)
    return "memory error" in text or "out of memory" in text.lower() or "bad_alloc" in text


def _reason(error):
    """Text of an error; for one that left a function in Python, that of what happened there."""
    return str(first_error(error) if isinstance(error, SystemError) else error)


def _print_note(text):
    say(f"out-of-core: {text}")
