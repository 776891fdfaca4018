"""Layers with nnabla's parameter names, on the fastest functions that the current context has."""
import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
from nnabla.initializer import ConstantInitializer, UniformInitializer, calc_uniform_lim_glorot
from nnabla.parameter import get_parameter_or_create

from common.cpu import dense as dense_functions
from common.cpu import dilated as convolution_functions
from common.cpu import functions as cpu_functions
from common.machine.context import wants_native
from common.machine.distributed import world

_FEW_PIXELS = 256    # of all images together, below which nnabla's convolution is as fast as a compiled one


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
    if wants_native():
        return F.convolution(x, w, pad=(pad, pad), stride=(stride, stride))
    return cpu_functions.Convolution(pad, stride)(x, w)


def dilated_convolution(x, w, b=None, stride=1, dilation=1):
    """Convolve `x` with square kernels, padded by half of their reach.

    On a CPU it is faster than `convolution`, and agrees with nnabla's function to rounding only.

    Parameters
    ----------
    x : nn.Variable (batch, channels, height, width)
    w : nn.Variable (outputs, channels, k, k)
        With k odd, a stride of 1 keeps height and width.
    b : nn.Variable (outputs,) or None
    stride, dilation : int
        Of both axes, in pixels.

    Returns
    -------
    nn.Variable (batch, outputs, ceil(height / stride), ceil(width / stride)), for odd k
    """
    pad = dilation * (w.shape[-1] // 2)
    if wants_native() or x.size // x.shape[1] < _FEW_PIXELS:
        return F.convolution(x, w, b, pad=(pad, pad), stride=(stride, stride), dilation=(dilation, dilation))
    return convolution_functions.DilatedConvolution(pad, stride, dilation)(*((x, w) if b is None else (x, w, b)))


def batch_normalization(x, train, decay_rate=0.9, eps=1e-5):
    """Normalize every channel of `x`, with the parameters `beta`, `gamma`, `mean` and `var` in the scope `bn`.

    Parameters
    ----------
    x : nn.Variable (batch, channels, height, width)
    train : bool
        Normalize by the statistics of the batch, over all ranks that train together (`common.machine.distributed`),
        and let the running ones follow them; otherwise by the running ones.
    decay_rate, eps : float
        Share of the running statistics that an update keeps; what is added to the variance.

    Returns
    -------
    nn.Variable, shape of `x`
    """
    if wants_native():
        return _native_normalization(x, 1, train, decay_rate, eps)
    parameters = _normalization_parameters((1, x.shape[1], 1, 1))
    return cpu_functions.BatchNormalization(decay_rate, eps, train)(x, *parameters)


def _native_normalization(x, axis, train, decay_rate, eps):
    """Normalize by nnabla's functions; the statistics of a batch are those of all ranks that train together."""
    settings = {"axes": [axis], "decay_rate": decay_rate, "eps": eps, "batch_stat": train}
    communicator = world().communicator
    if train and communicator is not None:
        return PF.sync_batch_normalization(x, communicator, **settings)
    return PF.batch_normalization(x, **settings)


def _normalization_parameters(shape):
    """Return beta, gamma, and running mean and variance, made where they do not exist."""
    with nn.parameter_scope("bn"):
        return [get_parameter_or_create(key, shape, ConstantInitializer(value), need_grad) for key, value, need_grad in
                (("beta", 0, True), ("gamma", 1, True), ("mean", 0, False), ("var", 1, False))]


def relu(x):
    """Set negative elements of `x`, of any shape, to 0."""
    return F.relu(x) if wants_native() else cpu_functions.ReLU()(x)


def affine(x, num_outputs):
    """Multiply the last axis of `x` by the matrix `W` in the scope `affine`, without bias.

    Parameters
    ----------
    x : nn.Variable (..., features)
    num_outputs : int

    Returns
    -------
    nn.Variable (..., num_outputs)
    """
    if wants_native():
        return PF.affine(x, num_outputs, base_axis=x.ndim - 1, with_bias=False)
    shape = (x.shape[-1], num_outputs)
    with nn.parameter_scope("affine"):
        w = get_parameter_or_create("W", shape, UniformInitializer(calc_uniform_lim_glorot(*shape)))
    return dense_functions.Affine()(x, w)


def feature_normalization(x, train, decay_rate=0.9, eps=1e-5):
    """Normalize every element of the last axis of `x` over all others, as `batch_normalization` does for channels.

    Parameters
    ----------
    x : nn.Variable (..., features)
    train, decay_rate, eps
        As for `batch_normalization`; the parameters have shape (1, ..., 1, features).

    Returns
    -------
    nn.Variable, shape of `x`
    """
    if wants_native():
        return _native_normalization(x, x.ndim - 1, train, decay_rate, eps)
    parameters = _normalization_parameters((1,) * (x.ndim - 1) + x.shape[-1:])
    return dense_functions.FeatureNormalization(decay_rate, eps, train)(x, *parameters)


def scale_shift(x, scale, offset, rectify=False):
    """Multiply the last axis of `x` by `scale`, add `offset`, and set what is negative to 0 if `rectify`.

    Parameters
    ----------
    x : nn.Variable (..., features)
    scale, offset : nn.Variable (n,)
        With n below the number of features only the first n are taken.
    rectify : bool

    Returns
    -------
    nn.Variable (..., n)

    Raises
    ------
    ValueError
        n is larger than the number of features.
    """
    if scale.size > x.shape[-1]:
        raise ValueError(f"scale of {scale.size} elements for {x.shape[-1]} features")
    if not wants_native():
        return dense_functions.ScaleShift(rectify)(x, scale, offset)
    if x.shape[-1] > scale.size:
        x = F.slice(x, stop=(*x.shape[:-1], scale.size))
    shape = (1,) * (x.ndim - 1) + scale.shape
    y = x * F.reshape(scale, shape, inplace=False) + F.reshape(offset, shape, inplace=False)
    return F.relu(y) if rectify else y


def tanh(x):
    """Hyperbolic tangent of `x` (..., features)."""
    return F.tanh(x) if wants_native() else dense_functions.Tanh()(x)


def average(*xs):
    """Mean of variables of one shape."""
    return sum(xs[1:], xs[0]) * (1 / len(xs)) if wants_native() else dense_functions.Average()(*xs)
