"""Layers with nnabla's parameter names, on the fastest functions that the current context has."""
import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
from nnabla.initializer import ConstantInitializer, UniformInitializer, calc_uniform_lim_glorot
from nnabla.parameter import get_parameter_or_create

from common.cpu.channels import BatchNormalization, BatchStatistics, ThinOut
from common.cpu.convolution import Convolution
from common.cpu.elements import ReLU
from common.cpu.features import Affine, Average, FeatureNormalization, ScaleShift, Tanh
from common.layers.constants import zeros
from common.machine.context import wants_fast_gradients, wants_native
from common.machine.distributed import world

_FEW_PIXELS = 256    # of all images together, below which nnabla's convolution is as fast as a compiled one


def _check_shape(name: str, variable: nn.Variable, shape: tuple[int, ...]) -> None:
    """Raise a ValueError for a variable of another shape. Compiled loops look at no bounds."""
    if variable.shape != shape:
        raise ValueError(f"{name} of shape {variable.shape}: {shape} is wanted")


def convolution(x: nn.Variable, w: nn.Variable, b: nn.Variable | None = None, pad: int | None = None, stride: int = 1,
                dilation: int = 1, in_order: bool = False) -> nn.Variable:
    """Convolve `x` with square kernels.

    Parameters
    ----------
    x
        (batch, channels, height, width).
    w, b
        (outputs, channels, k, k) and (outputs,).
    pad, stride, dilation
        Of both axes, in pixels. Without `pad` it is half of the kernel's reach: for odd k, a stride of 1 keeps height
        and width.
    in_order
        Give nnabla's result to the last bit on a CPU, too. A quantizer needs it, as it turns a difference in the last
        bit into a whole level. Otherwise results agree to rounding. Gradients agree to rounding; inside
        `common.machine.context.fast_gradients` they take half of the time.

    Returns
    -------
    nn.Variable (batch, outputs, (height + 2 pad - (k - 1) dilation - 1) // stride + 1, likewise for width)

    Raises
    ------
    ValueError
        The shapes do not fit, or the kernel reaches beyond the padded image.
    """
    if x.ndim != 4 or w.ndim != 4:
        raise ValueError(f"x of shape {x.shape}, w of shape {w.shape}: each is wanted with 4 axes")
    outputs, kernel = w.shape[0], w.shape[-1]
    _check_shape("w", w, (outputs, x.shape[1], kernel, kernel))
    if b is not None:
        _check_shape("b", b, (outputs,))
    pad = dilation * (kernel // 2) if pad is None else pad
    if dilation * (kernel - 1) + 1 > min(x.shape[2:]) + 2 * pad:
        raise ValueError(f"a kernel of {kernel} pixels with a dilation of {dilation} reaches beyond x of shape "
                         f"{x.shape} with {pad} pixels around")
    few = not in_order and x.size // x.shape[1] < _FEW_PIXELS
    if wants_native() or few:
        return F.convolution(x, w, b, pad=(pad, pad), stride=(stride, stride), dilation=(dilation, dilation))
    function = Convolution(pad, stride, dilation, in_order, wants_fast_gradients())
    return function(*((x, w) if b is None else (x, w, b)))


def batch_normalization(x: nn.Variable, train: bool, decay_rate: float = 0.9, eps: float = 1e-5,
                        rectify: bool = False) -> nn.Variable:
    """Normalize every channel of `x`, with the parameters `beta`, `gamma`, `mean` and `var` in the scope `bn`.

    Parameters
    ----------
    x
        (batch, channels, height, width).
    train
        Normalize by the statistics of the batch, over all ranks that train together (`common.machine.distributed`),
        and let the running ones follow them; otherwise by the running ones.
    decay_rate, eps
        Share of the running statistics that an update keeps; what is added to the variance.
    rectify
        Set what is negative to 0.

    Returns
    -------
    nn.Variable, shape of `x`
    """
    if wants_native():
        y = _native_normalization(x, 1, train, decay_rate, eps)
        return F.relu(y) if rectify else y
    parameters = _normalization_parameters((1, x.shape[1], 1, 1))
    return BatchNormalization(decay_rate, eps, train, rectify)(x, *parameters)


def _native_normalization(x, axis, train, decay_rate, eps):
    """Normalize by nnabla's functions; the statistics of a batch are those of all ranks that train together."""
    settings = {"axes": [axis], "decay_rate": decay_rate, "eps": eps, "batch_stat": train}
    communicator = world().communicator
    if train and communicator is not None:
        return PF.sync_batch_normalization(x, communicator, **settings)
    return PF.batch_normalization(x, **settings)


def normalization_terms(x: nn.Variable, train: bool, decay_rate: float = 0.9) -> list[nn.Variable]:
    """Return what `batch_normalization` would normalize `x` by: offset, scale, mean and variance (1, channels, 1, 1).

    The parameters are the same. With `train`, mean and variance are those of the batch, over all ranks that train
    together, with gradients to `x`, and the running ones follow them.
    """
    beta, gamma, mean, var = _normalization_parameters((1, x.shape[1], 1, 1))
    if not train:
        return [beta, gamma, mean, var]
    if not wants_native():
        return [beta, gamma, *BatchStatistics(decay_rate)(x, mean, var)]
    settings = {"axes": [1], "decay_rate": decay_rate, "output_stat": True}
    communicator = world().communicator
    if communicator is not None:
        return [beta, gamma, *F.sync_batch_normalization(x, None, None, mean, var, communicator, **settings)[1:]]
    return [beta, gamma, *F.batch_normalization(x, None, None, mean, var, batch_stat=True, **settings)[1:]]


def scale_shift_channels(x: nn.Variable, scale: nn.Variable, shift: nn.Variable) -> nn.Variable:
    """Multiply every channel of `x` (batch, channels, height, width), then add; the others are (1, channels, 1, 1).

    Raises
    ------
    ValueError
        They have another shape.
    """
    for name, variable in (("scale", scale), ("shift", shift)):
        _check_shape(name, variable, (1, x.shape[1], 1, 1))
    if wants_native():
        return scale * x + shift
    return BatchNormalization(0, 0, False)(x, shift, scale, F.constant(0, shift.shape), F.constant(1, shift.shape))


def _normalization_parameters(shape):
    """Return beta, gamma, and running mean and variance, made where they do not exist."""
    with nn.parameter_scope("bn"):
        return [get_parameter_or_create(key, shape, ConstantInitializer(value), need_grad) for key, value, need_grad in
                (("beta", 0, True), ("gamma", 1, True), ("mean", 0, False), ("var", 1, False))]


def relu(x: nn.Variable, other: nn.Variable | None = None) -> nn.Variable:
    """Set negative elements of `x`, or of its sum with another variable of its shape, to 0.

    Raises
    ------
    ValueError
        The other one has another shape.
    """
    if other is not None:
        _check_shape("other", other, x.shape)
    if wants_native():
        return F.relu(x if other is None else x + other)
    return ReLU()(*((x,) if other is None else (x, other)))


def thin_out(x: nn.Variable, stride: int, channels: int) -> nn.Variable:
    """Take every `stride`-th pixel of both axes of `x`, and append channels of zeros up to `channels`.

    Parameters
    ----------
    x
        (batch, at most `channels`, height, width).
    stride, channels

    Returns
    -------
    nn.Variable (batch, channels, ceil(height / stride), ceil(width / stride))

    Raises
    ------
    ValueError
        `x` has more channels.
    """
    if x.shape[1] > channels:
        raise ValueError(f"x of shape {x.shape}: at most {channels} channels are wanted")
    if x.shape[1] == channels and stride == 1:
        return x
    if not wants_native():
        return ThinOut(stride, channels)(x)
    if stride > 1:
        x = F.average_pooling(x, (1, 1), (stride, stride))
    if x.shape[1] == channels:
        return x
    return F.concatenate(x, zeros((x.shape[0], channels - x.shape[1], *x.shape[2:])), axis=1)


def affine(x: nn.Variable, num_outputs: int) -> nn.Variable:
    """Multiply the last axis of `x` by the matrix `W` in the scope `affine`, without bias.

    Parameters
    ----------
    x
        (..., features).
    num_outputs

    Returns
    -------
    nn.Variable (..., num_outputs)
    """
    if wants_native():
        return PF.affine(x, num_outputs, base_axis=x.ndim - 1, with_bias=False)
    shape = (x.shape[-1], num_outputs)
    with nn.parameter_scope("affine"):
        w = get_parameter_or_create("W", shape, UniformInitializer(calc_uniform_lim_glorot(*shape)))
    return Affine()(x, w)


def feature_normalization(x: nn.Variable, train: bool, decay_rate: float = 0.9, eps: float = 1e-5) -> nn.Variable:
    """Normalize every element of the last axis of `x` over all others, as `batch_normalization` does for channels.

    Parameters
    ----------
    x
        (..., features).
    train, decay_rate, eps
        As for `batch_normalization`; the parameters have shape (1, ..., 1, features).

    Returns
    -------
    nn.Variable, shape of `x`
    """
    if wants_native():
        return _native_normalization(x, x.ndim - 1, train, decay_rate, eps)
    parameters = _normalization_parameters((1,) * (x.ndim - 1) + x.shape[-1:])
    return FeatureNormalization(decay_rate, eps, train)(x, *parameters)


def scale_shift(x: nn.Variable, scale: nn.Variable, offset: nn.Variable, rectify: bool = False) -> nn.Variable:
    """Multiply the last axis of `x` by `scale`, add `offset`, and set what is negative to 0 if `rectify`.

    Parameters
    ----------
    x
        (..., features).
    scale, offset
        (n,). With n below the number of features only the first n are taken.
    rectify

    Returns
    -------
    nn.Variable (..., n)

    Raises
    ------
    ValueError
        n is larger than the number of features, or `offset` has another shape than `scale`.
    """
    _check_shape("offset", offset, scale.shape)
    if scale.size > x.shape[-1]:
        raise ValueError(f"scale of {scale.size} elements for {x.shape[-1]} features")
    if not wants_native():
        return ScaleShift(rectify)(x, scale, offset)
    if x.shape[-1] > scale.size:
        x = F.slice(x, stop=(*x.shape[:-1], scale.size))
    shape = (1,) * (x.ndim - 1) + scale.shape
    y = x * F.reshape(scale, shape, inplace=False) + F.reshape(offset, shape, inplace=False)
    return F.relu(y) if rectify else y


def tanh(x: nn.Variable) -> nn.Variable:
    """Hyperbolic tangent of `x` (..., features)."""
    return F.tanh(x) if wants_native() else Tanh()(x)


def average(*xs: nn.Variable) -> nn.Variable:
    """Mean of variables of one shape; ValueError if they have several."""
    for x in xs[1:]:
        _check_shape("a variable", x, xs[0].shape)
    return sum(xs[1:], xs[0]) * (1 / len(xs)) if wants_native() else Average()(*xs)
