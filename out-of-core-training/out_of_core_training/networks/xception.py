"""Xception-65 as DeepLabv3+ modifies it: deeper, strided separable convolutions, normalization after both halves.

L.-C. Chen et al., arXiv 1802.02611, figure 4.
"""
from collections.abc import Sequence

import nnabla as nn
import nnabla.functions as F

from out_of_core_training.networks.layers import conv_norm, scaled

EPS = 1e-3
MIDDLE_BLOCKS = 16


def features(image: nn.Variable, train: bool, width: float = 1.0) -> tuple[nn.Variable, nn.Variable]:
    """Compute maps at output stride 16; see `out_of_core_training.networks.resnet.features`.

    Returns
    -------
    last : nn.Variable (batch, 2048 width, image height / 16, likewise)
    low_level : nn.Variable (batch, 256 width, image height / 4, likewise)
    """
    def wide(*channels):
        return [scaled(number, width) for number in channels]

    first, second = wide(32, 64)
    h = conv_norm(image, first, 3, "entry/conv1", train, stride=2, eps=EPS)
    h = conv_norm(h, second, 3, "entry/conv2", train, eps=EPS)
    h, _ = block(h, wide(128, 128, 128), "entry/block1", train, stride=2)
    h, low_level = block(h, wide(256, 256, 256), "entry/block2", train, stride=2)
    h, _ = block(h, wide(728, 728, 728), "entry/block3", train, stride=2)
    for number in range(MIDDLE_BLOCKS):
        h, _ = block(h, wide(728, 728, 728), f"middle/block{number + 1}", train)
    h, _ = block(h, wide(728, 1024, 1024), "exit/block1", train)
    with nn.parameter_scope("exit/block2"):
        for number, channels in enumerate(wide(1536, 1536, 2048)):
            h = separable(h, channels, f"conv{number + 1}", train, dilation=2, eps=EPS)
    return h, low_level


def block(x: nn.Variable, channels: Sequence[int], name: str, train: bool, stride: int = 1
          ) -> tuple[nn.Variable, nn.Variable]:
    """Add to `x` what three separable convolutions, each after ReLU, make of it; the last one has the stride.

    Returns
    -------
    sum : nn.Variable (batch, channels[-1], height / stride, width / stride)
    second : nn.Variable (batch, channels[1], height, width)
        Maps of the second convolution.
    """
    with nn.parameter_scope(name):
        first = separable(F.relu(x), channels[0], "conv1", train, relu=False, eps=EPS)
        second = separable(F.relu(first), channels[1], "conv2", train, relu=False, eps=EPS)
        h = separable(F.relu(second), channels[2], "conv3", train, relu=False, stride=stride, eps=EPS)
        if stride > 1 or x.shape[1] != channels[2]:
            x = conv_norm(x, channels[2], 1, "shortcut", train, relu=False, stride=stride, eps=EPS)
    return h + x, second


def separable(x: nn.Variable, channels: int, name: str, train: bool, relu: bool = True, stride: int = 1,
              dilation: int = 1, eps: float = 1e-5) -> nn.Variable:
    """Convolve each map alone, then all of them at each pixel; normalization, and with `relu` ReLU, after both.

    Returns
    -------
    nn.Variable (batch, channels, height / stride, width / stride)
    """
    with nn.parameter_scope(name):
        # In groups, not F.depthwise_convolution: cuDNN computes these.
        h = conv_norm(x, x.shape[1], 3, "depth", train, relu, eps, stride=stride, dilation=dilation, group=x.shape[1])
        return conv_norm(h, channels, 1, "point", train, relu, eps)
