"""A trial of the benchmark: whether a network and a batch fit in one of the modes, and how fast they are."""
import time

import attrs
import nnabla as nn

from common.machine.context import on_gpu
from common.machine.errors import UserError
from common.machine.seeding import seed_everything
from common.out_of_core import InCore, OutOfCore
from common.out_of_core.device import device_memory, format_bytes, parse_budget, synchronize
from common.out_of_core.hooks import Hooks
from common.out_of_core.meter import Meter
from out_of_core_training import models
from out_of_core_training.config import parse_size
from out_of_core_training.data import RandomBatches
from out_of_core_training.planner import plan

WARM_UP = 4    # iterations: one or two are recorded, the next is planned, the rest are like it


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
    image_size, width, recompute
        As for the flags of `benchmark.py`.
    """

    network: str
    mode: str
    batch_size: int
    iterations: int = 0
    memory: str | None = None
    image_size: str | None = None
    width: float = 1.0
    recompute: str = "none"


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
    if not on_gpu() and not trial.iterations:
        return rehearse(trial, limit)
    seed_everything(0)
    in_core = trial.mode == "in-core"
    memory = InCore() if in_core else OutOfCore(trial.memory or "auto", virtual=trial.mode == "virtual")
    meter = Meter(limit, virtual=trial.mode == "virtual")
    network = build(trial)
    planned = planned_bytes(network, in_core)
    if not on_gpu() and limit is not None and planned > limit:
        return Outcome(False, _too_large(planned), planned)
    try:
        seconds = _timed(network, memory, trial.iterations, meter)
    except (MemoryError, RuntimeError, UserError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
            raise
        return Outcome(False, str(error).strip().splitlines()[-1], planned)
    return Outcome(True, None, planned, meter.peak, seconds)


def build(trial: Trial) -> models.TrainingGraph:
    """Build the iteration of a trial."""
    return models.build(trial.network, trial.batch_size, parse_size(trial.image_size), width=trial.width,
                        recompute=trial.recompute)


def rehearse(trial: Trial, limit: int | None) -> Outcome:
    """Say whether the arrays of a trial have room in `limit` bytes, as planned; nothing is computed."""
    nn.clear_parameters()
    network = build(trial)
    planned = planned_bytes(network, trial.mode == "in-core")
    if limit is not None and planned > limit:
        return Outcome(False, _too_large(planned), planned)
    return Outcome(True, None, planned)


def _too_large(planned):
    return f"needs {planned / 1e9:.3g} GB"


def planned_bytes(network: models.TrainingGraph, in_core: bool) -> int:
    """Bytes that the planner counts for an iteration: of all arrays together, or of the largest function."""
    needs = plan(network.steps, network.typed_inputs)
    return needs.in_core_bytes if in_core else needs.minimum_budget


def _timed(network: models.TrainingGraph, memory: InCore | OutOfCore, iterations: int, meter: Meter) -> float:
    """Warm up, then time iterations; returns the seconds.

    Raises
    ------
    MemoryError
        More was taken of the device than the limit of the meter.
    """
    arrays = RandomBatches(network, 1).arrays
    memory.attach(*(solver for _, solver in network.steps))
    with Hooks("trial", after_function=meter.measure):
        for _ in range(WARM_UP):
            memory.run(models.iterate, network, arrays)
            _check(meter)
    synchronize()
    started = time.perf_counter()
    for _ in range(iterations):
        memory.run(models.iterate, network, arrays)
    synchronize()
    return time.perf_counter() - started


def _check(meter):
    if meter.exceeded():
        raise MemoryError(f"{format_bytes(meter.peak)} are taken of {format_bytes(meter.limit)}")
