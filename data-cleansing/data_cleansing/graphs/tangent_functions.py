"""Functions for the CPU that nnabla lacks: tangents of layers.

Where `y = f(x, w)`, and x and w move along `dx` and `dw`, y moves along its tangent `dy`. A tangent is a function like
any other; its gradient is what products with a Hessian are made of. The loops are those of `common.cpu`.
"""
from collections.abc import Sequence

import numpy as np

from common.cpu.channels import by_channel, combine, moments, products
from common.cpu.compiling import compile_exact
from common.cpu.convolution import Convolution, convolve, parameter_gradients, propagate
from common.cpu.elements import over_blocks
from common.cpu.host_function import HostFunction, data_of, grad_of, store_gradient
from common.cpu.kernels.elements import relu_backward
from common.cpu.parallel import run_parallel


class TangentConvolution(Convolution):
    """Tangent of a convolution; inputs x, w, dw, db (outputs,), and dx unless x is given. Gradients for x, w and dx."""

    def forward_impl(self, inputs, outputs):
        x, w, dw, db, *dx = (data_of(variable) for variable in inputs)
        y, geometry = data_of(outputs[0]), self._geometry(inputs)
        convolve(x, dw, db, y, geometry)
        if dx:
            convolve(dx[0], w, None, y, geometry, add=True)

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        x, w, dw, _, *dx = inputs
        g, geometry = grad_of(outputs[0]), self._geometry(inputs)
        if propagate_down[0]:
            propagate(data_of(dw), g, grad_of(x), accum[0], geometry)
        if dx and propagate_down[4]:
            propagate(data_of(w), g, grad_of(dx[0]), accum[4], geometry)
        if propagate_down[1]:
            to_w = parameter_gradients(data_of(dx[0]), g, geometry)[0].reshape(w.shape) if dx else 0
            store_gradient(w, to_w, accum[1])

    def grad_depends_input_data(self, i, j):
        return (i, j) in ((0, 2), (1, 4), (4, 1))


class TangentReLU(HostFunction):
    """Tangent of y = max(x, 0); inputs y, dx. The gradient for y is 0."""

    def forward_impl(self, inputs, outputs):
        y, dx, dy = (data_of(variable).ravel() for variable in (*inputs, *outputs))
        self._mask(y, dx, dy, False)

    @staticmethod
    def _mask(y, values, out, add):
        """Write, or add, `values` where y > 0; all arrays are flat."""
        over_blocks(relu_backward, y, values, out, add)

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        if propagate_down[0]:
            store_gradient(inputs[0], 0, accum[0])
        if propagate_down[1]:
            y, g, to_dx = data_of(inputs[0]).ravel(), grad_of(outputs[0]).ravel(), grad_of(inputs[1]).ravel()
            self._mask(y, g, to_dx, accum[1])

    def grad_depends_input_data(self, i, j):
        return (i, j) == (1, 0)


class TangentBatchNormalization(HostFunction):
    """Tangent of a batch normalization over all axes but 1; inputs x, dx, gamma, dgamma, dbeta, mean, var.

    With `batch_stat` the statistics are those of x, and move with it; otherwise the given ones, which do not.
    Gradients for x, dx and gamma.
    """

    def __init__(self, eps: float, batch_stat: bool) -> None:
        super().__init__()
        self.eps, self.batch_stat = eps, batch_stat

    def _normalization(self, inputs):
        """Return x (batch, channels, pixels), and mean and inverse standard deviation of each channel."""
        x = by_channel(data_of(inputs[0]))
        mean, var = (data_of(variable).ravel() for variable in inputs[5:])
        if self.batch_stat:
            mean, var = moments(x)
        return x, mean, 1 / np.sqrt(var.astype(np.float64) + self.eps)

    def _shares(self, x, values, mean, scale):
        """Shares of 1 and of normalized x in `values`, by channel: what the statistics of a batch take out of it."""
        if not self.batch_stat:
            return np.zeros_like(scale), np.zeros_like(scale)
        constant, linear = _means(x, values, mean)
        return constant, linear * scale

    def forward_impl(self, inputs, outputs):
        x, mean, scale = self._normalization(inputs)
        dx = by_channel(data_of(inputs[1]))
        gamma, dgamma, dbeta = (data_of(variable).ravel() for variable in inputs[2:5])
        d0, d1 = self._shares(x, dx, mean, scale)
        from_dx = gamma * scale
        from_x = (dgamma - gamma * d1 * scale) * scale
        offset = dbeta - from_dx * d0 - from_x * mean
        combine(dx, x, from_dx, from_x, offset, by_channel(data_of(outputs[0])), False)

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        x, mean, scale = self._normalization(inputs)
        dx, g = by_channel(data_of(inputs[1])), by_channel(grad_of(outputs[0]))
        gamma, dgamma = (data_of(variable).ravel() for variable in inputs[2:4])
        (d0, d1), (g0, g1) = (self._shares(x, values, mean, scale) for values in (dx, g))
        # Mean of g times the normalized dx: what gamma scales, and what an error of the deviation scales.
        product = (_means(dx, g, np.zeros_like(mean))[1] - g0 * d0 - g1 * d1) * scale
        if propagate_down[0]:
            from_g = (dgamma - gamma * d1 * scale) * scale
            from_dx = -gamma * g1 * scale ** 2
            from_x = -((dgamma - 2 * gamma * d1 * scale) * g1 + gamma * product) * scale ** 2 * self.batch_stat
            offset = -from_g * g0 - from_dx * d0 - from_x * mean
            to_x = by_channel(grad_of(inputs[0]))
            combine(dx, x, from_dx, from_x, offset, to_x, accum[0])
            combine(g, x, from_g, np.zeros_like(from_g), np.zeros_like(from_g), to_x, True)
        if propagate_down[1]:
            from_x = -gamma * g1 * scale ** 2
            combine(g, x, gamma * scale, from_x, -gamma * scale * g0 - from_x * mean, by_channel(grad_of(inputs[1])),
                     accum[1])
        if propagate_down[2]:
            store_gradient(inputs[2], (product * (x.size // x.shape[1])).reshape(inputs[2].shape), accum[2])

    def grad_depends_input_data(self, i, j):
        return True


def _means(x, values, mean):
    """Means of `values` and of `values * (x - mean)` in each channel, float64 (2, channels)."""
    return products(x, values, mean) / (x.size // x.shape[1])


# Arrays are (maps, height, width); `start` and `stop` count maps.


@compile_exact
def _first_maximum(x, m, top, left, kernel):
    """Return where in map m the first largest pixel of a window is; nnabla takes it, too."""
    y_of_it, x_of_it, largest = top, left, x[m, top, left]
    for iy in range(top, min(top + kernel[0], x.shape[1])):
        for ix in range(left, min(left + kernel[1], x.shape[2])):
            if x[m, iy, ix] > largest:
                y_of_it, x_of_it, largest = iy, ix, x[m, iy, ix]
    return y_of_it, x_of_it


@compile_exact
def _take(start, stop, x, values, kernel, stride, out):
    """Write to each window of `out` the value at the place of the maximum of x."""
    for m in range(start, stop):
        for oy in range(out.shape[1]):
            for ox in range(out.shape[2]):
                iy, ix = _first_maximum(x, m, oy * stride[0], ox * stride[1], kernel)
                out[m, oy, ox] = values[m, iy, ix]


@compile_exact
def _give(start, stop, x, g, kernel, stride, out):
    """Add each g to the place of `out` that `_take` takes it from."""
    for m in range(start, stop):
        for oy in range(g.shape[1]):
            for ox in range(g.shape[2]):
                iy, ix = _first_maximum(x, m, oy * stride[0], ox * stride[1], kernel)
                out[m, iy, ix] += g[m, oy, ox]


def _by_map(array):
    """View (batch, channels, height, width) as (maps, height, width)."""
    return array.reshape(-1, *array.shape[2:])


class TangentMaxPooling(HostFunction):
    """Tangent of max pooling without padding: inputs x, dx. The gradient for x is 0.

    Parameters
    ----------
    kernel, stride : (int, int)
    shape : tuple of int
        Of the output.
    """

    def __init__(self, kernel: Sequence[int], stride: Sequence[int], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.kernel, self.stride, self.shape = tuple(kernel), tuple(stride), shape

    def setup_impl(self, inputs, outputs):
        outputs[0].reset_shape(self.shape, True)

    def forward_impl(self, inputs, outputs):
        x, dx, dy = (_by_map(data_of(variable)) for variable in (*inputs, *outputs))
        run_parallel(_take, len(x), x.size, x, dx, self.kernel, self.stride, dy)

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        if propagate_down[0]:
            store_gradient(inputs[0], 0, accum[0])
        if propagate_down[1]:
            x, g, to_dx = _by_map(data_of(inputs[0])), _by_map(grad_of(outputs[0])), _by_map(grad_of(inputs[1]))
            if not accum[1]:
                to_dx[...] = 0
            run_parallel(_give, len(x), x.size, x, g, self.kernel, self.stride, to_dx)

    def grad_depends_input_data(self, i, j):
        return (i, j) == (1, 0)
