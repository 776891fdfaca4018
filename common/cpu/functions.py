"""nnabla functions made of the loops in `common.cpu.kernels`: the same numbers as nnabla's own, several times faster.

Outputs are the same to the last bit, gradients to rounding. Where nnabla splits the sums of a convolution, those of
more than 576 terms or with a number of outputs that is no multiple of 4, outputs agree to rounding, too.

They compute on the host. Callers (`common.layers`, `common.quantizers`) choose nnabla's functions on a GPU.
"""
import numpy as np

from common.cpu import kernels
from common.cpu.host_function import HostFunction, as_float32, data_of, grad_of, store_gradient
from common.machine.distributed import world


def _over_blocks(kernel, x, *args):
    kernels.run_parallel(kernel, kernels.num_blocks(x.size), x.size, x, *args)


def _block_sums(x, count):
    return np.empty((kernels.num_blocks(x.size), count), np.float32)


class UniformQuantize(HostFunction):
    """y = d round(clip(x, -xmax or 0, xmax) / d); inputs x, d (), xmax (). See `common.quantizers.quantize_uniform`."""

    def __init__(self, sign):
        super().__init__()
        self.sign = sign

    def grad_depends_output_data(self, i, o):
        return True

    def _scalars(self, inputs):
        d, xmax = np.float32(data_of(inputs[1])), np.float32(data_of(inputs[2]))
        return d, -xmax if self.sign else np.float32(0), xmax

    def forward_impl(self, inputs, outputs):
        x, y = data_of(inputs[0]).ravel(), data_of(outputs[0]).ravel()
        _over_blocks(kernels.uniform_forward, x, y, *self._scalars(inputs))

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        x, y, g = data_of(inputs[0]).ravel(), data_of(outputs[0]).ravel(), grad_of(outputs[0]).ravel()
        dx = grad_of(inputs[0]).ravel() if propagate_down[0] else np.empty_like(x)
        sums = _block_sums(x, 3)
        _over_blocks(kernels.uniform_backward, x, y, g, dx, accum[0], *self._scalars(inputs), sums)
        to_d, above, below = sums.sum(0, dtype=np.float64)
        if propagate_down[1]:
            store_gradient(inputs[1], to_d, accum[1])
        if propagate_down[2]:
            store_gradient(inputs[2], above - below if self.sign else above, accum[2])


class Pow2Quantize(HostFunction):
    """y = sign(x) times |x| rounded to a power of two in [xmin, xmax]; inputs x, xmin (), xmax ()."""

    def __init__(self, sign, with_zero):
        super().__init__()
        self.sign, self.with_zero = sign, with_zero

    def grad_depends_output_data(self, i, o):
        return True

    def _scalars(self, inputs):
        xmin, xmax = np.float32(data_of(inputs[1])), np.float32(data_of(inputs[2]))
        prune = xmin / np.float32(np.sqrt(2)) if self.with_zero else np.float32(0)
        return xmin, xmax, prune

    def forward_impl(self, inputs, outputs):
        xmin, xmax, prune = self._scalars(inputs)
        thresholds = (np.float32(v).view(np.int32) for v in (xmin, xmax, xmin + xmax, prune))
        x, y = data_of(inputs[0]).ravel().view(np.int32), data_of(outputs[0]).ravel().view(np.int32)
        _over_blocks(kernels.pow2_forward, x, y, *thresholds, self.sign)

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        x, y, g = data_of(inputs[0]).ravel(), data_of(outputs[0]).ravel(), grad_of(outputs[0]).ravel()
        dx = grad_of(inputs[0]).ravel() if propagate_down[0] else np.empty_like(x)
        sums = _block_sums(x, 2)
        _over_blocks(kernels.pow2_backward, x, y, g, dx, accum[0], *self._scalars(inputs), self.sign, sums)
        for k, total in enumerate(sums.sum(0, dtype=np.float64), start=1):
            if propagate_down[k]:
                store_gradient(inputs[k], total, accum[k])


class ReLU(HostFunction):
    """y = max(x, 0). The gradient needs the output alone, so that the input can be freed."""

    def grad_depends_output_data(self, i, o):
        return True

    def grad_depends_input_data(self, i, j):
        return False

    def forward_impl(self, inputs, outputs):
        _over_blocks(kernels.relu_forward, data_of(inputs[0]).ravel(), data_of(outputs[0]).ravel())

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        if propagate_down[0]:
            y, g, dx = data_of(outputs[0]).ravel(), grad_of(outputs[0]).ravel(), grad_of(inputs[0]).ravel()
            _over_blocks(kernels.relu_backward, y, g, dx, accum[0])


def _by_channel(array):
    """View (batch, channels, height, width) as (batch, channels, pixels)."""
    return array.reshape(*array.shape[:2], -1)


class BatchNormalization(HostFunction):
    """Batch normalization over all axes but 1; inputs x, beta, gamma, mean, var, the last four (1, channels, 1, 1).

    As `nnabla.functions.batch_normalization`: with `batch_stat`, the statistics of the batch normalize, and the
    running ones in `mean` and `var` move towards them by 1 - decay_rate, the variance without bias. Those of the batch
    are taken over all ranks that train together (`common.machine.distributed`).
    """

    def __init__(self, decay_rate, eps, batch_stat):
        super().__init__()
        self.decay_rate, self.eps, self.batch_stat = decay_rate, eps, batch_stat

    def forward_impl(self, inputs, outputs):
        x, y = _by_channel(data_of(inputs[0])), _by_channel(data_of(outputs[0]))
        beta, gamma, *running = (data_of(variable).ravel() for variable in inputs[1:])
        if self.batch_stat:
            self.mean, var = np.empty_like(running[0]), np.empty_like(running[1])
            kernels.run_parallel(kernels.channel_moments, x.shape[1], x.size, x, self.mean, var)
            self.mean, var = self._over_ranks(self.mean, var)
            self._update_running(running, self.mean, var, world().size * x.size // x.shape[1])
        else:
            self.mean, var = running
        self.std = np.sqrt(var + np.float32(self.eps))
        kernels.run_parallel(kernels.normalize_channels, len(x), x.size, x, self.mean, self.std, beta, gamma, y)

    @staticmethod
    def _over_ranks(mean, var):
        """Join mean and variance of ranks with so many elements each."""
        if world().size == 1:    # whose bits are nnabla's
            return mean, var
        joint, square = world().mean([mean, var + mean.astype(np.float64) ** 2])
        return as_float32(joint), as_float32(np.maximum(square - joint ** 2, 0))

    def _update_running(self, running, mean, var, count):
        decay, count = np.float32(self.decay_rate), np.float32(count)
        running[0][...] = decay * running[0] + (1 - decay) * mean
        running[1][...] = decay * running[1] + (1 - decay) * var * count / max(count - 1, np.float32(1))

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        x, g = _by_channel(data_of(inputs[0])), _by_channel(grad_of(outputs[0]))
        mean, inverse_std = self.mean, 1 / self.std.astype(np.float64)
        sums = np.empty((*x.shape[:2], 2), np.float32)
        kernels.run_parallel(kernels.channel_products, len(x), x.size, x, g, as_float32(mean), sums)
        to_beta, product = sums.sum(0, dtype=np.float64).T
        to_gamma = product * inverse_std
        if propagate_down[0]:
            scale = data_of(inputs[2]).ravel() * inverse_std
            # Through the statistics all elements depend on each; those of constants, on none.
            by_beta, by_gamma = np.zeros((2, scale.size))
            if self.batch_stat:
                by_beta, by_gamma = world().mean([to_beta, to_gamma]) / (x.size // x.shape[1])
            from_x = -scale * by_gamma * inverse_std
            offset = -scale * by_beta - from_x * mean
            kernels.run_parallel(kernels.combine_channels, len(x), x.size, g, x, as_float32(scale), as_float32(from_x),
                                 as_float32(offset), _by_channel(grad_of(inputs[0])), accum[0])
        for k, total in ((1, to_beta), (2, to_gamma)):
            if propagate_down[k]:
                store_gradient(inputs[k], total.reshape(inputs[k].shape), accum[k])


class Convolution(HostFunction):
    """Convolution with square kernels; inputs x (batch, channels, height, width), w (outputs, channels, k, k)."""

    def __init__(self, pad, stride):
        super().__init__()
        self.pad, self.stride = pad, stride

    def setup_impl(self, inputs, outputs):
        (batch, _, *size), (num_outputs, _, kernel, _) = inputs[0].shape, inputs[1].shape
        pixels = ((s + 2 * self.pad - kernel) // self.stride + 1 for s in size)
        outputs[0].reset_shape((batch, num_outputs, *pixels), True)

    def _geometry(self, inputs):
        return inputs[1].shape[-1], self.pad, self.stride

    def _weights(self, inputs):
        """Weights as a matrix (outputs, channels k k)."""
        w = data_of(inputs[1])
        return w.reshape(len(w), -1)

    def forward_impl(self, inputs, outputs):
        x, y = data_of(inputs[0]), data_of(outputs[0])
        self._convolve(x, self._weights(inputs), y, *self._geometry(inputs), in_order=True, add=False)

    @staticmethod
    def _convolve(x, w, y, kernel, pad, stride, in_order, add):
        kernels.run_parallel(kernels.convolution_forward, kernels.num_tiles(y), y.size * w.shape[1], x, w, y, kernel,
                             pad, stride, kernels.tile_lines(y.shape[3]), in_order, add)

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        g = grad_of(outputs[0])
        if propagate_down[1]:
            self._backward_weights(inputs, g, accum[1])
        if propagate_down[0]:
            self._backward_data(inputs, g, accum[0])

    def _backward_weights(self, inputs, g, add):
        x = data_of(inputs[0])
        partial = np.empty((kernels.GROUPS, *self._weights(inputs).shape), np.float32)
        kernels.run_parallel(kernels.convolution_backward_weights, kernels.GROUPS, g.size * partial.shape[2], x, g,
                             partial, *self._geometry(inputs), kernels.tile_lines(g.shape[3]))
        store_gradient(inputs[1], partial.sum(0).reshape(inputs[1].shape), add)

    def _backward_data(self, inputs, g, add):
        w, dx = data_of(inputs[1]), grad_of(inputs[0])
        kernel, pad, stride = self._geometry(inputs)
        if stride == 1 and pad < kernel:
            # The gradient is a convolution of g with the kernels turned around.
            turned = np.ascontiguousarray(w[:, :, ::-1, ::-1].swapaxes(0, 1)).reshape(w.shape[1], -1)
            self._convolve(g, turned, dx, kernel, kernel - 1 - pad, 1, in_order=False, add=add)
        else:
            transposed = np.ascontiguousarray(self._weights(inputs).T)
            kernels.run_parallel(kernels.convolution_backward_data, len(g), g.size * len(transposed), transposed, g,
                                 dx, add, kernel, pad, stride)

    def grad_depends_input_data(self, i, j):
        return i != j
