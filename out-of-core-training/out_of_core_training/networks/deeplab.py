"""DeepLabv3+ (L.-C. Chen et al., arXiv 1802.02611) at output stride 16, on ResNet-50, ResNet-101 or Xception-65."""
import functools
from collections.abc import Callable

import nnabla as nn
import nnabla.functions as F

from out_of_core_training.networks import resnet, xception
from out_of_core_training.networks.layers import Normal, conv_norm, convolution, scaled

RATES = (6, 12, 18)    # dilations of the pyramid
BACKBONES = ("resnet50", "resnet101", "xception65")


def deeplab(image: nn.Variable, num_classes: int, train: bool, backbone: str = "xception65", width: float = 1.0
            ) -> nn.Variable:
    """Label every pixel.

    Parameters
    ----------
    image
        (batch, 3, height, width).
    num_classes
    train
        Normalize by the statistics of the batch.
    backbone
        One of `BACKBONES`. With Xception, pyramid and decoder have separable convolutions, too.
    width
        Factor of all numbers of channels.

    Returns
    -------
    nn.Variable (batch, num_classes, height, width)
    """
    if backbone == "xception65":
        features, convolve = xception.features, xception.separable
    else:
        depth = int(backbone.removeprefix("resnet"))
        features = functools.partial(resnet.features, depth=depth, output_stride=16)
        convolve = functools.partial(conv_norm, kernel=3)
    with nn.parameter_scope("backbone"):
        h, low_level = features(image, train, width=width)
    with nn.parameter_scope("pyramid"):
        h = pyramid(h, scaled(256, width), train, convolve)
    with nn.parameter_scope("decoder"):
        low_level = conv_norm(low_level, scaled(48, width), 1, "low_level", train)
        h = F.concatenate(resized(h, low_level.shape[2:]), low_level, axis=1)
        for name in ("conv1", "conv2"):
            h = convolve(h, scaled(256, width), name=name, train=train)
        h = convolution(h, num_classes, 1, "logits", bias=True, init=Normal(0.01))
    return resized(h, image.shape[2:])


def pyramid(x: nn.Variable, channels: int, train: bool, convolve: Callable[..., nn.Variable]) -> nn.Variable:
    """Gather context at several scales (atrous spatial pyramid pooling); the result has `channels`."""
    branches = [conv_norm(x, channels, 1, "point", train)]
    branches += [convolve(x, channels, name=f"rate{rate}", train=train, dilation=rate) for rate in RATES]
    whole = conv_norm(F.average_pooling(x, x.shape[2:]), channels, 1, "image", train)
    branches.append(F.broadcast(whole, (*whole.shape[:2], *x.shape[2:])))
    return conv_norm(F.concatenate(*branches, axis=1), channels, 1, "projection", train)


def resized(x: nn.Variable, size: tuple[int, int]) -> nn.Variable:
    """Resize maps bilinearly. The centres of corner pixels stay corners, as sizes of 2^n + 1 pixels need."""
    return F.interpolate(x, output_size=size, mode="linear", align_corners=True)
