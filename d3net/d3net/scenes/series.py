"""The files that the published training writes: means of several updates, as nnabla's monitors lay them out."""
import functools
import time
from collections.abc import Callable

from common.runs.curves import write_series
from common.runs.training import Run

NAMES = ("Training loss", "Learning rate", "Training time per iteration")


def record_update(run: Run, loss: Callable[[], float], interval: int, iteration: int, learning_rate: float,
                  started: float) -> None:
    """Record an update, and write `<name>.series.txt` with the means of every `interval` updates.

    Only the last of these waits for the device, and its time is then what all of them have taken; on a GPU more than
    `common.runs.training.STEPS_BETWEEN_READS` updates wait in between, which nobody counts.

    Parameters
    ----------
    run
        Where the loss goes.
    loss
        Reads the loss before the update.
    interval
        Updates of a row.
    iteration
        Of the update, from 0.
    learning_rate
    started
        When the update began, as `time.perf_counter` tells.
    """
    ends_row = (iteration + 1) % interval == 0
    value = loss() if ends_row else loss
    values = learning_rate, time.perf_counter() - started
    run.record(functools.partial(_keep, run, iteration if ends_row else None, values), loss=value)
    if ends_row:
        run.read()


def _keep(run, iteration, values, recorded):
    """Keep the values of an update, and write the series when it is one that ends a row."""
    pending, rows = run.state.setdefault("pending", []), run.state.setdefault("series", [])
    pending.append((recorded["loss"], *values))
    if iteration is not None:
        rows.append([iteration, *(sum(column) / len(column) for column in zip(*pending, strict=True))])
        pending.clear()
        iterations, *columns = zip(*rows, strict=True)
        for name, means in zip(NAMES, columns, strict=True):
            write_series(run.folder, name, means, iterations)
