"""The keys of an experiment, on CIFAR-10 with the published names and defaults, and how a run keeps them."""
import json
from pathlib import Path

import attrs

from common.datasets import CIFAR10, DATASETS
from common.machine.errors import UsageError, UserError
from common.quantizers import QUANTIZERS, STATIC_QUANTIZERS
from common.quantizers.layers import Quantization
from common.runs.config import choice, flag, from_dict, integer, number, text

QUANTIZER_NAMES = (*STATIC_QUANTIZERS, *QUANTIZERS)
POW2_NAMES = tuple(name for name in QUANTIZER_NAMES if "pow2" in name)
RELU = "_relu"
POW2_MAX_BITWIDTH = 8    # the smallest level is 2^-127 of the largest; with 9 bits it leaves float32


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

    published = False    # there is a published script for CIFAR-10 alone
    tops = (1,)    # which errors are measured: the right class is not the best answer, not among the k best

    initial_learning_rate = number(0.1, above=0, help="learning rate of the first epochs")
    optimizer = choice(None, (None, "momentum", "adam"), help="none is momentum")
    weight_decay = number(2e-4, at_least=0, help="pull of every trained parameter towards zero")
    epochs = integer(160, at_least=1, help="passes over the training images")
    batch_size = integer(128, at_least=1, help="images per update")
    steps_per_epoch = integer(0, at_least=0, help="updates per epoch; 0: all training images")
    seed = integer(0, at_least=0, at_most=2 ** 31 - 1, help="fixes initialization, shuffling and augmentation")
    weightfile = text(None, help="parameters to start from; none: random ones")
    held_out = number(0.1, above=0, at_most=0.5, help="share of the training images that is held out to choose the "
                                                      "best parameters by")

    w_quantize = choice(None, (None, *QUANTIZER_NAMES), help="quantizer of the weights")
    w_stepsize = number(2 ** -3, above=0, help="first step size where no weights are loaded")
    w_stepsize_min = number(2 ** -8, above=0, help="lower limit of the step size")
    w_stepsize_max = number(1, above=0, help="upper limit of the step size")
    w_xmin_min = number(2 ** -16, above=0, help="lower limit of the smallest power of two")
    w_xmin_max = number(127, above=0, help="upper limit of the smallest power of two")
    w_xmax_min = number(2 ** -8, above=0, help="lower limit of the dynamic range")
    w_xmax_max = number(127, above=0, help="upper limit of the dynamic range")
    w_bitwidth = integer(4, at_least=2, at_most=16, help="bits per weight; the first value where it is learned")
    w_bitwidth_min = integer(2, at_least=1, at_most=16, help="lower limit of the bits")
    w_bitwidth_max = integer(8, at_least=2, at_most=16, help="upper limit of the bits")

    a_quantize = choice(None, (None, *(name + RELU for name in QUANTIZER_NAMES)),
                        help="quantizer of the activations, which takes the place of ReLU")
    a_stepsize = number(2 ** -3, above=0, help="first step size")
    a_stepsize_min = number(2 ** -8, above=0, help="lower limit of the step size")
    a_stepsize_max = number(1, above=0, help="upper limit of the step size")
    a_xmin_min = number(2 ** -14, above=0, help="lower limit of the smallest power of two")
    a_xmin_max = number(255, above=0, help="upper limit of the smallest power of two")
    a_xmax_min = number(2 ** -8, above=0, help="lower limit of the dynamic range")
    a_xmax_max = number(255, above=0, help="upper limit of the dynamic range")
    a_bitwidth = integer(4, at_least=1, at_most=16, help="bits per activation; the first value where it is learned")
    a_bitwidth_min = integer(1, at_least=1, at_most=16, help="lower limit of the bits")
    a_bitwidth_max = integer(8, at_least=1, at_most=16, help="upper limit of the bits")

    target_weight_kbytes = number(-1, help="budget of all weights together, in kB; 0 or less: none")
    target_activation_kbytes = number(-1, help="budget of the activations of one image, in kB; 0 or less: none")
    target_activation_type = choice("max", ("max", "sum"), help="whether that budget is for the largest tensor or all")
    initial_cost_lambda2 = number(0.1, at_least=0, help="factor of the loss for weights over budget")
    initial_cost_lambda3 = number(0.1, at_least=0, help="factor of the loss for activations over budget")

    def __attrs_post_init__(self):
        for kind in ("w", "a"):
            _check_limits(self, kind)
            _check_bitwidth(self, kind)
        for kind, key in (("w", "target_weight_kbytes"), ("a", "target_activation_kbytes")):
            if getattr(self, key) > 0 and getattr(self, f"{kind}_quantize") is None:
                raise ValueError(f"{key} = {getattr(self, key):g} needs {kind}_quantize: nothing is quantized")


@attrs.frozen(kw_only=True)
class Config(QuantizationConfig):
    """An experiment on small images: a section of a `train_resnet_quant_*.cfg` file."""

    num_layers = choice(20, (20, 32, 44, 56, 110), help="depth of the ResNet")
    shortcut_type = choice("", ("", "b", "c"), help="shortcut: nothing appends zero channels, b is a 1x1 convolution "
                                                    "where the number of channels changes, c is one in every block")
    scale_layer = flag(False, help="multiply the output of the network by a learned factor")

    dataset = choice(CIFAR10, tuple(DATASETS), help="what to train on")
    data_dir = text(None, help="folder with the data set; none: found or downloaded")
    published = flag(False, help="behave as the published script: train on all training images, choose the best "
                                 "parameters by the test images (with a budget for weights after every step), derive "
                                 "static step sizes anew for every graph")


@attrs.frozen(kw_only=True)
class ImageNetConfig(QuantizationConfig):
    """An experiment on ImageNet, or another folder of photographs: a section of `train_imagenet.cfg`."""

    tops = (1, 5)

    model = choice("resnet18", ("resnet18", "mobilenetv2"), help="network")
    image_size = integer(224, at_least=32, at_most=1024, help="height and width of the images, in pixels")
    data_dir = text(None, help="folder with train/<wnid>/*.JPEG and val/, or 'synthetic'")
    val_labels = text(None, help="labels of a flat validation folder; none: looked for beside it")
    per_class = integer(0, at_least=0, help="use so many images of each class, for a trial; 0: all")
    limit = integer(0, at_least=0, help="use so many images of each split, for a trial; 0: all")
    workers = integer(0, at_least=0, help="threads that decode images; 0: one for each core")
    skip_damaged = flag(False, help="leave out images that cannot be decoded, instead of stopping")


def _check_limits(cfg, kind):
    for quantity in ("stepsize", "xmin", "xmax", "bitwidth"):
        low, high = (f"{kind}_{quantity}_{end}" for end in ("min", "max"))
        if getattr(cfg, low) > getattr(cfg, high):
            raise ValueError(f"{low} = {getattr(cfg, low):g} is above {high} = {getattr(cfg, high):g}")


def _check_bitwidth(cfg, kind):
    quantize, bitwidth, low, high = (
        getattr(cfg, f"{kind}_{key}") for key in ("quantize", "bitwidth", "bitwidth_min", "bitwidth_max"))
    if not low <= bitwidth <= high:
        raise ValueError(f"{kind}_bitwidth = {bitwidth} is not between {kind}_bitwidth_min = {low} "
                         f"and {kind}_bitwidth_max = {high}")
    if quantize in {*POW2_NAMES, *(name + RELU for name in POW2_NAMES)} and high > POW2_MAX_BITWIDTH:
        raise ValueError(f"{kind}_bitwidth_max = {high} is above {POW2_MAX_BITWIDTH}, the most that powers of two "
                         "can have in float32")
    # One bit for the sign, none for the magnitude: the step size would be xmax / 0, or xmax would be 0.
    if quantize in ("parametric_fp_b_xmax", "parametric_fp_d_b") and low < 2:
        raise ValueError(f"{kind}_bitwidth_min = {low} leaves nothing beside the sign; {quantize} needs 2 or more")


def weight_quantization(cfg):
    """Return the `Quantization` that the w_ keys describe."""
    return _quantization(cfg, "w", cfg.w_quantize, sign=True)


def activation_quantization(cfg):
    """Return the `Quantization` that the a_ keys describe."""
    return _quantization(cfg, "a", cfg.a_quantize and cfg.a_quantize.removesuffix(RELU), sign=False)


def _quantization(cfg, kind, quantizer, sign):
    keys = ("bitwidth", *(f"{quantity}_{end}" for quantity in ("bitwidth", "stepsize", "xmin", "xmax")
                          for end in ("min", "max")), "stepsize")
    return Quantization(quantizer=quantizer, sign=sign, recompute_step_size=cfg.published,
                        **{key: getattr(cfg, f"{kind}_{key}") for key in keys})


def read_config(folder):
    """Read the configuration that a run was made with.

    Parameters
    ----------
    folder : path
        Output folder of train_resnet.py or train_imagenet.py.

    Returns
    -------
    Config or ImageNetConfig

    Raises
    ------
    UsageError
        `folder` holds no run.
    UserError
        Its config.json is damaged.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UsageError(f"{folder}: no config.json there; name the output folder of train_resnet.py or "
                         "train_imagenet.py")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); run the experiment again") from error
    return config_from(values, path)


def config_from(values, source):
    """Read a configuration of either kind, as `common.runs.config.from_dict` does."""
    is_imagenet = isinstance(values, dict) and "model" in values
    return from_dict(ImageNetConfig if is_imagenet else Config, values, source)
