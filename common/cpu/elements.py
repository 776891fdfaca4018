"""Functions of single elements: ReLU, and the quantizers with learned ranges.

Outputs, and gradients of tensors, have the same bits as nnabla's, at the borders of levels, too; gradients of scalars
agree to the rounding of sums. They compute on the host. Callers (`common.layers`,
`common.quantizers`) choose nnabla's functions on a GPU.
"""
from collections.abc import Callable
from typing import Any

import numpy as np

from common.cpu.host_function import HostFunction, data_of, grad_of, store_gradient
from common.cpu.kernels import elements as kernels
from common.cpu.parallel import run_parallel
from common.cpu.powers_of_two import borders


def over_blocks(kernel: Callable, x: np.ndarray, *args: Any) -> None:
    """Call a kernel of `common.cpu.kernels.elements` on all blocks of flat arrays."""
    run_parallel(kernel, kernels.num_blocks(x.size), x.size, x, *args)


def _block_sums(x, count):
    return np.empty((kernels.num_blocks(x.size), count), np.float32)


class UniformQuantize(HostFunction):
    """y = d round(clip(x, -xmax or 0, xmax) / d); inputs x, d (), xmax (). See `common.quantizers.quantize_uniform`."""

    def __init__(self, sign: bool) -> None:
        super().__init__()
        self.sign = sign

    def grad_depends_output_data(self, i, o):
        return True

    def _scalars(self, inputs):
        d, xmax = np.float32(data_of(inputs[1])), np.float32(data_of(inputs[2]))
        return d, -xmax if self.sign else np.float32(0), xmax

    def forward_impl(self, inputs, outputs):
        x, y = data_of(inputs[0]).ravel(), data_of(outputs[0]).ravel()
        over_blocks(kernels.uniform_forward, x, y, *self._scalars(inputs))

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        x, y, g = data_of(inputs[0]).ravel(), data_of(outputs[0]).ravel(), grad_of(outputs[0]).ravel()
        dx = grad_of(inputs[0], accum[0]).ravel() if propagate_down[0] else np.empty_like(x)
        sums = _block_sums(x, 3)
        over_blocks(kernels.uniform_backward, x, y, g, dx, accum[0], *self._scalars(inputs), sums)
        to_d, above, below = sums.sum(0, dtype=np.float64)
        if propagate_down[1]:
            store_gradient(inputs[1], to_d, accum[1])
        if propagate_down[2]:
            store_gradient(inputs[2], above - below if self.sign else above, accum[2])


class Pow2Quantize(HostFunction):
    """y = sign(x) times |x| rounded to a power of two in [xmin, xmax]; inputs x, xmin (), xmax ()."""

    def __init__(self, sign: bool, with_zero: bool) -> None:
        super().__init__()
        self.sign, self.with_zero, self.borders = sign, with_zero, borders()

    def grad_depends_output_data(self, i, o):
        return True

    def _scalars(self, inputs):
        xmin, xmax = np.float32(data_of(inputs[1])), np.float32(data_of(inputs[2]))
        prune = xmin * np.float32(1 / np.sqrt(2)) if self.with_zero else np.float32(0)
        return xmin, xmax, prune

    def forward_impl(self, inputs, outputs):
        xmin, xmax, prune = self._scalars(inputs)
        low, high, both, least = (np.float32(v).view(np.int32) for v in (xmin, xmax, xmin + xmax, prune))
        x, y = data_of(inputs[0]).ravel().view(np.int32), data_of(outputs[0]).ravel().view(np.int32)
        over_blocks(kernels.pow2_forward, x, y, low, high, both, least, self.sign, self.borders.carries,
                    self.borders.lowest, self.borders.highest)
        if xmin < np.finfo(np.float32).tiny:
            over_blocks(kernels.pow2_forward_subnormal, x, y, low, high, self.sign, self.borders.subnormal)

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        x, y, g = data_of(inputs[0]).ravel(), data_of(outputs[0]).ravel(), grad_of(outputs[0]).ravel()
        dx = grad_of(inputs[0], accum[0]).ravel() if propagate_down[0] else np.empty_like(x)
        sums = _block_sums(x, 2)
        over_blocks(kernels.pow2_backward, x, y, g, dx, accum[0], *self._scalars(inputs), self.sign, sums)
        for k, total in enumerate(sums.sum(0, dtype=np.float64), start=1):
            if propagate_down[k]:
                store_gradient(inputs[k], total, accum[k])


class ReLU(HostFunction):
    """y = max(x, 0) or, of two inputs, max(a + b, 0). The gradient needs the output alone, so that inputs can be freed.
    """

    def grad_depends_output_data(self, i, o):
        return True

    def grad_depends_input_data(self, i, j):
        return False

    def forward_impl(self, inputs, outputs):
        kernel = kernels.relu_forward if len(inputs) == 1 else kernels.relu_of_sum
        over_blocks(kernel, *(data_of(variable).ravel() for variable in (*inputs, outputs[0])))

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        y, g = data_of(outputs[0]).ravel(), grad_of(outputs[0]).ravel()
        for variable, wanted, add in zip(inputs, propagate_down, accum, strict=True):
            if wanted:
                over_blocks(kernels.relu_backward, y, g, grad_of(variable, add).ravel(), add)
