"""Batch normalization of channels, with the bits of nnabla's, and the sums that it and its tangent are made of.

It keeps nnabla's order and precision of sums, as a quantizer may follow. `common.cpu.features.FeatureNormalization`
exists beside it for arrays whose last axis has the features: their memory is laid out differently, and they need no
certain rounding.
"""
import numpy as np

from common.cpu.host_function import HostFunction, as_float32, data_of, grad_of, store_gradient
from common.cpu.kernels import channels as kernels
from common.cpu.parallel import run_parallel
from common.machine.distributed import world


def by_channel(array: np.ndarray) -> np.ndarray:
    """View (batch, channels, ...) as (batch, channels, pixels)."""
    return array.reshape(*array.shape[:2], -1)


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the channels of x (batch, channels, pixels), with nnabla's bits."""
    mean, var = np.empty((2, x.shape[1]), np.float32)
    run_parallel(kernels.moments, -(-x.shape[1] // 4), x.size, x, mean, var)
    return mean, var


def products(x: np.ndarray, values: np.ndarray, mean: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
    """Sums of `values` and of `values * (x - mean)` in each channel, float64 (2, channels).

    With `y`, values count only where it is above 0.
    """
    sums = np.empty((*x.shape[:2], 2), np.float32)
    if y is None:
        run_parallel(kernels.products, len(x), x.size, x, values, as_float32(mean), sums)
    else:
        run_parallel(kernels.rectified_products, len(x), x.size, x, y, values, as_float32(mean), sums)
    return sums.sum(0, dtype=np.float64).T


def combine(g: np.ndarray, x: np.ndarray, from_g: np.ndarray, from_x: np.ndarray, offset: np.ndarray, out: np.ndarray,
            add: bool, y: np.ndarray | None = None) -> None:
    """Write or add out = from_g g + from_x x + offset, with a factor of each kind for every channel.

    With `y`, g counts only where it is above 0.
    """
    arrays = g, x, as_float32(from_g), as_float32(from_x), as_float32(offset), out, add
    if y is None:
        run_parallel(kernels.combine, len(x), x.size, *arrays)
    else:
        run_parallel(kernels.rectified_combine, len(x), x.size, y, *arrays)


def _follow(running, x, decay_rate):
    """Mean and variance over all ranks, which the running ones, arrays (channels,), follow; `x` is by channel."""
    mean, var = _over_ranks(*moments(x))
    decay, count = np.float32(decay_rate), np.float32(world().size * x.size // x.shape[1])
    running[0][...] = decay * running[0] + (1 - decay) * mean
    running[1][...] = decay * running[1] + (1 - decay) * var * count / max(count - 1, np.float32(1))
    return mean, var


def _over_ranks(mean, var):
    """Mean and variance over all ranks, each of which has as many elements."""
    if world().size == 1:    # keep nnabla's bits
        return mean, var
    joint, square = world().mean([mean, var + mean.astype(np.float64) ** 2])
    return as_float32(joint), as_float32(np.maximum(square - joint ** 2, 0))


class BatchStatistics(HostFunction):
    """Mean and variance over all axes but 1; inputs x, running mean and variance, the last two (1, channels, 1, 1).

    The two outputs are those that `BatchNormalization` normalizes by with `batch_stat`, and the running ones follow as
    they do there.
    """

    def __init__(self, decay_rate: float) -> None:
        super().__init__()
        self.decay_rate = decay_rate

    def min_outputs(self):
        return 2

    def setup_impl(self, inputs, outputs):
        for output, running in zip(outputs, inputs[1:], strict=True):
            output.reset_shape(running.shape, True)

    def forward_impl(self, inputs, outputs):
        running = [data_of(variable).ravel() for variable in inputs[1:]]
        self.mean, var = _follow(running, by_channel(data_of(inputs[0])), self.decay_rate)
        for output, values in zip(outputs, (self.mean, var), strict=True):
            data_of(output)[...] = values.reshape(output.shape)

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        if not propagate_down[0]:
            return
        x = by_channel(data_of(inputs[0]))
        # An element has its part in the statistics of all ranks.
        to_mean, to_var = world().mean([grad_of(output).ravel().astype(np.float64) for output in outputs]) / (
            x.size // x.shape[1])
        from_x = 2 * to_var
        combine(x, x, np.zeros_like(from_x), from_x, to_mean - from_x * self.mean, by_channel(grad_of(inputs[0])),
                accum[0])


class BatchNormalization(HostFunction):
    """Batch normalization over all axes but 1; inputs x, beta, gamma, mean, var, the last four (1, channels, 1, 1).

    It computes what `nnabla.functions.batch_normalization` does. With `batch_stat` it normalizes by the statistics of
    the batch, and moves the running ones in `mean` and `var` towards them by 1 - decay_rate, the variance without bias.
    The statistics of the batch are taken over all ranks that train together (`common.machine.distributed`).
    With `rectify` a ReLU follows, with the bits of a function of its own.
    """

    def __init__(self, decay_rate: float, eps: float, batch_stat: bool, rectify: bool = False) -> None:
        super().__init__()
        self.decay_rate, self.eps, self.batch_stat, self.rectify = decay_rate, eps, batch_stat, rectify

    def grad_depends_output_data(self, i, o):
        return self.rectify

    def forward_impl(self, inputs, outputs):
        x, y = by_channel(data_of(inputs[0])), by_channel(data_of(outputs[0]))
        beta, gamma, *running = (data_of(variable).ravel() for variable in inputs[1:])
        if self.batch_stat:
            self.mean, var = _follow(running, x, self.decay_rate)
        else:
            self.mean, var = running[0].copy(), running[1]    # backward must see the ones that were used
        self.std = np.sqrt(var + np.float32(self.eps))
        run_parallel(kernels.normalize, len(x), x.size, x, self.mean, self.std, beta, gamma,
                     self.rectify, y)

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        x, g = by_channel(data_of(inputs[0])), by_channel(grad_of(outputs[0]))
        mean, inverse_std = self.mean, 1 / self.std.astype(np.float64)
        y = by_channel(data_of(outputs[0])) if self.rectify else None
        to_beta, product = products(x, g, mean, y)
        to_gamma = product * inverse_std
        if propagate_down[0]:
            scale = data_of(inputs[2]).ravel() * inverse_std
            # The statistics of a batch depend on all its elements; the running ones are constants.
            by_beta, by_gamma = np.zeros((2, scale.size))
            if self.batch_stat:
                by_beta, by_gamma = world().mean([to_beta, to_gamma]) / (x.size // x.shape[1])
            from_x = -scale * by_gamma * inverse_std
            offset = -scale * by_beta - from_x * mean
            combine(g, x, scale, from_x, offset, by_channel(grad_of(inputs[0], accum[0])),
                    accum[0], y)
        for k, total in ((1, to_beta), (2, to_gamma)):
            if propagate_down[k]:
                store_gradient(inputs[k], total.reshape(inputs[k].shape), accum[k])


class ThinOut(HostFunction):
    """Every `stride`-th pixel of both axes, and channels of zeros behind those of the input up to `channels`."""

    def __init__(self, stride: int, channels: int) -> None:
        super().__init__()
        self.stride, self.channels = stride, channels

    def setup_impl(self, inputs, outputs):
        batch, _, *size = inputs[0].shape
        outputs[0].reset_shape((batch, self.channels, *(-(-s // self.stride) for s in size)), True)

    def grad_depends_input_data(self, i, j):
        return False

    def forward_impl(self, inputs, outputs):
        y = data_of(outputs[0])
        run_parallel(kernels.thin_out, len(y), y.size, data_of(inputs[0]), self.stride, y)

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        if propagate_down[0]:
            dx = grad_of(inputs[0], accum[0])
            run_parallel(kernels.spread, len(dx), dx.size, grad_of(outputs[0]), self.stride, dx, accum[0])
