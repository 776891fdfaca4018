"""Layers that the networks share. They are nnabla's own functions, which the planner knows.

All maps are (batch, channels, height, width).
"""
from typing import Any

import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import numpy as np
from nnabla.initializer import BaseInitializer, ConstantInitializer
from nnabla.parameter import get_parameter_or_create

from common.layers import batch_normalization
from common.machine.distributed import world


def scaled(channels: int, width: float) -> int:
    """Number of channels of a network whose layers are `width` times as wide, at least 1."""
    return max(1, round(channels * width))


class Normal(BaseInitializer):
    """Draw from a normal distribution around 0, several times faster than nnabla's initializer does.

    Pix2PixHD has 191 million parameters. What is drawn follows from the seed of nnabla.

    Parameters
    ----------
    sigma
        Standard deviation.
    """

    def __init__(self, sigma: float) -> None:
        self.sigma = np.float32(sigma)

    def __call__(self, shape: tuple[int, ...]) -> np.ndarray:
        rng = np.random.Generator(np.random.SFC64(nn.random.prng.randint(2 ** 31)))
        return rng.standard_normal(shape, dtype=np.float32) * self.sigma


def he_normal(channels: int, kernel: int, group: int = 1) -> Normal:
    """Initializer of a convolution that keeps the variance of gradients (K. He et al., 2015, by fan-out)."""
    return Normal((2 * group / (channels * kernel * kernel)) ** 0.5)


def convolution(x: nn.Variable, channels: int, kernel: int, name: str, stride: int = 1, dilation: int = 1,
                group: int = 1, bias: bool = False, init: BaseInitializer | None = None) -> nn.Variable:
    """Convolve with square kernels, padded so that stride 1 keeps the size.

    Parameters
    ----------
    name
        Scope of the parameters.
    init
        Initializer of the kernels; `he_normal` if None.
    """
    pad = dilation * (kernel - 1) // 2
    return PF.convolution(x, channels, (kernel, kernel), pad=(pad, pad), stride=(stride, stride),
                          dilation=(dilation, dilation), group=group, with_bias=bias, name=name,
                          w_init=init or he_normal(channels, kernel, group))


def normalization(x: nn.Variable, name: str, train: bool, eps: float = 1e-5, gamma: int = 1) -> nn.Variable:
    """Normalize every channel over the batch, or by the running statistics; `gamma` is the first scale.

    Where ranks train together, the statistics are those of all their batches.
    """
    if train and world().size > 1:
        with nn.parameter_scope(name):
            with nn.parameter_scope("bn"):
                get_parameter_or_create("gamma", (1, x.shape[1], 1, 1), ConstantInitializer(gamma))
            return batch_normalization(x, train, eps=eps)
    return PF.batch_normalization(x, decay_rate=0.9, eps=eps, batch_stat=train, name=name,
                                  param_init={"gamma": ConstantInitializer(gamma)})


def conv_norm(x: nn.Variable, channels: int, kernel: int, name: str, train: bool, relu: bool = True,
              eps: float = 1e-5, gamma: int = 1, **geometry: Any) -> nn.Variable:
    """Convolution, batch normalization and, with `relu`, ReLU.

    `geometry` is `stride`, `dilation` and `group` of `convolution`.
    """
    with nn.parameter_scope(name):
        h = convolution(x, channels, kernel, "conv", **geometry)
        h = normalization(h, "bn", train, eps, gamma)
    return F.relu(h) if relu else h
