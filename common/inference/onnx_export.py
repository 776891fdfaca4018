"""Export of a test-mode nnabla graph as an ONNX model, for other engines to run.

The model has fixed shapes and holds its parameters. What depends on no input (reshaped parameters, quantized weights)
is computed by nnabla beforehand. What is affine by channel (normalization, a scale, an offset) becomes part of the
weights of the affine or convolution that it follows.
"""
from collections.abc import Callable, Mapping, Sequence

import nnabla as nn
import numpy as np
import onnx
from nnabla.function import Function
from numpy.typing import ArrayLike
from onnx import TensorProto, helper

from common.inference.graph import Graph, Variables
from common.inference.onnx_functions import CONVERTERS, SCALE_SHIFT

OPSET = 17
IR_VERSIONS = {17: 8, 21: 10}    # of the release of ONNX that brought an opset
_CHANGED = {"ReduceMean", "Split"}    # operators that opset 21 defines in another way than 17
_SMALL = 16    # elements of axes, shapes and scalars, which are stored once


def export(inputs: Variables, outputs: Variables, name: str = "network",
           converters: Mapping[str, Callable] | None = None, opset: int = OPSET) -> onnx.ModelProto:
    """Write the graph between variables as an ONNX model.

    The graph is to be built inside `common.machine.context.native_functions()`: functions compiled in this repository
    have no ONNX form.

    Parameters
    ----------
    inputs, outputs
        Variables by the names under which values are fed and fetched. All other variables without a parent, such as
        parameters, become constants of the model, with the values that they have now.
    name
        Of the graph in the model.
    converters
        By type of function; they replace those of `common.inference.onnx_functions.CONVERTERS`. Nodes that become
        unused are removed.
    opset
        A key of `IR_VERSIONS`. Functions that this one defines otherwise than 17 are refused.

    Returns
    -------
    onnx.ModelProto
        Inputs and outputs are float32.

    Raises
    ------
    ValueError
        A function without an ONNX form, or with arguments that have none; the message names it.
    """
    model = onnx.ModelProto(ir_version=IR_VERSIONS[opset], producer_name="sony-papers-nnabla",
                            opset_import=[helper.make_opsetid("", opset)])
    model.graph.name = name
    for described, variables in ((model.graph.input, inputs), (model.graph.output, outputs)):
        described.extend(helper.make_tensor_value_info(key, TensorProto.FLOAT, variable.shape)
                         for key, variable in variables.items())
    writer = Writer(model.graph, inputs, outputs, {**CONVERTERS, **(converters or {})})
    for function in writer.functions:
        if function not in writer.absorbed:
            writer.convert(function)
    if opset != OPSET and any(node.op_type in _CHANGED for node in model.graph.node):
        raise ValueError(f"opset {opset}: " + ", ".join(sorted(_CHANGED)) + " are written as opset 17 has them")
    for key, variable in outputs.items():
        writer.node("Identity", writer.name(variable), output=key)
    if converters:
        _remove_unused(model.graph)
    return model


def _remove_unused(graph):
    """Remove nodes and constants that no output depends on."""
    needed = {output.name for output in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
            nodes.append(node)
    constants = [constant for constant in graph.initializer if constant.name in needed]
    for field, kept in ((graph.node, nodes[::-1]), (graph.initializer, constants)):
        del field[:]
        field.extend(kept)


class Writer(Graph):
    """Writes a graph into a `GraphProto`; `absorbed` are functions that have become part of an earlier node.

    Names are unique: an optimizer of onnxruntime relies on it.
    """

    def __init__(self, proto: onnx.GraphProto, inputs: Variables, outputs: Variables,
                 converters: Mapping[str, Callable]) -> None:
        super().__init__(inputs, outputs)
        self.absorbed, self._converters = set(), converters
        self._proto, self._fetched = proto, set(outputs.values())
        self._names = {variable: key for key, variable in inputs.items()}
        self._small = {}    # type, shape and bytes -> name of a constant
        self._stands_for = {}    # output of a function -> variable behind all that the function absorbed

    def convert(self, function: Function) -> None:
        """Write the nodes of a function."""
        kind = function.info.type_name
        if kind not in self._converters:
            raise ValueError(f"{kind}: this function has no ONNX form here")
        names = self._converters[kind](self, function)
        results = [self._stands_for.get(variable, variable) for variable in function.outputs]
        self._names.update(zip(results, [names] if isinstance(names, str) else names, strict=False))

    def node(self, kind: str, *inputs: str, output: str | None = None, **attributes) -> str:
        """Append a node; `inputs` are names, '' for one left out. Returns the name of its output."""
        number = len(self._proto.node)
        output = output or f"value/{number}"
        self._proto.node.append(helper.make_node(kind, inputs, [output], f"node/{number}", **attributes))
        return output

    def constant(self, values: ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        """Store an array, a small one only once; returns its name."""
        array = np.asarray(values, dtype)
        content = array.tobytes()
        name = f"constant/{len(self._proto.initializer)}"
        if array.size < _SMALL and self._small.setdefault((dtype, array.shape, content), name) != name:
            return self._small[dtype, array.shape, content]
        # Built in place: the helpers of onnx would copy every weight several times.
        self._proto.initializer.add(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
                                    dims=array.shape, raw_data=content)
        return name

    def constant_of_4_bits(self, values: ArrayLike) -> str:
        """Store an array of integers from -8 to 7 in half a byte each, which needs opset 21; returns its name."""
        array = np.asarray(values, np.int8)
        assert array.min(initial=0) >= -8 and array.max(initial=0) <= 7, (array.min(), array.max())
        halves = np.zeros(array.size + array.size % 2, np.uint8)    # of bytes, the lower one first
        halves[:array.size] = array.ravel().view(np.uint8) & 15
        name = f"constant/{len(self._proto.initializer)}"
        self._proto.initializer.add(name=name, data_type=TensorProto.INT4, dims=array.shape,
                                    raw_data=(halves[::2] | halves[1::2] << 4).tobytes())
        return name

    def name(self, variable: nn.Variable) -> str:
        """Name of a variable in the model; a constant is stored."""
        if self.is_constant(variable) and variable not in self._names:
            self._names[variable] = self.constant(self.values(variable))
        if variable not in self._names:
            raise ValueError(f"{variable.parent.name}: this output of it has no ONNX form here")
        return self._names[variable]

    def written_of_size(self, size: Sequence[int]) -> nn.Variable:
        """Return an input, or an output of a function that was converted, whose axes from the third on are `size`."""
        return next(variable for variable in self._names if variable.shape[2:] == tuple(size))

    def names(self, function: Function) -> list[str]:
        """Names of the inputs of a function."""
        return [self.name(variable) for variable in function.inputs]

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        """Append a reshaping to `shape`."""
        return self.node("Reshape", name, self.constant(shape, np.int64))

    def absorb(self, variable: nn.Variable, first: int, last: int) -> tuple[np.ndarray, np.ndarray, nn.Variable]:
        """Collect what follows `variable` and is affine by channel, where the axes from `first` to `last` are channels.

        Returns
        -------
        scale, shift : float64 array (channels,)
        result : nn.Variable
            What comes out: after channels are scaled and shifted, it has the shape of this variable.
        """
        start, shape = variable, variable.shape
        scale, shift = np.ones(shape[first:last]).ravel(), np.zeros(shape[first:last]).ravel()
        while len(self.users[variable]) == 1 and variable not in self._fetched:
            function, = self.users[variable]
            after = function.outputs[0]
            if function.info.type_name == "Reshape" and last == variable.ndim:
                if after.shape[:first] != variable.shape[:first]:
                    break
                last = after.ndim
            else:
                pair = self._by_channel(function, variable, first, last)
                if pair is None:
                    break
                scale, shift = scale * pair[0], shift * pair[0] + pair[1]
            self.absorbed.add(function)
            variable = after
        self._stands_for[start] = variable
        return scale, shift, variable

    def _by_channel(self, function, variable, first, last):
        """Scale and shift (channels,) that a function applies to `variable`, None if it does something else."""
        if function.outputs[0].shape != variable.shape or function.info.type_name not in SCALE_SHIFT:
            return None
        if any(v != variable and not self.is_constant(v) for v in function.inputs):
            return None
        pair = [np.asarray(a, np.float64) for a in SCALE_SHIFT[function.info.type_name](self, function, variable)]
        axes = (1,) * first + variable.shape[first:last] + (1,) * (variable.ndim - last)
        if any(a.ndim and any(n not in (1, m) for n, m in zip(a.shape, axes, strict=True)) for a in pair):
            return None
        return [np.broadcast_to(a, axes).ravel() for a in pair]
