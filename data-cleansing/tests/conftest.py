import zlib

import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import numpy as np
import pytest
from sklearn.datasets import load_digits

from common.context import use_context
from common.seeding import seed_everything
from data_cleansing.images import Images


@pytest.fixture(autouse=True)
def clean_start():
    """Every test starts and ends without parameters, on the CPU."""
    use_context("cpu")
    nn.clear_parameters()
    seed_everything(0)
    yield
    nn.clear_parameters()


def _reference_value(name, shape, seed):
    rng = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2 ** 32)
    leaf = name.rsplit("/", 1)[-1]
    noise = rng.randn(*shape)
    if leaf == "var":
        return 0.5 + np.abs(noise)
    if leaf == "gamma":
        return 1 + 0.1 * noise
    if leaf not in ("mean", "beta") and len(shape) > 1:
        return noise / np.sqrt(np.prod(shape[1:]))
    return 0.1 * noise


@pytest.fixture
def fill():
    """Set all parameters of a layout to those of a reference case, and return them."""
    def fill(layout, seed, affine_scale=1.0):
        for name, parameter in layout.parameters.items():
            parameter.d = _reference_value(name, parameter.shape, seed).astype(np.float32)
        layout.parameters["affine/W"].d = layout.parameters["affine/W"].d * np.float32(affine_scale)
        return layout.values()
    return fill


def softmax_regression(image, train):
    return PF.affine(image, 10)


def tanh_network(image, train):
    with nn.parameter_scope("hidden"):
        h = F.tanh(PF.affine(image, 12))
    return PF.affine(h, 10)


@pytest.fixture(params=[softmax_regression, tanh_network], ids=["softmax regression", "tanh"])
def smooth_network(request):
    """Networks without kinks and without batch normalization."""
    return request.param


@pytest.fixture
def regression():
    return softmax_regression


@pytest.fixture
def digit_images():
    return _digit_images


@pytest.fixture
def random_images():
    return _random_images


def _digit_images(num, seed=0, flipped=0):
    """Digits as 8x8 grey images in random order, two thirds of `num` and the rest, and which of the first are flipped.

    Returns
    -------
    (train, valid, flipped) : Images, Images, bool (len(train),)
    """
    rng = np.random.default_rng(seed)
    digits = load_digits()
    chosen = rng.permutation(len(digits.target))[:num]
    pixels, labels = (digits.images[chosen] / 16)[:, np.newaxis].astype(np.float32), digits.target[chosen].copy()
    count = num * 2 // 3
    wrong = np.zeros(count, bool)
    wrong[rng.choice(count, flipped, replace=False)] = True
    labels[:count][wrong] = (labels[:count][wrong] + rng.integers(1, 10, flipped)) % 10
    sets = (Images(pixels[part], labels[part], range(10)) for part in (slice(0, count), slice(count, None)))
    return *sets, wrong


def _random_images(num, shape=(2, 8, 8), num_classes=4, seed=0):
    """Images of noise."""
    rng = np.random.default_rng(seed)
    return Images(rng.random((num, *shape), dtype=np.float32), rng.integers(0, num_classes, num), range(num_classes))
