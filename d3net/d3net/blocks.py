"""Multidilated dense blocks, as both applications of D3Net use them.

A layer of a dense block sees the outputs of all earlier ones. Here each of these connections has a dilation of its
own, twice as large for each further source:

    y_l = sum over i < l of conv(relu(norm(y_i)), W_li, dilation 2^i)

It is computed source by source: one convolution of y_i gives its contributions to all later layers. One array, the
accumulator, holds the sums so far of these layers, and its first channels are the next source. Arrays are
(batch, channels, height, width).

References
----------
arXiv 2010.01733, 2011.11844.
"""
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs
import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
from nnabla.initializer import (
    BaseInitializer,
    ConstantInitializer,
    NormalInitializer,
    UniformInitializer,
    calc_uniform_lim_glorot,
)
from nnabla.parameter import get_parameter_or_create

from common import layers
from common.layers import batch_normalization, relu

if TYPE_CHECKING:
    from d3net.hyperparameters import MultiScale


@attrs.frozen
class Dilation:
    """A way to choose dilations.

    Parameters
    ----------
    title
        In tables.
    of
        Returns the dilation of the connection from a source, counted from 0 (the input of the block), to a layer,
        counted from 1.
    """

    title: str
    of: Callable[[int, int], int]


DILATIONS = {
    "multidilated": Dilation("multidilated", lambda source, layer: 2**source),
    # As in networks of dilated layers: this one aliases.
    "per_layer": Dilation("one dilation per layer", lambda source, layer: 2 ** (layer - 1)),
    "none": Dilation("no dilation", lambda source, layer: 1),
}


def uniform_weights(inputs: int, outputs: int, kernel: int) -> BaseInitializer:
    """Make nnabla's usual initializer of convolutions from `inputs` to `outputs` channels."""
    return UniformInitializer(calc_uniform_lim_glorot(inputs, outputs, (kernel, kernel)))


def normal_weights(inputs: int, outputs: int, kernel: int) -> BaseInitializer:
    """Make the initializer of the published music networks, normal with variance 2 / (inputs k k + outputs)."""
    return NormalInitializer(math.sqrt(2 / (inputs * kernel * kernel + outputs)))


@attrs.frozen
class Style:
    """How the layers of a network are made.

    Parameters
    ----------
    unit
        Name of the scope of a unit.
    train
        Normalize by the statistics of the batch.
    weights
        `weights(inputs, outputs, kernel)` makes the initializer of a convolution's weights.
    recompute
        Compute outputs of convolutions again for the gradients instead of keeping them: slower, in less memory.
    dilation
        A name of `DILATIONS`. It does not change the parameters.
    """

    unit: str
    train: bool = False
    weights: Callable[[int, int, int], BaseInitializer] = uniform_weights
    recompute: bool = False
    dilation: str = attrs.field(default="multidilated", validator=attrs.validators.in_(DILATIONS))

    def dilations(self, source: int, num_layers: int) -> list[int]:
        """Dilations of the connections from a source to all layers behind it, up to number `num_layers`."""
        return [DILATIONS[self.dilation].of(source, layer) for layer in range(source + 1, num_layers + 1)]


def convolution(x: nn.Variable, outputs: int, kernel: int, style: Style, name: str, dilations: Sequence[int] = (1,),
                stride: int = 1, with_bias: bool = True) -> nn.Variable:
    """Convolve with kernels of `kernel` by `kernel`, padded by half of their reach; parameters in the scope `name`.

    Parameters
    ----------
    x : nn.Variable (batch, channels, height, width)
    dilations
        The outputs are split evenly among them.

    Returns
    -------
    nn.Variable (batch, outputs, ceil(height / stride), ceil(width / stride))
    """
    with nn.parameter_scope(f"{name}/conv"):
        w = get_parameter_or_create("W", (outputs, x.shape[1], kernel, kernel),
                                    style.weights(x.shape[1], outputs, kernel))
        b = get_parameter_or_create("b", (outputs,), ConstantInitializer(0)) if with_bias else None
    if len(set(dilations)) == 1:
        return _convolve(x, w, b, dilations[0], stride, style)
    size = outputs // len(dilations)
    parts = [slice(k * size, (k + 1) * size) for k in range(len(dilations))]
    return F.concatenate(*(_convolve(x, w[part], None if b is None else b[part], dilation, stride, style)
                           for part, dilation in zip(parts, dilations, strict=True)), axis=1)


def _convolve(x: nn.Variable, w: nn.Variable, b: nn.Variable | None, dilation: int, stride: int, style: Style
              ) -> nn.Variable:
    y = layers.convolution(x, w, b, stride=stride, dilation=dilation)
    return y.apply(recompute=True) if style.recompute else y


def normalize(x: nn.Variable, style: Style, name: str) -> nn.Variable:
    """Batch normalization of the channels, with parameters in the scope `name`."""
    with nn.parameter_scope(name):
        return batch_normalization(x, style.train)


def unit(x: nn.Variable, outputs: int, kernel: int, style: Style, dilations: Sequence[int] = (1,),
         with_bias: bool = True) -> nn.Variable:
    """Normalize, rectify and convolve, with parameters in the scopes `norm1` and `conv1`.

    Parameters and return value are those of `convolution`.
    """
    h = relu(normalize(x, style, "norm1"))
    return convolution(h, outputs, kernel, style, "conv1", dilations, with_bias=with_bias)


def _accumulate(x: nn.Variable, size: int, layer: Callable[[nn.Variable, int, int], nn.Variable]) -> list[nn.Variable]:
    """Let groups of `size` channels contribute to those behind them, one after the other.

    `layer(group, outputs, index)`, in the scope `layers/layer<index>`, returns what a group contributes to all later
    ones. Returns the groups, complete.
    """
    groups = []
    while x.shape[1] > size:
        groups.append(x[:, :size])
        with nn.parameter_scope(f"layers/layer{len(groups)}"):
            x = layer(groups[-1], x.shape[1] - size, len(groups)) + x[:, size:]
    return [*groups, x]


def dense_chain(x: nn.Variable, growth: int, style: Style, kept: int = 1) -> nn.Variable:
    """Connect the layers of a D2 block, of which `x` holds what the input contributes.

    Parameters
    ----------
    x : nn.Variable (batch, layers growth, height, width)
    growth
        Channels of a layer.
    kept
        How many layers are returned, the last ones.

    Returns
    -------
    nn.Variable (batch, kept growth, height, width)
    """
    num_layers = x.shape[1] // growth

    def layer(group: nn.Variable, outputs: int, index: int) -> nn.Variable:
        with nn.parameter_scope(style.unit):
            return unit(group, outputs, 3, style, style.dilations(index, num_layers))

    groups = _accumulate(x, growth, layer)[-kept:]
    return F.concatenate(*groups, axis=1) if len(groups) > 1 else groups[0]


def d2_block(x: nn.Variable, growth: int, num_layers: int, style: Style, kept: int = 1, first: str = "initial_layer"
             ) -> nn.Variable:
    """Multidilated dense block of `num_layers` layers of `growth` channels.

    Parameters
    ----------
    x : nn.Variable (batch, channels, height, width)
    kept
        As for `dense_chain`.
    first
        Scope of what the input contributes.

    Returns
    -------
    nn.Variable (batch, kept growth, height, width)
    """
    with nn.parameter_scope(f"{first}/{style.unit}"):
        x = unit(x, growth * num_layers, 3, style, style.dilations(0, num_layers))
    return dense_chain(x, growth, style, kept)


def d3_block(x: nn.Variable, growth: int, num_layers: int, num_blocks: int, style: Style) -> nn.Variable:
    """Dense block of `num_blocks` D2 blocks.

    Parameters
    ----------
    x : nn.Variable (batch, channels, height, width)
    growth
        Channels that a D2 block gives to each later one.
    num_layers
        Of each D2 block.

    Returns
    -------
    nn.Variable (batch, growth, height, width)
        The last block's.
    """
    with nn.parameter_scope("initial_block"):
        x = d2_block(x, growth * num_blocks, num_layers, style)
    return _accumulate(x, growth, lambda group, outputs, index: d2_block(group, outputs, num_layers, style))[-1]


def upsample(x: nn.Variable, outputs: int, style: Style) -> nn.Variable:
    """Normalize, and double height and width by a transposed convolution; parameters in the scope `upsample`.

    Parameters
    ----------
    x : nn.Variable (batch, channels, height, width)

    Returns
    -------
    nn.Variable (batch, outputs, 2 height, 2 width)
    """
    with nn.parameter_scope("upsample"):
        h = normalize(x, style, "norm")
        with nn.parameter_scope("transconv"):
            return PF.deconvolution(h, outputs, (2, 2), stride=(2, 2))


def multi_scale(x: nn.Variable, scales: "MultiScale", style: Style) -> nn.Variable:
    """D3 blocks on ever coarser scales and back, each joined with its counterpart on the way down.

    Parameters
    ----------
    x : nn.Variable (batch, channels, height, width)
        Height and width are multiples of 2^depth.

    Returns
    -------
    nn.Variable (batch, scales.dens_k[-1], height, width)
    """
    def block(h: nn.Variable, index: int, name: str) -> nn.Variable:
        with nn.parameter_scope(name):
            return d3_block(h, scales.dens_k[index], scales.num_layers[index], scales.n_blocks[index], style)

    depth, skips = scales.depth, []
    for i in range(depth):
        skips.append(block(x, i, f"ds_layers/dense_block{i}"))
        x = F.average_pooling(skips[-1], (2, 2))
    x = block(x, depth, "bottleneck_block")
    for i in range(depth):
        with nn.parameter_scope(f"us_layers/upsample{i}"):
            x = upsample(x, math.ceil(scales.comp_rates[depth + i] * x.shape[1]), style)
        x = F.concatenate(x, skips.pop(), axis=1)
        x = block(x, depth + 1 + i, f"us_layers/dense_block{depth + 1 + i}")
    return x
