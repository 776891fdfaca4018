"""LSTM layers with nnabla's parameters: cuDNN's on a GPU or one of our own, a compiled one on a CPU."""
import functools

import nnabla as nn
import nnabla.functions as F
import numpy as np
from nnabla.initializer import ConstantInitializer, UniformInitializer, calc_uniform_lim_glorot
from nnabla.parameter import get_parameter_or_create

from common.cpu.recurrent import LSTM
from common.gpu.recurrent import fitting_kernels, recurrence
from common.layers.composed_lstm import composed_lstm, run_frames
from common.layers.constants import zeros
from common.machine.context import wants_gpu_kernels, wants_native

# Frames of all layers, one after the other, that a graph of functions may have where there are no kernels. nnabla walks
# through a graph by recursion, and three times as many overflow the stack. More, as those of a song, go to the compiled
# layer of the CPU.
_MOST_STEPS = 3000


def lstm(x: nn.Variable, hidden_size: int, num_layers: int, bidirectional: bool = True, dropout: float = 0.0,
         train: bool = False) -> nn.Variable:
    """Run a stack of LSTM layers over frames, from zero states.

    Parameters (`weight_l0`, `weight`, `bias` in the scope `lstm`) have nnabla's layout: gates in the order input,
    forget, cell, output; the columns of the input before those of the state. With W and b of a gate,
    a = W [x_t; h_(t-1)] + b, c_t = sigmoid(a_f) c_(t-1) + sigmoid(a_i) tanh(a_g), h_t = sigmoid(a_o) tanh(c_t).

    Parameters
    ----------
    x
        (frames, batch, features).
    hidden_size
        Per direction.
    num_layers
    bidirectional
        A second direction runs through the frames backwards.
    dropout
        Share of the outputs of each layer but the last that is set to 0 while training, drawn from nnabla's generator
        (`common.machine.seeding`). nnabla's own function drops nothing on a CPU.
    train

    Returns
    -------
    nn.Variable (frames, batch, directions hidden_size)
        The directions one after the other.
    """
    directions = 2 if bidirectional else 1
    first, bias, *further = _parameters(x.shape[2], hidden_size, num_layers, directions)
    if without_cudnn := wants_gpu_kernels() and not _cudnn_has_lstm():
        kernels = fitting_kernels(hidden_size)
        if kernels is not None or num_layers * x.shape[0] <= _MOST_STEPS:
            by_frame = run_frames if kernels is None else functools.partial(recurrence, kernels=kernels, train=train)
            return composed_lstm(x, first, bias, further[0] if further else None, dropout if train else 0.0, by_frame)
    if wants_native() and not without_cudnn:
        states = (zeros((num_layers, directions, x.shape[1], hidden_size)) for _ in range(2))
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
def _cudnn_has_lstm() -> bool:
    """Whether the library behind nnabla's LSTM on a GPU still knows it: cuDNN 9 does not."""
    try:
        x, state, w = nn.Variable((1, 1, 1)), F.constant(0, (1, 1, 1, 1)), nn.Variable((1, 4, 1, 2))
        F.lstm(x, state, state, w, training=False)[0].forward()
    except RuntimeError:
        return False
    return True
