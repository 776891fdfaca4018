"""Measure what preparing and scoring a training image costs, against loops as the published code runs them.

    python data-cleansing/benchmark.py [--batch-size 64] [--rounds 3] [-c cudnn]

The images have 3x32x32 pixels and are augmented; the network is the published one. The published loop decodes and
augments one file after the other, each in a graph of its own. It takes the gradient of one image after the other, and
builds a new graph for the product of the Hessian with u of each batch. Our code decodes files once in a run, not in
each epoch. All parts take turns, and scoring includes the preparation. The differences are the largest ones of the
results, as shares of the largest value.
"""
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nnabla as nn
import nnabla.functions as F
import numpy as np

from common.console import cli
from common.console.values import positive_int
from common.machine.context import use_context
from common.machine.files import temporary_folder
from common.machine.memory import peak_megabytes
from common.machine.seeding import seed_everything
from common.workbench.benchmarking import add_benchmark_flags, measure_all, median_ratio, take_turns
from data_cleansing.data.augmentation import PAD
from data_cleansing.data.images import COLOUR, Images
from data_cleansing.influence.gradients import BatchScores
from data_cleansing.model import cifarnet
from data_cleansing.training.parameters import Layout

SHAPE, CLASSES = (3, 32, 32), 10
ROWS = (    # what is measured, our part, the published part that it is compared with
    ("preparation, of decoded images", "preparation", "published preparation"),
    ("scores alone, each image by itself", "scores, single", "published scores"),
    ("scores alone, in the batch (hessian none)", "none", "published scores"),
    ("hessian none, against published", "none", "published loop"),
    ("hessian exact, against published", "exact", "published loop"),
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--batch-size", type=positive_int, default=64, metavar="N",
                        help="images per step (default: %(default)s)")
    add_benchmark_flags(parser, rounds=3)
    args = parser.parse_args(argv)
    print(f"computing on {use_context(args.context, args.device_id)}, batches of {args.batch_size}", flush=True)
    nn.clear_parameters()
    seed_everything(0)
    size = args.batch_size
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (size, *SHAPE), dtype=np.uint8), rng.integers(0, CLASSES, size)
    images, rows = Images(pixels, labels, map(str, range(CLASSES))), np.arange(size)
    loss_of(nn.Variable((1, *SHAPE)), nn.Variable((1, 1)))    # makes the parameters
    layout = Layout()
    u = rng.standard_normal(layout.size, dtype=np.float32)
    image, label = images.inputs(rows, rows), images.targets(rows)
    single, batch = (BatchScores(cifarnet, SHAPE, mode, layout) for mode in ("single", "batch"))

    def scoring(score):
        return lambda: score(u, images.inputs(rows, rows), label)

    with temporary_folder() as folder:
        prepare = published_preparation(pixels, folder)
        functions = {
            "preparation": lambda: images.inputs(rows, rows),
            "scores, single": scoring(single.scores),
            "none": scoring(batch.scores),
            "exact": scoring(batch.scores_and_product),
            "published preparation": prepare,
            "published scores": lambda: published_scores(layout, u, prepare(), label),
            "published product": lambda: published_product(layout, u, image, label)}
        measure_all({
            "speed, of each image": lambda: speed(functions, args.rounds, size),
            "difference from the published loops": lambda: differences(
                {name: f() for name, f in functions.items()} | {
                    # Of the same inputs: a pixel that differs in its last bit may pass a ReLU on the other side.
                    "published scores": published_scores(layout, u, image, label)}),
            "memory": lambda: {"peak": {"MB": peak_megabytes()}}}, args.output)


def speed(functions: Mapping[str, Callable[[], object]], rounds: int, size: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each part, and the median over the rounds of the ratio to it of the published loop."""
    seconds = take_turns(functions, rounds)
    seconds["published loop"] = [sum(both) for both in zip(seconds["published scores"], seconds["published product"],
                                                           strict=True)]
    return {what: {"ms": 1000 / size * statistics.median(seconds[own]),
                   "ms as published": 1000 / size * statistics.median(seconds[published]),
                   "x faster": median_ratio(seconds[published], seconds[own])} for what, own, published in ROWS}


def differences(results: Mapping) -> dict[str, dict[str, float]]:
    """Largest differences between what our parts and the published loops return."""
    return {what: {"of the largest value": difference(own, theirs)} for what, own, theirs in (
        ("inputs", results["preparation"], results["published preparation"]),
        ("scores", results["scores, single"], results["published scores"]),
        ("products", results["exact"][1], results["published product"]))}


def difference(values: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(values - expected).max() / np.abs(expected).max())


def published_preparation(pixels: np.ndarray, folder: Path) -> Callable[[], np.ndarray]:
    """Return a function that decodes and augments one file after the other, with a graph that is thrown away."""
    from nnabla.utils.image_utils import imread
    from PIL import Image

    paths = [folder / f"{row}.png" for row in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    mean, std = (np.array(values).reshape(3, 1, 1) for values in COLOUR)

    def prepare():
        batch = []
        for seed, path in enumerate(paths):
            h = nn.Variable.from_numpy_array(imread(str(path), channel_first=True) / 255)
            h = F.image_augmentation(h, shape=SHAPE, pad=(PAD, PAD), seed=seed)
            h = F.image_augmentation(h, shape=SHAPE, flip_lr=True, seed=seed)
            h.forward()
            batch.append((h.d - mean) / std)
        return np.stack(batch)
    return prepare


def loss_of(image: nn.Variable, label: nn.Variable) -> nn.Variable:
    return F.mean(F.softmax_cross_entropy(cifarnet(image, True, CLASSES), label))


def published_scores(layout: Layout, u: np.ndarray, image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Score one image after the other: <u, gradient of a batch of one>, parameter by parameter."""
    x, t = nn.Variable((1, *SHAPE)), nn.Variable((1, 1))
    loss = loss_of(x, t)
    parts = layout.split(u)
    scores = np.zeros(len(image))
    for k in range(len(image)):
        x.d, t.d = image[k], label[k]
        layout.clear_gradients()
        loss.forward()
        loss.backward(clear_buffer=True)
        scores[k] = sum(float((parts[name] * parameter.g).sum()) for name, parameter in layout.parameters.items()
                        if parameter.need_grad)
    return scores


def published_product(layout: Layout, u: np.ndarray, image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Product of the Hessian with u, by a graph of gradients that is built anew for each batch."""
    x, t = nn.Variable(image.shape), nn.Variable(label.shape)
    x.d, t.d = image, label
    trained = {name: parameter for name, parameter in layout.parameters.items() if parameter.need_grad}
    gradients = nn.grad([loss_of(x, t)], list(trained.values()))
    parts = layout.split(u)
    product = sum(F.sum(gradient * nn.Variable.from_numpy_array(parts[name]))
                  for name, gradient in zip(trained, gradients, strict=True))
    layout.clear_gradients()
    product.forward()
    product.backward(clear_buffer=True)
    return layout.gradients()


if __name__ == "__main__":
    cli.run(main)
