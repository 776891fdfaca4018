"""The layers that the networks are made of: as published, or with nothing left in float.

As published, images, what normalizations give, sums, means and the last layer's inputs are floats. `IntegerLayers` has
the same parameters and quantizers, and more of these, so that every number is an integer times a power of two:

- Images, both terms of a sum that are no activations, and means take 8 bits. Sums are rounded by the quantizer of the
  activations behind them.
- A normalization is a (x + c) for each channel: a is a power of two, c an integer on the grid of the sums x, whose step
  size is that of the activations times that of the weights.
- Powers of two are found among integers of 8 bits: a uniform quantizer stands in front of theirs.
- A mean divides by a power of two: the smallest one that is not below the number of pixels.

Sums of products are then exact in float32, too, as long as their integers take no more than 24 bits: nnabla and engines
for integers compute the same numbers.
"""
import math

import nnabla as nn
import nnabla.functions as F

from common.layers import batch_normalization, normalization_terms, scale_shift_channels
from common.quantizers import POWER_OF_TWO
from common.quantizers.layers import (
    normalized_activation,
    on_grid_of_sums,
    quantized_activation,
    quantized_affine,
    quantized_convolution,
    quantized_parameter,
)
from mixed_precision_dnns.config import (
    QuantizationConfig,
    activation_quantization,
    scale_quantization,
    value_quantizations,
    weight_quantization,
)

EPSILON = 1e-5    # added to variances


class PublishedLayers:
    """Layers of a network; `train` normalizes by the statistics of a batch. Parameters are of the current scope."""

    def __init__(self, cfg: QuantizationConfig, train: bool) -> None:
        self._cfg, self._train = cfg, train
        self._weights, self._activations = weight_quantization(cfg), activation_quantization(cfg)

    def image(self, x: nn.Variable) -> nn.Variable:
        """Prepare images (batch, channels, height, width)."""
        return x

    def _convolution(self, x, outmaps, kernel, stride=1, group=1):
        return quantized_convolution(x, outmaps, kernel, self._weights, pad=kernel // 2, stride=stride, group=group)

    def convolution(self, x: nn.Variable, outmaps: int, kernel: int, stride: int = 1, group: int = 1) -> nn.Variable:
        """Convolve with quantized kernels, half of them as margin, and normalize."""
        return batch_normalization(self._convolution(x, outmaps, kernel, stride, group), train=self._train)

    def activated_convolution(self, x: nn.Variable, outmaps: int, kernel: int, stride: int = 1,
                              group: int = 1) -> nn.Variable:
        """`convolution`, and quantized activations."""
        return normalized_activation(self._convolution(x, outmaps, kernel, stride, group), self._activations,
                                     self._train)

    def activated_sum(self, x: nn.Variable, shortcut: nn.Variable) -> nn.Variable:
        """Add what a block gives and its shortcut, and quantize activations."""
        return quantized_activation(x, self._activations, shortcut)

    def mean(self, x: nn.Variable) -> nn.Variable:
        """Mean of all pixels, (batch, channels, 1, 1)."""
        return F.average_pooling(x, x.shape[2:])

    def affine(self, x: nn.Variable, num_classes: int) -> nn.Variable:
        """Last layer, with the logits."""
        return quantized_affine(x, num_classes, self._weights)


class IntegerLayers(PublishedLayers):
    """Layers whose inputs and outputs are integers times powers of two, but for what a quantizer rounds next."""

    def __init__(self, cfg: QuantizationConfig, train: bool) -> None:
        super().__init__(cfg, train)
        self._steps: dict[nn.Variable, nn.Variable] = {}    # of what quantizers have given
        self._normalized: set[nn.Variable] = set()

    def _quantized(self, x, spec):
        y = quantized_activation(x, spec)
        self._steps[y] = spec.smallest("A")
        return y

    def _rounded(self, x, scope):
        with nn.parameter_scope(scope):
            return self._quantized(x, value_quantizations(self._cfg)[scope])

    def _step(self, x):
        """Step size of what a quantizer has given, also where it has been moved since."""
        while x not in self._steps:
            x = x.parent.inputs[0]
        return self._steps[x]

    def image(self, x: nn.Variable) -> nn.Variable:
        return self._rounded(x, "image")

    def convolution(self, x: nn.Variable, outmaps: int, kernel: int, stride: int = 1, group: int = 1) -> nn.Variable:
        h = self._convolution(x, outmaps, kernel, stride, group)
        y = self._normalization(h, self._step(x) * self._weights_step())
        self._normalized.add(y)
        return y

    def _weights_step(self):
        with nn.parameter_scope("quantized_conv"):
            return self._weights.smallest("W")

    def _normalization(self, h, step):
        """Normalize sums that are multiples of `step`."""
        beta, gamma, mean, var = normalization_terms(h, self._train)
        spec = scale_quantization(self._cfg)
        with nn.parameter_scope("bn"):
            scale = quantized_parameter(gamma * (var + EPSILON) ** -0.5, "scale", spec.stepsize, spec)
            shift = on_grid_of_sums(beta / scale - mean, "shift", step)
        return scale_shift_channels(h, scale, scale * shift)

    def activated_convolution(self, x: nn.Variable, outmaps: int, kernel: int, stride: int = 1,
                              group: int = 1) -> nn.Variable:
        return self._activation(self.convolution(x, outmaps, kernel, stride, group))

    def _activation(self, x):
        if self._activations.grid is POWER_OF_TWO:
            x = self._rounded(x, "value")
        return self._quantized(x, self._activations)

    def activated_sum(self, x: nn.Variable, shortcut: nn.Variable) -> nn.Variable:
        x = self._rounded(x, "summand")
        if shortcut in self._normalized:
            shortcut = self._rounded(shortcut, "shortcut")
        return self._activation(x + shortcut)

    def mean(self, x: nn.Variable) -> nn.Variable:
        pixels = math.prod(x.shape[2:])
        total = F.sum(x, axis=(2, 3), keepdims=True)
        return self._rounded(total * 2.0 ** -math.ceil(math.log2(pixels)), "mean")

    def affine(self, x: nn.Variable, num_classes: int) -> nn.Variable:
        return quantized_affine(x, num_classes, self._weights, step=self._step(x))


def layers_of(cfg: QuantizationConfig, train: bool) -> PublishedLayers:
    """Return the layers that `cfg` asks for."""
    return (IntegerLayers if cfg.all_integer else PublishedLayers)(cfg, train)
