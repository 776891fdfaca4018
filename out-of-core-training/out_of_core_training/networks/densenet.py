"""DenseNet-121 (G. Huang et al., arXiv 1608.06993), of bottlenecks with compression."""
import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF

from out_of_core_training.networks.layers import conv_norm, convolution, normalization, scaled

BLOCKS = (6, 12, 24, 16)
GROWTH_RATE = 32
BOTTLENECK = 4    # a 1x1 convolution leaves so many times the growth rate


def densenet(image: nn.Variable, num_classes: int, train: bool, width: float = 1.0) -> nn.Variable:
    """Classify images.

    Parameters
    ----------
    image
        (batch, 3, height, width).
    num_classes
    train
        Normalize by the statistics of the batch.
    width
        Factor of the growth rate, and so of all numbers of channels.

    Returns
    -------
    nn.Variable (batch, num_classes)
    """
    growth = scaled(GROWTH_RATE, width)
    h = conv_norm(image, 2 * growth, 7, "stem", train, stride=2)
    h = F.max_pooling(h, (3, 3), stride=(2, 2), pad=(1, 1))
    for stage, layers in enumerate(BLOCKS):
        with nn.parameter_scope(f"block{stage + 1}"):
            for layer in range(layers):
                h = dense_layer(h, growth, f"layer{layer + 1}", train)
        if stage < len(BLOCKS) - 1:
            h = preactivated(h, h.shape[1] // 2, 1, f"transition{stage + 1}", train)
            h = F.average_pooling(h, (2, 2))
    h = F.relu(normalization(h, "bn", train))
    h = F.average_pooling(h, h.shape[2:])    # (batch, channels, 1, 1)
    return PF.affine(h, num_classes, name="fc")


def dense_layer(x: nn.Variable, growth: int, name: str, train: bool) -> nn.Variable:
    """Append `growth` new maps to those of `x`."""
    with nn.parameter_scope(name):
        h = preactivated(x, BOTTLENECK * growth, 1, "conv1", train)
        h = preactivated(h, growth, 3, "conv2", train)
    return F.concatenate(x, h, axis=1)


def preactivated(x: nn.Variable, channels: int, kernel: int, name: str, train: bool) -> nn.Variable:
    """Batch normalization, ReLU and convolution."""
    with nn.parameter_scope(name):
        return convolution(F.relu(normalization(x, "bn", train)), channels, kernel, "conv")
