"""Compare multidilated dense blocks with blocks of one dilation per layer, and of none, at small scale.

    python d3net/compare.py [--seeds 5] [--steps 150] [--data-dir synthetic] [--resume]    # street scenes
    python d3net/compare.py --task marks [--seeds 5] [--steps 600]    # regions that a small mark tells apart

All networks have the same parameters, start from the same values, and see the same images in the same order; only the
dilations of the connections from a source i to a layer l differ: 2^i, 2^(l-1), or 1. They work on one scale of small
pictures, where the class of a pixel depends on what is near and on what is far.

Each training that has ended leaves its scores in the output folder. --resume trains what is missing, of more seeds than
before, too.
"""
import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import nnabla as nn
import nnabla.functions as F
import nnabla.solvers as S
import numpy as np

from common.console import cli
from common.console.tables import align, with_deviation
from common.console.values import positive_int
from common.datasets.cityscapes import CLASSES, IGNORE, SYNTHETIC, find_pairs, read_pair
from common.layers import relu
from common.machine.context import use_context
from common.machine.errors import TrainingError, UsageError
from common.machine.files import remove_tree, write_json
from common.machine.output_folders import claimed
from common.machine.processes import for_each
from common.machine.seeding import seed_everything
from common.reading.texts import read_json
from common.runs.comparison import check_settings, fingerprint, holds_a_run, read_settings
from common.runs.schedules import poly_decay
from common.runs.significance import describe_pairs
from common.runs.steps import train_step
from d3net import marked_regions
from d3net.blocks import DILATIONS, Style, convolution, d2_block, normalize
from d3net.scenes.metrics import ConfusionMatrix
from d3net.scenes.standardization import standardize

SIZE = 64, 128    # of the scenes, pixels
FEATURES = 16
RESULT = "result.json"
BATCH, RATE, WEIGHT_DECAY = 4, 1e-2, 5e-4
METRICS = {"miou": ("mean IoU", ConfusionMatrix.mean_iou),
           "pixel_accuracy": ("pixels right", ConfusionMatrix.pixel_accuracy)}


@attrs.frozen
class Task:
    """Images with classes of their pixels, and a network of a size that suits them.

    Parameters
    ----------
    load
        `load(data_dir, split)` returns images and labels as `load_scenes` does.
    classes
    stride
        Of the first convolution.
    growth, layers
        Of the D2 block.
    mirror
        Mirror some of the images in training.
    """

    load: Callable[[str, str], tuple[np.ndarray, np.ndarray]]
    classes: int
    stride: int
    growth: int
    layers: int
    mirror: bool


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--task", choices=tuple(TASKS), default="scenes", help="what to learn (default: %(default)s)")
    parser.add_argument("--seeds", type=positive_int, default=5, metavar="N",
                        help="trainings of each network (default: %(default)s)")
    parser.add_argument("--steps", type=positive_int, default=150, metavar="N",
                        help=f"updates of each, with {BATCH} images (default: %(default)s)")
    parser.add_argument("--data-dir", help=f"street scenes, as for train.py (default: {SYNTHETIC})")
    parser.add_argument("--jobs", type=positive_int, default=2, metavar="N",
                        help="trainings at the same time (default: %(default)s)")
    parser.set_defaults(output="compare-d3net")
    cli.add_run_flags(parser)
    cli.add_context_flags(parser)
    args = parser.parse_args(argv)
    if args.data_dir is not None and args.task != "scenes":
        parser.error(f"--data-dir has street scenes; --task {args.task} computes its pictures")
    use_context(args.context, args.device_id)
    with claimed(args.output) as folder:
        results = compare(args, folder)
        write_json(folder / RESULT, results)
    print(format_table(results))
    if args.seeds > 1:
        print(format_differences(results))


def compare(args: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Train and score as the flags say; returns the scores of all trainings for each of `DILATIONS`."""
    data = [TASKS[args.task].load(args.data_dir or SYNTHETIC, split) for split in ("train", "val")]
    place = open_folder(folder, args, fingerprint(*data[0], *data[1]))
    trainings = {(variant, seed): Training(args.task, variant, seed, args.steps, args.context, args.device_id, *data)
                 for seed in range(args.seeds) for variant in DILATIONS}
    files = {(variant, seed): place / f"{variant}-{seed}.json" for variant, seed in trainings}
    for_each(_train_and_write, {f"{variant}, seed {seed}": (training, files[variant, seed])
                                for (variant, seed), training in trainings.items()
                                if not files[variant, seed].exists()}, args.jobs)
    return {variant: [read_json(files[variant, seed], "scores", "start anew with --overwrite")
                      for seed in range(args.seeds)] for variant in DILATIONS}


def open_folder(folder: Path, args: argparse.Namespace, pictures: str) -> Path:
    """Return the folder within `folder` that gets the scores of trainings, or has those of trainings like these.

    `pictures` is a fingerprint of all images and labels.

    Raises
    ------
    UsageError
        There are scores, and no flag says what to do with them; or they are of another task, data or length.
    """
    place = folder / "trainings"
    if args.overwrite and place.exists():
        if "task" not in (read_settings(place) or {}):
            raise UsageError(f"{place}: holds no trainings of this comparison, and is not removed; choose another "
                             "--output")
        (folder / RESULT).unlink(missing_ok=True)
        remove_tree(place)
    elif place.exists() and not args.resume:
        raise holds_a_run(folder)
    check_settings(place, {"task": args.task, "steps": args.steps, "pictures": pictures}, "trained",
                   may_differ=("data_dir",), later={"pictures": pictures})    # as earlier versions wrote them
    return place


@attrs.frozen
class Training:
    """A network to train and to score, in a process of its own; data as `Task.load` returns them."""

    task: str    # a name in TASKS
    variant: str
    seed: int
    steps: int
    context: str
    device_id: str
    train_data: tuple[np.ndarray, np.ndarray]
    valid_data: tuple[np.ndarray, np.ndarray]

    def score(self) -> dict[str, float]:
        use_context(self.context, self.device_id)
        task = TASKS[self.task]
        losses = train(task, self.variant, *self.train_data, self.seed, self.steps)
        if not np.isfinite(losses).all():
            raise TrainingError(f"{self.variant}, seed {self.seed}: the loss is not finite in step "
                                f"{np.flatnonzero(~np.isfinite(losses))[0] + 1}; check the images")
        return evaluate(task, self.variant, *self.valid_data)


def _train_and_write(training, path):
    scores = training.score()
    write_json(path, scores)
    print(f"{training.variant}, seed {training.seed}: mean IoU {scores['miou']:.2%}", flush=True)


def load_scenes(data_dir: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the scenes of a split, made small.

    Returns
    -------
    images : float32 (scenes, 3, *SIZE)
        Standardized RGB.
    labels : int16 (scenes, 1, *SIZE)
        -1: ignored.
    """
    # Here, as only this needs it.
    import cv2

    images, labels = [], []
    for pair in find_pairs(data_dir, split):
        image, label = read_pair(pair)
        images.append(standardize(cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_AREA)))
        labels.append(cv2.resize(label, SIZE[::-1], interpolation=cv2.INTER_NEAREST).astype(np.int16)[None])
    labels = np.stack(labels)
    return np.stack(images), np.where(labels == IGNORE, np.int16(-1), labels)


TASKS = {
    "scenes": Task(load_scenes, len(CLASSES), stride=2, growth=10, layers=5, mirror=True),
    # A mirrored mark is another one.
    "marks": Task(lambda data_dir, split: marked_regions.make_pictures(split), marked_regions.CLASSES, stride=1,
                  growth=6, layers=6, mirror=False),
}


def network(task: Task, image: nn.Variable, dilation: str, test: bool) -> nn.Variable:
    """Build a small network, a D2 block between two convolutions.

    Parameters
    ----------
    task
    image : nn.Variable (batch, channels, height, width)
    dilation
        A name of `d3net.blocks.DILATIONS`.

    Returns
    -------
    nn.Variable (batch, classes, height, width)
        Logits.
    """
    style = Style("unit", train=not test, dilation=dilation)
    h = convolution(image, FEATURES, 3, style, "first", stride=task.stride)
    h = d2_block(h, task.growth, task.layers, style)
    logits = convolution(relu(normalize(h, style, "norm")), task.classes, 1, style, "last")
    if task.stride == 1:
        return logits
    return F.interpolate(logits, output_size=image.shape[2:], mode="linear", align_corners=False, half_pixel=True)


def train(task: Task, dilation: str, images: np.ndarray, labels: np.ndarray, seed: int, steps: int) -> list[float]:
    """Train the network, whose parameters are made anew, on batches that follow from the seed alone.

    Returns
    -------
    Loss of each step.
    """
    nn.clear_parameters()
    seed_everything(seed)
    rng = np.random.default_rng(seed)
    image, label = (nn.Variable((BATCH, *array.shape[1:])) for array in (images, labels))
    loss = F.mean(F.softmax_cross_entropy(network(task, image, dilation, test=False), label, axis=1))
    solver = S.Adam(RATE)
    solver.set_parameters(nn.get_parameters())
    losses = []
    for step in range(steps):
        chosen, mirror = rng.integers(0, len(images), BATCH), rng.choice((1, -1)) if task.mirror else 1
        image.d, label.d = images[chosen][..., ::mirror], labels[chosen][..., ::mirror]
        solver.set_learning_rate(poly_decay(RATE, 0, 0.9, step, steps))
        losses.append(train_step(loss, solver, WEIGHT_DECAY))
    return [loss() for loss in losses]


def evaluate(task: Task, dilation: str, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Score the network, with its present parameters.

    Returns
    -------
    Name in `METRICS` -> share from 0 to 1.
    """
    image = nn.Variable((1, *images.shape[1:]))
    logits = network(task, image, dilation, test=True)
    confusion = ConfusionMatrix(task.classes)
    for image.d, label in zip(images, labels, strict=True):
        logits.forward(clear_buffer=True)
        confusion.add(logits.d[0].argmax(axis=0), label[0])
    return {name: score(confusion) for name, (_, score) in METRICS.items()}


def format_table(results: dict[str, list[dict[str, float]]]) -> str:
    """Lay out means and standard deviations over the seeds, a row for each variant."""
    seeds = len(next(iter(results.values())))
    titles = [title for title, _ in METRICS.values()]
    rows = [["one training each" if seeds == 1 else f"{seeds} trainings each", *titles]]
    for variant, scores in results.items():
        percents = ([100 * score[name] for score in scores] for name in METRICS)
        rows.append([DILATIONS[variant].title, *(f"{with_deviation(values, '.2f')} %" for values in percents)])
    return align(rows)


def format_differences(results: dict[str, list[dict[str, float]]]) -> str:
    """Say by how much the mean IoU of the first variant is above that of each other, seed by seed; a line for each."""
    first, *others = results
    points = {variant: [100 * score["miou"] for score in scores] for variant, scores in results.items()}
    return "\n".join(f"mean IoU, {DILATIONS[first].title} - {DILATIONS[other].title}: "
                     f"{describe_pairs(points[first], points[other], 'points')}" for other in others)


if __name__ == "__main__":
    cli.run(main)
