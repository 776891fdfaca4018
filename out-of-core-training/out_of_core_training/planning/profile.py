"""How long the functions of a network take: measured in-core with small batches, and carried on to larger ones."""
import time
from collections.abc import Callable, Sequence

import attrs
import nnabla as nn
import numpy as np
from nnabla import callback

from common.machine.context import on_gpu
from common.out_of_core.device import synchronize
from out_of_core_training import models
from out_of_core_training.data import RandomBatches

ITERATIONS = 3
ENOUGH = 0.5    # seconds of an iteration that need not be measured with larger batches
_KEY = "profile"


@attrs.frozen
class Profile:
    """Seconds of each block of an iteration at two batch sizes.

    Attributes
    ----------
    batches
        The smaller one first.
    seconds
        For each of them, of the blocks as the planner counts them: the inputs, each function forward and backward, the
        update of each parameter.
    """

    batches: tuple[int, int]
    seconds: tuple[Sequence[float], Sequence[float]]

    def at(self, batch: int) -> list[float]:
        """Seconds of the blocks at another batch size, on lines through the two that do not fall."""
        first, second = self.batches
        slopes = [max(0.0, (b - a) / (second - first)) for a, b in zip(*self.seconds, strict=True)]
        return [max(0.0, b + slope * (batch - second)) for b, slope in zip(self.seconds[1], slopes, strict=True)]


def measure_profile(build: Callable[[int], models.TrainingGraph], largest: int,
                    clock: Callable[[], float] = time.perf_counter) -> Profile:
    """Measure a network in-core.

    Parameters
    ----------
    build
        Returns its iteration for a batch size.
    largest
        Batch size that is asked for, or that memory allows; at least 2. The measured ones are powers of two up to it,
        and stop where an iteration takes half a second.
    clock
        Tells seconds.
    """
    batch, measured = 1, [measure_iteration(build(1), clock)]
    while len(measured) < 2 or (2 * batch <= largest and sum(measured[-1]) < ENOUGH):
        batch *= 2
        measured.append(measure_iteration(build(batch), clock))
    return Profile((batch // 2, batch), (measured[-2], measured[-1]))


def measure_iteration(network: models.TrainingGraph, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Seconds of the blocks of an iteration with random data.

    Functions are timed one by one, and then made to add up to the time of iterations that nothing interrupts.
    """
    arrays = RandomBatches(network, 1).arrays
    models.iterate(network, arrays)    # memory is taken, algorithms are chosen
    whole = _seconds(lambda: [models.iterate(network, arrays) for _ in range(ITERATIONS)], clock) / ITERATIONS
    # On a CPU nothing hides the inputs, and the whole has them.
    inputs = min(_seconds(lambda: _write(network, arrays), clock) for _ in range(ITERATIONS)) if on_gpu() else 0.0
    tries = [_timed_blocks(lambda: models.iterate(network, arrays), clock) for _ in range(ITERATIONS)]
    blocks = [min(times) for times in zip(*tries, strict=True)]
    scale = whole / sum(blocks)
    return [inputs, *(seconds * scale for seconds in blocks)]


def _seconds(compute, clock):
    synchronize()
    started = clock()
    compute()
    synchronize()
    return clock() - started


def _write(network: models.TrainingGraph, arrays: Sequence[np.ndarray]) -> None:
    """Write the inputs, and send them to the device."""
    for variable, array in zip(network.inputs, arrays, strict=True):
        variable.d = array
        variable.data.cast(array.dtype, nn.get_current_context())


def _timed_blocks(step, clock):
    """Seconds of each function, forward and backward, and of the update of each parameter, in their order."""
    times, started = [], 0.0

    def begin(*_):
        nonlocal started
        synchronize()
        started = clock()

    def end(*_):
        synchronize()
        times.append(clock() - started)

    hooks = ((callback.set_function_pre_hook, begin), (callback.set_function_post_hook, end),
             (callback.set_solver_pre_hook, begin), (callback.set_solver_post_hook, end))
    for set_hook, hook in hooks:
        set_hook(_KEY, hook)
    try:
        step()
    finally:
        for unset in (callback.unset_function_pre_hook, callback.unset_function_post_hook,
                      callback.unset_solver_pre_hook, callback.unset_solver_post_hook):
            unset(_KEY)
    return times
