"""Layers that the networks share. They are nnabla's own functions, which the planner knows.

All maps are (batch, channels, height, width).
"""
import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import numpy as np
from nnabla.initializer import BaseInitializer, ConstantInitializer
from nnabla.parameter import get_parameter_or_create

from common.layers import batch_normalization
from common.machine.distributed import world


def scaled(channels, width):
    """Number of channels of a network whose layers are `width` times as wide, at least 1."""
    return max(1, round(channels * width))


class Normal(BaseInitializer):
    """Draw from a normal distribution around 0, several times faster than nnabla's initializer does.

    Pix2PixHD has 191 million parameters. What is drawn follows from the seed of nnabla.

    Parameters
    ----------
    sigma : float
    """

    def __init__(self, sigma):
        self.sigma = np.float32(sigma)

    def __call__(self, shape):
        rng = np.random.Generator(np.random.SFC64(nn.random.prng.randint(2 ** 31)))
        return rng.standard_normal(shape, dtype=np.float32) * self.sigma


def he_normal(channels, kernel, group=1):
    """Initializer of a convolution that keeps the variance of gradients (K. He et al., 2015, by fan-out)."""
    return Normal((2 * group / (channels * kernel * kernel)) ** 0.5)


def convolution(x, channels, kernel, name, stride=1, dilation=1, group=1, bias=False, init=None):
    """Convolve with square kernels, padded so that stride 1 keeps the size.

    Parameters
    ----------
    x : nn.Variable
    channels, kernel, stride, dilation, group : int
    name : str
        Scope of the parameters.
    bias : bool
    init : initializer of the kernels, `he_normal` if None
    """
    pad = dilation * (kernel - 1) // 2
    return PF.convolution(x, channels, (kernel, kernel), pad=(pad, pad), stride=(stride, stride),
                          dilation=(dilation, dilation), group=group, with_bias=bias, name=name,
                          w_init=init or he_normal(channels, kernel, group))


def normalization(x, name, train, eps=1e-5, gamma=1):
    """Normalize every channel over the batch, or by the running statistics; `gamma` is the first scale.

    Where ranks train together, over the batches of all of them.
    """
    if train and world().size > 1:
        with nn.parameter_scope(name):
            with nn.parameter_scope("bn"):
                get_parameter_or_create("gamma", (1, x.shape[1], 1, 1), ConstantInitializer(gamma))
            return batch_normalization(x, train, eps=eps)
    return PF.batch_normalization(x, decay_rate=0.9, eps=eps, batch_stat=train, name=name,
                                  param_init={"gamma": ConstantInitializer(gamma)})


def conv_norm(x, channels, kernel, name, train, relu=True, eps=1e-5, gamma=1, **how):
    """Convolution, batch normalization and, with `relu`, ReLU; `how` is for `convolution`."""
    with nn.parameter_scope(name):
        h = convolution(x, channels, kernel, "conv", **how)
        h = normalization(h, "bn", train, eps, gamma)
    return F.relu(h) if relu else h
