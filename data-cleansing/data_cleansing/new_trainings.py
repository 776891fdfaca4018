"""Judge the removal of images by new trainings, with first values and an order of their own.

Training the last epoch again, as published, takes the steps that the scores were made of: leaving an image out undoes a
step, whatever the image is worth as data. New trainings know nothing of those steps. Those of one number share first
values, order and augmentation (`data_cleansing.training.record.new_record`), whatever is removed: they are pairs.
"""
import math
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import attrs
import nnabla as nn

from common.machine.files import make_folder, write_csv
from common.machine.processes import for_each
from common.machine.seeding import derived_seed, seed_everything
from common.runs.comparison import check_settings
from data_cleansing.config import Config
from data_cleansing.results.score_files import MEASURES, methods_with_scores, new_training_path
from data_cleansing.training.record import new_record
from data_cleansing.training.trainer import Trainer
from data_cleansing.trial import Trial, unwrapped_interrupts

_NEW_TRAINING = 20260311    # sets the seeds of new trainings apart from those of trials
MEASURED_SHARE = 2    # the last 1/2 of the epochs is measured, rounded up: 10 of 20


def run_new_trainings(cfg: Config, folder: str | Path, choose_context: Callable[[], object]) -> None:
    """Train anew without the worst images of each method that there are scores of, and with all of them.

    Each training writes its file; those that are there are not computed again. As many as the configuration says run
    at a time.

    Parameters
    ----------
    choose_context : callable
        As for `data_cleansing.trial.run_trials`.
    """
    pieces = {f"seed {seed}, new training {number}": (seed, number)
              for seed in cfg.seeds for number in range(cfg.new_trainings)}
    for_each(partial(_train_all, cfg, folder, choose_context), pieces, cfg.jobs)


@unwrapped_interrupts()
def _train_all(cfg, folder, choose_context, seed, number):
    """Do the new trainings of a number: the pairs that belong together."""
    choose_context()
    trial = Trial(cfg, folder, seed)
    check_settings(Path(folder) / "new_trainings", {"measured_share": MEASURED_SHARE, "batches": "full"}, "judged")
    for removed in cfg.removals:
        for method in methods_with_scores(folder, seed) if removed else (None,):
            path = new_training_path(folder, method, removed, seed, number)
            if path.exists() or removed >= len(trial.train_images):
                continue
            rows = train_anew(trial, number, trial.worst(method, removed) if method else frozenset())
            make_folder(path.parent)
            write_csv(path, MEASURES, rows)
            without = f"without {removed} worst of {method}" if method else "with all images"
            print(f"seed {seed}, new training {number} {without}: test accuracy {_mean_accuracy(rows):.2%}", flush=True)


def _mean_accuracy(rows):
    return math.fsum(row[MEASURES.index("test_accuracy")] for row in rows) / len(rows)


def train_anew(trial: Trial, number: int, without: Collection[int] = frozenset()) -> list[list[float]]:
    """Train from new first values, in a new order, without some images.

    The current parameters are replaced.

    Parameters
    ----------
    number : int
        Of the training, from 0; with the seed of the trial it sets all that is random.
    without : set of int
        Rows of the training set.

    Returns
    -------
    list of float (4,)
        `MEASURES` after each of the last epochs, `num_measured` of them in number.
    """
    cfg, images = trial.cfg, trial.train_images
    seed = derived_seed(_NEW_TRAINING, trial.seed, number + 1)
    record = attrs.evolve(new_record(len(images), cfg.n_epochs, cfg.batch_size, cfg.lr, seed, cfg.augment, without),
                          momentum=cfg.momentum, weight_decay=cfg.weight_decay)
    nn.clear_parameters()
    seed_everything(seed)
    trainer = Trainer(trial.trainer.network, images, record)
    starts, rows = record.epoch_starts, []
    for epoch in range(cfg.n_epochs):
        trainer.run(starts[epoch], starts[epoch + 1])
        if epoch >= cfg.n_epochs - num_measured(cfg.n_epochs):
            rows.append(trial.measure())
    return rows


def num_measured(n_epochs: int) -> int:
    """Number of epochs at the end of a new training over which its accuracy is averaged."""
    return math.ceil(n_epochs / MEASURED_SHARE)
