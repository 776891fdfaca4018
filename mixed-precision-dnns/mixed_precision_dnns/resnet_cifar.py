"""The CIFAR-10 ResNet of the paper with quantized weights and activations."""
import nnabla as nn
import nnabla.functions as F
from nnabla.initializer import ConstantInitializer
from nnabla.parameter import get_parameter_or_create

from common.layers import batch_normalization, thin_out
from common.quantizers.layers import (
    normalized_activation,
    quantized_activation,
    quantized_affine,
    quantized_convolution,
)
from mixed_precision_dnns.config import Config, activation_quantization, weight_quantization

BLOCKS_PER_GROUP = {20: 3, 32: 5, 44: 7, 56: 9, 110: 18}
CHANNELS = (16, 32, 64)


def resnet_cifar10(image: nn.Variable, num_classes: int, cfg: Config, test: bool) -> nn.Variable:
    """Build a ResNet for small images; its parameters are made, or found, in the current parameter scope.

    Parameters
    ----------
    image : nn.Variable (batch, channels, height, width)
        In [-1, 1]; 32 x 32 pixels in the paper, any size that two strides of 2 leave something of.
    num_classes : int
    cfg : Config
        `num_layers`, `shortcut_type`, `scale_layer`, and the quantization of weights and activations.
    test : bool
        Normalize by the running statistics, otherwise by those of the batch.

    Returns
    -------
    nn.Variable (batch, num_classes)
        Logits.
    """
    weights, activations = weight_quantization(cfg), activation_quantization(cfg)

    def convolution(x, outmaps, kernel, stride=1):
        return quantized_convolution(x, outmaps, kernel, weights, pad=kernel // 2, stride=stride)

    def block(x, outmaps, stride):
        with nn.parameter_scope("basicblock1"):
            h = normalized_activation(convolution(x, outmaps, 3, stride), activations, not test)
        with nn.parameter_scope("basicblock2"):
            h = batch_normalization(convolution(h, outmaps, 3), train=not test)
        with nn.parameter_scope("basicblock_s"):
            s = shortcut(x, outmaps, stride)
        return quantized_activation(h, activations, s)

    def shortcut(x, outmaps, stride):
        if cfg.shortcut_type == "c" or (cfg.shortcut_type == "b" and x.shape[1] != outmaps):
            with nn.parameter_scope("shortcut_conv"):
                return batch_normalization(convolution(x, outmaps, 1, stride), train=not test)
        return thin_out(x, stride, outmaps)

    with nn.parameter_scope("conv1"):
        h = normalized_activation(convolution(image, CHANNELS[0], 3), activations, not test)    # (batch, 16, 32, 32)
    for group, outmaps in enumerate(CHANNELS, start=1):
        for layer in range(1, BLOCKS_PER_GROUP[cfg.num_layers] + 1):
            with nn.parameter_scope(f"res{group}/layer{layer}"):
                h = block(h, outmaps, stride=2 if group > 1 and layer == 1 else 1)
    h = F.average_pooling(h, h.shape[2:])    # (batch, 64, 1, 1)
    with nn.parameter_scope("fc"):
        y = quantized_affine(h, num_classes, weights)
        if cfg.scale_layer:
            y = y * get_parameter_or_create("scale_layer", (1, 1), ConstantInitializer(1), True)
    return y
