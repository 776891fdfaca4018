"""The CIFAR-10 ResNet of the paper with quantized weights and activations."""
import nnabla as nn
from nnabla.initializer import ConstantInitializer
from nnabla.parameter import get_parameter_or_create

from common.layers import thin_out
from mixed_precision_dnns.config import Config
from mixed_precision_dnns.network_layers import layers_of

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
    layers = layers_of(cfg, train=not test)

    def block(x, outmaps, stride):
        with nn.parameter_scope("basicblock1"):
            h = layers.activated_convolution(x, outmaps, 3, stride)
        with nn.parameter_scope("basicblock2"):
            h = layers.convolution(h, outmaps, 3)
        with nn.parameter_scope("basicblock_s"):
            s = shortcut(x, outmaps, stride)
        return layers.activated_sum(h, s)

    def shortcut(x, outmaps, stride):
        if cfg.shortcut_type == "c" or (cfg.shortcut_type == "b" and x.shape[1] != outmaps):
            with nn.parameter_scope("shortcut_conv"):
                return layers.convolution(x, outmaps, 1, stride)
        return thin_out(x, stride, outmaps)

    h = layers.image(image)
    with nn.parameter_scope("conv1"):
        h = layers.activated_convolution(h, CHANNELS[0], 3)    # (batch, 16, 32, 32)
    for group, outmaps in enumerate(CHANNELS, start=1):
        for layer in range(1, BLOCKS_PER_GROUP[cfg.num_layers] + 1):
            with nn.parameter_scope(f"res{group}/layer{layer}"):
                h = block(h, outmaps, stride=2 if group > 1 and layer == 1 else 1)
    with nn.parameter_scope("fc"):
        y = layers.affine(layers.mean(h), num_classes)    # of (batch, 64, 1, 1)
        if cfg.scale_layer:
            y = y * get_parameter_or_create("scale_layer", (1, 1), ConstantInitializer(1), True)
    return y
