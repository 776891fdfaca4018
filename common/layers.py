"""Layers with nnabla's parameter names, on the fastest functions that the current context has."""
import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
from nnabla.initializer import ConstantInitializer
from nnabla.parameter import get_parameter_or_create

from common import cpu_functions
from common.context import on_gpu


def convolution(x, w, pad=0, stride=1):
    """Convolve `x` with square kernels, without bias.

    Parameters
    ----------
    x : nn.Variable (batch, channels, height, width)
    w : nn.Variable (outputs, channels, k, k)
    pad, stride : int
        Of both axes, in pixels.

    Returns
    -------
    nn.Variable (batch, outputs, (height + 2 pad - k) // stride + 1, likewise for width)
    """
    if on_gpu():
        return F.convolution(x, w, pad=(pad, pad), stride=(stride, stride))
    return cpu_functions.Convolution(pad, stride)(x, w)


def batch_normalization(x, train, name="bn", decay_rate=0.9, eps=1e-5):
    """Normalize every channel of `x`, with the parameters `beta`, `gamma`, `mean` and `var` in the scope `name`.

    Parameters
    ----------
    x : nn.Variable (batch, channels, height, width)
    train : bool
        Normalize by the statistics of the batch and let the running ones follow them; otherwise by the running ones.
    name : str
    decay_rate, eps : float
        Share of the running statistics that an update keeps; what is added to the variance.

    Returns
    -------
    nn.Variable, shape of `x`
    """
    if on_gpu():
        return PF.batch_normalization(x, decay_rate=decay_rate, eps=eps, batch_stat=train, name=name)
    shape = (1, x.shape[1], 1, 1)
    with nn.parameter_scope(name):
        beta, gamma, mean, var = (
            get_parameter_or_create(key, shape, ConstantInitializer(value), need_grad)
            for key, value, need_grad in (("beta", 0, True), ("gamma", 1, True), ("mean", 0, False), ("var", 1, False)))
    return cpu_functions.BatchNormalization(decay_rate, eps, train)(x, beta, gamma, mean, var)


def relu(x):
    """Set negative elements of `x`, of any shape, to 0."""
    return F.relu(x) if on_gpu() else cpu_functions.ReLU()(x)
