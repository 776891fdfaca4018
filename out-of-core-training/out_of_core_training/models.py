"""The paper's four networks as complete training iterations: `build` by name."""
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import nnabla as nn
import nnabla.functions as F
import nnabla.solvers as S
import numpy as np

from common.machine.errors import UsageError
from common.out_of_core.recompute import LEVELS, check_level, recompute_again
from common.out_of_core.recorder import functions_of
from common.runs.steps import update_parameters
from out_of_core_training.networks.deeplab import BACKBONES, deeplab
from out_of_core_training.networks.densenet import densenet
from out_of_core_training.networks.pix2pixhd import DISCRIMINATOR, GENERATOR, NUM_LABELS, pix2pixhd
from out_of_core_training.networks.resnet import resnet

IMAGENET_CLASSES, CITYSCAPES_CLASSES = 1000, 19
IGNORED = 255    # label of pixels that do not count
TASKS = CLASSIFICATION, SEGMENTATION, TRANSLATION = "classification", "segmentation", "translation"


@attrs.frozen
class TrainingGraph:
    """A training iteration, or with `train=False` what is needed to evaluate.

    Attributes
    ----------
    inputs
        What to write before an iteration, variables with the names `image`, `label`, `edges`. Of classifiers: image
        float32 (batch, 3, height, width), label int32 (batch, 1). Of DeepLabv3+: the same image, label int32 (batch, 1,
        height, width), `IGNORED` where it does not count. Of Pix2PixHD: label int32, edges float32, both (batch, 1,
        height, width), image as before.
    output
        Logits (batch, classes) or (batch, classes, height, width), or the generated image (batch, 3, height, width).
    steps
        Losses, each with what it updates, in their order within an iteration.
    losses
        Values worth a column of a log, of shape (); they survive `backward(clear_buffer=True)`.
    """

    name: str
    num_classes: int
    inputs: list[nn.Variable]
    output: nn.Variable
    steps: list[tuple[nn.Variable, Any]] = attrs.field(factory=list)
    losses: dict[str, nn.Variable] = attrs.field(factory=dict)

    @property
    def task(self) -> str:
        """What it learns, one of `TASKS`."""
        return NETWORKS[self.name].task

    @property
    def typed_inputs(self) -> list[tuple[nn.Variable, str]]:
        """Inputs with the types of the arrays that are written to them, for `out_of_core_training.planner.plan`."""
        return [(variable, "int32" if variable.name == "label" else "float32") for variable in self.inputs]


@attrs.frozen
class Architecture:
    """A kind of network.

    Attributes
    ----------
    title
        As in the paper's figure.
    task
        One of `TASKS`: what it learns, and so what data it is trained on.
    build
        `build(name, batch_size, (height, width), train, **options)` returns a `TrainingGraph`.
    image_size
        Height and width in pixels of the published experiments.
    smallest, multiple
        What height and width must be at least, and a multiple of.
    options
        Further arguments that `build` takes.
    """

    title: str
    task: str
    build: Callable[..., TrainingGraph]
    image_size: tuple[int, int]
    smallest: int
    multiple: int
    options: tuple[str, ...]


@nn.auto_forward(False)    # no array is to be made before it is asked for
def build(name: str, batch_size: int, image_size: int | Sequence[int] | None = None, train: bool = True,
          **options: Any) -> TrainingGraph:
    """Build a network on the parameters of the current scope, which are made where they are missing.

    No array of a size that grows with the batch is allocated before the first forward pass.

    Parameters
    ----------
    name
        One of `NETWORKS`.
    batch_size
        From 1.
    image_size
        Height and width in pixels; not given, as in the published experiments.
    train
        Build losses and solvers, and normalize by the statistics of the batch; otherwise inputs and output alone.
    **options
        What makes the network another one: `width`, a factor of all numbers of channels; `num_classes`; for
        `deeplabv3plus` also `backbone`, one of `out_of_core_training.networks.deeplab.BACKBONES`. What saves memory in
        training: `recompute`, one of `common.out_of_core.recompute.LEVELS`.

    Returns
    -------
    TrainingGraph
        For `iterate`.

    Raises
    ------
    UsageError
        An unknown network, a batch that is not positive, a size that the network cannot take, an unknown option.
    """
    if name not in NETWORKS:
        raise UsageError(f"unknown network {name!r}: choose from {', '.join(NETWORKS)}")
    architecture = NETWORKS[name]
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise UsageError(f"batch size {batch_size}: choose a whole number, at least 1")
    size = checked_size(name, image_size)
    check_options(name, options)
    return architecture.build(name, batch_size, size, train, **options)


def iterate(network: TrainingGraph, arrays: Sequence[np.ndarray], weight_decay: float = 0.0) -> None:
    """Take one training iteration: write the inputs, then update each solver once.

    Parameters
    ----------
    network
        From `build`.
    arrays
        Values of its inputs.
    weight_decay
        Pull of every parameter towards zero.

    Raises
    ------
    ValueError
        There are more or fewer arrays than inputs.
    """
    if len(arrays) != len(network.inputs):
        raise ValueError(f"{len(arrays)} arrays for the {len(network.inputs)} inputs of {network.name}")
    for variable, array in zip(network.inputs, arrays, strict=True):
        variable.d = array
    for loss, solver in network.steps:
        update_parameters(loss, solver, weight_decay)


def check_statistics(network: TrainingGraph) -> None:
    """Raise a UsageError where a batch normalization sees one value of a channel, of which nnabla's variance is NaN.

    So it is with one image where the maps have one pixel: in the pyramid of DeepLabv3+, and at the end of a classifier
    of the smallest images. A plan or a benchmark does not mind.
    """
    for f in (f for loss, _ in network.steps for f in functions_of(loss) if f.info.type_name == "BatchNormalization"):
        # Our own function, which normalizes over the values of several ranks, has no such argument.
        if f.info.args.get("batch_stat") and f.inputs[0].size == f.inputs[1].size:
            batch, _, height, width = network.inputs[0].shape
            maps = " x ".join(map(str, f.inputs[0].shape))
            raise UsageError(f"batch size {batch} of {height} x {width} pixels: the batch normalization of {maps} has "
                             "one value of each channel, and so no variance; choose a larger --batch-size or "
                             "--image-size")


def checked_size(name: str, image_size: int | Sequence[int] | None = None) -> tuple[int, int]:
    """Return (height, width) of the images of a network, given as for `build`; raises a UsageError as that does."""
    architecture = NETWORKS[name]
    size = architecture.image_size if image_size is None else image_size
    size = (size, size) if isinstance(size, int) else tuple(size)
    if len(size) != 2 or any(side < architecture.smallest or side % architecture.multiple for side in size):
        multiple = f" and a multiple of {architecture.multiple}" if architecture.multiple > 1 else ""
        raise UsageError(f"image size {' x '.join(map(str, size))} (height x width): {name} needs each to be at least "
                         f"{architecture.smallest}{multiple}")
    height, width = size
    return height, width


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise a UsageError for an option that `build` does not take for the network `name`, or not with this value."""
    allowed = NETWORKS[name].options
    for key in options:
        if key not in allowed:
            raise UsageError(f"{name} has no option {key!r}: choose from {', '.join(allowed)}")
    if not 0 < options.get("width", 1) < math.inf:
        raise UsageError(f"width {options['width']}: choose a factor above 0")
    if options.get("num_classes", 2) < 2:
        raise UsageError(f"{options['num_classes']} classes: choose at least 2")
    check_level(options.get("recompute", LEVELS[0]))
    if options.get("backbone", BACKBONES[0]) not in BACKBONES:
        raise UsageError(f"unknown backbone {options['backbone']!r}: choose from {', '.join(BACKBONES)}")


def _classifier(compute, name, batch_size, size, train, num_classes=IMAGENET_CLASSES, recompute=LEVELS[0],
                **options):
    image, label = _input("image", batch_size, 3, *size), _input("label", batch_size, 1)
    logits = compute(image, num_classes, train, **options)
    network = TrainingGraph(name, num_classes, [image, label], logits)
    if not train:
        return network
    loss = F.mean(F.softmax_cross_entropy(logits, label))
    return _with_loss(network, loss, S.Momentum(0.1, momentum=0.9), recompute)


def _segmenter(name, batch_size, size, train, num_classes=CITYSCAPES_CLASSES, recompute=LEVELS[0], **options):
    image, label = _input("image", batch_size, 3, *size), _input("label", batch_size, 1, *size)
    logits = deeplab(image, num_classes, train, **options)
    network = TrainingGraph(name, num_classes, [image, label], logits)
    if not train:
        return network
    counts = F.less_scalar(label, num_classes)
    losses = F.softmax_cross_entropy(logits, label * counts, axis=1) * counts
    # An image in which nothing counts has loss 0.
    loss = F.sum(losses) / F.maximum_scalar(F.sum(counts), 1)
    return _with_loss(network, loss, S.Momentum(0.007, momentum=0.9), recompute)


def _with_loss(network, loss, solver, recompute):
    """Complete a training iteration in which `solver` reduces `loss` by all parameters."""
    solver.set_parameters(nn.get_parameters())
    loss.persistent = True
    recompute_again(loss, recompute)
    return attrs.evolve(network, steps=[(loss, solver)], losses={"loss": loss})


def _translator(name, batch_size, size, train, num_classes=NUM_LABELS, width=1.0, recompute=LEVELS[0]):
    label, edges = (_input(kind, batch_size, 1, *size) for kind in ("label", "edges"))
    image = _input("image", batch_size, 3, *size)
    graph = pix2pixhd(label, edges, image, num_classes, width)
    network = TrainingGraph(name, num_classes, [label, edges, image], graph.fake)
    if not train:
        return network
    losses = {"loss_generator": graph.loss_generator, "loss_discriminator": graph.loss_discriminator,
              "loss_gan": graph.loss_gan, "loss_features": graph.loss_features}
    for loss in losses.values():
        loss.persistent = True
    steps = []
    for loss, scope in ((graph.loss_generator, GENERATOR), (graph.loss_discriminator, DISCRIMINATOR)):
        solver = S.Adam(2e-4, beta1=0.5, beta2=0.999)
        # By full names: the two sets of parameters are saved and restored together.
        solver.set_parameters({key: p for key, p in nn.get_parameters().items() if key.startswith(f"{scope}/")})
        steps.append((loss, solver))
        recompute_again(loss, recompute)
    return attrs.evolve(network, steps=steps, losses=losses)


def _input(name, *shape):
    variable = nn.Variable(shape)
    variable.name = name
    return variable


_FOR_ALL = ("width", "num_classes", "recompute")
NETWORKS = {
    "resnet50": Architecture("ResNet-50", CLASSIFICATION, functools.partial(_classifier, resnet), (224, 224), 32, 1,
                             _FOR_ALL),
    "densenet121": Architecture("DenseNet", CLASSIFICATION, functools.partial(_classifier, densenet), (224, 224), 32, 1,
                                _FOR_ALL),
    "pix2pixhd": Architecture("Pix2PixHD", TRANSLATION, _translator, (1024, 2048), 64, 32, _FOR_ALL),
    "deeplabv3plus": Architecture("DeepLabv3+", SEGMENTATION, _segmenter, (513, 513), 33, 1, (*_FOR_ALL, "backbone")),
}
