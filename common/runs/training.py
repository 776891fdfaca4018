"""The life of a training run: its folder, epochs, log, checkpoints, and the best parameters so far."""
import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nnabla as nn
import numpy as np

from common.console.progress import progress
from common.machine.context import on_gpu
from common.machine.distributed import world
from common.machine.errors import TrainingError, UsageError
from common.machine.files import make_folder, write_csv, write_json
from common.machine.seeding import derived_seed, seed_everything
from common.reading.texts import as_read_back, check_fields, read_text
from common.runs.checkpoint import load_state, restore, save_checkpoint, save_parameters
from common.runs.comparison import (
    holds_a_run,
    require_nothing_of_others,
    require_nothing_to_lose,
    require_own,
    require_same,
    require_same_data,
)
from common.runs.curves import SERIES_SUFFIX, plot_curves
from common.runs.interrupts import deferred_interrupts

# Data may move while a run rests: they are compared by `data`, and hyper-parameters by their values.
MAY_DIFFER = ("data_dir", "root", "setup_file", "val_labels", "hparams", "workers")
CHECKPOINT = Path("checkpoint") / "latest.h5"
BEST, CONFIG, LOG, CURVES = "params_best.h5", "config.json", "log.csv", "curves.png"
_MINUTES_BETWEEN_CHECKPOINTS = 10
STEPS_BETWEEN_READS = 50    # on a GPU
Value = float | Callable[[], float]
_STATE = {"epoch": int, "step": int, "sums": dict, "last": dict, "best": (float, type(None)), "rows": list,
          "extras": list, "config": dict}


class Run:
    """A training run that can be stopped at any moment and resumed to the same bits.

    Everything that a run accumulates is in `state`, which a checkpoint holds beside parameters and solver: the epoch
    and step to come, sums over the steps of the epoch, rows of the log, the best value. Data must follow from (seed,
    epoch, step) alone, as that of `common.datasets.batches.Batches` does.

    Ranks that train together (`common.machine.distributed`) have a Run each, take the same steps, and record means
    over all of them; rank 0 writes. Resumed by another number of ranks, a run goes on after as many examples.

    Parameters
    ----------
    folder
    config
        JSON-able; written to `config.json`, and compared when the run is resumed, but for the keys in `MAY_DIFFER`.
        What nnabla draws at random in a step (dropout) follows from its `seed`, epoch and step.
    resume, overwrite
        What to do where the folder holds a run: go on with it, or start anew.
    rate_of
        `rate_of(epochs, epoch)` is the learning rate within an epoch of a run of `config["epochs"]` epochs; not given
        where that does not depend on their number. A run that is resumed may become longer if the epochs that are done
        would have been the same: it then has the bits of a run that was so long from the start.
    data
        What examples are called -> how many there are, and a hash of them, wherever they lie; compared when the run is
        resumed.
    weights
        Files with weights that the run leaves beside its best ones. They vanish where a run is started anew.
    later
        What keys of `config` mean that a run of an earlier version lacks, as of `common.runs.config.defaults_of`.

    Raises
    ------
    UsageError
        The folder holds a run, or weights of none, and no flag says what to do with them; or a run of another script,
        or logs and curves of none, whatever the flags; or it was made with another configuration or with other data,
        or cannot be made longer.
    UserError
        The folder cannot be written to, or its checkpoint cannot be read.
    """

    def __init__(self, folder: str | Path, config: Mapping[str, Any], resume: bool = False,
                 overwrite: bool = False, rate_of: Callable[[int, int], float] = lambda epochs, epoch: 0.0,
                 data: Mapping[str, tuple[int, str]] | None = None, weights: Iterable[Path] = (),
                 later: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        self.checkpoint = self.folder / CHECKPOINT
        self.config = config = as_read_back(config)
        self._weights = (self.folder / BEST, *weights)
        self._data = as_read_back(data or {})
        self.state = {"epoch": 0, "step": 0, "sums": {}, "last": {}, "best": None, "rows": [], "extras": []}
        # (step, then, values) that `record` has not read
        self._unread: list[tuple[int, Callable[[dict[str, float]], object] | None, Mapping[str, Value]]] = []
        if (self.folder / CONFIG).exists():
            require_own(self.folder / CONFIG, config)
        elif not self.checkpoint.exists():
            require_nothing_of_others(self._logs(), self.folder / CONFIG)
        self._resuming = resume and self.checkpoint.exists()
        if self._resuming:
            self.state = read_state(self.checkpoint)
            extended = ("epochs",) if self._is_extended(rate_of) else ()
            require_same(self.folder, self.state["config"], config, (*MAY_DIFFER, *extended),
                         later=None if later is None else as_read_back(later))
            require_same_data(self.folder, self.state.get("data", {}), self._data)
            self._share_steps()
        elif not overwrite:
            if self.checkpoint.exists():
                raise holds_a_run(self.folder, f" (epoch {read_state(self.checkpoint)['epoch']})")
            require_nothing_to_lose(self._weights, self.folder, resume and self._is_in_its_first_epoch())
        if resume:
            print(f"{self.folder}: {self._where_it_goes_on()}", flush=True)
        make_folder(self.checkpoint.parent)

    def _logs(self):
        return self.folder / LOG, self.folder / CURVES, *self.folder.glob(f"*{SERIES_SUFFIX}")

    def _is_in_its_first_epoch(self):
        """Whether a run has begun here that may have left weights and a row of the log, but not yet a checkpoint."""
        log = self.folder / LOG
        rows = read_text(log).splitlines()[1:] if log.exists() else []
        return (self.folder / CONFIG).exists() and len(rows) <= 1

    def _where_it_goes_on(self):
        epoch, step = self.state["epoch"], self.state["step"]
        if not self._resuming:
            return "no checkpoint to go on from, so the training begins"
        if epoch >= self.config.get("epochs", math.inf):
            return "the training has ended"
        return f"going on in epoch {epoch + 1} after step {step}" if step else f"going on after epoch {epoch}"

    def _is_extended(self, rate_of):
        """Tell whether the run is to have more epochs than before; raise a UsageError if it cannot."""
        before, now = (config.get("epochs", 0) for config in (self.state["config"], self.config))
        if not isinstance(before, int) or now <= before:
            return False
        begun = self.state["epoch"] + (self.state["step"] > 0)
        if any(rate_of(before, epoch) != rate_of(now, epoch) for epoch in range(begun)):
            raise UsageError(f"{self.folder}: cannot go on to epoch {now}: its learning rates follow from epochs = "
                             f"{before}, and of {now} epochs the first {begun} would have had others; keep {before}, "
                             "or add --overwrite to start anew")
        return True

    def _share_steps(self):
        """Count the steps of an interrupted epoch as those of the present ranks."""
        before, step = self.state.get("ranks", 1), self.state["step"]
        if step and before != world().size:
            self._count_as(step * before // world().size)

    def _count_as(self, step):
        """Go on in the epoch as if `step` steps were done, with sums in proportion."""
        share = step / self.state["step"]
        self.state["step"] = step
        self.state["sums"] = {name: total * share for name, total in self.state["sums"].items()}

    @property
    def best(self) -> float | None:
        """Lowest value that `keep_best` has seen, None before it has."""
        return self.state["best"]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of the log, a dict for each finished epoch."""
        return self.state["rows"]

    def attach(self, solver: Any) -> None:
        """Take charge of the parameters of the current scope and of their solver; set their values when resuming.

        Only now does a run that is started anew remove what was there before.
        """
        self.solver, self.parameters = solver, nn.get_parameters(grad_only=False)
        if self._resuming:
            restore(self.checkpoint, self.parameters, solver)
        world().sum(0)    # all have read before one removes
        if not self._resuming and world().rank == 0:
            for path in (*self._logs(), self.checkpoint, *self._weights):
                path.unlink(missing_ok=True)
        self.state.update(config=self.config, ranks=world().size, data=self._data)
        write_json(self.folder / CONFIG, self.config)

    def epochs(self, num: int) -> Iterator[int]:
        """Yield the epochs up to `num` that are not done."""
        yield from range(self.state["epoch"], num)

    def steps(self, batches: Any) -> Iterator[Any]:
        """Yield the batches of the current epoch that are not done, with a progress bar, and save from time to time.

        `batches.epoch(epoch, start)` is an iterable of `len(batches) - start` batches. An interrupt waits for the end
        of the step, saves, and then ends the run.
        """
        if self.state["step"] > len(batches):    # of fewer ranks, where the number of steps is given
            self._count_as(len(batches))
        epoch, start, rank = self.state["epoch"], self.state["step"], world().rank
        saved = time.monotonic()
        bar = progress(batches.epoch(epoch, start), total=len(batches), initial=start, desc=f"epoch {epoch + 1}")
        with deferred_interrupts() as interrupted, contextlib.closing(bar):
            for batch in bar:
                seed_everything(derived_seed(self.config.get("seed", 0), epoch, self.state["step"], rank))
                yield batch
                self.state["step"] += 1
                due = time.monotonic() - saved > 60 * _MINUTES_BETWEEN_CHECKPOINTS
                stop, due = world().any([interrupted, due])    # ranks notice in different steps
                if stop:
                    self.save()
                    raise KeyboardInterrupt(f"interrupted in epoch {epoch + 1} after step {self.state['step']}; "
                                            f"--resume goes on from there ({self.folder})")
                if due:
                    self.save()
                    saved = time.monotonic()
                bar.set_postfix({name: f"{mean:.4f}" for name, mean in self._means_of_what_is_read().items()},
                                refresh=False)
        self.read()

    def record(self, then: Callable[[dict[str, float]], object] | None = None, /, **values: Value) -> None:
        """Add the values of a step, or their means over all ranks, to the sums of the epoch.

        A value may be a function that reads it, as those of `common.runs.readings`. On a GPU, where reading means to
        wait, the values of `STEPS_BETWEEN_READS` steps are read together, and those left at the end of the epoch or
        when somebody asks for them; until then the progress bar shows the means of what has been read. `then` is called
        with the values, once they are read: what it puts into `state` is there before the next checkpoint is written.

        Raises
        ------
        TrainingError
            One of the values that are read now is not finite; the message names its step. The last checkpoint and the
            best parameters are left as they were.
        """
        self._unread.append((self.state["step"], then, values))
        if len(self._unread) >= (STEPS_BETWEEN_READS if on_gpu() else 1):
            self.read()

    def read(self) -> None:
        """Read what `record` was given; it raises as that does."""
        unread, self._unread = self._unread, []
        for step, then, recorded in unread:
            values = {name: value() if callable(value) else value for name, value in recorded.items()}
            if world().size > 1:
                values = dict(zip(values, world().mean(list(values.values())).tolist(), strict=True))
            self._require_finite(step, values)
            for name, value in values.items():
                self.state["sums"][name] = self.state["sums"].get(name, 0.0) + value
            self.state["last"] = values
            if then is not None:
                then(values)

    def require_finite(self, **values: float) -> None:
        """Raise a TrainingError if one of the values is not finite; what was saved stays as it was."""
        self._require_finite(self.state["step"], values)

    def _require_finite(self, step, values):
        for name, value in values.items():
            if not math.isfinite(value):
                self._diverged(f"{name} is {value}", step)

    def _diverged(self, cause, step):
        kept = f"the last good state is in {self.checkpoint}" if self.checkpoint.exists() else "nothing was saved yet"
        raise TrainingError(f"{cause} in epoch {self.state['epoch'] + 1}, step {step + 1}; {kept}; "
                            "lower the learning rate")

    def means(self) -> dict[str, float]:
        """Means of the recorded values over the steps of the epoch so far."""
        self.read()
        return self._means_of_what_is_read()

    def _means_of_what_is_read(self):
        steps = self.state["step"] - len(self._unread)
        return {name: total / max(1, steps) for name, total in self.state["sums"].items()}

    @property
    def last(self) -> dict[str, float]:
        """Values that were recorded last."""
        self.read()
        return dict(self.state["last"])

    @property
    def extras(self) -> list[Any]:
        """What `finish_epoch` was given beside the row, for each finished epoch."""
        return self.state["extras"]

    def keep_best(self, value: float) -> bool:
        """Save the parameters as the best ones if `value` is lower than that of any before; tell whether they were."""
        if not math.isfinite(value) or (self.best is not None and value >= self.best):
            return False
        self._check_finite()
        self.state["best"] = value
        if world().rank == 0:
            save_parameters(self.folder / BEST, self.parameters)
        return True

    def finish_epoch(self, row: Mapping[str, float], panels: Sequence[tuple[str, Sequence[str]]],
                     extra: Any = None, write: Callable[[], None] = lambda: None) -> None:
        """Log an epoch and write `log.csv`, `curves.png` and, when all else is written, a checkpoint.

        Parameters
        ----------
        row
            Column of the log -> number.
        panels
            What to plot of it, as for `common.runs.curves.plot_curves`.
        extra
            Anything JSON-able that is to be kept in `extras`.
        write
            Writes other files about the epochs in `rows`. After the checkpoint, a kill would leave them as they were
            before the epoch for good.
        """
        self.read()
        self._check_finite()
        self.rows.append({"epoch": self.state["epoch"] + 1, **row})
        self.extras.append(extra)
        self.state.update(epoch=self.state["epoch"] + 1, step=0, sums={})
        write_csv(self.folder / LOG, list(self.rows[0]), [list(row.values()) for row in self.rows])
        plot_curves(self.folder / CURVES, self.rows, panels)
        write()
        self.save()

    def save(self) -> None:
        """Write the checkpoint, unless the parameters or a recorded value have diverged."""
        self.read()
        self._check_finite()
        if world().rank == 0:
            save_checkpoint(self.checkpoint, self.parameters, self.solver, self.state)

    def _check_finite(self):
        """Keep parameters that are not finite from replacing good ones."""
        for name, parameter in self.parameters.items():
            if not np.isfinite(parameter.d).all():
                self._diverged(f"{name} is not finite", self.state["step"])


def read_state(path: Path) -> dict[str, Any]:
    """Read the state of a run from its checkpoint; errors are those of `load_state`, and fields that are not there."""
    return check_fields(load_state(path), _STATE, path, "the checkpoint of a run", "start the run anew")
