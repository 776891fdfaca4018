"""Influence scores beside what they predict: the validation loss after training again without one image.

Where the loss is smooth, scores must agree with it. Softmax regression on digits is such a case, and takes seconds.
"""
import functools
from typing import TYPE_CHECKING

import attrs
import nnabla as nn
import nnabla.parametric_functions as PF
import numpy as np

from common.console.tables import align
from common.datasets import DIGITS
from common.machine.seeding import seed_everything
from common.pictures.figures import figure_style, power_of_ten
from data_cleansing.data.sources import load_named
from data_cleansing.influence import influence_scores
from data_cleansing.influence.methods import EVERY_STEP, FINAL
from data_cleansing.training.parameters import ParameterCache
from data_cleansing.training.record import published_record
from data_cleansing.training.trainer import Trainer, evaluate
from data_cleansing.training.trajectory import steps_to_store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE, EPOCHS, BATCH_SIZE, LEARNING_RATE = 8, 6, 20, 0.1
IMAGES = 150    # to train with, each left out in turn, and as many to validate
VARIANTS = ((EVERY_STEP, "exact"), (FINAL, "exact"), (EVERY_STEP, "published"), (FINAL, "published"), (FINAL, "none"))
HEADER = ("method", "hessian", "rank correlation", "std of scores / of truth")
DRAWN = VARIANTS[1], VARIANTS[3]


@attrs.frozen(eq=False)
class Comparison:
    """Scores beside the truth.

    Attributes
    ----------
    changes : float64 (n,)
        Of the validation loss, when the image is left out of the last epoch.
    scores : dict of (method, hessian) to float64 (n,)
        Predictions of it, for `VARIANTS`.
    """

    changes: np.ndarray
    scores: dict

    def table(self) -> list[tuple[str, str, float, float]]:
        """Return rows in the order of `HEADER`."""
        from scipy.stats import spearmanr

        return [(*variant, float(spearmanr(scores, self.changes).statistic), float(scores.std() / self.changes.std()))
                for variant, scores in self.scores.items()]

    def rows(self) -> tuple[tuple[str, ...], list[tuple]]:
        """Return header and rows of a list of all images."""
        header = ("image", "true_change", *("_".join(variant) for variant in self.scores))
        columns = np.stack([self.changes, *self.scores.values()], axis=1)
        return header, [(image, *values) for image, values in enumerate(columns.tolist())]

    @figure_style()
    def draw(self) -> "Figure":
        """Draw scores over the truth; returns the figure."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 3.8), layout="constrained")
        unit, label = power_of_ten([self.changes, *(self.scores[variant] for variant in DRAWN)])
        for axes, (method, hessian) in zip(figure.subplots(1, len(DRAWN), sharex=True), DRAWN, strict=True):
            axes.axline((0, 0), slope=1, color="black", linewidth=0.8)
            axes.plot(self.changes / unit, self.scores[method, hessian] / unit, ".", markersize=5)
            axes.set_title(f"{method}, Hessian {hessian}")
            axes.set_xlabel(f"true change of the validation loss{label}")
            axes.set_ylabel(f"score{label}")
        return figure


def softmax_regression(image: nn.Variable, train: bool) -> nn.Variable:
    """Classify by one affine layer; returns logits (batch, 10)."""
    return PF.affine(image, 10)


@functools.cache
def compare_with_retraining(num_images: int = IMAGES, seed: int = 0) -> Comparison:
    """Compare scores of softmax regression on digits with leaving every image out of the last epoch.

    All parameters of the current scope are replaced.

    Parameters
    ----------
    num_images : int
        To train with, and to validate with.
    seed : int
        Of the choice of images, and of the first parameters.
    """
    train, valid, _ = (images.subset(np.arange(min(num_images, len(images))))
                       for images in load_named(DIGITS, seed, side=SIDE))
    record = published_record(len(train), EPOCHS, BATCH_SIZE, LEARNING_RATE, seed, augment=False)
    nn.clear_parameters()
    seed_everything(seed)
    trainer = Trainer(softmax_regression, train, record)
    cache, kept = ParameterCache(trainer.layout), steps_to_store(record, keep="last")
    trainer.run(before_step=lambda step: cache.store(step) if step in kept else None)
    final = trainer.layout.values()
    scores = {(method, hessian): influence_scores(softmax_regression, train, valid, record, method, hessian=hessian,
                                                  cache=cache) for method, hessian in VARIANTS}
    unchanged, _ = evaluate(softmax_regression, valid)
    changes = np.array([_loss_without(row, trainer, cache, valid) for row in range(len(train))]) - unchanged
    trainer.layout.assign(final)
    return Comparison(changes, scores)


def _loss_without(row, trainer, cache, valid):
    """Train the last epoch again without an image; returns the validation loss."""
    first = trainer.record.epoch_starts[-2]
    trainer.layout.assign(cache.load(first))
    trainer.run(first, without={row})
    return evaluate(trainer.network, valid)[0]


def format_table(comparison: Comparison) -> str:
    """Return the table of a comparison as text."""
    return align([HEADER, *((method, hessian, f"{correlation:.4f}", f"{ratio:.3f}")
                            for method, hessian, correlation, ratio in comparison.table())], left=2)
