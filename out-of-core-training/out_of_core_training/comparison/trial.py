"""A trial of the benchmark: whether a network and a batch fit in one of the modes, and how fast they are."""
import contextlib
import time
from collections.abc import Iterator

import attrs
import nnabla as nn

from common.machine.context import on_gpu
from common.machine.errors import UserError
from common.machine.seeding import seed_everything
from common.out_of_core import InCore, OutOfCore
from common.out_of_core.device import device_memory, parse_budget, synchronize
from out_of_core_training import models
from out_of_core_training.config import parse_size
from out_of_core_training.data import RandomBatches
from out_of_core_training.planner import plan

WARM_UP = 3    # iterations: the first is recorded, the second is planned


@attrs.frozen(kw_only=True)
class Trial:
    """A network, a batch and a mode to try. All fields have a form in JSON.

    Attributes
    ----------
    mode
        One of `out_of_core_training.comparison.figure.MODES`.
    iterations
        How many to time; 0: only find out whether the batch fits.
    memory
        As for `--out-of-core`; None: what the GPU has free.
    image_size, width
        As for the flags of `benchmark.py`.
    """

    network: str
    mode: str
    batch_size: int
    iterations: int = 0
    memory: str | None = None
    image_size: str | None = None
    width: float = 1.0


@attrs.frozen
class Outcome:
    """The result of a trial.

    Attributes
    ----------
    fits, reason
        Whether the memory sufficed, and if not, why.
    planned_bytes
        What the planner counts.
    peak_bytes
        Most bytes that were taken of the GPU; None on a CPU.
    seconds
        Of all timed iterations.
    """

    fits: bool
    reason: str | None = None
    planned_bytes: int | None = None
    peak_bytes: int | None = None
    seconds: float | None = None


def run_trial(trial: Trial) -> Outcome:
    """Train for some iterations on random data."""
    limit = None if trial.memory is None else parse_budget(trial.memory, *device_memory())
    seed_everything(0)
    in_core = trial.mode == "in-core"
    memory = InCore() if in_core else OutOfCore(trial.memory or "auto", virtual=trial.mode == "virtual")
    network = models.build(trial.network, trial.batch_size, parse_size(trial.image_size), width=trial.width)
    needs = plan(network.steps, network.typed_inputs)
    planned = needs.in_core_bytes if in_core else needs.minimum_budget
    if not on_gpu():
        if limit is not None and planned > limit:
            return Outcome(False, f"needs {planned / 1e9:.3g} GB", planned)
        if not trial.iterations:
            return Outcome(True, None, planned)
    try:
        peak, seconds = _timed(network, memory, trial.iterations, limit if in_core else None)
    except (MemoryError, RuntimeError, UserError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
            raise
        return Outcome(False, str(error).strip().splitlines()[-1], planned)
    return Outcome(True, None, planned, peak, seconds)


def _timed(network: models.TrainingGraph, memory: InCore | OutOfCore, iterations: int, limit: int | None
           ) -> tuple[int | None, float]:
    """Warm up, then time iterations; most bytes taken of the GPU, and seconds.

    Raises
    ------
    MemoryError
        More than `limit` bytes were taken.
    """
    arrays = RandomBatches(network, 1).arrays
    memory.attach(*(solver for _, solver in network.steps))
    with _sampled_memory(limit) as taken:
        for _ in range(WARM_UP):
            memory.run(models.iterate, network, arrays)
    synchronize()
    started = time.perf_counter()
    for _ in range(iterations):
        memory.run(models.iterate, network, arrays)
    synchronize()
    return max(taken, default=None), time.perf_counter() - started


@contextlib.contextmanager
def _sampled_memory(limit: int | None) -> Iterator[list[int]]:
    """Yield a list that gets the bytes taken of the GPU after each function; nothing on a CPU."""
    taken = []
    if not on_gpu():
        yield taken
        return
    free_before, _ = device_memory()

    def sample(function):
        taken.append(free_before - device_memory()[0])
        if limit is not None and taken[-1] > limit:
            raise MemoryError(f"{taken[-1] / 1e9:.3g} GB are taken")

    nn.callback.set_function_post_hook("sampled_memory", sample)
    try:
        yield taken
    finally:
        nn.callback.unset_function_post_hook("sampled_memory")
