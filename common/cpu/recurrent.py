"""Stacked LSTM layers, many times as fast as nnabla's on a CPU; results agree to rounding."""
import copy

import nnabla as nn
import numpy as np

from common.cpu.features import multiply, multiply_transposed, rows_of
from common.cpu.host_function import HostFunction, data_of, grad_of, store_gradient
from common.cpu.kernels import features as kernels
from common.cpu.parallel import run_parallel


class LSTM(HostFunction):
    """Stacked LSTM layers; inputs x (frames, batch, features), weight_l0, bias, and weight if there are several layers.

    With `train` each forward pass keeps what the first backward pass after it needs. Further ones, and those without
    `train`, compute it again.
    """

    def __init__(self, num_layers: int, dropout: float, train: bool) -> None:
        super().__init__()
        self.num_layers, self.dropout, self.train = num_layers, dropout, train

    def setup_impl(self, inputs, outputs):
        (frames, batch, _), (directions, _, hidden, _) = inputs[0].shape, inputs[1].shape
        outputs[0].reset_shape((frames, batch, directions * hidden), True)

    def grad_depends_output_data(self, i, o):
        return True

    def forward_impl(self, inputs, outputs):
        self._drawn = copy.deepcopy(nn.random.prng) if self.dropout else None
        self.layers = self._run(inputs, data_of(outputs[0]), nn.random.prng, self.train)

    def _run(self, inputs, output, prng, keep):
        """Fill the output of the last layer; return what a backward pass needs of each layer if `keep`."""
        x, layers = data_of(inputs[0]), []
        for index, (weights, bias) in enumerate(self._weights(inputs)):
            last = index == self.num_layers - 1
            y = output if last else np.empty(output.shape, np.float32)
            gates, cells = _forward_layer(x, weights, bias, y)
            mask = None if last or not self.dropout else _dropout_mask(y.shape, self.dropout, prng)
            if keep:
                layers.append((x, gates, cells, y, mask))
            x = y if mask is None else y * mask
        return layers

    def _weights(self, inputs):
        """Matrices (directions, 4 hidden, features + hidden) and biases (directions, 4 hidden) of the layers."""
        arrays = [data_of(inputs[1]), *(data_of(inputs[3]) if self.num_layers > 1 else ())]
        directions, _, hidden, _ = inputs[1].shape
        bias = data_of(inputs[2]).reshape(self.num_layers, directions, 4 * hidden)
        return [(w.reshape(directions, 4 * hidden, -1), b) for w, b in zip(arrays, bias, strict=True)]

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        g = grad_of(outputs[0])
        gradients = []
        layers = self.layers or self._run(inputs, np.empty(g.shape, np.float32), copy.deepcopy(self._drawn), keep=True)
        self.layers = []    # the loop uses the arrays up
        for (x, gates, cells, y, mask), (weights, _) in zip(reversed(layers), reversed(self._weights(inputs)),
                                                            strict=True):
            if mask is not None:
                g = g * mask
            to_inputs = len(gradients) < self.num_layers - 1 or propagate_down[0]
            g, *to_parameters = _backward_layer(x, gates, cells, y, weights, g, to_inputs)
            gradients.insert(0, to_parameters)
        first, *further = (dw for dw, _ in gradients)
        totals = [g, first, np.stack([db for _, db in gradients]), *([np.stack(further)] if further else [])]
        for k, total in enumerate(totals):
            if propagate_down[k]:
                store_gradient(inputs[k], total.reshape(inputs[k].shape), accum[k])


def _dropout_mask(shape, dropout, prng):
    kept = prng.random_sample(shape) >= dropout
    return kept * np.float32(1 / (1 - dropout))


def _split(weights, features):
    """Contiguous columns of the inputs and of the states: (4 hidden, features), (directions, 4 hidden, hidden)."""
    return [np.ascontiguousarray(w[:, :features]) for w in weights], np.ascontiguousarray(weights[:, :, features:])


def _forward_layer(x, weights, bias, y):
    """Fill y (frames, batch, directions hidden); return activated gates and cells, by direction."""
    frames, batch, features = x.shape
    directions, size, _ = weights.shape
    from_inputs, from_states = _split(weights, features)
    gates = np.empty((directions, frames, batch, size), np.float32)
    cells = np.empty((directions, frames, batch, size // 4), np.float32)
    for d in range(directions):
        multiply(rows_of(x), from_inputs[d].T, rows_of(gates[d]))
        gates[d] += bias[d]
    run_parallel(kernels.lstm_forward, directions, gates.size * size // 4, gates, from_states, cells, y)
    return gates, cells


def _backward_layer(x, gates, cells, y, weights, g, to_inputs):
    """Return the gradients of x (None unless `to_inputs`), of the weights and of the bias; `gates` is used up."""
    frames, batch, features = x.shape
    directions, size, _ = weights.shape
    hidden = size // 4
    from_inputs, from_states = _split(weights, features)
    run_parallel(kernels.lstm_backward, directions, gates.size * hidden, gates,
                 np.ascontiguousarray(from_states.swapaxes(1, 2)), cells, g)
    dx = np.empty_like(x) if to_inputs else None
    dw = np.empty(weights.shape, np.float32)
    for d in range(directions):
        at = rows_of(gates[d])
        if dx is not None:
            multiply(at, from_inputs[d], rows_of(dx), add=d > 0)
        # States one step earlier in the order in which this direction runs; the first step has none.
        later, earlier = (gates[d, :-1], y[1:]) if d else (gates[d, 1:], y[:-1])
        states = np.ascontiguousarray(rows_of(earlier)[:, d * hidden:(d + 1) * hidden])
        dw[d] = np.concatenate([_product(at, rows_of(x)), _product(rows_of(later), states)], axis=1)
    return dx, dw, gates.sum((1, 2))


def _product(a, b):
    out = np.empty((a.shape[1], b.shape[1]), np.float32)
    multiply_transposed(a, b, out)
    return out
