"""Measure what preparing and scoring a training image costs, against loops as the published code runs them.

    python data-cleansing/benchmark.py [--batch-size 64] [--repeats 3]

Images of 3x32x32 and the published network. Prints ratios measured in one run, best of the repeats, and the largest
difference of the scores.
"""
import sys

try:
    from common import cli
except ModuleNotFoundError as missing:
    print(f"error: {missing}: run 'make demo' or, with Python 3.10, 'pip install -r requirements.txt' at the top",
          file=sys.stderr)
    sys.exit(2)

import io
import time

import nnabla as nn
import nnabla.functions as F
import numpy as np
from PIL import Image

from common.context import use_context
from common.seeding import seed_everything
from data_cleansing.augmentation import PAD
from data_cleansing.gradients import BatchScores
from data_cleansing.images import Images
from data_cleansing.model import cifarnet
from data_cleansing.parameters import Layout

SHAPE, CLASSES = (3, 32, 32), 10


def main(argv=None):
    parser = cli.parser(__doc__)
    parser.add_argument("--batch-size", type=cli.positive_int, default=64, metavar="N",
                        help="images per step (default: %(default)s)")
    parser.add_argument("--repeats", type=cli.positive_int, default=3, metavar="N",
                        help="times that each is measured, after a first time (default: %(default)s)")
    cli.add_context_flags(parser)
    args = parser.parse_args(argv)
    print(f"computing on {use_context(args.context, args.device_id)}, batches of {args.batch_size}", flush=True)
    nn.clear_parameters()
    seed_everything(0)
    size = args.batch_size
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (size, *SHAPE), dtype=np.uint8), rng.integers(0, CLASSES, size)
    images, rows = Images(pixels, labels, range(CLASSES)), np.arange(size)
    loss_of(nn.Variable((1, *SHAPE)), nn.Variable((1, 1)))    # makes the parameters
    layout = Layout()
    u = rng.standard_normal(layout.size, dtype=np.float32)
    image, label = images.inputs(rows), images.targets(rows)
    single, batch = (BatchScores(cifarnet, SHAPE, mode, layout) for mode in ("single", "batch"))

    def measure(function):
        """Milliseconds per image; and what the function returned the first time, in which it compiles and builds."""
        first, times = function(), []
        for _ in range(args.repeats):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return 1000 / size * min(times), first

    ours = {"preparation": measure(lambda: images.inputs(rows, rows)),
            "scores alone, each image by itself": measure(lambda: single.scores(u, image, label)),
            "scoring, hessian none": measure(lambda: batch.scores(u, image, label)),
            "scoring, hessian exact": measure(lambda: batch.scores_and_product(u, image, label))}
    prepared = measure(published_preparation(images))
    scores = measure(lambda: published_scores(layout, u, image, label))
    product = measure(lambda: published_product(layout, u, image, label))
    published = (prepared[0], scores[0], scores[0] + product[0], scores[0] + product[0])
    for (name, (own, _)), theirs in zip(ours.items(), published, strict=True):
        print(f"{name:36}{own:8.2f} ms   published {theirs:8.2f} ms   ratio {theirs / own:5.1f}")
    print("largest difference from the published loops, of the largest value: scores "
          f"{difference(ours['scores alone, each image by itself'][1], scores[1]):.1e}, products "
          f"{difference(ours['scoring, hessian exact'][1][1], product[1]):.1e}")


def difference(values, expected):
    return np.abs(values - expected).max() / np.abs(expected).max()


def published_preparation(images):
    """Return a function that decodes and augments one image after the other, with graphs that are thrown away."""
    files = []
    for pixels in images.pixels:
        buffer = io.BytesIO()
        Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, format="png")
        files.append(buffer.getvalue())

    def prepare():
        for seed, file in enumerate(files):
            array = np.asarray(Image.open(io.BytesIO(file))).transpose(2, 0, 1) / 255
            h = nn.Variable.from_numpy_array(array)
            h = F.image_augmentation(h, shape=SHAPE, pad=(PAD, PAD), seed=seed)
            F.image_augmentation(h, shape=SHAPE, flip_lr=True, seed=seed).forward()
    return prepare


def loss_of(image, label):
    return F.mean(F.softmax_cross_entropy(cifarnet(image, True, CLASSES), label))


def published_scores(layout, u, image, label):
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


def published_product(layout, u, image, label):
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
