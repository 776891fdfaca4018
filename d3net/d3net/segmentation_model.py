"""The segmentation network: D3Net as backbone, and a head of convolutions (FCN). Arrays are (batch, channels, height,
width).
"""
from collections.abc import Sequence

import attrs
import nnabla as nn
import nnabla.functions as F
from nnabla.initializer import NormalInitializer

from common.layers import relu
from d3net.blocks import Style, convolution, d2_block, normalize, unit
from d3net.hyperparameters import SegmentationHyperParameters

BACKBONE = "backbone"    # scope whose parameters are published pretrained
HEAD = "decode_head"
TAPS = ("intermediate_out", "final_out")    # how the layers of the backbone begin that give features to the head
SMALLEST = 29    # pixels of height and width: of fewer, none are left on the coarsest scale
_UNIT = "bottle_neck"


def d3net_segmentation(image: nn.Variable, hparams: SegmentationHyperParameters, test: bool = True,
                       recompute: bool = False) -> nn.Variable:
    """Build the graph of a segmentation network.

    Parameters
    ----------
    image : nn.Variable (batch, 3, height, width)
        RGB, standardized by `hparams.mean` and `hparams.std`; height and width are at least `SMALLEST`.
    test
        Normalize by the running statistics instead of those of the batch, and return probabilities.
    recompute
        Compute the outputs of the backbone's convolutions again for the gradients: slower, in less memory.

    Returns
    -------
    nn.Variable (batch, num_classes, height, width)
        Probabilities if `test`, else logits.
    """
    with nn.parameter_scope(BACKBONE):
        taps = backbone(image, hparams, test, recompute)
    with nn.parameter_scope(HEAD):
        logits = head(taps, hparams.channels, hparams.num_classes, image.shape[2:], test)
    return F.softmax(logits, axis=1) if test else logits


def backbone(image: nn.Variable, hparams: SegmentationHyperParameters, test: bool = True, recompute: bool = False
             ) -> list[nn.Variable]:
    """Compute features on four scales.

    Parameters
    ----------
    image, hparams, test, recompute
        As for `d3net_segmentation`.

    Returns
    -------
    list of nn.Variable (batch, hparams.intermediate_out_ch[s], height / 4 / 2^s, width / 4 / 2^s)
        For s from 0 to 3. Halves of odd sizes are rounded up twice, then down.
    """
    style = Style(_UNIT, train=not test, recompute=recompute)
    features = hparams.num_init_features
    x = convolution(image, features, 3, style, "conv1", stride=2, with_bias=False)
    x = convolution(relu(normalize(x, style, "bn1")), features, 3, style, "conv2", stride=2, with_bias=False)
    taps = []
    for stage in range(4):
        x = _stage(x, hparams, stage, style)
        taps.append(_tap(x, hparams.intermediate_out_ch[stage], stage, style))
        if stage < 3:
            with nn.parameter_scope(f"transition{stage + 1}"):
                x = transition(x, x.shape[1] // hparams.trans_comp_factor, style)
    return taps


def _stage(x: nn.Variable, hparams: SegmentationHyperParameters, stage: int, style: Style) -> nn.Variable:
    """D2 blocks, each of which adds its output to the channels."""
    growth, kept = hparams.dens_k[stage], hparams.dense_n_out_layer_block[stage]
    outputs = hparams.block_outputs[stage]
    if not hparams.dilation[stage]:
        style = attrs.evolve(style, dilation="none")
    for block in range(hparams.n_blocks[stage]):
        with nn.parameter_scope(f"dense{stage + 1}/d2_block/block{block}"):
            x = F.concatenate(x, reduced_d2_block(x, growth, hparams.num_layers[stage], kept, outputs, style), axis=1)
    return x


def reduced_d2_block(x: nn.Variable, growth: int, num_layers: int, kept: int, outputs: int, style: Style
                     ) -> nn.Variable:
    """D2 block between convolutions of one pixel that keep the number of channels down.

    Parameters
    ----------
    x : nn.Variable (batch, channels, height, width)
    growth, num_layers, kept, style
        As for `d3net.blocks.d2_block`.

    Returns
    -------
    nn.Variable (batch, outputs, height, width)
    """
    with nn.parameter_scope("d2block"):
        if x.shape[1] > 4 * growth:
            with nn.parameter_scope(f"initial_layer/bc_layer/{style.unit}"):
                x = unit(x, 4 * growth, 1, style)
        h = d2_block(x, growth, num_layers, style, kept, first="initial_layer/init_layer")
    with nn.parameter_scope("block_dim_reduction"):
        return unit(h, outputs, 1, style, with_bias=False)


def _tap(x: nn.Variable, outputs: int, stage: int, style: Style) -> nn.Variable:
    name = f"{TAPS[stage == 3]}{stage + 1}"
    h = convolution(x, outputs, 1, style, f"{name}/0")
    return relu(normalize(h, style, f"{name}/1"))


def transition(x: nn.Variable, outputs: int, style: Style) -> nn.Variable:
    """Reduce the channels and halve height and width, rounding down: (batch, outputs, height // 2, width // 2)."""
    h = convolution(relu(normalize(x, style, "bn")), outputs, 1, style, "conv", with_bias=False)
    return F.average_pooling(h, (2, 2))


def head(taps: Sequence[nn.Variable], channels: int, num_classes: int, size: tuple[int, ...], test: bool = True
         ) -> nn.Variable:
    """Classify every pixel.

    Parameters
    ----------
    taps : sequence of nn.Variable (batch, channels, height, width)
        Features on several scales, the finest first.
    channels
        Of the layer between.
    size : (height, width) of the output

    Returns
    -------
    nn.Variable (batch, num_classes, *size)
        Logits.
    """
    style = Style(_UNIT, train=not test, weights=lambda *sizes: NormalInitializer(0.01))
    x = F.concatenate(taps[0], *(_resize(tap, taps[0].shape[2:]) for tap in taps[1:]), axis=1)
    with nn.parameter_scope("convs/0"):
        x = convolution(x, channels, 1, style, "conv", with_bias=False)
        x = relu(normalize(x, style, "bn"))
    return _resize(convolution(x, num_classes, 1, style, "conv_seg"), size)


def _resize(x: nn.Variable, size: tuple[int, ...]) -> nn.Variable:
    return F.interpolate(x, output_size=size, mode="linear", align_corners=False, half_pixel=True)
