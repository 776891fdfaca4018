"""Stacked LSTM layers made of other functions, for a GPU whose cuDNN has none; results agree to rounding.

cuDNN 9 dropped the functions that nnabla's LSTM calls. Here one matrix product takes the inputs of all frames. What is
left to the frames, one after the other, is one launch for a layer where `common.gpu.recurrent` has kernels; otherwise
for each frame a small product and a dozen functions of single elements, for both directions at once.
"""
from collections.abc import Callable, Sequence

import nnabla as nn
import nnabla.functions as F

from common.machine.reshaping import reshape


def composed_lstm(x: nn.Variable, first: nn.Variable, bias: nn.Variable, further: nn.Variable | None, dropout: float,
                  run_frames: Callable[[nn.Variable, nn.Variable], nn.Variable]) -> nn.Variable:
    """Run LSTM layers over frames, from zero states.

    Parameters
    ----------
    x
        (frames, batch, features).
    first, bias, further
        (directions, 4, hidden, features + hidden), (layers, directions, 4, hidden), and (layers - 1, directions, 4,
        hidden, directions hidden + hidden), None for one layer. See `common.layers.recurrent.lstm`.
    dropout
        Share of the outputs of each layer but the last that is set to 0.
    run_frames
        `run_frames`, or another function that computes the same.

    Returns
    -------
    nn.Variable (frames, batch, directions hidden)
    """
    weights = [first, *(_parts(further) if further is not None else ())]
    for index, (weight, layer_bias) in enumerate(zip(weights, _parts(bias), strict=True)):
        if index and dropout:
            x = F.dropout(x, dropout)
        x = _layer(x, weight, layer_bias, run_frames)
    return x


def _layer(x, weight, bias, run_frames):
    """Outputs (frames, batch, directions hidden) of a layer; weight (directions, 4, hidden, columns)."""
    frames, batch, features = x.shape
    directions, _, hidden, columns = weight.shape
    of_inputs = F.slice(weight, stop=(directions, 4, hidden, features))
    of_states = F.slice(weight, start=(0, 0, 0, features), stop=weight.shape)
    of_states = reshape(of_states, (directions, 4 * hidden, columns - features))
    matrix = F.transpose(reshape(of_inputs, (-1, features)), (1, 0))
    gates = F.affine(x, matrix, reshape(bias, (-1,)), base_axis=2)    # (frames, batch, directions 4 hidden)
    return run_frames(gates, of_states)


def run_frames(gates: nn.Variable, weight: nn.Variable) -> nn.Variable:
    """Run through the frames of a layer with nnabla's functions, from zero states.

    Parameters
    ----------
    gates
        What the inputs of each frame give to the gates, (frames, batch, directions 4 hidden).
    weight
        (directions, 4 hidden, hidden).

    Returns
    -------
    nn.Variable (frames, batch, directions hidden)
    """
    frames, batch, _ = gates.shape
    directions, size, hidden = weight.shape
    gates = F.transpose(reshape(gates, (frames, batch, directions, size)), (2, 0, 1, 3))
    gates = F.stack(*_in_running_order(_parts(gates)), axis=1)    # (frames, directions, batch, 4 hidden)
    states = _states(_parts(gates), weight)
    by_direction = _in_running_order(_parts(F.stack(*states, axis=1)))    # (frames, batch, hidden) each
    return reshape(F.stack(*by_direction, axis=2), (frames, batch, directions * hidden))


def _states(gates: Sequence[nn.Variable], weight: nn.Variable) -> list[nn.Variable]:
    """States (directions, batch, hidden) after each frame.

    Parameters
    ----------
    gates
        What the inputs of each frame give to the gates, (directions, batch, 4 hidden).
    weight
        (directions, 4 hidden, hidden).
    """
    states: list[nn.Variable] = []
    cell = None
    for from_inputs in gates:
        a = from_inputs + F.batch_matmul(states[-1], weight, transpose_b=True) if states else from_inputs
        directions, batch, size = a.shape
        entry, keep, content, leave = F.split(reshape(a, (directions, batch, 4, size // 4)), axis=2)
        new = F.sigmoid(entry) * F.tanh(content)
        cell = new if cell is None else F.sigmoid(keep) * cell + new
        states.append(F.sigmoid(leave) * F.tanh(cell))
    return states


def _in_running_order(by_direction: Sequence[nn.Variable]) -> list[nn.Variable]:
    """Reverse the frames, the first axis, of the second direction: it runs backwards."""
    return [F.flip(part, axes=[0]) if index else part for index, part in enumerate(by_direction)]


def _parts(x: nn.Variable) -> list[nn.Variable]:
    """Parts of an array along its first axis, which they have no more."""
    return [reshape(x, x.shape[1:])] if x.shape[0] == 1 else F.split(x, axis=0)
