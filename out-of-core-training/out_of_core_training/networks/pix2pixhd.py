"""Pix2PixHD (T.-C. Wang et al., arXiv 1711.11585): a photograph from a map of labels and the edges of its objects.

Generator and discriminators follow the authors' code for 2048 x 1024 pixels (`--netG local --ngf 32 --num_D 3`). Their
loss between features of a VGG network is left out: it needs weights learned on ImageNet, which nnabla does not bring.
"""
from collections.abc import Sequence

import attrs
import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
from nnabla.initializer import ConstantInitializer

from common.machine.reshaping import reshape
from out_of_core_training.networks.layers import Normal, scaled

NUM_LABELS = 35    # classes of Cityscapes, those that are not evaluated included
GENERATOR, DISCRIMINATOR = "generator", "discriminator"    # scopes of their parameters
GLOBAL_CHANNELS, GLOBAL_DOWN, GLOBAL_BLOCKS, LOCAL_BLOCKS = 64, 4, 9, 3
DISCRIMINATOR_CHANNELS, SCALES = (64, 128, 256, 512), 3
FEATURE_WEIGHT = 10


@attrs.frozen
class Graph:
    """What `pix2pixhd` makes; the losses have shape ()."""

    fake: nn.Variable    # (batch, 3, height, width), in [-1, 1]
    loss_generator: nn.Variable    # loss_gan + FEATURE_WEIGHT loss_features
    loss_gan: nn.Variable
    loss_features: nn.Variable
    loss_discriminator: nn.Variable


def pix2pixhd(label: nn.Variable, edges: nn.Variable, real: nn.Variable, num_labels: int = NUM_LABELS,
              width: float = 1.0) -> Graph:
    """Build generator and discriminators with their losses.

    The loss of the discriminators reads the image that the loss of the generator computes, so that one comes first.

    Parameters
    ----------
    label
        Class of each pixel, 0..num_labels-1, (batch, 1, height, width).
    edges
        1 where an object ends, else 0, (batch, 1, height, width).
    real
        Photograph in [-1, 1], (batch, 3, height, width).
    num_labels
    width
        Factor of all numbers of channels.
    """
    condition = encode(label, edges, num_labels)
    fake = generator(condition, width)
    fake.persistent = True    # for the discriminators
    # Their parameters get no gradients from the loss of the generator.
    judged_fake, judged_real = (discriminate(condition, image, width, learn=False) for image in (fake, real))
    gan = least_squares(judged_fake, 1)
    features = feature_loss(judged_fake, judged_real)
    detached = fake.get_unlinked_variable(need_grad=False)
    judged_fake, judged_real = (discriminate(condition, image, width) for image in (detached, real))
    loss_discriminator = 0.5 * (least_squares(judged_fake, 0) + least_squares(judged_real, 1))
    return Graph(fake, gan + FEATURE_WEIGHT * features, gan, features, loss_discriminator)


def least_squares(judged: Sequence[Sequence[nn.Variable]], target: float) -> nn.Variable:
    """Sum over the discriminators of the mean squared distance of their last maps to `target` (LSGAN)."""
    return sum(F.mean((maps[-1] - target) ** 2) for maps in judged)


def feature_loss(fake: Sequence[Sequence[nn.Variable]], real: Sequence[Sequence[nn.Variable]]) -> nn.Variable:
    """Mean absolute difference of the inner maps, summed over the layers, averaged over the discriminators."""
    differences = [F.mean(F.absolute_error(a, b)) for fakes, reals in zip(fake, real, strict=True)
                   for a, b in zip(fakes[:-1], reals[:-1], strict=True)]
    return sum(differences) * (1 / len(fake))


def encode(label: nn.Variable, edges: nn.Variable, num_labels: int) -> nn.Variable:
    """Stack a map for each class, 1 where it is and 0 elsewhere, and the edges: (batch, num_labels + 1, ...)."""
    batch, _, height, width = label.shape
    one_hot = F.one_hot(F.reshape(label, (batch, height, width, 1), inplace=False), (num_labels,))
    return F.concatenate(F.transpose(one_hot, (0, 3, 1, 2)), edges, axis=1)


def generator(condition: nn.Variable, width: float = 1.0) -> nn.Variable:
    """Draw an image: a network at half the size, whose maps are added to those of one at full size.

    Parameters
    ----------
    condition
        (batch, channels, height, width), with height and width multiples of 32, at least 64.
    width
        Factor of all numbers of channels.

    Returns
    -------
    nn.Variable (batch, 3, height, width), in [-1, 1]
    """
    channels = scaled(GLOBAL_CHANNELS // 2, width)
    with nn.parameter_scope(GENERATOR):
        with nn.parameter_scope("global"):
            coarse = global_maps(halved(condition), 2 * channels)
        with nn.parameter_scope("local"):
            h = activated(framed_convolution(condition, channels, 7, "first"))
            h = activated(_convolution(h, 2 * channels, 3, "down", stride=2, pad=1)) + coarse
            h = residual_blocks(h, LOCAL_BLOCKS)
            h = enlarged(h, channels, "up")
            return F.tanh(framed_convolution(h, 3, 7, "image"))


def global_maps(x: nn.Variable, channels: int) -> nn.Variable:
    """Maps (batch, channels, height, width) of the network that sees the whole image; of `x` as large."""
    h = activated(framed_convolution(x, channels, 7, "first"))
    for level in range(1, GLOBAL_DOWN + 1):
        h = activated(_convolution(h, channels * 2 ** level, 3, f"down{level}", stride=2, pad=1))
    h = residual_blocks(h, GLOBAL_BLOCKS)
    for level in reversed(range(GLOBAL_DOWN)):
        h = enlarged(h, channels * 2 ** level, f"up{level + 1}")
    return h


def residual_blocks(x: nn.Variable, num: int) -> nn.Variable:
    """Add `num` times to `x` what two convolutions make of it."""
    for block in range(num):
        with nn.parameter_scope(f"block{block + 1}"):
            h = activated(framed_convolution(x, x.shape[1], 3, "conv1"))
            x = x + normalized(framed_convolution(h, x.shape[1], 3, "conv2"))
    return x


def discriminate(condition: nn.Variable, image: nn.Variable, width: float = 1.0, learn: bool = True
                 ) -> list[list[nn.Variable]]:
    """Judge patches of an image at its full size, at half and at a quarter of it.

    Parameters
    ----------
    condition, image
        (batch, channels, height, width) and (batch, 3, height, width).
    width
        Factor of all numbers of channels.
    learn
        Let the parameters have gradients.

    Returns
    -------
    list of list of nn.Variable
        For each discriminator the maps of its layers; the last ones are its judgement (batch, 1, rows, columns).
    """
    x, judged = F.concatenate(condition, image, axis=1), []
    for scale in range(SCALES):
        x = halved(x) if scale else x
        with nn.parameter_scope(f"{DISCRIMINATOR}/scale{scale + 1}"):
            judged.append(_judge(x, width, learn))
    return judged


def _judge(x, width, learn):
    last, maps = len(DISCRIMINATOR_CHANNELS) - 1, []
    for layer, channels in enumerate(DISCRIMINATOR_CHANNELS):
        x = _convolution(x, scaled(channels, width), 4, f"conv{layer + 1}", 1 if layer == last else 2, 2, learn)
        x = F.leaky_relu(normalized(x) if layer else x, 0.2)
        maps.append(x)
    return [*maps, _convolution(x, 1, 4, "patches", pad=2, learn=learn)]


def halved(x: nn.Variable) -> nn.Variable:
    """Average 3x3 pixels at every second one; beyond the border there is nothing to average."""
    return F.average_pooling(x, (3, 3), stride=(2, 2), pad=(1, 1), including_pad=False)


def activated(x: nn.Variable) -> nn.Variable:
    """Instance normalization and ReLU."""
    return F.relu(normalized(x))


def normalized(x: nn.Variable) -> nn.Variable:
    """Normalize each map of each image (instance normalization), without learned scale and offset."""
    batch, channels, height, width = x.shape
    # F.instance_normalization computes something as large as two such maps while the graph is built.
    h = F.batch_normalization(reshape(x, (1, batch * channels, height, width)), None, None, None, None)
    return reshape(h, x.shape)


def framed_convolution(x: nn.Variable, channels: int, kernel: int, name: str) -> nn.Variable:
    """Convolve at stride 1 with the reflected image as a frame."""
    return _convolution(F.pad(x, (kernel // 2,) * 4, "reflect"), channels, kernel, name)


def enlarged(x: nn.Variable, channels: int, name: str) -> nn.Variable:
    """Double height and width by a transposed convolution, with instance normalization and ReLU."""
    return activated(PF.deconvolution(x, channels, (3, 3), pad=(1, 1), stride=(2, 2), output_padding=(1, 1), name=name,
                                      w_init=Normal(0.02), b_init=ConstantInitializer(0)))


def _convolution(x, channels, kernel, name, stride=1, pad=0, learn=True):
    return PF.convolution(x, channels, (kernel, kernel), pad=(pad, pad), stride=(stride, stride), name=name,
                          fix_parameters=not learn, w_init=Normal(0.02), b_init=ConstantInitializer(0))
