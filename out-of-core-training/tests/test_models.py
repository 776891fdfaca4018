"""The four networks: their published sizes, a training step of each, and what they refuse."""
import itertools

import nnabla as nn
import numpy as np
import pytest

from common.machine.context import use_context
from common.machine.errors import UsageError
from common.machine.seeding import seed_everything
from common.out_of_core import OutOfCore
from out_of_core_training import models
from out_of_core_training.data import RandomBatches
from out_of_core_training.networks import deeplab, layers, pix2pixhd

# Sizes at which a step takes a fraction of a second.
SMALL = {"resnet50": (32, {}), "densenet121": (32, {}), "pix2pixhd": (64, {}), "deeplabv3plus": (33, {})}


@pytest.fixture(autouse=True)
def cpu():
    use_context("cpu")
    seed_everything(0)


@pytest.fixture
def zeros(monkeypatch):
    """Drawing 191 million random numbers takes longer than all the rest."""
    monkeypatch.setattr(layers.Normal, "__call__", lambda self, shape: np.zeros(shape, np.float32))


def small_network(name, batch_size=2, **how):
    size, options = SMALL[name]
    return models.build(name, batch_size, how.pop("image_size", size), width=0.125, **options, **how)


def number_of_parameters(prefix="", grad_only=True):
    return sum(p.size for name, p in nn.get_parameters(grad_only=grad_only).items() if name.startswith(prefix))


def steps(network, num, memory=None):
    """Losses of `num` iterations, and the parameters after them."""
    arrays, losses = RandomBatches(network, 1).arrays, []
    for _ in range(num):
        if memory is None:
            models.iterate(network, arrays)
        else:
            with memory:
                models.iterate(network, arrays)
        losses.append([float(loss.d) for loss in network.losses.values()])
    return losses, {name: p.d.copy() for name, p in nn.get_parameters(grad_only=False).items()}


def test_the_small_sizes_are_of_all_networks():
    assert set(SMALL) == set(models.NETWORKS)


# Published sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, published", [
    ("resnet50", 25_557_032),    # torchvision.models.resnet50, whose documentation states it
    ("densenet121", 7_978_856),    # torchvision.models.densenet121, likewise
])
def test_classifiers_have_the_published_number_of_parameters(zeros, name, published):
    models.build(name, 1)
    assert number_of_parameters() == published


def test_xception_65_has_the_published_number_of_parameters(zeros):
    models.build("deeplabv3plus", 1, num_classes=21, backbone="xception65")
    # The Keras implementation with the weights of the authors prints this, running statistics included.
    assert number_of_parameters(grad_only=False) == 41_258_213


@pytest.mark.parametrize("backbone, classifier", [("resnet50", 25_557_032), ("resnet101", 44_549_160)])
def test_resnet_backbones_and_the_pyramid_are_those_of_torchvision(zeros, backbone, classifier):
    models.build("deeplabv3plus", 1, num_classes=21, backbone=backbone)
    assert number_of_parameters("backbone/") == classifier - (2048 * 1000 + 1000)
    # torchvision.models.segmentation.deeplabv3_resnet50 has 42 004 074, of them 2 365 205 in an auxiliary classifier,
    # 590 336 and 5397 in the two convolutions that the decoder takes the place of.
    if backbone == "resnet50":
        assert number_of_parameters("backbone/") + number_of_parameters("pyramid/") == (
            42_004_074 - 2_365_205 - 590_336 - 5397)


def test_pix2pixhd_has_the_published_generator(zeros):
    models.build("pix2pixhd", 1)
    # The authors' code prints 182 546 755 for the global generator alone, which ends in a convolution of its own.
    last = 64 * 3 * 7 * 7 + 3
    assert number_of_parameters("generator/global/") == 182_546_755 - last
    maps = (36 + 3, 64, 128, 256, 512, 1)
    scale = sum(a * b * 4 * 4 + b for a, b in itertools.pairwise(maps))
    assert number_of_parameters("discriminator/") == 3 * scale


def test_published_image_sizes():
    sizes = {name: architecture.image_size for name, architecture in models.NETWORKS.items()}
    assert sizes == {"resnet50": (224, 224), "densenet121": (224, 224), "pix2pixhd": (1024, 2048),
                     "deeplabv3plus": (513, 513)}


# A training step ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns_and_no_loss_is_lost(name):
    network = small_network(name)
    before = {key: p.d.copy() for key, p in nn.get_parameters().items()}
    losses, after = steps(network, 2)
    assert np.isfinite(losses).all()
    # A normalization that starts at 0 lets nothing through to the convolutions before it in the first step. Scales
    # and biases may change by less than float32 can tell.
    assert not [key for key in before if key.endswith("/W") and np.array_equal(before[key], after[key])]


@pytest.mark.parametrize("name", SMALL)
def test_the_loss_falls(name):
    losses, _ = steps(small_network(name), 3 if name == "pix2pixhd" else 8)    # its steps are slow
    assert losses[-1][0] < losses[0][0]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("recompute, budget", [("none", "2GB"), ("cheap", None), ("all", "2GB")])
def test_the_scheduler_and_computing_again_change_no_bit(name, recompute, budget):
    plain_losses, plain = steps(small_network(name), 3)
    nn.clear_parameters()
    seed_everything(0)
    memory = OutOfCore(budget) if budget else None
    losses, parameters = steps(small_network(name, recompute=recompute), 3, memory)
    assert losses == plain_losses
    assert all(np.array_equal(plain[key], parameters[key]) for key in plain)


def test_the_two_solvers_of_pix2pixhd_have_their_own_parameters():
    network = small_network("pix2pixhd")
    generator, discriminator = (set(solver.get_parameters()) for _, solver in network.steps)
    assert generator | discriminator == set(nn.get_parameters())
    assert all(key.startswith("generator/") for key in generator)
    assert all(key.startswith("discriminator/") for key in discriminator)


def test_discriminators_learn_nothing_from_the_loss_of_the_generator():
    network = small_network("pix2pixhd")
    arrays = RandomBatches(network, 1).arrays
    for variable, array in zip(network.inputs, arrays, strict=True):
        variable.d = array
    loss, solver = network.steps[0]
    network.steps[1][1].zero_grad()
    loss.forward(clear_no_need_grad=True)
    solver.zero_grad()
    loss.backward(clear_buffer=True)
    assert all((p.g == 0).all() for key, p in nn.get_parameters().items() if key.startswith("discriminator/"))
    assert any((p.g != 0).any() for key, p in nn.get_parameters().items() if key.startswith("generator/"))


def test_losses_of_pix2pixhd_are_those_of_its_paper():
    rng = np.random.default_rng(0)
    maps = [[rng.standard_normal((2, 3, size, size)).astype(np.float32) for size in (8, 4)] for _ in range(2)]
    others = [[rng.standard_normal(array.shape).astype(np.float32) for array in inner] for inner in maps]
    fake, real = ([[nn.Variable.from_numpy_array(array) for array in inner] for inner in arrays]
                  for arrays in (maps, others))
    gan, features = pix2pixhd.least_squares(fake, 1), pix2pixhd.feature_loss(fake, real)
    nn.forward_all([gan, features])
    np.testing.assert_allclose(gan.d, sum(((inner[-1] - 1) ** 2).mean() for inner in maps), rtol=1e-5)
    np.testing.assert_allclose(features.d, sum(abs(a[0] - b[0]).mean() for a, b in zip(maps, others, strict=True)) / 2,
                               rtol=1e-5)


def test_instance_normalization_is_that_of_each_map():
    x = nn.Variable.from_numpy_array(np.random.default_rng(0).normal(3, 2, (2, 3, 8, 8)).astype(np.float32))
    y = pix2pixhd.normalized(x)
    y.forward()
    expected = (x.d - x.d.mean((2, 3), keepdims=True)) / np.sqrt(x.d.var((2, 3), keepdims=True) + 1e-5)
    np.testing.assert_allclose(y.d, expected, atol=1e-5)


def test_ignored_pixels_do_not_count():
    network = small_network("deeplabv3plus", batch_size=1)
    image, label = RandomBatches(network, 1).arrays
    loss = network.steps[0][0]

    def value(label):
        network.inputs[0].d, network.inputs[1].d = image, label
        loss.forward()
        return float(loss.d), network.output.d.copy()

    _, logits = value(label)
    partly = np.where(np.arange(label.size).reshape(label.shape) % 3 > 0, label, models.IGNORED).astype(np.int32)
    scores = logits - logits.max(1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(1, keepdims=True))    # log of the probabilities
    counted = partly[0, 0] != models.IGNORED
    expected = -np.take_along_axis(scores[0], label[0], 0)[0][counted].mean()
    assert value(partly)[0] == pytest.approx(expected, rel=1e-4)
    assert value(np.full_like(label, models.IGNORED))[0] == 0


def test_edges_of_the_decoder_fit_the_image():
    for size in (33, 40, 65):
        nn.clear_parameters()
        assert small_network("deeplabv3plus", image_size=size).output.shape == (2, 19, size, size)


@pytest.mark.parametrize("backbone", deeplab.BACKBONES)
def test_every_backbone_has_features_at_a_sixteenth(backbone):
    models.build("deeplabv3plus", 1, 64, width=0.0625, backbone=backbone)
    assert number_of_parameters() > 0
    network = models.build("deeplabv3plus", 1, 64, width=0.0625, backbone=backbone, train=False)
    shapes = []
    network.output.visit(lambda f: shapes.append(f.outputs[0].shape[2:]) if f.info.type_name == "Convolution" else None)
    assert min(shapes) == (1, 1)    # of the pooled image
    assert min(shape for shape in shapes if shape != (1, 1)) == (4, 4)


def test_evaluation_shares_the_parameters_and_uses_running_statistics():
    steps(small_network("resnet50"), 3)
    names = set(nn.get_parameters(grad_only=False))
    network = small_network("resnet50", batch_size=1, train=False)
    assert set(nn.get_parameters(grad_only=False)) == names
    assert network.steps == []
    network.inputs[0].d = np.zeros(network.inputs[0].shape, np.float32)
    network.output.forward()
    assert network.output.shape == (1, 1000)


def test_large_batches_allocate_nothing():
    # 1440 images of 224 x 224 pixels take 124 GB.
    network = models.build("resnet50", 1440)
    assert network.inputs[0].shape == (1440, 3, 224, 224)


def test_networks_are_built_without_computing_where_functions_compute_at_once():
    with nn.auto_forward(True):
        small_network("resnet50")
    assert all(set(p.d.ravel()) == {0 if name.endswith("mean") else 1}
               for name, p in nn.get_parameters(grad_only=False).items() if name.endswith(("/mean", "/var")))


def test_equal_seeds_make_equal_parameters():
    values = []
    for seed in (0, 0, 1):
        nn.clear_parameters()
        seed_everything(seed)
        small_network("resnet50")
        values.append(nn.get_parameters()["stem/conv/conv/W"].d.copy())
    assert np.array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])


# What they refuse -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, small, words", [
    (("resnet51", 1), {}, ("resnet51", "resnet50")),
    (("resnet50", 0), {}, ("batch size 0", "at least 1")),
    (("resnet50", 1, 16), {}, ("16 x 16", "at least 32")),
    (("pix2pixhd", 1, 100), {}, ("100 x 100", "multiple of 32")),
    (("pix2pixhd", 1, (64, 32)), {}, ("64 x 32", "at least 64")),
    (("resnet50", 1, (64,)), {}, ("64",)),
    (("resnet50", 1), {"backbone": "resnet50"}, ("backbone",)),
    (("deeplabv3plus", 1), {"backbone": "vgg"}, ("vgg", "xception65")),
    (("resnet50", 1), {"width": 0}, ("width 0",)),
    (("resnet50", 1), {"num_classes": 1}, ("1 classes",)),
])
def test_bad_input_is_one_line(arguments, small, words):
    with pytest.raises(UsageError) as caught:
        models.build(*arguments, **small)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value
    assert not nn.get_parameters()


@pytest.mark.parametrize("arguments, message", [
    ({"batch_size": "2"}, "batch size 2"), ({"batch_size": 2.5}, "batch size 2.5"),
    ({"width": float("nan")}, "width nan")])
def test_a_network_names_the_argument_that_is_wrong(arguments, message):
    with pytest.raises(UsageError, match=message):
        models.build("resnet50", **{"batch_size": 1, "image_size": 32, **arguments})


def test_an_iteration_takes_as_many_arrays_as_there_are_inputs():
    network = models.build("resnet50", 1, 32, width=0.05)
    with pytest.raises(ValueError, match="1 arrays for the 2 inputs of resnet50"):
        models.iterate(network, [np.zeros((1, 3, 32, 32))])
