"""The files that the published training writes: means of several updates, as nnabla's monitors lay them out."""
from common.runs.curves import write_series
from common.runs.training import Run

NAMES = ("Training loss", "Learning rate", "Training time per iteration")


def record_series(run: Run, interval: int, iteration: int, learning_rate: float, seconds: float) -> None:
    """Keep the values of an update, and write `<name>.series.txt` with the means of every `interval` updates."""
    pending, rows = run.state.setdefault("pending", []), run.state.setdefault("series", [])
    pending.append((run.last["loss"], learning_rate, seconds))
    if (iteration + 1) % interval == 0:
        rows.append([iteration, *(sum(values) / len(values) for values in zip(*pending, strict=True))])
        pending.clear()
        iterations, *columns = zip(*rows, strict=True)
        for name, means in zip(NAMES, columns, strict=True):
            write_series(run.folder, name, means, iterations)
