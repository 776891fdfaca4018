"""One trial of an experiment: train, score, retrain. Results that are there already are not computed again."""
import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import nnabla as nn
import numpy as np

from common.machine.errors import UserError, was_interrupted
from common.machine.files import make_folder, replacing, write_csv
from common.machine.processes import for_each
from common.machine.seeding import seed_everything
from common.machine.streams import say
from common.reading.arrays import read_npz
from common.reading.files import decoding
from common.reading.texts import read_rows
from common.runs.checkpoint import save_parameters
from common.runs.comparison import check_settings, fingerprint
from data_cleansing.config import AUTO, Config
from data_cleansing.data.sets import load_data
from data_cleansing.influence import influence_scores
from data_cleansing.influence.methods import METHODS
from data_cleansing.labels.cross_validation import Evidence, Plan, cross_validate
from data_cleansing.results.score_files import (
    MEASURES,
    influence_path,
    read_influence,
    read_measures,
    score_path,
    write_influence,
)
from data_cleansing.training.parameters import ParameterCache
from data_cleansing.training.record import AGAIN, published_record
from data_cleansing.training.trainer import Trainer, evaluate, predict
from data_cleansing.training.trajectory import steps_to_store

PREDICTIONS = ("classes", "losses")    # arrays of predictions.npz, by training image
LOG_HEADER = ("epoch", "train_loss", "valid_loss", "valid_accuracy")


@contextlib.contextmanager
def unwrapped_interrupts() -> Iterator[None]:
    """Raise a KeyboardInterrupt again where nnabla, interrupted in a Python function, has raised a SystemError."""
    try:
        yield
    except SystemError as error:
        if not was_interrupted(error):
            raise
        raise KeyboardInterrupt("interrupted; --resume goes on from there") from error


@contextlib.contextmanager
def _warnings_in_one_line(seed):
    """Show a warning without the place in the code that it comes from."""
    def show(message, *place, **source):
        say(f"warning: seed {seed}: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def run_trials(cfg: Config, folder: str | Path, choose_context: Callable[[], object],
               *stages: Callable[["Trial"], object]) -> None:
    """Run stages of all trials, as many trials at a time as the configuration says.

    Parameters
    ----------
    choose_context : callable
        `choose_context()` makes nnabla compute where it should; it is called in the process of each trial.
    stages : callable
        Of module level; each is called as `stage(trial)`, in this order.

    Raises
    ------
    UserError
        As the stages do.
    """
    for_each(partial(_run_trial, cfg, folder, choose_context, stages), {f"seed {seed}": (seed,) for seed in cfg.seeds},
             cfg.jobs)


def _run_trial(cfg, folder, choose_context, stages, seed):
    choose_context()
    with _warnings_in_one_line(seed):
        trial = Trial(cfg, folder, seed)
        for stage in stages:
            stage(trial)


class Trial:
    """A training with its scores and retrainings, in the output folder of a run.

    Parameters
    ----------
    seed : int
        Of the split and the first parameters.

    Raises
    ------
    UsageError, UserError
        Data is missing or of no use, or the folder holds a training with other data or settings.
    """

    def __init__(self, cfg: Config, folder: str | Path, seed: int) -> None:
        self.cfg, self.folder, self.seed = cfg, Path(folder), seed
        self.train_images, self.valid_images, self.test_images, self.flipped = load_data(cfg, seed)
        self.training_folder = self.folder / "training" / f"seed_{seed:02d}"
        self.record = published_record(len(self.train_images), cfg.n_epochs, cfg.batch_size, cfg.lr, seed, cfg.augment,
                                      cfg.momentum, cfg.weight_decay)
        nn.clear_parameters()    # trials are independent of each other
        seed_everything(seed)
        self.trainer = Trainer(cfg.network(len(self.train_images.class_names)), self.train_images, self.record)
        self.layout = self.trainer.layout
        check_settings(self.training_folder, self._settings(), "trained")
        self.cache = ParameterCache(self.layout, self.training_folder / "parameters")

    def _settings(self):
        """All that the parameters depend on; a hash of the images stands for the keys that choose them."""
        sets = (self.train_images, self.valid_images, self.test_images)
        arrays = [array for images in sets for array in (images.pixels, images.labels)]
        return {"seed": self.seed, "n_epochs": self.cfg.n_epochs, "batch_size": self.cfg.batch_size, "lr": self.cfg.lr,
                "augment": self.cfg.augment, "images": fingerprint(*arrays), "network": self.layout.shapes(),
                **({"features": fingerprint(*(images.inputs(np.arange(len(images))) for images in sets))}
                   if self.cfg.features else {}),
                **{key: value for key in ("momentum", "weight_decay") if (value := getattr(self.cfg, key))}}

    @property
    def is_trained(self) -> bool:
        """Whether the training is complete."""
        return (self.training_folder / "final_model.h5").exists()

    @unwrapped_interrupts()
    def train(self) -> None:
        """Train, or go on from the last epoch that was finished."""
        if self.is_trained:
            return
        self.record.save(self.training_folder / "record.npz")
        log = self.training_folder / "log.csv"
        kept = steps_to_store(self.record, self.cfg.keep, self.cfg.keep_every)
        starts, stored = self.record.epoch_starts, self.cache.steps()
        done = max((epoch for epoch, step in enumerate(starts) if step in stored), default=0)
        rows = _read_log(log)[:done]
        if len(rows) < done:
            raise UserError(f"{log}: rows are missing; --overwrite starts anew")
        if done:
            self.layout.assign(self.cache.load(starts[done]))
        else:
            self.cache.store(0)
        for epoch in range(done, self.record.num_epochs):
            rows.append(self._train_epoch(epoch, kept))
            write_csv(log, LOG_HEADER, rows)
            self.cache.store(starts[epoch + 1])    # after the log: going on relies on both
            print(f"seed {self.seed}, epoch {epoch + 1}/{self.record.num_epochs}: training loss {rows[-1][1]:.4f}, "
                  f"validation loss {rows[-1][2]:.4f}, validation accuracy {rows[-1][3]:.2%}", flush=True)
        for step in set(self.cache.steps()) - kept:
            self.cache.remove(step)
        self._write_predictions()
        save_parameters(self.training_folder / "final_model.h5", self.layout.of_network)

    def _train_epoch(self, epoch, kept):
        """Take the steps of an epoch; returns its row of the log."""
        start, stop = self.record.epoch_starts[epoch:epoch + 2]

        def store(step):
            if start < step < stop and step in kept:
                self.cache.store(step)

        losses = self.trainer.run(start, stop, before_step=store)
        return (epoch + 1, float(np.mean(losses)), *self._measure(self.valid_images))

    def _measure(self, images):
        """Return loss and accuracy of the current parameters; the last step may have made these useless."""
        loss, accuracy = evaluate(self.trainer.network, images)
        if not math.isfinite(loss):
            raise UserError(f"seed {self.seed}: the loss is {loss} on images that are not trained on: lower the "
                            "learning rate")
        return loss, accuracy

    def _write_predictions(self):
        """Store the classes and losses of the training images, which the report shows."""
        logits, losses = predict(self.trainer.network, self.train_images)
        with replacing(self.training_folder / "predictions.npz") as temporary, temporary.open("wb") as stream:
            np.savez(stream, classes=logits.argmax(1), losses=losses)

    def predictions(self) -> tuple[np.ndarray, np.ndarray]:
        """Return class and loss of all training images at the end of the training, int (n,) and float32 (n,)."""
        path, what, names = self.training_folder / "predictions.npz", "the predictions of a network", PREDICTIONS
        arrays = read_npz(path, what, names, AGAIN)
        if any(arrays[name].shape != (len(self.train_images),) or arrays[name].dtype.kind not in kinds
               for name, kinds in zip(names, ("iu", "f"), strict=True)):
            raise UserError(f"{path}: cannot be read as {what} (of other images); {AGAIN}")
        return arrays["classes"], arrays["losses"]

    @unwrapped_interrupts()
    def score(self) -> None:
        """Score by all methods of the configuration; each writes its file.

        Raises
        ------
        UsageError
            There are scores of a method with other settings.
        """
        for method in self.cfg.scored_methods:
            path = influence_path(self.folder, method, self.seed)
            check_settings(path.parent, self._score_settings(method), "scored")
            state = path.with_name(f"state_{self.seed}.npz")
            done = path.exists()
            if done:
                scores = read_influence(path, len(self.train_images))
            else:
                scores = self._scores(method, state)
                write_influence(path, scores, self.train_images)
            state.unlink(missing_ok=True)    # a process may have been killed between these two
            self._print_scores(method, scores, "there already" if done else "written")

    def _scores(self, method, state):
        self.layout.assign(self.cache.load(self.record.num_steps))
        return influence_scores(
            self.trainer.network, self.train_images, self.valid_images, self.record, method, cache=self.cache,
            seed=self.seed, state=state, **self._score_settings(method))

    def _score_settings(self, method: str) -> dict[str, Any]:
        """Arguments of `influence_scores` that the scores of a method depend on."""
        cfg = self.cfg
        values = {"published": cfg.published, "damping": cfg.damping, "hessian": cfg.hessian,
                  "normalization": cfg.normalization, "epochs": cfg.score_epochs}
        return {name: None if values[name] == AUTO else values[name] for name in METHODS[method].arguments}

    def _print_scores(self, method, scores, state):
        extremes = f"from {scores.min():.3g} to {scores.max():.3g}"
        print(f"seed {self.seed}, {method}: {len(scores)} scores {extremes}, {state}", flush=True)

    @unwrapped_interrupts()
    def cross_validate(self) -> Evidence:
        """Judge all training images by networks that are trained without them; each part of them writes its file.

        Raises
        ------
        UsageError
            There are judgements by networks that were trained in another way.
        """
        cfg, folder = self.cfg, self.training_folder / "folds"
        plan = Plan(folds=cfg.folds, epochs=cfg.fold_epochs or cfg.n_epochs, batch_size=cfg.batch_size,
                    learning_rate=cfg.lr, augment=cfg.augment, seed=self.seed, momentum=cfg.momentum,
                    weight_decay=cfg.weight_decay)
        check_settings(folder, attrs.asdict(plan), "judged")
        return cross_validate(cfg.network(len(self.train_images.class_names)), self.train_images, plan, folder)

    @unwrapped_interrupts()
    def retrain(self, methods: Sequence[str] | None = None) -> None:
        """Retrain without the worst images of each method, those of the configuration if not given; each number of
        images writes its file.

        Raises
        ------
        UsageError
            There are results of the other kind of retraining.
        """
        methods = self.cfg.scored_methods if methods is None else methods
        check_settings(self.folder / "score", {"retrain_all": self.cfg.retrain_all}, "retrained")
        unchanged = None
        for removed in self.cfg.removals:
            if removed >= len(self.train_images):
                print(f"seed {self.seed}: {removed} images cannot be removed from {len(self.train_images)}: skipped")
                continue
            for method in methods:
                path = score_path(self.folder, method, removed, self.seed)
                if path.exists():
                    rows = read_measures(path)
                elif removed == 0 and unchanged is not None:
                    rows = unchanged    # the same for all methods
                else:
                    rows = self._retrain_without(self.worst(method, removed))
                    self._print_measures(method, removed, rows[-1])
                if not path.exists():
                    make_folder(path.parent)
                    write_csv(path, MEASURES, rows)
                unchanged = rows if removed == 0 else unchanged

    def worst(self, method: str, removed: int) -> frozenset[int]:
        """Return the rows of the `removed` images that are best removed by the scores of a method."""
        scores = read_influence(influence_path(self.folder, method, self.seed), len(self.train_images))
        return frozenset(np.argsort(scores, kind="stable")[:removed].tolist())

    def _retrain_without(self, without):
        """Retrain; returns `MEASURES` after each epoch."""
        first = 0 if self.cfg.retrain_all else self.record.num_epochs - 1
        self.layout.assign(self.cache.load(self.record.epoch_starts[first]))
        rows = []
        for epoch in range(first, self.record.num_epochs):
            self.trainer.run(*self.record.epoch_starts[epoch:epoch + 2], without=without)
            rows.append(self.measure())
        return rows

    def measure(self) -> list[float]:
        """Measure the current parameters: `MEASURES`.

        Raises
        ------
        UserError
            A loss is not finite.
        """
        (valid_loss, valid_accuracy), (test_loss, test_accuracy) = (
            self._measure(images) for images in (self.valid_images, self.test_images))
        return [valid_loss, test_loss, valid_accuracy, test_accuracy]

    def _print_measures(self, method, removed, row):
        removed_by = f"{removed} worst of {method} removed" if removed else "nothing removed"
        print(f"seed {self.seed}, {removed_by}: validation accuracy {row[2]:.2%}, test accuracy {row[3]:.2%}",
              flush=True)


def _read_log(path):
    """Read the rows of a log, as they were written."""
    if not path.exists():
        return []
    what, remedy = "the log of a training", "--overwrite starts anew"
    table = read_rows(path, what, LOG_HEADER, remedy)
    with decoding(path, what, remedy):
        rows = [(int(line["epoch"]), *(float(line[name]) for name in LOG_HEADER[1:])) for line in table]
    return [row for row in rows if all(map(math.isfinite, row))]
