"""Convolution on all cores, made of the loops in `common.cpu.kernels` and BLAS.

A geometry is (kernel, pad, stride, dilation) in pixels, of both axes.
"""
import numpy as np

from common.cpu import direct
from common.cpu.host_function import HostFunction, data_of, grad_of, store_gradient
from common.cpu.kernels import convolution as kernels
from common.cpu.kernels.direct import Geometry
from common.cpu.parallel import run_parallel


def convolve(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, y: np.ndarray, geometry: Geometry,
             add: bool = False) -> None:
    """Write or add y = w * x + b, with the sums of BLAS.

    `x`, `w` and `b` are (batch, channels, height, width), (outputs, channels, k, k) and (outputs,).
    """
    matrix = w.reshape(len(w), -1)
    lines = kernels.tile_lines(y.shape, matrix.shape[1])
    bias = np.zeros(len(w), np.float32) if b is None else b
    run_parallel(kernels.forward, kernels.num_tiles(y.shape, lines), y.size * matrix.shape[1], x, matrix, bias, y, add,
                 lines, geometry)


def parameter_gradients(x: np.ndarray, g: np.ndarray, geometry: Geometry, in_order: bool = False
                        ) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of the weights, (outputs, channels k k), and of the bias, (outputs,), for `g` of the output.

    `in_order` says how the outputs were summed: the bits of the gradients depend on it, through the size of tiles.
    """
    terms = x.shape[1] * geometry[0] ** 2
    lines = kernels.tile_lines(g.shape, terms, in_order)
    groups = min(kernels.GROUPS, kernels.num_tiles(g.shape, lines))
    dw = np.empty((groups, g.shape[1], terms), np.float32)
    db = np.empty(dw.shape[:2], np.float32)
    run_parallel(kernels.backward_weights, groups, g.size * terms, x, g, dw, db, lines, geometry)
    return dw.sum(0), db.sum(0)


def propagate(w: np.ndarray, g: np.ndarray, dx: np.ndarray, add: bool, geometry: Geometry, fast: bool = False) -> None:
    """Write or add to `dx` the gradient of the input, for `g` of the output; `fast` without BLAS, where that can be."""
    kernel, pad, stride, dilation = geometry
    turned_pad = dilation * (kernel - 1) - pad
    if stride == 1 and turned_pad >= 0:
        # The gradient is a convolution of g with the kernels turned around.
        turned = np.ascontiguousarray(w[:, :, ::-1, ::-1].swapaxes(0, 1))
        turned_geometry = kernel, turned_pad, 1, dilation
        if fast:
            direct.convolve(g, turned, None, dx, turned_geometry, add, in_order=False)
        else:
            convolve(g, turned, None, dx, turned_geometry, add)
    else:
        transposed = w.reshape(len(w), -1).T
        run_parallel(kernels.backward_data, len(g), g.size * len(transposed), transposed, g, dx, add, geometry)


class Convolution(HostFunction):
    """Inputs x (batch, channels, height, width), w (outputs, channels, k, k) and, with bias, b (outputs,).

    With `in_order` outputs have nnabla's bits, except where nnabla splits the sums: those of more than 576 terms, or
    with a number of outputs that is no multiple of 4. All other outputs, and gradients, agree with nnabla's to
    rounding: those of BLAS or, with `fast_gradients`, those of `common.cpu.direct`.
    """

    def __init__(self, pad: int, stride: int = 1, dilation: int = 1, in_order: bool = False,
                 fast_gradients: bool = False) -> None:
        super().__init__()
        self.pad, self.stride, self.dilation = pad, stride, dilation
        self.in_order, self.fast_gradients = in_order, fast_gradients

    def setup_impl(self, inputs, outputs):
        (batch, _, *size), (num_outputs, _, kernel, _) = inputs[0].shape, inputs[1].shape
        reach = self.dilation * (kernel - 1) + 1
        pixels = ((s + 2 * self.pad - reach) // self.stride + 1 for s in size)
        outputs[0].reset_shape((batch, num_outputs, *pixels), True)

    def _geometry(self, inputs) -> Geometry:
        return inputs[1].shape[-1], self.pad, self.stride, self.dilation

    def forward_impl(self, inputs, outputs):
        x, w, *biases = (data_of(variable) for variable in inputs)
        y, b, geometry = data_of(outputs[0]), biases[0] if biases else None, self._geometry(inputs)
        if self.in_order:
            direct.convolve(x, w, b, y, geometry)
        else:
            convolve(x, w, b, y, geometry)

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        g, geometry = grad_of(outputs[0]), self._geometry(inputs)
        if any(propagate_down[1:]):
            gradients = self._parameter_gradients(data_of(inputs[0]), g, geometry, propagate_down)
            for k, gradient in enumerate(gradients[:len(inputs) - 1], start=1):
                if propagate_down[k]:
                    store_gradient(inputs[k], gradient.reshape(inputs[k].shape), accum[k])
        if propagate_down[0]:
            propagate(data_of(inputs[1]), g, grad_of(inputs[0], accum[0]), accum[0], geometry,
                      self.fast_gradients)

    def _parameter_gradients(self, x, g, geometry, propagate_down):
        """Gradients of weights and, where it is wanted, of the bias."""
        if not self.fast_gradients:
            return parameter_gradients(x, g, geometry, self.in_order)
        wants_bias = len(propagate_down) == 3 and propagate_down[2]
        return direct.weight_gradient(x, g, geometry), *([g.sum((0, 2, 3))] if wants_bias else [])

    def grad_depends_input_data(self, i, j):
        return (i, j) in ((0, 1), (1, 0))
