"""Run a network of 3 x 3 convolutions by the loops of this repository, with half of the products.

The functions of a test-mode graph become a list of steps, which work on one picture at a time. Normalization, relu and
slices of channels are no steps of their own: they are done as the next step reads its input. A sum of a convolution and
of channels that nothing else reads is written where these channels lie. So a dense block in its accumulator form copies
nothing.
"""
import threading
from collections.abc import Callable

import attrs
import nnabla as nn
import numpy as np
from nnabla.function import Function

from common.cpu.kernels import resampling
from common.cpu.parallel import run_parallel
from common.cpu.winograd import Kernels, convolve
from common.inference.graph import Graph, Variables, batch_scale_shift


@attrs.define(eq=False)
class _Buffer:
    """An array of a run: the values of a variable, without the axis of the batch."""

    shape: tuple[int, ...]    # of three axes
    values: np.ndarray = attrs.field(init=False)


@attrs.frozen(eq=False)
class _View:
    """Channels of a buffer from `first` on; what is to be read are these, scaled, shifted and rectified."""

    buffer: _Buffer
    first: int
    scale: np.ndarray    # float32 (channels,)
    shift: np.ndarray
    rectify: bool = False

    @property
    def is_plain(self) -> bool:
        return not self.rectify and bool((self.scale == 1).all() and (self.shift == 0).all())

    def raw(self) -> np.ndarray:
        return self.buffer.values[self.first:self.first + len(self.scale)]

    def values(self) -> np.ndarray:
        if self.is_plain:
            return self.raw()
        values = np.empty((len(self.scale), *self.buffer.shape[1:]), np.float32)
        self.copy(values)
        return values

    def copy(self, y: np.ndarray) -> None:
        x = self.raw()
        lines = [array.reshape(len(x), -1, array.shape[-1]) for array in (x, y)]
        run_parallel(resampling.copy, lines[0].shape[0] * lines[0].shape[1], x.size, lines[0], self.scale, self.shift,
                     self.rectify, lines[1])


def _whole(buffer: _Buffer) -> _View:
    channels = buffer.shape[0]
    return _View(buffer, 0, np.ones(channels, np.float32), np.zeros(channels, np.float32))


@attrs.frozen(eq=False)
class _Step:
    compute: Callable[[], object]
    buffers: tuple[_Buffer, ...]    # that it reads and writes


class Program:
    """What computes the outputs of a graph, all of whose variables have four axes, the first a batch of 1.

    Raises
    ------
    ValueError
        A function that it does not know, or not with these arguments; the message names it.
    """

    def __init__(self, inputs: Variables, outputs: Variables) -> None:
        self._graph, self._fetched = Graph(inputs, outputs), set(outputs.values())
        self._steps: list[_Step] = []
        self._waiting: dict[nn.Variable, Callable[[_View | None], _View]] = {}    # convolutions that are to be added
        self._views = {variable: _whole(_Buffer(variable.shape[1:])) for variable in inputs.values()}
        self._inputs = [view.buffer for view in self._views.values()]
        for function in self._graph.functions:
            shape = function.outputs[0].shape
            if function.info.type_name not in FUNCTIONS or len(shape) != 4 or shape[0] != 1:
                raise ValueError(f"{function.info.type_name}: not a function that the engine winograd has")
        for function in self._graph.functions:
            view = _CONVERTERS[function.info.type_name](self, function)
            if view is not None:
                self._views[function.outputs[0]] = view
        self._outputs = [self._views[variable] for variable in outputs.values()]
        self._slots = _Slots(self._steps, self._inputs, [view.buffer for view in self._outputs])
        self._alone = threading.Lock()

    def __call__(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Return the outputs for arrays of any batch size, the same for all."""
        with self._alone:    # the buffers hold one picture
            results = [self._run(pictures) for pictures in zip(*arrays, strict=True)]
        return [np.stack(pictures) for pictures in zip(*results, strict=True)]

    def _run(self, pictures):
        for buffer, picture in zip(self._inputs, pictures, strict=True):
            buffer.values = picture
        with self._slots:
            for step in self._steps:
                step.compute()
            return [view.values().copy() for view in self._outputs]

    # From functions to steps.

    def view(self, variable: nn.Variable) -> _View:
        if variable not in self._views:
            raise ValueError("a constant where the engine winograd has none")
        return self._views[variable]

    def _copy(self, variable):
        """Values of a constant as they are now."""
        return np.array(self._graph.values(variable), np.float32, order="C")

    def step(self, inputs: list[_View], shape: tuple[int, ...], compute: Callable[[np.ndarray], object]) -> _View:
        """Append a step that writes a new buffer, and return what it writes."""
        buffer = _Buffer(shape)
        self._steps.append(_Step(lambda: compute(buffer.values), (*(view.buffer for view in inputs), buffer)))
        return _whole(buffer)

    def convolution(self, function: Function) -> _View | None:
        args, (x, w, *b) = function.info.args, function.inputs
        kernel, dilation = w.shape[2:], args["dilation"][0]
        if (args["group"], args["base_axis"], args["channel_last"]) != (1, 1, False) or args["stride"] != [1, 1]:
            raise ValueError(f"{function.name}: groups or strides, which the engine winograd does not have")
        weights = self._copy(w)
        bias = self._copy(b[0]) if b else np.zeros(len(weights), np.float32)
        if kernel == (1, 1) and args["pad"] == [0, 0]:
            return self._pointwise(self.view(x), weights[:, :, 0, 0], bias)
        if kernel != (3, 3) or args["pad"] != [dilation] * 2 or args["dilation"] != [dilation] * 2:
            raise ValueError(f"{function.name}: kernels {kernel}, padded by {args['pad']}, which the engine winograd "
                             "does not have")
        view, prepared = self.view(x), Kernels.of(weights)

        def append(target: _View | None) -> _View:
            if target is None:
                return self.step([view], (len(bias), *x.shape[2:]), lambda y: run(y, 0, False))
            self._steps.append(_Step(lambda: run(target.buffer.values, target.first, True),
                                     (view.buffer, target.buffer)))
            return target

        def run(y, first, add):
            convolve(view.buffer.values, view.first, view.scale, view.shift, view.rectify, prepared, bias, y, first,
                     dilation, add)

        output = function.outputs[0]
        if [user.info.type_name for user in self._graph.users[output]] == ["Add2"] and output not in self._fetched:
            self._waiting[output] = append
            return None
        return append(None)

    def _pointwise(self, view, weights, bias):
        if not view.rectify:    # scale and shift become part of the weights
            weights, bias = weights * view.scale, bias + weights @ view.shift

        def compute(y):
            x = (view.values() if view.rectify else view.raw()).reshape(weights.shape[1], -1)
            run_parallel(multiply, x.shape[1], weights.size * x.shape[1], x, y.reshape(len(y), -1))

        def multiply(start, stop, x, y):
            part = y[:, start:stop]
            np.matmul(weights, x[:, start:stop], out=part)
            part += bias[:, None]
        return self.step([view], (len(bias), *view.buffer.shape[1:]), compute)

    def add(self, function: Function) -> _View:
        """Let a convolution that waits add to the other operand in its place, if nothing else reads that."""
        for variable, other in (function.inputs, function.inputs[::-1]):
            if variable in self._waiting and self._is_private(other, function):
                return self._waiting.pop(variable)(self.view(other))
        for variable in function.inputs:
            if variable in self._waiting:
                self._views[variable] = self._waiting.pop(variable)(None)
        return _elementwise(np.add)(self, function)

    def _is_private(self, variable, user):
        """Whether a variable is a slice of channels, which `user` alone reads."""
        if variable not in self._views or self._graph.users[variable] != [user] or variable in self._fetched:
            return False
        if variable.parent is None or variable.parent.info.type_name != "Slice" or not self.view(variable).is_plain:
            return False
        whole = variable.parent.inputs[0]
        users = self._graph.users[whole]
        if whole in self._fetched or any(user.info.type_name != "Slice" for user in users):
            return False
        if whole.parent is None or whole.parent.info.type_name in ("Slice", "ReLU", "BatchNormalization"):
            return False    # an input of the network, or memory of another variable
        ranges = sorted((f.info.args["start"][1], f.info.args["stop"][1]) for f in users)
        return all(stop <= start for (_, stop), (start, _) in zip(ranges[:-1], ranges[1:], strict=True))

    def constant(self, variable: nn.Variable) -> np.ndarray | None:
        """Values of a constant without the axis of the batch, None for what varies."""
        if not self._graph.is_constant(variable):
            return None
        values = self._copy(variable)
        return values[0] if values.ndim and values.shape[0] == 1 else values

    def deconvolution(self, function: Function) -> _View:
        args, (x, w, *b) = function.info.args, function.inputs
        if w.shape[2:] != (2, 2) or args["stride"] != [2, 2] or any(args["pad"]) or args["group"] != 1:
            raise ValueError(f"{function.name}: the engine winograd has kernels of 2 x 2 with stride 2 only")
        view, weights = self.view(x), self._copy(w)
        bias = self._copy(b[0]) if b else np.zeros(w.shape[1], np.float32)
        return self.step([view], function.outputs[0].shape[1:], lambda y: run_parallel(
            resampling.double, x.shape[2], x.size * bias.size * 4, view.values(), weights, bias, y))

    def pooling(self, function: Function) -> _View:
        args, (x,) = function.info.args, function.inputs
        if args["kernel"] != [2, 2] or args["stride"] != [2, 2] or any(args["pad"]) or any(n % 2 for n in x.shape[2:]):
            raise ValueError(f"{function.name}: the engine winograd has means of 2 x 2 pixels of even sizes only")
        view = self.view(x)
        return self.step([view], function.outputs[0].shape[1:], lambda y: run_parallel(
            resampling.halve, y.shape[0] * y.shape[1], x.size, view.raw(), view.scale, view.shift, view.rectify, y))

    def normalization(self, function: Function) -> _View:
        view, (scale, shift) = self.view(function.inputs[0]), batch_scale_shift(self._graph, function)
        scale, shift = scale.ravel(), shift.ravel()
        if view.rectify:
            view = self._copied(view, function.inputs[0])
        return attrs.evolve(view, scale=(view.scale * scale).astype(np.float32),
                            shift=(view.shift * scale + shift).astype(np.float32))

    def _copied(self, view, variable):
        return self.step([view], variable.shape[1:], view.copy)

    def relu(self, function: Function) -> _View:
        return attrs.evolve(self.view(function.inputs[0]), rectify=True)

    def slice(self, function: Function) -> _View:
        args, (x,), view = function.info.args, function.inputs, self.view(function.inputs[0])
        cuts = tuple(slice(*cut) for cut in zip(args["start"], args["stop"], args["step"], strict=True))[1:]
        channels, rest = cuts[0], [cut for cut, n in zip(cuts[1:], x.shape[2:], strict=True) if cut != slice(0, n, 1)]
        if channels.step == 1 and not rest:
            return attrs.evolve(view, first=view.first + channels.start, scale=view.scale[channels],
                                shift=view.shift[channels])
        return self.step([view], function.outputs[0].shape[1:], lambda y: np.copyto(y, view.values()[cuts]))

    def concatenation(self, function: Function) -> _View:
        views, axis = [self.view(variable) for variable in function.inputs], function.info.args["axis"] - 1
        if axis < 0:
            raise ValueError(f"{function.name}: the engine winograd does not concatenate batches")
        edges = np.cumsum([0, *(variable.shape[axis + 1] for variable in function.inputs)])

        def compute(y):
            for view, first, last in zip(views, edges[:-1], edges[1:], strict=True):
                if axis == 0:
                    view.copy(y[first:last])
                else:
                    y[(slice(None),) * axis + (slice(first, last),)] = view.values()
        return self.step(views, function.outputs[0].shape[1:], compute)

    def transposition(self, function: Function) -> _View:
        axes, view = function.info.args["axes"], self.view(function.inputs[0])
        if axes[0]:
            raise ValueError(f"{function.name}: the engine winograd does not move the axis of the batch")
        order = [axis - 1 for axis in axes[1:]]
        return self.step([view], function.outputs[0].shape[1:],
                         lambda y: np.copyto(y, view.values().transpose(order)))


def _elementwise(compute):
    """A function of NumPy of the operands, some of which may be constant."""
    def convert(program: Program, function: Function) -> _View:
        constants = [program.constant(variable) for variable in function.inputs]
        operands = [program.view(variable) if constant is None else constant
                    for variable, constant in zip(function.inputs, constants, strict=True)]
        views = [operand for operand in operands if isinstance(operand, _View)]

        def run(y):
            arrays = [np.broadcast_to(operand.values() if isinstance(operand, _View) else operand, y.shape)
                      for operand in operands]
            run_parallel(part, y.shape[-2], y.size, y, arrays)

        def part(start, stop, y, arrays):
            compute(*(array[..., start:stop, :] for array in arrays), out=y[..., start:stop, :])
        return program.step(views, function.outputs[0].shape[1:], run)
    return convert


def _sigmoid(x, out):
    np.negative(x, out=out)
    with np.errstate(over="ignore"):    # 1 / (1 + inf) = 0
        np.exp(out, out=out)
    out += 1
    np.reciprocal(out, out=out)


_CONVERTERS = {
    "Convolution": Program.convolution, "Deconvolution": Program.deconvolution, "AveragePooling": Program.pooling,
    "BatchNormalization": Program.normalization, "ReLU": Program.relu, "Slice": Program.slice,
    "Concatenate": Program.concatenation, "Transpose": Program.transposition, "Add2": Program.add,
    "Sub2": _elementwise(np.subtract), "Mul2": _elementwise(np.multiply), "Div2": _elementwise(np.divide),
    "Sigmoid": _elementwise(_sigmoid),
}
FUNCTIONS = frozenset(_CONVERTERS)    # types of nnabla's functions


class _Slots:
    """Memory for the buffers of a run, which share it where one is read for the last time before another is written.

    Inside a `with` block the buffers have their arrays.
    """

    def __init__(self, steps: list[_Step], inputs: list[_Buffer], outputs: list[_Buffer]) -> None:
        last = {buffer: k for k, step in enumerate(steps) for buffer in step.buffers}
        last |= dict.fromkeys(outputs, len(steps))
        self._sizes, self._slots = [], {}    # elements; buffer -> slot
        free = []
        for k, step in enumerate(steps):
            for buffer in step.buffers:
                if buffer not in self._slots and buffer not in inputs:
                    self._slots[buffer] = self._take(free, int(np.prod(buffer.shape)))
            free.extend({self._slots[buffer] for buffer in step.buffers if last[buffer] == k and buffer in self._slots})
        self._memory = None

    def _take(self, free, size):
        """Take the free slot that fits best, or else the largest, which grows."""
        if not free:
            self._sizes.append(size)
            return len(self._sizes) - 1
        slot = min(free, key=lambda k: (self._sizes[k] < size, abs(self._sizes[k] - size)))
        free.remove(slot)
        self._sizes[slot] = max(self._sizes[slot], size)
        return slot

    def __enter__(self) -> None:
        if self._memory is None:
            self._memory = [np.empty(size, np.float32) for size in self._sizes]
        for buffer, slot in self._slots.items():
            buffer.values = self._memory[slot][:int(np.prod(buffer.shape))].reshape(buffer.shape)

    def __exit__(self, *exception) -> None:
        for buffer in self._slots:
            del buffer.values
