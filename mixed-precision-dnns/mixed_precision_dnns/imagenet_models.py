"""The ImageNet networks of the paper, ResNet-18 and MobileNetV2, with a quantizer for every weight and activation.

Parameters lie in scopes named after the layers, `layer2/0/downsample/quantized_conv/W`, in forward order. Activations
are quantized where the float network has a ReLU, whose place the quantizer takes; so the outputs of the linear
bottlenecks of MobileNetV2 and the averages before the last layer stay float, as in the published CIFAR-10 network.
"""
import nnabla as nn
import nnabla.functions as F

from mixed_precision_dnns.config import QuantizationConfig
from mixed_precision_dnns.network_layers import layers_of

RESNET_CHANNELS, RESNET_BLOCKS = (64, 128, 256, 512), 2
# Expansion, output channels, number of blocks and stride of the first (table 2 of arXiv 1801.04381).
MOBILENET_GROUPS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                    (6, 320, 1, 1))
MOBILENET_FIRST, MOBILENET_LAST = 32, 1280    # channels
RELU6 = 6.0


def _classifier(layers, x, num_classes):
    with nn.parameter_scope("fc"):
        return layers.affine(layers.mean(x), num_classes)


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
    layers = layers_of(cfg, train=not test)

    def block(x, outmaps, stride):
        with nn.parameter_scope("conv1"):
            h = layers.activated_convolution(x, outmaps, 3, stride)
        with nn.parameter_scope("conv2"):
            h = layers.convolution(h, outmaps, 3)
        if x.shape[1] != outmaps:
            with nn.parameter_scope("downsample"):
                x = layers.convolution(x, outmaps, 1, stride)
        return layers.activated_sum(h, x)

    h = layers.image(image)
    with nn.parameter_scope("conv1"):
        h = layers.activated_convolution(h, RESNET_CHANNELS[0], 7, stride=2)    # (batch, 64, 112, 112)
    h = F.max_pooling(h, (3, 3), (2, 2), pad=(1, 1))    # (batch, 64, 56, 56)
    for group, outmaps in enumerate(RESNET_CHANNELS, start=1):
        for number in range(RESNET_BLOCKS):
            with nn.parameter_scope(f"layer{group}/{number}"):
                h = block(h, outmaps, stride=2 if group > 1 and number == 0 else 1)
    return _classifier(layers, h, num_classes)


def mobilenet_v2(image: nn.Variable, num_classes: int, cfg: QuantizationConfig, test: bool) -> nn.Variable:
    """Build MobileNetV2 of width 1 (arXiv 1801.04381); parameters and return value as for `resnet18`.

    Where activations are float they are limited to 6, as in that paper; a quantizer learns its own limit.
    """
    layers = layers_of(cfg, train=not test)

    def activated(x, name, outmaps, kernel, stride=1, group=1):
        with nn.parameter_scope(name):
            h = layers.activated_convolution(x, outmaps, kernel, stride, group)
        return h if cfg.a_quantize else F.minimum_scalar(h, RELU6)

    def block(x, expansion, outmaps, stride):
        channels = expansion * x.shape[1]
        h = activated(x, "expand", channels, 1) if expansion > 1 else x
        h = activated(h, "depthwise", channels, 3, stride, group=channels)
        with nn.parameter_scope("project"):
            h = layers.convolution(h, outmaps, 1)
        return h + x if h.shape == x.shape else h

    h = activated(image, "conv1", MOBILENET_FIRST, 3, stride=2)    # (batch, 32, 112, 112)
    for group, (expansion, outmaps, num, stride) in enumerate(MOBILENET_GROUPS, start=1):
        for number in range(num):
            with nn.parameter_scope(f"group{group}/{number}"):
                h = block(h, expansion, outmaps, stride if number == 0 else 1)
    h = activated(h, "conv2", MOBILENET_LAST, 1)    # (batch, 1280, 7, 7)
    return _classifier(layers, h, num_classes)


MODELS = {"resnet18": resnet18, "mobilenetv2": mobilenet_v2}
