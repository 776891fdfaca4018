import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import numpy as np
import pytest
from sklearn.datasets import load_digits

from common.machine.context import use_context
from common.machine.seeding import seed_everything
from common.workbench.testing import fill_parameters
from data_cleansing.data.images import Images


@pytest.fixture(autouse=True)
def clean_start():
    """Every test starts on the CPU and with the same random state."""
    use_context("cpu")
    seed_everything(0)


@pytest.fixture
def fill():
    """Set all parameters of a layout to those of a reference case, and return them."""
    def fill(layout, seed, affine_scale=1.0):
        fill_parameters(layout.parameters, seed)
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
