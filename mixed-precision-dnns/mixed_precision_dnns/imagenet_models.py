"""The ImageNet networks of the paper, ResNet-18 and MobileNetV2, with a quantizer for every weight and activation.

Parameters lie in scopes named after the layers, `layer2/0/downsample/quantized_conv/W`, in forward order. Activations
are quantized where the float network has a ReLU, whose place the quantizer takes; so the outputs of the linear
bottlenecks of MobileNetV2 and the averages before the last layer stay float, as in the published CIFAR-10 network.
"""
import nnabla as nn
import nnabla.functions as F

from common.layers import batch_normalization
from common.quantizers.layers import (
    Quantization,
    normalized_activation,
    quantized_activation,
    quantized_affine,
    quantized_convolution,
)
from mixed_precision_dnns.config import QuantizationConfig, activation_quantization, weight_quantization

RESNET_CHANNELS, RESNET_BLOCKS = (64, 128, 256, 512), 2
# Expansion, output channels, number of blocks and stride of the first (table 2 of arXiv 1801.04381).
MOBILENET_GROUPS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                    (6, 320, 1, 1))
MOBILENET_FIRST, MOBILENET_LAST = 32, 1280    # channels
RELU6 = 6.0


def _convolution(x, name, outmaps, kernel, cfg, test, stride=1, group=1, spec: Quantization | None = None):
    """Quantized convolution in the scope `name`, batch normalization and, with `spec`, an activation."""
    with nn.parameter_scope(name):
        h = quantized_convolution(x, outmaps, kernel, weight_quantization(cfg), pad=kernel // 2, stride=stride,
                                  group=group)
        return batch_normalization(h, train=not test) if spec is None else normalized_activation(h, spec, not test)


def _classifier(x, num_classes, cfg):
    h = F.average_pooling(x, x.shape[2:])
    with nn.parameter_scope("fc"):
        return quantized_affine(h, num_classes, weight_quantization(cfg))


def resnet18(image: nn.Variable, num_classes: int, cfg: QuantizationConfig, test: bool) -> nn.Variable:
    """Build ResNet-18 (arXiv 1512.03385); its parameters are made, or found, in the current parameter scope.

    Parameters
    ----------
    image : nn.Variable (batch, 3, height, width)
        224 x 224 pixels in the paper, any size from 32 on.
    num_classes : int
    cfg : QuantizationConfig
        Quantization of weights and activations.
    test : bool
        Normalize by the running statistics, otherwise by those of the batch.

    Returns
    -------
    nn.Variable (batch, num_classes)
        Logits.
    """
    activations = activation_quantization(cfg)

    def block(x, outmaps, stride):
        h = _convolution(x, "conv1", outmaps, 3, cfg, test, stride, spec=activations)
        h = _convolution(h, "conv2", outmaps, 3, cfg, test)
        if x.shape[1] != outmaps:
            x = _convolution(x, "downsample", outmaps, 1, cfg, test, stride)
        return quantized_activation(h, activations, x)

    # (batch, 64, 112, 112)
    h = _convolution(image, "conv1", RESNET_CHANNELS[0], 7, cfg, test, stride=2, spec=activations)
    h = F.max_pooling(h, (3, 3), (2, 2), pad=(1, 1))    # (batch, 64, 56, 56)
    for group, outmaps in enumerate(RESNET_CHANNELS, start=1):
        for number in range(RESNET_BLOCKS):
            with nn.parameter_scope(f"layer{group}/{number}"):
                h = block(h, outmaps, stride=2 if group > 1 and number == 0 else 1)
    return _classifier(h, num_classes, cfg)


def mobilenet_v2(image: nn.Variable, num_classes: int, cfg: QuantizationConfig, test: bool) -> nn.Variable:
    """Build MobileNetV2 of width 1 (arXiv 1801.04381); parameters and return value as for `resnet18`.

    Where activations are float they are limited to 6, as in that paper; a quantizer learns its own limit.
    """
    spec = activation_quantization(cfg)

    def activated(x, name, outmaps, kernel, stride=1, group=1):
        h = _convolution(x, name, outmaps, kernel, cfg, test, stride, group, spec)
        return h if spec.quantizer else F.minimum_scalar(h, RELU6)

    def block(x, expansion, outmaps, stride):
        channels = expansion * x.shape[1]
        h = activated(x, "expand", channels, 1) if expansion > 1 else x
        h = activated(h, "depthwise", channels, 3, stride, group=channels)
        h = _convolution(h, "project", outmaps, 1, cfg, test)
        return h + x if h.shape == x.shape else h

    h = activated(image, "conv1", MOBILENET_FIRST, 3, stride=2)    # (batch, 32, 112, 112)
    for group, (expansion, outmaps, num, stride) in enumerate(MOBILENET_GROUPS, start=1):
        for number in range(num):
            with nn.parameter_scope(f"group{group}/{number}"):
                h = block(h, expansion, outmaps, stride if number == 0 else 1)
    h = activated(h, "conv2", MOBILENET_LAST, 1)    # (batch, 1280, 7, 7)
    return _classifier(h, num_classes, cfg)


MODELS = {"resnet18": resnet18, "mobilenetv2": mobilenet_v2}
