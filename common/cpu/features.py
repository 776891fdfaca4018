"""Functions over the last axis of an array, for networks that treat every frame of a spectrogram alike.

Results agree with those of nnabla's functions to rounding. They compute on the host.
"""
from collections.abc import Callable
from typing import Any

import numpy as np

from common.cpu.host_function import HostFunction, as_float32, data_of, grad_of, store_gradient
from common.cpu.kernels import features as kernels
from common.cpu.parallel import run_parallel
from common.machine.distributed import world


def multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray, add: bool = False) -> None:
    """Write or add out = a b; float32 matrices, `a` and `out` contiguous."""
    run_parallel(kernels.multiply, kernels.num_blocks(len(a)), a.size * b.shape[1], a, b, out, add)


def multiply_transposed(a: np.ndarray, b: np.ndarray, out: np.ndarray, add: bool = False) -> None:
    """Write or add out = a^T b; float32 matrices."""
    blocks = -(-a.shape[1] // kernels.COLUMNS)
    run_parallel(kernels.multiply_transposed, blocks, a.size * b.shape[1], a, b, out, add)


def rows_of(array: np.ndarray) -> np.ndarray:
    """View an array (..., features) as (rows, features)."""
    return array.reshape(-1, array.shape[-1])


def _over_rows(kernel: Callable, x: np.ndarray, *args: Any) -> None:
    run_parallel(kernel, kernels.num_blocks(len(x)), x.size, x, *args)


class Affine(HostFunction):
    """y = x w; inputs x (..., features), w (features, outputs)."""

    def setup_impl(self, inputs, outputs):
        outputs[0].reset_shape((*inputs[0].shape[:-1], inputs[1].shape[1]), True)

    def forward_impl(self, inputs, outputs):
        multiply(rows_of(data_of(inputs[0])), data_of(inputs[1]), rows_of(data_of(outputs[0])))

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        g = rows_of(grad_of(outputs[0]))
        if propagate_down[0]:
            multiply(g, data_of(inputs[1]).T, rows_of(grad_of(inputs[0])), accum[0])
        if propagate_down[1]:
            multiply_transposed(rows_of(data_of(inputs[0])), g, grad_of(inputs[1]), accum[1])

    def grad_depends_input_data(self, i, j):
        return i != j


class _ByFeature(HostFunction):
    """Base of functions y = (x - shift) scale + offset, with numbers for each feature, and with or without a ReLU."""

    rectify = False

    def grad_depends_output_data(self, i, o):
        return self.rectify

    def _forward(self, x, y, shift, scale, offset):
        by_feature = (as_float32(values) for values in (shift, scale, offset))
        _over_rows(kernels.shift_and_scale, rows_of(x), *by_feature, self.rectify, rows_of(y))

    def _sums(self, inputs, outputs, shift):
        """Sums over the rows of g and of g (x - shift), float64 (2, features)."""
        x, y, g = (rows_of(array) for array in (data_of(inputs[0]), data_of(outputs[0]), grad_of(outputs[0])))
        sums = np.empty((kernels.num_blocks(len(x)), 2, y.shape[1]), np.float32)
        _over_rows(kernels.products, x, y, g, as_float32(shift), self.rectify, sums)
        return sums.sum(0, dtype=np.float64)

    def _combine(self, inputs, outputs, add, shift, from_g, from_x, offset):
        x, y, g, dx = (rows_of(array) for array in (
            data_of(inputs[0]), data_of(outputs[0]), grad_of(outputs[0]), grad_of(inputs[0])))
        if not add and dx.shape[1] > y.shape[1]:
            dx[:, y.shape[1]:] = 0
        factors = (as_float32(values) for values in (from_g, from_x, offset))
        _over_rows(kernels.combine, x, y, g, as_float32(shift), self.rectify, *factors, dx, add)


class ScaleShift(_ByFeature):
    """y = x scale + offset, and then max(y, 0) if `rectify`; inputs x (..., features), scale (n,), offset (n,).

    With n below the number of features it takes only the first n.
    """

    def __init__(self, rectify: bool = False) -> None:
        super().__init__()
        self.rectify = rectify

    def setup_impl(self, inputs, outputs):
        outputs[0].reset_shape((*inputs[0].shape[:-1], inputs[1].size), True)

    def forward_impl(self, inputs, outputs):
        scale, offset = data_of(inputs[1]), data_of(inputs[2])
        self._forward(data_of(inputs[0]), data_of(outputs[0]), np.zeros_like(scale), scale, offset)

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        scale = data_of(inputs[1])
        zeros = np.zeros_like(scale)
        if propagate_down[1] or propagate_down[2]:
            to_offset, to_scale = self._sums(inputs, outputs, zeros)
            for k, total in ((1, to_scale), (2, to_offset)):
                if propagate_down[k]:
                    store_gradient(inputs[k], total, accum[k])
        if propagate_down[0]:
            self._combine(inputs, outputs, accum[0], zeros, scale, zeros, zeros)


class FeatureNormalization(_ByFeature):
    """Batch normalization of the last axis; inputs x (..., features), beta, gamma, mean, var of so many elements.

    It computes what `nnabla.functions.batch_normalization` does with that axis: `mean` and `var` are the running
    statistics. The statistics of the batch are taken over all ranks that train together
    (`common.machine.distributed`).
    """

    def __init__(self, decay_rate: float, eps: float, batch_stat: bool) -> None:
        super().__init__()
        self.decay_rate, self.eps, self.batch_stat = decay_rate, eps, batch_stat

    def _count(self, inputs):
        """Rows of all ranks."""
        return inputs[0].size // inputs[1].size * world().size

    def forward_impl(self, inputs, outputs):
        x = data_of(inputs[0])
        beta, gamma, *running = (data_of(variable).ravel() for variable in inputs[1:])
        if self.batch_stat:
            self.mean, var = self._moments(rows_of(x))
            self._update_running(running, self.mean, var, self._count(inputs))
        else:
            self.mean, var = running[0].copy(), running[1]    # backward must see the ones that were used
        self.inverse_std = 1 / np.sqrt(var.astype(np.float64) + self.eps)
        self._forward(x, data_of(outputs[0]), self.mean, gamma * self.inverse_std, beta)

    @staticmethod
    def _moments(x):
        sums = np.empty((kernels.num_blocks(len(x)), 2, x.shape[1]))
        _over_rows(kernels.moments, x, sums)
        mean, square = world().mean(sums.sum(0) / len(x))
        return mean, np.maximum(square - mean * mean, 0)

    def _update_running(self, running, mean, var, count):
        for value, batch in zip(running, (mean, var * count / max(count - 1, 1)), strict=True):
            value[...] = self.decay_rate * value + (1 - self.decay_rate) * batch

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        to_beta, product = self._sums(inputs, outputs, self.mean)
        to_gamma = product * self.inverse_std
        if propagate_down[0]:
            scale = data_of(inputs[2]).ravel() * self.inverse_std
            # The statistics of a batch depend on all its rows; the running ones are constants.
            by_beta, by_gamma = np.zeros((2, scale.size))
            if self.batch_stat:
                by_beta, by_gamma = world().sum([to_beta, to_gamma]) / self._count(inputs)
            self._combine(inputs, outputs, accum[0], self.mean, scale, -scale * by_gamma * self.inverse_std,
                          -scale * by_beta)
        for k, total in ((1, to_beta), (2, to_gamma)):
            if propagate_down[k]:
                store_gradient(inputs[k], total.reshape(inputs[k].shape), accum[k])


class Tanh(HostFunction):
    """y = tanh(x); the gradient needs the output alone."""

    def grad_depends_output_data(self, i, o):
        return True

    def grad_depends_input_data(self, i, j):
        return False

    def forward_impl(self, inputs, outputs):
        _over_rows(kernels.tanh_forward, rows_of(data_of(inputs[0])), rows_of(data_of(outputs[0])))

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        if propagate_down[0]:
            y, g, dx = (rows_of(a) for a in (data_of(outputs[0]), grad_of(outputs[0]), grad_of(inputs[0])))
            _over_rows(kernels.tanh_backward, y, g, dx, accum[0])


class Average(HostFunction):
    """Mean of any number of inputs of one shape."""

    def forward_impl(self, inputs, outputs):
        y = data_of(outputs[0])
        np.copyto(y, data_of(inputs[0]))
        for x in inputs[1:]:
            y += data_of(x)
        y *= np.float32(1 / len(inputs))

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        share = grad_of(outputs[0]) * np.float32(1 / len(inputs))
        for k, x in enumerate(inputs):
            if propagate_down[k]:
                store_gradient(x, share, accum[k])

    def grad_depends_input_data(self, i, j):
        return False
