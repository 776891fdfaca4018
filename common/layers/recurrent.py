"""LSTM layers with nnabla's parameters: nnabla's own function on a GPU, a much faster one on a CPU."""
import functools

import nnabla as nn
import nnabla.functions as F
import numpy as np
from nnabla.initializer import ConstantInitializer, UniformInitializer, calc_uniform_lim_glorot
from nnabla.parameter import get_parameter_or_create

from common.cpu import dense_kernels as kernels
from common.cpu.dense import multiply, multiply_transposed, rows_of
from common.cpu.host_function import HostFunction, data_of, grad_of, store_gradient
from common.cpu.kernels import run_parallel
from common.machine.context import on_gpu, wants_native


def lstm(x, hidden_size, num_layers, bidirectional=True, dropout=0.0, train=False):
    """Run a stack of LSTM layers over frames, from zero states.

    Parameters (`weight_l0`, `weight`, `bias` in the scope `lstm`) have nnabla's layout: gates in the order input,
    forget, cell, output; the columns of the input before those of the state. With W and b of a gate,
    a = W [x_t; h_(t-1)] + b, c_t = sigmoid(a_f) c_(t-1) + sigmoid(a_i) tanh(a_g), h_t = sigmoid(a_o) tanh(c_t).

    Parameters
    ----------
    x : nn.Variable (frames, batch, features)
    hidden_size : int
        Per direction.
    num_layers : int
    bidirectional : bool
        A second direction runs through the frames backwards.
    dropout : float
        Share of the outputs of each layer but the last that is set to 0 while training, drawn from nnabla's generator
        (`common.machine.seeding`). nnabla's own function drops nothing on a CPU.
    train : bool

    Returns
    -------
    nn.Variable (frames, batch, directions hidden_size)
        The directions one after the other.
    """
    directions = 2 if bidirectional else 1
    first, bias, *further = _parameters(x.shape[2], hidden_size, num_layers, directions)
    if wants_native() and (not on_gpu() or _cudnn_has_lstm()):
        states = (F.constant(0, (num_layers, directions, x.shape[1], hidden_size)) for _ in range(2))
        return F.lstm(x, *states, first, *(further or [None]), bias, num_layers=num_layers, dropout=dropout,
                      bidirectional=bidirectional, training=train)[0]
    return LSTM(num_layers, dropout if train else 0.0, train)(x, first, bias, *further)


def _parameters(features, hidden, num_layers, directions):
    """Return weight_l0, bias, and `weight` if there are several layers, made where they do not exist."""
    def glorot(columns):
        """Uniform values with Glorot's limits, for the columns of inputs and of states apart."""
        def make(shape):
            return np.concatenate([UniformInitializer(calc_uniform_lim_glorot(n, hidden))((*shape[:-1], n))
                                   for n in (columns, hidden)], axis=-1)
        return make

    outputs = directions * hidden
    with nn.parameter_scope("lstm"):
        first = get_parameter_or_create("weight_l0", (directions, 4, hidden, features + hidden), glorot(features))
        further = [get_parameter_or_create("weight", (num_layers - 1, directions, 4, hidden, outputs + hidden),
                                           glorot(outputs))] if num_layers > 1 else []
        bias = get_parameter_or_create("bias", (num_layers, directions, 4, hidden), ConstantInitializer(0))
    return first, bias, *further


@functools.cache
def _cudnn_has_lstm():
    """Whether the library behind nnabla's LSTM on a GPU still knows it: cuDNN 9 does not."""
    try:
        x, state, w = nn.Variable((1, 1, 1)), F.constant(0, (1, 1, 1, 1)), nn.Variable((1, 4, 1, 2))
        F.lstm(x, state, state, w, training=False)[0].forward()
    except RuntimeError:
        return False
    return True


class LSTM(HostFunction):
    """Stacked LSTM layers; inputs x (frames, batch, features), weight_l0, bias, and weight if there are several layers.

    Gradients need `train`, which keeps what they are made of for one backward pass after each forward pass.
    """

    def __init__(self, num_layers, dropout, train):
        super().__init__()
        self.num_layers, self.dropout, self.train = num_layers, dropout, train

    def setup_impl(self, inputs, outputs):
        (frames, batch, _), (directions, _, hidden, _) = inputs[0].shape, inputs[1].shape
        outputs[0].reset_shape((frames, batch, directions * hidden), True)

    def grad_depends_output_data(self, i, o):
        return True

    def forward_impl(self, inputs, outputs):
        x = data_of(inputs[0])
        self.layers = []
        for index, (weights, bias) in enumerate(self._weights(inputs)):
            last = index == self.num_layers - 1
            y = data_of(outputs[0]) if last else np.empty(outputs[0].shape, np.float32)
            gates, cells = _forward_layer(x, weights, bias, y)
            mask = None if last or not self.dropout else _dropout_mask(y.shape, self.dropout)
            if self.train:
                self.layers.append((x, gates, cells, y, mask))
            x = y if mask is None else y * mask

    def _weights(self, inputs):
        """Matrices (directions, 4 hidden, features + hidden) and biases (directions, 4 hidden) of the layers."""
        arrays = [data_of(inputs[1]), *(data_of(inputs[3]) if self.num_layers > 1 else ())]
        directions, _, hidden, _ = inputs[1].shape
        bias = data_of(inputs[2]).reshape(self.num_layers, directions, 4 * hidden)
        return [(w.reshape(directions, 4 * hidden, -1), b) for w, b in zip(arrays, bias, strict=True)]

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        g = grad_of(outputs[0])
        gradients = []
        for (x, gates, cells, y, mask), (weights, _) in zip(reversed(self.layers), reversed(self._weights(inputs)),
                                                            strict=True):
            if mask is not None:
                g = g * mask
            to_inputs = len(gradients) < self.num_layers - 1 or propagate_down[0]
            g, *to_parameters = _backward_layer(x, gates, cells, y, weights, g, to_inputs)
            gradients.insert(0, to_parameters)
        self.layers = []
        first, *further = (dw for dw, _ in gradients)
        totals = [g, first, np.stack([db for _, db in gradients]), *([np.stack(further)] if further else [])]
        for k, total in enumerate(totals):
            if propagate_down[k]:
                store_gradient(inputs[k], total.reshape(inputs[k].shape), accum[k])


def _dropout_mask(shape, dropout):
    kept = nn.random.prng.random_sample(shape) >= dropout
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
        if to_inputs:
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
