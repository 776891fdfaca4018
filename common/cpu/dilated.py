"""A convolution with bias, stride and dilation, made of the loops in `common.cpu.dilated_kernels` and BLAS.

It agrees with nnabla's to rounding, runs on all cores, and computes on the host. Where the last bit counts, as before a
quantizer, there is `common.cpu.functions.Convolution`.
"""
import numpy as np

from common.cpu import dilated_kernels as kernels
from common.cpu.host_function import HostFunction, data_of, grad_of, store_gradient
from common.cpu.kernels import run_parallel

_TURNED = 256    # pixels of an image for which turning the kernels around is worth it

class DilatedConvolution(HostFunction):
    """Inputs x (batch, channels, height, width), w (outputs, channels, k, k) and, with bias, b (outputs,)."""

    def __init__(self, pad, stride, dilation):
        super().__init__()
        self.pad, self.stride, self.dilation = pad, stride, dilation

    def setup_impl(self, inputs, outputs):
        (batch, _, *size), (num_outputs, _, kernel, _) = inputs[0].shape, inputs[1].shape
        reach = self.dilation * (kernel - 1) + 1
        pixels = ((s + 2 * self.pad - reach) // self.stride + 1 for s in size)
        outputs[0].reset_shape((batch, num_outputs, *pixels), True)

    def _geometry(self, inputs):
        return inputs[1].shape[-1], self.pad, self.stride, self.dilation

    def forward_impl(self, inputs, outputs):
        w = data_of(inputs[1])
        b = data_of(inputs[2]) if len(inputs) > 2 else np.zeros(len(w), np.float32)
        _convolve(data_of(inputs[0]), w.reshape(len(w), -1), b, data_of(outputs[0]), False, self._geometry(inputs))

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        g = grad_of(outputs[0])
        if any(propagate_down[1:]):
            self._backward_parameters(inputs, g, propagate_down, accum)
        if propagate_down[0]:
            self._backward_data(inputs, g, accum[0])

    def _backward_parameters(self, inputs, g, propagate_down, accum):
        x, w = data_of(inputs[0]), inputs[1]
        terms = w.size // w.shape[0]
        lines = kernels.tile_lines(g.shape, terms)
        groups = min(kernels.GROUPS, kernels.num_tiles(g.shape, lines))
        dw = np.empty((groups, w.shape[0], terms), np.float32)
        db = np.empty(dw.shape[:2], np.float32)
        run_parallel(kernels.backward_weights, groups, g.size * terms, x, g, dw, db, lines, self._geometry(inputs))
        for k, partial in enumerate((dw, db)[:len(inputs) - 1], start=1):
            if propagate_down[k]:
                store_gradient(inputs[k], partial.sum(0).reshape(inputs[k].shape), accum[k])

    def _backward_data(self, inputs, g, add):
        w, dx = data_of(inputs[1]), grad_of(inputs[0])
        kernel, pad, stride, dilation = self._geometry(inputs)
        turned_pad = dilation * (kernel - 1) - pad
        if stride == 1 and turned_pad >= 0 and g[0, 0].size >= _TURNED:
            # The gradient is a convolution of g with the kernels turned around.
            turned = np.ascontiguousarray(w[:, :, ::-1, ::-1].swapaxes(0, 1)).reshape(w.shape[1], -1)
            _convolve(g, turned, np.zeros(len(turned), np.float32), dx, add, (kernel, turned_pad, 1, dilation))
        else:
            transposed = w.reshape(len(w), -1).T
            run_parallel(kernels.backward_data, len(g), g.size * len(transposed), transposed, g, dx, add,
                         self._geometry(inputs))

    def grad_depends_input_data(self, i, j):
        return (i, j) in ((0, 1), (1, 0))


def _convolve(x, w, b, y, add, geometry):
    lines = kernels.tile_lines(y.shape, w.shape[1])
    run_parallel(kernels.forward, kernels.num_tiles(y.shape, lines), y.size * w.shape[1], x, w, b, y, add, lines,
                 geometry)
