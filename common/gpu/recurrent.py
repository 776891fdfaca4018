"""What an LSTM layer does from frame to frame, on a GPU: all frames in one launch.

`kernels/lstm.cu` has the arithmetic; the structure and the numbers here are those there.
"""
import ctypes
import functools

import nnabla as nn
import nnabla.functions as F

from common.gpu.functions import DeviceFunction
from common.gpu.loading import Kernels, load
from common.machine.streams import say

SOURCE = "lstm.cu"
THREADS, UNITS, ITEMS, GATES = 256, 8, 4, 4
FORWARD, BACKWARD = "lstm_forward", "lstm_backward"
_FLOAT = 4    # bytes


class _Recurrence(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("from_inputs", "weights", "y", "gates", "cells", "states", "dy", "dx",
                                               "arrived")),
        *((name, ctypes.c_int) for name in ("frames", "batch", "directions", "hidden", "first_group", "add_dx")),
    ]


class Recurrence(DeviceFunction):
    """LSTM from what the inputs of all frames give to the gates, from zero states.

    Inputs: (frames, batch, directions 4 hidden) with gates in the order input, forget, cell, output, and weights of the
    states (directions, 4 hidden, hidden). Output: (frames, batch, directions hidden).

    Gradients need `train`: each forward pass then keeps what the one backward pass after it needs.
    """

    def __init__(self, kernels: Kernels, train: bool) -> None:
        super().__init__(kernels)
        self._train, self._kept = train, None

    def grad_depends_input_data(self, i: int, j: int) -> bool:
        return i == 0 and j == 1    # otherwise what was kept is enough

    def setup_impl(self, inputs, outputs):
        (frames, batch, _), (directions, _, hidden) = inputs[0].shape, inputs[1].shape
        outputs[0].reset_shape((frames, batch, directions * hidden), True)
        self._argument = _Recurrence(frames=frames, batch=batch, directions=directions, hidden=hidden)
        self._groups = directions * -(-batch // ITEMS)
        self._arrived = nn.NdArray((self._groups,))    # bits of 0 are those of the integer, too

    def forward_impl(self, inputs, outputs):
        r = self._argument
        r.from_inputs, r.weights = (self.pointer(variable.data) for variable in inputs)
        r.y = self.pointer(outputs[0].data, True)
        if self._train:
            rows = r.directions, r.frames * r.batch
            self._kept = [nn.NdArray((*rows, factor * r.hidden)) for factor in (GATES, 1, 1)]
            r.gates, r.cells, r.states = (self.pointer(array, True) for array in self._kept)
        self._run(FORWARD)

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        if self._kept is None:
            raise RuntimeError("gradients of an LSTM need train=True, and a forward pass before each backward pass")
        r, (gates, cells, states) = self._argument, self._kept
        r.weights, r.dy = self.pointer(inputs[1].data), self.pointer(outputs[0].grad)
        r.gates, r.cells = self.pointer(gates), self.pointer(cells)
        r.dx = self.pointer(inputs[0].grad, not accum[0]) if propagate_down[0] else None
        r.add_dx = accum[0]
        self._run(BACKWARD)
        if propagate_down[1]:
            self._to_weights(gates, states, inputs[1].grad, accum[1])
        self._kept = None

    def _to_weights(self, gates, states, gradient, add):
        """The gradient of the weights: gradients of the gates times the states before, summed over all frames."""
        with nn.context_scope(self._context):
            if add:
                F.add2(gradient, F.batch_matmul(gates, states, transpose_a=True), outputs=[gradient])
            else:
                F.batch_matmul(gates, states, transpose_a=True, outputs=[gradient])

    def _run(self, name):
        """Launch a kernel for as many groups of blocks at a time as the GPU holds."""
        r = self._argument
        self._arrived.zero()
        r.arrived = self.pointer(self._arrived)
        at_once = groups_at_once(self.kernels, name, r.hidden)
        for r.first_group in range(0, self._groups, at_once):
            groups = min(at_once, self._groups - r.first_group)
            self.kernels.launch_together(name, groups * _blocks(r.hidden), THREADS, _shared_bytes(name, r.hidden), r)


def _blocks(hidden):
    """Blocks of a group, which has a direction and ITEMS items of the batch."""
    return -(-hidden // UNITS)


def _shared_bytes(name, hidden):
    """Shared memory of a block: a vector for each item, sums of its threads, and its weights."""
    columns = hidden if name == FORWARD else GATES * hidden
    return _FLOAT * (ITEMS * (columns + THREADS) + GATES * UNITS * hidden)


@functools.cache
def groups_at_once(kernels: Kernels, name: str, hidden: int) -> int:
    """How many groups of blocks the GPU holds at once; 0: a layer with so many hidden units is too large for it."""
    return kernels.resident_blocks(name, THREADS, _shared_bytes(name, hidden)) // _blocks(hidden)


def fitting_kernels(hidden: int) -> Kernels | None:
    """Kernels for a layer with so many hidden units per direction; None where the current GPU cannot use them."""
    kernels = load(SOURCE)
    return kernels if kernels is not None and _fits(kernels, hidden) else None


@functools.cache
def _fits(kernels, hidden):
    if all(groups_at_once(kernels, name, hidden) for name in (FORWARD, BACKWARD)):
        return True
    say(f"warning: computing LSTMs with nnabla's functions, which is slower: {hidden} hidden units are more than the "
        f"kernels of {SOURCE} can hold on this GPU")
    return False


def recurrence(from_inputs: nn.Variable, weights: nn.Variable, kernels: Kernels, train: bool) -> nn.Variable:
    """Run through the frames as `Recurrence` does, with what `fitting_kernels` returns."""
    return Recurrence(kernels, train)(from_inputs, weights)
