"""The keys of an experiment, on CIFAR-10 with the published names and defaults."""
import math
from pathlib import Path
from typing import ClassVar

import attrs

from common.datasets import CIFAR10, DATASETS, SYNTHETIC
from common.quantizers import (
    POWER_OF_TWO,
    QUANTIZER_NAMES,
    QUANTIZERS,
    UNIFORM,
    fixed_quantizer,
    grid_of,
    range_quantizer,
)
from common.quantizers.layers import SUM_BITS, Quantization
from common.runs.config import choice, flag, from_dict, integer, number, path, text, to_dict

_LATER = {"all_integer": False}    # keys that early files lack, and what they meant
VALUE_BITS = 8    # of all integers that kernels multiply or add
# Scopes of the quantizers of values that are no activations, where nothing is float -> whether they have a sign.
VALUES = {"image": True, "summand": True, "shortcut": True, "value": False, "mean": False}
RELU = "_relu"    # ends the names of the quantizers of activations


@attrs.frozen(kw_only=True)
class QuantizationConfig:
    """What experiments on all data sets have in common: training, quantizers and budgets.

    Keys that start with w_ are about weights, with a_ about activations. Sizes are in kB of 1024 bytes. The text
    of each key is its `help`.

    Raises
    ------
    ValueError
        A value is not allowed, or two of them contradict each other.
    """

    script: ClassVar[str]    # that runs these experiments
    cfg_file: ClassVar[str]    # that it reads by default
    tops: ClassVar[tuple[int, ...]] = (1,)    # errors to measure: the class is not among the k best
    has_published_script: ClassVar[bool] = False
    # The network to start from is trained with these settings of the run that needs it.
    start_keys: ClassVar[tuple[str, ...]] = ("epochs", "batch_size", "steps_per_epoch", "seed", "held_out", "data_dir")

    initial_learning_rate: float = number(0.1, above=0, help="learning rate of the first epochs")
    optimizer: str | None = choice(None, (None, "momentum", "adam"), help="none is momentum")
    weight_decay: float = number(2e-4, at_least=0, help="pull of every trained parameter towards zero")
    epochs: int = integer(160, at_least=1, help="passes over the training images")
    batch_size: int = integer(128, at_least=1, help="images per update")
    steps_per_epoch: int = integer(0, at_least=0, help="updates per epoch; 0: all training images")
    seed: int = integer(0, at_least=0, at_most=2 ** 31 - 1, help="fixes initialization, shuffling and augmentation")
    weightfile: str | None = text(None, help="parameters to start from; none: random ones")
    held_out: float = number(0.1, above=0, at_most=0.5,
                             help="share of the training images that is held out to choose the best parameters by")

    w_quantize: str | None = choice(None, (None, *QUANTIZER_NAMES), help="quantizer of the weights")
    w_stepsize: float = number(2 ** -3, above=0, help="first step size where no weights are loaded")
    w_stepsize_min: float = number(2 ** -8, above=0, help="lower limit of the step size")
    w_stepsize_max: float = number(1, above=0, help="upper limit of the step size")
    w_xmin_min: float = number(2 ** -16, above=0, help="lower limit of the smallest power of two")
    w_xmin_max: float = number(127, above=0, help="upper limit of the smallest power of two")
    w_xmax_min: float = number(2 ** -8, above=0, help="lower limit of the dynamic range")
    w_xmax_max: float = number(127, above=0, help="upper limit of the dynamic range")
    w_bitwidth: int = integer(4, at_least=2, at_most=16, help="bits per weight; the first value where it is learned")
    w_bitwidth_min: int = integer(2, at_least=1, at_most=16, help="lower limit of the bits")
    w_bitwidth_max: int = integer(8, at_least=2, at_most=16, help="upper limit of the bits")

    a_quantize: str | None = choice(None, (None, *(name + RELU for name in QUANTIZER_NAMES)),
                        help="quantizer of the activations, which takes the place of ReLU")
    a_stepsize: float = number(2 ** -3, above=0, help="first step size")
    a_stepsize_min: float = number(2 ** -8, above=0, help="lower limit of the step size")
    a_stepsize_max: float = number(1, above=0, help="upper limit of the step size")
    a_xmin_min: float = number(2 ** -14, above=0, help="lower limit of the smallest power of two")
    a_xmin_max: float = number(255, above=0, help="upper limit of the smallest power of two")
    a_xmax_min: float = number(2 ** -8, above=0, help="lower limit of the dynamic range")
    a_xmax_max: float = number(255, above=0, help="upper limit of the dynamic range")
    a_bitwidth: int = integer(4, at_least=1, at_most=16,
                              help="bits per activation; the first value where it is learned")
    a_bitwidth_min: int = integer(1, at_least=1, at_most=16, help="lower limit of the bits")
    a_bitwidth_max: int = integer(8, at_least=1, at_most=16, help="upper limit of the bits")

    all_integer: bool = flag(False, help="leave nothing in float: 8 bits for images, terms of sums and means, powers "
                                   "of two for normalizations, offsets on the grids of sums")

    target_weight_kbytes: float = number(-1, help="budget of all weights together, in kB; 0 or less: none")
    target_activation_kbytes: float = number(-1, help="budget of the activations of one image, in kB; 0 or less: none")
    target_activation_type: str = choice("max", ("max", "sum"),
                                         help="whether that budget is for the largest tensor or all")
    initial_cost_lambda2: float = number(0.1, at_least=0, help="factor of the loss for weights over budget")
    initial_cost_lambda3: float = number(0.1, at_least=0, help="factor of the loss for activations over budget")

    def __attrs_post_init__(self):
        for kind in ("w", "a"):
            _check_limits(self, kind)
            _check_bitwidth(self, kind)
            if self.all_integer:
                _check_integers(self, kind)
        for kind, key in (("w", "target_weight_kbytes"), ("a", "target_activation_kbytes")):
            if getattr(self, key) > 0 and getattr(self, f"{kind}_quantize") is None:
                raise ValueError(f"{key} = {getattr(self, key):g} needs {kind}_quantize: nothing is quantized")

    @property
    def as_published(self) -> bool:
        """Whether to behave as a published script."""
        return False

    @property
    def has_budget(self) -> bool:
        """Whether a size is limited."""
        return self.target_weight_kbytes > 0 or self.target_activation_kbytes > 0

    def within_budget(self, weight_kbytes: float, activation_kbytes: float) -> bool:
        """Whether the sizes meet every budget that there is."""
        return all(target <= 0 or size <= target for size, target in (
            (weight_kbytes, self.target_weight_kbytes), (activation_kbytes, self.target_activation_kbytes)))


@attrs.frozen(kw_only=True)
class Config(QuantizationConfig):
    """An experiment on small images: a section of a `train_resnet_quant_*.cfg` file."""

    script: ClassVar[str] = "train_resnet.py"
    cfg_file: ClassVar[str] = "train_resnet_quant_fp.cfg"
    has_published_script: ClassVar[bool] = True
    start_keys: ClassVar[tuple[str, ...]] = (*QuantizationConfig.start_keys, "num_layers", "shortcut_type", "dataset",
                                             "published")

    num_layers: int = choice(20, (20, 32, 44, 56, 110), help="depth of the ResNet")
    shortcut_type: str = choice("", ("", "b", "c"), help="shortcut: nothing appends zero channels, b is a 1x1 "
                                "convolution where the number of channels changes, c is one in every block")
    scale_layer: bool = flag(False, help="multiply the output of the network by a learned factor")

    dataset: str = choice(CIFAR10, tuple(DATASETS), help="what to train on")
    data_dir: str | None = path(None, help="folder with the data set; none: found or downloaded")
    published: bool = flag(False, help="behave as the published script: train on all training images, choose the best "
                                 "parameters by the test images (with a budget for weights after every step), derive "
                                 "static step sizes anew for every graph")

    def __attrs_post_init__(self):
        super().__attrs_post_init__()
        if self.all_integer and self.scale_layer:
            raise ValueError("all_integer: scale_layer multiplies by a float")

    @property
    def as_published(self) -> bool:
        return self.published


@attrs.frozen(kw_only=True)
class ImageNetConfig(QuantizationConfig):
    """An experiment on ImageNet, or another folder of photographs: a section of `train_imagenet.cfg`."""

    script: ClassVar[str] = "train_imagenet.py"
    cfg_file: ClassVar[str] = "train_imagenet.cfg"
    tops: ClassVar[tuple[int, ...]] = (1, 5)
    start_keys: ClassVar[tuple[str, ...]] = (*QuantizationConfig.start_keys, "image_size", "val_labels", "per_class",
                                             "limit", "workers", "skip_damaged")

    model: str = choice("resnet18", ("resnet18", "mobilenetv2"), help="network")
    image_size: int = integer(224, at_least=32, at_most=1024, help="height and width of the images, in pixels")
    data_dir: str | None = path(None, is_name=SYNTHETIC.__eq__,
                                help="folder with train/<wnid>/*.JPEG and val/, or 'synthetic'")
    val_labels: str | None = path(None, help="labels of a flat validation folder; none: looked for beside it")
    per_class: int = integer(0, at_least=0, help="use so many images of each class, for a trial; 0: all")
    limit: int = integer(0, at_least=0, help="use so many images of each split, for a trial; 0: all")
    workers: int = integer(0, at_least=0, help="threads that decode images; 0: one for each core")
    skip_damaged: bool = flag(False, help="leave out images that cannot be decoded, instead of stopping")

    def __attrs_post_init__(self):
        super().__attrs_post_init__()
        if self.all_integer and self.model != "resnet18":
            raise ValueError(f"all_integer needs model = resnet18: {self.model} has layers without a quantizer")


def _check_limits(cfg: QuantizationConfig, kind: str) -> None:
    for quantity in ("stepsize", "xmin", "xmax", "bitwidth"):
        low, high = (f"{kind}_{quantity}_{end}" for end in ("min", "max"))
        if getattr(cfg, low) > getattr(cfg, high):
            raise ValueError(f"{low} = {getattr(cfg, low):g} is above {high} = {getattr(cfg, high):g}")


def _check_bitwidth(cfg: QuantizationConfig, kind: str) -> None:
    quantizer = quantizer_of(cfg, kind)
    bitwidth, low, high = (getattr(cfg, f"{kind}_{key}") for key in ("bitwidth", "bitwidth_min", "bitwidth_max"))
    if not low <= bitwidth <= high:
        raise ValueError(f"{kind}_bitwidth = {bitwidth} is not between {kind}_bitwidth_min = {low} "
                         f"and {kind}_bitwidth_max = {high}")
    if quantizer is None:
        return
    grid = grid_of(quantizer)
    if high > grid.max_bits:
        raise ValueError(f"{kind}_bitwidth_max = {high} is above {grid.max_bits}, the most that {grid.levels} "
                         "can have in float32")
    # With one bit for the sign and none for the magnitude, the step size would be xmax / 0, or xmax would be 0.
    needed = QUANTIZERS[quantizer].min_weight_bits if quantizer in QUANTIZERS and kind == "w" else 1
    if low < needed:
        raise ValueError(f"{kind}_bitwidth_min = {low} leaves nothing beside the sign; {quantizer} needs {needed} "
                         "or more")


def _check_integers(cfg: QuantizationConfig, kind: str) -> None:
    """Refuse what may learn integers that kernels for 8 bits do not take."""
    if quantizer_of(cfg, kind) is None:
        raise ValueError(f"all_integer needs {kind}_quantize: nothing is quantized")
    spec = _quantization(cfg, kind, sign=kind == "w")
    largest, (name, reached) = 2 ** (VALUE_BITS - spec.sign) - 1, _largest_integer(spec)
    if reached > largest:
        raise ValueError(f"all_integer: {kind}_{name} lets integers be as large as {reached:.0f}, {VALUE_BITS} bits "
                         f"end at {largest}")


def _largest_integer(spec):
    """What bounds the integers, and how large they can become."""
    if spec.is_parametric and spec.parametrization.is_range:
        smallest = spec.parametrization.scalars[0]
        name = "stepsize_min" if smallest == "d" else f"{smallest}_min"
        return name, spec.xmax_max / spec.limits[smallest][0]
    name = "bitwidth_max" if spec.is_parametric else "bitwidth"
    smallest, xmax = spec.grid.range_for(1.0, getattr(spec, name), spec.sign)
    rounds_step = spec.is_parametric and spec.grid is UNIFORM and "xmax" in spec.parametrization.scalars    # U2
    return name, xmax / smallest * (2 ** 0.5 if rounds_step else 1)


def quantizer_of(cfg: QuantizationConfig, kind: str) -> str | None:
    """Name in the tables of `common.quantizers` of the quantizer of weights, "w", or activations, "a"; None: float."""
    name = getattr(cfg, f"{kind}_quantize")
    return name and name.removesuffix(RELU)


def weight_quantization(cfg: QuantizationConfig) -> Quantization:
    """Return the `Quantization` that the w_ keys describe."""
    return _quantization(cfg, "w", sign=True)


def activation_quantization(cfg: QuantizationConfig) -> Quantization:
    """Return the `Quantization` that the a_ keys describe."""
    return _quantization(cfg, "a", sign=False)


def value_quantizations(cfg: QuantizationConfig) -> dict[str, Quantization]:
    """Return how `all_integer` rounds values that are no activations, by the scope that their quantizers stand in.

    Step size and range are learned, from 8 bits on, within limits that leave it at these: over [-1, 1] for images,
    over twice the first range of the activations for the others.
    """
    spec = activation_quantization(cfg)
    xmax = spec.grid.range_for(spec.stepsize, spec.bitwidth, sign=False)[1]
    return {scope: _eight_bits(spec, sign, 1 if scope == "image" else 2 * xmax) for scope, sign in VALUES.items()}


def _eight_bits(spec, sign, largest):
    levels = 2 ** (VALUE_BITS - sign) - 1
    step_size = 2.0 ** round(math.log2(largest / levels))
    return attrs.evolve(spec, quantizer=range_quantizer(UNIFORM), sign=sign, bitwidth=VALUE_BITS, bitwidth_min=2,
                        bitwidth_max=VALUE_BITS, stepsize=step_size, stepsize_min=step_size,
                        stepsize_max=16 * step_size, xmax_min=16 * step_size, xmax_max=levels * step_size)


def sum_quantization(cfg: QuantizationConfig) -> Quantization:
    """Return how `all_integer` stores what is added to sums of products: as integers of a fixed number of bits."""
    return attrs.evolve(weight_quantization(cfg), quantizer=fixed_quantizer(UNIFORM), bitwidth=SUM_BITS)


def scale_quantization(cfg: QuantizationConfig) -> Quantization:
    """Return how `all_integer` makes powers of two of the scales of normalizations: first from 2^-10 to 2^5."""
    return attrs.evolve(weight_quantization(cfg), quantizer=range_quantizer(POWER_OF_TWO), stepsize=2.0, bitwidth=5,
                        bitwidth_min=1, bitwidth_max=8, xmin_min=2.0 ** -16, xmin_max=1.0, xmax_min=1.0,
                        xmax_max=2.0 ** 10)


def _quantization(cfg, kind, sign):
    keys = ("bitwidth", *(f"{quantity}_{end}" for quantity in ("bitwidth", "stepsize", "xmin", "xmax")
                          for end in ("min", "max")), "stepsize")
    return Quantization(quantizer=quantizer_of(cfg, kind), sign=sign, recompute_step_size=cfg.as_published,
                        **{key: getattr(cfg, f"{kind}_{key}") for key in keys})


Experiment = Config | ImageNetConfig


def without_quantizers(cfg: Experiment) -> Experiment:
    """Return the experiment with the same network in float."""
    return attrs.evolve(cfg, w_quantize=None, a_quantize=None, all_integer=False, target_weight_kbytes=-1,
                        target_activation_kbytes=-1)


def to_shortest_dict(cfg: Experiment) -> dict:
    """As `common.runs.config.to_dict`, for `config_from`, without keys of `_LATER` that have their first meaning."""
    return {key: value for key, value in to_dict(cfg).items() if key not in _LATER or value != _LATER[key]}


def config_from(values: dict, source: str | Path) -> Experiment:
    """Read a configuration of either kind, as `common.runs.config.from_dict` does.

    Keys of `_LATER` may be missing: files that were written before lack them.
    """
    is_imagenet = isinstance(values, dict) and "model" in values
    complete = {**_LATER, **values} if isinstance(values, dict) else values
    return from_dict(ImageNetConfig if is_imagenet else Config, complete, source)
