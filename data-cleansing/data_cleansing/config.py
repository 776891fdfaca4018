"""The keys of an experiment: what to train on and how, how to score, and what to retrain without."""
import functools

import attrs

from common.datasets import CIFAR10, DATASETS
from common.runs.config import choice, flag, integer, names, number, path
from data_cleansing.data.features import IMAGENET, VALUES
from data_cleansing.graphs.rewriting import Network
from data_cleansing.influence.gradients import NORMALIZATIONS
from data_cleansing.influence.methods import EPOCHS, EVERY_STEP, FINAL, HESSIANS, LOSS, METHODS, RANDOM
from data_cleansing.model import MAPS, cifarnet, linear_classifier
from data_cleansing.training.trajectory import EVERY, KEEP

FILES = "files"    # of the user, in place of a data set with a name
AUTO = "auto"    # what the method takes by default
REMOVALS = ("0", "1", "10", "40", "100", "200", "600", "1000", "3000", "5000", "10000", "30000")


@attrs.frozen(kw_only=True, slots=False)    # Config inherits from three
class Training:
    """What is trained, on which images. The text of each key is its `help`."""

    dataset: str = choice(CIFAR10, (*DATASETS, FILES), help="images to clean; files: those of data_dir")
    data_dir: str | None = path(None, help="folder of the data set; for files: one with a folder for each class, or a "
                                           "CSV list")
    valid_dir: str | None = path(None, help="validation images like data_dir for files; none: a fifth of the others")
    test_dir: str | None = path(None, help="test images like data_dir for files; none: a fifth, always the same")
    damaged: str = choice("stop", ("stop", "skip"), help="what to do at files that cannot be read; skip: leave out")
    side: int = integer(0, at_least=0, at_most=512,
                        help="side that images are resized to; 0: the short edge, but 32 to 128 pixels")
    features: str | None = path(None, help="ONNX file of a network: a linear classifier of its output is trained in "
                                           "place of the published network; side is what it takes, augment = false")
    feature_values: str = choice(IMAGENET, tuple(VALUES), help="pixels that it takes: as torchvision's networks for "
                                                                 "ImageNet, 0 to 1, or 0 to 255")
    n_train: int = integer(0, at_least=0, help="training images to take, at random; 0: all")
    n_valid: int = integer(0, at_least=0, help="validation images to take; 0: all")
    n_test: int = integer(0, at_least=0, help="test images to take; 0: all")
    flip_labels: float = number(0.0, at_least=0, at_most=0.9, help="share of training labels to make wrong, as a test")

    n_epochs: int = integer(20, at_least=1, help="passes over the training images")
    batch_size: int = integer(64, at_least=1, help="images per step")
    lr: float = number(0.05, above=0, help="learning rate")
    momentum: float = number(0.0, at_least=0, at_most=0.999, help="share of the last update in the next one")
    weight_decay: float = number(0.0, at_least=0, at_most=1, help="times each parameter is added to its gradient")
    augment: bool = flag(True, help="shift and mirror the training images")
    width: float = number(1.0, above=0, at_most=8, help="maps of the layers, as a share of the published 32, 64, 128")
    keep: str = choice(KEEP[0], KEEP,
                       help="parameters to store: the final ones, those before all steps of the last or of all epochs, "
                            "or between epochs; what else a method needs is computed again")
    keep_every: int = integer(1, at_least=1, help="for last and all: before every so many steps")
    n_trials: int = integer(6, at_least=1, help="trainings, each with a split and first values of its own")
    jobs: int = integer(1, at_least=1, help="trials at a time, each in a process of its own; results are the same")
    seed: int = integer(0, at_least=0, at_most=2 ** 31 - 1000, help="of the first trial; later ones count on from it")

    @property
    def seeds(self) -> range:
        """Seeds of the trials."""
        return range(self.seed, self.seed + self.n_trials)

    def network(self, num_classes: int) -> Network:
        """Return the network, `network(image, train)`."""
        if self.features:
            return functools.partial(linear_classifier, num_classes=num_classes)
        maps = tuple(max(1, round(width * self.width)) for width in MAPS)
        return functools.partial(cifarnet, num_classes=num_classes, maps=maps)


@attrs.frozen(kw_only=True, slots=False)
class Scoring:
    """How images are scored. What the methods do stands in `data_cleansing.influence.influence_scores`."""

    methods: tuple[str, ...] = names((EVERY_STEP, FINAL), options=tuple(METHODS),
                                     help="how to score; random is always among them")
    published: bool = flag(False, help="compute as the published code does, with its divisor, normalization and sign")
    hessian: str = choice(AUTO, (AUTO, *HESSIANS),
                          help="Hessian that final and every_step take; bounded leaves it out where scores would "
                               "explode; auto is bounded, or published with --published")
    normalization: str = choice(AUTO, (AUTO, *NORMALIZATIONS),
                                help="how final, every_step and checkpoints normalize the images that they score; "
                                     "auto is batch, test for checkpoints, or single with --published")
    score_epochs: str = choice(AUTO, (AUTO, *EPOCHS),
                               help="epochs that final, every_step and checkpoints walk back through; auto is last, "
                                    "all for checkpoints")
    damping: float = number(10.0, above=0, help="damping of koh_liang")


@attrs.frozen(kw_only=True, slots=False)
class Retraining:
    """What is trained again, without which images."""

    remove_n_list: tuple[str, ...] = names(REMOVALS, noun="numbers", metavar="N",
                                           help="how many of the worst images to remove, one number after the other")
    retrain_all: bool = flag(False, help="train again from the first step, not only the last epoch")
    new_trainings: int = integer(0, at_least=0, at_most=1000,
                                 help="also judge each removal by so many new trainings of each trial, with first "
                                      "values and an order of their own; 0: only train again as before")

    @property
    def removals(self) -> list[int]:
        """Numbers of images to remove, ascending, 0 among them."""
        return sorted({0, *map(int, self.remove_n_list)})


@attrs.frozen(kw_only=True, slots=False)
class CrossValidation:
    """How labels are judged: by networks that are trained without a part of the images each."""

    folds: int = integer(4, at_least=2, at_most=100, help="parts of the training images, each judged by a network "
                                                          "that is trained without it")
    fold_epochs: int = integer(0, at_least=0, help="epochs of these networks; 0: n_epochs")


@attrs.frozen(kw_only=True)
class Config(Training, Scoring, Retraining, CrossValidation):
    """One experiment: a section of a `.cfg` file.

    Raises
    ------
    ValueError
        A value is not allowed, or two of them contradict each other.
    """

    def __attrs_post_init__(self) -> None:
        for number_of_images in self.remove_n_list:
            if not (number_of_images.isascii() and number_of_images.isdecimal()):
                raise ValueError(f"remove_n_list: {number_of_images!r} is not a number of images")
        if not self.methods:
            raise ValueError("methods: at least one is needed")
        if self.features and self.augment:
            raise ValueError("features are computed once for each image, which goes with augment = false alone")
        if self.dataset == FILES and self.data_dir is None:
            raise ValueError("dataset = files needs data_dir: a folder with a folder for each class, or a CSV list")
        if self.dataset != FILES and (self.valid_dir or self.test_dir):
            raise ValueError(f"valid_dir and test_dir are for dataset = files, not {self.dataset}")
        if self.dataset != FILES and self.damaged == "skip":
            raise ValueError(f"damaged = skip is for dataset = files, not {self.dataset}")
        if self.keep_every > 1 and self.keep not in EVERY:
            raise ValueError(f"keep_every = {self.keep_every} is for keep = {' or '.join(EVERY)}, not {self.keep}")
        if self.feature_values != IMAGENET and not self.features:
            raise ValueError(f"feature_values = {self.feature_values} is for features, and there are none")

    @property
    def scored_methods(self) -> tuple[str, ...]:
        """All methods, with the controls: the loss where labels were flipped, and a random order."""
        controls = ((LOSS,) if self.flip_labels else ()) + (RANDOM,)
        return self.methods + tuple(control for control in controls if control not in self.methods)
