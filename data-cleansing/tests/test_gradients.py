"""Scores and products with the Hessian, against float64 arithmetic and against each other."""
import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import numpy as np
import pytest

from common.machine.errors import UserError
from data_cleansing.graphs import rewriting
from data_cleansing.influence.gradients import BatchScores, DirectionalLoss, OneByOne, validation_gradient
from data_cleansing.model import cifarnet
from data_cleansing.training.losses import Loss
from data_cleansing.training.parameters import Layout

SHAPE, CLASSES, MAPS, BATCH = (2, 8, 8), 3, (2, 3, 2), 3


def small_cifarnet(image, train):
    return cifarnet(image, train, CLASSES, MAPS)


@pytest.fixture(params=["compiled", "nnabla"])
def engine(request, monkeypatch):
    """Both ways to compute: loops on the CPU, and nnabla's functions, which a GPU runs."""
    if request.param == "nnabla":
        monkeypatch.setattr(rewriting, "wants_native", lambda: True)


@pytest.fixture
def batch(random_images):
    images = random_images(BATCH, SHAPE, CLASSES)
    return images.inputs(np.arange(BATCH)), images.targets(np.arange(BATCH))


def make_layout(network, image_shape=SHAPE, seed=1):
    """Make the parameters of a network, and move all of them away from their first values."""
    network(nn.Variable((1, *image_shape)), True)
    layout, rng = Layout(), np.random.default_rng(seed)
    for name, parameter in layout.parameters.items():
        noise = rng.standard_normal(parameter.shape)
        value = np.abs(1 + 0.3 * noise) if name.endswith("var") else parameter.d + 0.2 * noise
        parameter.d = value.astype(np.float32)
    return layout


def direction(layout, seed=2):
    """A random direction of the trained parameters, float32 (size,)."""
    u = np.random.default_rng(seed).standard_normal(layout.size).astype(np.float32)
    for name, part in layout.split(u).items():
        if not layout.parameters[name].need_grad:
            part[...] = 0
    return u


class Float64Network:
    """`small_cifarnet` in NumPy, for real and complex values; parameters are a flat array."""

    def __init__(self, layout, image, label, normalization):
        self.layout, self.normalization = layout, normalization
        self.image, self.label = image.astype(np.float64), label[:, 0]

    def losses(self, flat):
        """Cross entropy of each image, (batch,)."""
        p, h = self.layout.split(flat), self.image
        for block in range(1, len(MAPS) + 1):
            for conv in ("conv1", "conv2"):
                scope = f"block{block}/{conv}"
                h = self._convolve(h, p[f"{scope}/conv/W"], p[f"{scope}/conv/b"])
                if conv == "conv1":
                    h = self._normalize(h, *(p[f"{scope}/bn/{key}"] for key in ("beta", "gamma", "mean", "var")))
                h = np.where(h.real > 0, h, 0)
            windows = h.reshape(*h.shape[:2], h.shape[2] // 2, 2, h.shape[3] // 2, 2).transpose(0, 1, 2, 4, 3, 5)
            windows = windows.reshape(*windows.shape[:4], 4)
            h = np.take_along_axis(windows, windows.real.argmax(-1)[..., np.newaxis], -1)[..., 0]
        logits = h.reshape(len(h), -1) @ p["affine/W"] + p["affine/b"]
        return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(h)), self.label]

    @staticmethod
    def _convolve(x, w, b):
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))    # (n, c, y, x, 3, 3)
        return np.einsum("ncyxij,ocij->noyx", windows, w, optimize=True) + b[:, np.newaxis, np.newaxis]

    def _normalize(self, x, beta, gamma, mean, var):
        if self.normalization != "test":
            axes = (0, 2, 3) if self.normalization == "batch" else (2, 3)
            mean = x.mean(axes, keepdims=True)
            var = ((x - mean) ** 2).mean(axes, keepdims=True)
        return (x - mean) / np.sqrt(var + 1e-5) * gamma + beta

    def scores(self, flat, u):
        """Derivatives of the losses along u, by a complex step."""
        return self.losses(flat + 1e-30j * u).imag / 1e-30

    def gradient(self, flat):
        """Gradient of the mean loss, by complex steps."""
        return np.array([self.losses(flat + 1e-30j * unit).imag.mean() / 1e-30 for unit in np.eye(len(flat))])

    def hessian_product(self, flat, u, step=1e-6):
        """H u as the derivative of the exact gradient along u, by a central difference."""
        return (self.gradient(flat + step * u) - self.gradient(flat - step * u)) / (2 * step)


@pytest.mark.parametrize("normalization", ["single", "batch", "test"])
def test_scores_agree_with_float64(engine, batch, normalization):
    layout = make_layout(small_cifarnet)
    flat, u = layout.values(), direction(layout)
    expected = Float64Network(layout, *batch, normalization).scores(flat.astype(np.float64), u)
    actual = BatchScores(small_cifarnet, SHAPE, normalization, layout).scores(u, *batch)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("normalization", ["batch", "test"])
def test_hessian_product_agrees_with_float64(batch, normalization, monkeypatch):
    layout = make_layout(small_cifarnet)
    flat, u = layout.values(), direction(layout)
    expected = Float64Network(layout, *batch, normalization).hessian_product(flat.astype(np.float64), u)
    for name, parameter in layout.parameters.items():
        layout.split(expected)[name][...] *= parameter.need_grad
    for native in (False, True):
        monkeypatch.setattr(rewriting, "wants_native", lambda native=native: native)
        layout.assign(flat)
        _, actual = BatchScores(small_cifarnet, SHAPE, normalization, layout).scores_and_product(u, *batch)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_hessian_is_the_explicit_one_of_softmax_regression(regression, random_images):
    images = random_images(12, (1, 3, 3), 10)
    image, label = images.inputs(np.arange(12)), images.targets(np.arange(12))
    layout = make_layout(regression, images.shape)
    u = direction(layout)
    x = np.hstack([image.reshape(12, 9), np.ones((12, 1))]).astype(np.float64)    # the last one for the bias
    w = np.vstack([layout.split(layout.values())["affine/W"], layout.split(layout.values())["affine/b"]])
    logits = x @ w
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    curvature = np.einsum("nc,cd->ncd", p, np.eye(10)) - np.einsum("nc,nd->ncd", p, p)
    hessian = np.einsum("ni,nj,ncd->icjd", x, x, curvature).reshape(100, 100) / 12
    expected = hessian @ np.concatenate([layout.split(u)["affine/W"].ravel(), layout.split(u)["affine/b"]])
    scorer = BatchScores(regression, images.shape, "batch", layout)
    product = layout.split(scorer.scores_and_product(u, image, label)[1])
    actual = np.concatenate([product["affine/W"].ravel(), product["affine/b"]])
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def residual(image, train):
    """Functions that have no rule of their own, and uses of one parameter in two places."""
    with nn.parameter_scope("a"):
        a = F.gelu(PF.convolution(image, 4, (3, 3), pad=(1, 1), stride=(2, 2)))
    with nn.parameter_scope("b"):
        b = F.sigmoid(PF.convolution(a, 4, (1, 3), pad=(0, 1), with_bias=False))
        b = b * F.tanh(PF.convolution(a, 4, (1, 3), pad=(0, 1), with_bias=False))
    h = F.concatenate(F.average_pooling(a + b, (2, 2)), F.sum_pooling(a, (2, 2)), axis=1)
    h = F.global_average_pooling(F.swish(h * 2 - 0.5))
    return PF.affine(PF.layer_normalization(h), CLASSES)


def normalized_features(image, train):
    h = PF.batch_normalization(image, batch_stat=train)
    with nn.parameter_scope("hidden"):
        h = F.softplus(PF.batch_normalization(PF.affine(h, 6), batch_stat=train))
    return PF.affine(F.reshape(h, (h.shape[0], 3, 2)), CLASSES)


def without_batches(image, train):
    """Normalizations and reductions of each image by itself."""
    h = PF.instance_normalization(PF.convolution(image, 4, (3, 3)))
    with nn.parameter_scope("groups"):
        h = F.tanh(PF.group_normalization(h, num_groups=2))
    with nn.parameter_scope("layer"):
        h = F.softmax(PF.layer_normalization(F.transpose(F.mean(h, axis=3), (0, 2, 1))), axis=2)
    return PF.affine(h, CLASSES)


def frozen(image, train):
    """Normalization that keeps its statistics in training."""
    h = PF.batch_normalization(PF.convolution(image, 3, (3, 3)), batch_stat=False)
    return PF.affine(F.tanh(h), CLASSES)


def mixing(image, train):
    """Every image less the mean of the batch."""
    return PF.affine(F.tanh(image - F.mean(image, axis=0, keepdims=True)), CLASSES)


@pytest.mark.parametrize("network", [small_cifarnet, frozen, residual, without_batches])
@pytest.mark.parametrize("normalization, train", [("single", True), ("test", False)])
@pytest.mark.parametrize("num", [BATCH, 1])    # the last batch of an epoch may have one image
def test_scores_of_a_batch_are_those_of_its_images(engine, batch, num, network, normalization, train):
    layout = make_layout(network)
    u = direction(layout)
    flat, batch = layout.values(), [part[:num] for part in batch]
    one_by_one = OneByOne(network, SHAPE, train, layout).forward(u, *batch)
    layout.assign(flat)
    together = BatchScores(network, SHAPE, normalization, layout).scores(u, *batch)
    np.testing.assert_allclose(together, one_by_one, rtol=0, atol=1e-5 * np.abs(one_by_one).max())


@pytest.mark.parametrize("network", [residual, normalized_features, mixing])
@pytest.mark.parametrize("normalization", ["batch", "test"])
def test_any_network_has_the_derivatives_of_its_gradient(engine, batch, network, normalization):
    layout = make_layout(network)
    flat, u, step = layout.values(), direction(layout), 3e-3
    scores, product = BatchScores(network, SHAPE, normalization, layout).scores_and_product(u, *batch)
    loss = Loss(network, BATCH, SHAPE, train=normalization == "batch")
    ends = []
    for sign in (1, -1):
        layout.assign(flat + np.float32(sign * step) * u)
        losses = loss.forward(*batch)[1]
        layout.clear_gradients()
        loss.backward(1 / BATCH)
        ends.append((losses, layout.gradients()))
    expected_scores, expected = ((high - low) / (2 * step) for high, low in zip(*ends, strict=True))
    np.testing.assert_allclose(scores, expected_scores, rtol=0, atol=5e-3 * np.abs(expected_scores).max())
    np.testing.assert_allclose(product, expected, rtol=0, atol=5e-3 * np.abs(expected).max())


@pytest.mark.parametrize("network", [residual, normalized_features, small_cifarnet])
def test_the_hessian_is_symmetric(engine, batch, network):
    layout = make_layout(network)
    scorer, (u, v) = BatchScores(network, SHAPE, "batch", layout), (direction(layout, seed) for seed in (3, 4))
    to_u, to_v = (scorer.scores_and_product(w, *batch)[1].astype(np.float64) for w in (u, v))
    assert v @ to_u == pytest.approx(u @ to_v, rel=1e-4)


def test_images_that_a_network_mixes_are_scored_one_by_one(batch):
    layout = make_layout(mixing)
    u = direction(layout)
    scores = BatchScores(mixing, SHAPE, "single", layout).scores(u, *batch)
    np.testing.assert_array_equal(scores, OneByOne(mixing, SHAPE, True, layout).forward(u, *batch))
    # An image less its own mean is 0: only the bias moves its loss.
    assert not np.allclose(scores, BatchScores(mixing, SHAPE, "batch", layout).scores(u, *batch), rtol=1e-3)


@pytest.mark.parametrize("network, samplewise", [(small_cifarnet, True), (residual, True), (normalized_features, True),
                                                 (frozen, True), (without_batches, True), (mixing, False)])
def test_what_is_known_to_treat_images_alone(network, samplewise):
    assert rewriting.is_samplewise(network, nn.Variable((BATCH, *SHAPE))) == samplewise


def test_a_function_without_second_derivative_is_named(batch):
    def network(image, train):
        return PF.affine(F.sort(PF.affine(image, 5, name="hidden")), CLASSES)

    layout = make_layout(network)
    with pytest.raises(UserError, match="'Sort'"):
        DirectionalLoss(network, BATCH, SHAPE, "batch", layout)


def test_a_network_must_return_logits(batch):
    with pytest.raises(UserError, match=r"must return logits \(batch, classes\)"):
        Loss(lambda image, train: F.sum(image), BATCH, SHAPE, train=True)


def test_validation_gradient_does_not_depend_on_batches(random_images, monkeypatch):
    images, layout = random_images(11, SHAPE, CLASSES), make_layout(small_cifarnet)
    whole = validation_gradient(small_cifarnet, images, layout)
    monkeypatch.setattr("data_cleansing.influence.gradients.VALIDATION_BATCH", 4)
    np.testing.assert_allclose(validation_gradient(small_cifarnet, images, layout), whole, rtol=0,
                               atol=1e-6 * np.abs(whole).max())
    in_groups = validation_gradient(small_cifarnet, images, layout, group=11)
    np.testing.assert_allclose(in_groups * 11, whole, rtol=0, atol=1e-6 * np.abs(whole).max())
