"""The keys of an experiment of out-of-core training, and its learning rate."""
import math
import re
from typing import Any

import attrs

from common.console.values import largest
from common.datasets.table import SYNTHETIC
from common.machine.errors import UsageError
from common.out_of_core.recompute import LEVELS
from common.runs.config import choice, integer, number, path, text
from common.runs.schedules import poly_decay, step_decay
from out_of_core_training.models import NETWORKS, checked_size
from out_of_core_training.networks.deeplab import BACKBONES

SCHEDULES = ("step", "poly", "linear")
DROPS = (1 / 3, 2 / 3, 8 / 9)    # shares of a training run: epochs 30, 60 and 80 of 90
POLY_POWER = 0.9
RECOMPUTE = ("what the backward pass computes again instead of keeping or swapping it, with the same results; cheap: "
             "all but convolutions between blocks of the network, all: convolutions, too")


@attrs.frozen(kw_only=True)
class Config:
    """One experiment: a section of a `.cfg` file. The text of each key is its `help`.

    Raises
    ------
    ValueError
        A value is not allowed, or two of them contradict each other.
    """

    network: str = choice("resnet50", tuple(NETWORKS), help="what to train")
    backbone: str | None = choice(None, (None, *BACKBONES), help="of deeplabv3plus; none: its default")
    width: float = number(1, above=0, help="factor of all numbers of channels")
    image_size: str | None = text(None, help="height and width in pixels, such as 224 or 1024x2048; none: as "
                                             "published")
    recompute: str = choice("none", LEVELS, help=RECOMPUTE)
    data: str = choice("folder", ("folder", "random"), help="what to train on: the files in data_dir, or the same "
                                                            "random batch in each step")
    data_dir: str | None = path(None, is_name=SYNTHETIC.__eq__, help="folder with the layout of ImageNet or "
                                                                   "Cityscapes; synthetic: generated pictures")
    batch_size: int = integer(256, at_least=1, help="images per update")
    epochs: int = integer(90, at_least=1, help="passes over the training images")
    steps_per_epoch: int = integer(0, at_least=0, help="updates per epoch; 0: all training images, or 10 random "
                                                       "batches")
    seed: int = integer(0, at_least=0, at_most=2 ** 31 - 1, help="fixes initialization, shuffling and augmentation")
    learning_rate: float = number(0.1, above=0, help="largest learning rate, for a batch of reference_batch")
    reference_batch: int = integer(0, at_least=0, help="the learning rate grows in proportion to the batch size, and "
                                                       "is as given at this one; 0: it does not")
    schedule: str = choice("step", SCHEDULES, help="step: a tenth after 1/3, 2/3 and 8/9 of the epochs; poly: falls "
                                                   "with a power of 0.9; linear: constant for one half, then falls to "
                                                   "0")
    warmup_epochs: int = integer(0, at_least=0, help="epochs in which the learning rate rises to its value")
    weight_decay: float = number(1e-4, at_least=0, help="pull of every parameter towards zero")

    def __attrs_post_init__(self):
        if self.backbone is not None and "backbone" not in NETWORKS[self.network].options:
            raise ValueError(f"backbone = {self.backbone}: only deeplabv3plus has a choice")
        try:
            _ = self.size
        except UsageError as error:
            raise ValueError(error) from error

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return checked_size(self.network, parse_size(self.image_size))

    @property
    def network_options(self) -> dict[str, Any]:
        """Further arguments of `out_of_core_training.models.build`."""
        backbone = {"backbone": self.backbone} if self.backbone else {}
        return {"width": self.width, "recompute": self.recompute} | backbone


def parse_size(value: str | None) -> tuple[int, int] | None:
    """Read the size of an image, `224` or `1024x2048` (height x width).

    Returns
    -------
    (height, width), None for None

    Raises
    ------
    UsageError
        It is no such size.
    """
    if value is None:
        return None
    match = re.fullmatch(r"\s*([0-9]+)\s*(?:x\s*([0-9]+)\s*)?", value, re.IGNORECASE)
    if match is None:
        raise UsageError(f"image size {value!r}: not height and width in pixels, such as 224 or 1024x2048")
    height, width = (int(digits[:6]) for digits in (match[1], match[2] or match[1]))
    if not 1 <= min(height, width) <= max(height, width) <= largest("image_height"):
        raise UsageError(f"image size {value!r}: choose 1 to {largest('image_height')} pixels")
    return height, width


def learning_rate(cfg: Config, epoch: int, step: int, num_steps: int) -> float:
    """Learning rate of a step.

    Parameters
    ----------
    epoch, step
        From 0.
    num_steps
        Of an epoch.
    """
    peak = cfg.learning_rate * (cfg.batch_size / cfg.reference_batch if cfg.reference_batch else 1)
    now = epoch + step / num_steps    # in epochs
    if now < cfg.warmup_epochs:
        return peak * (now + 1 / num_steps) / (cfg.warmup_epochs + 1 / num_steps)
    if cfg.schedule == "step":
        return step_decay(peak, epoch, [math.ceil(share * cfg.epochs) for share in DROPS])
    if cfg.schedule == "poly":
        return poly_decay(peak, 0, POLY_POWER, now, cfg.epochs)
    return peak * min(1, 2 * (1 - now / cfg.epochs))
