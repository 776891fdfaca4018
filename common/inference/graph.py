"""A test-mode nnabla graph as an export sees it: functions in order, and constants beside them."""
import collections
import hashlib

import nnabla as nn
import numpy as np
from nnabla.function import Function

Variables = dict[str, nn.Variable]

EXPORT_VERSION = 1    # part of a fingerprint: to be raised when `onnx_export` writes another model of the same graph


class Graph:
    """What lies between inputs and outputs.

    Attributes
    ----------
    functions
        Those that depend on inputs, each after the functions that it depends on.
    users
        For each variable, those of the functions that take it.

    Raises
    ------
    ValueError
        A function in Python.
    """

    def __init__(self, inputs: Variables, outputs: Variables) -> None:
        self.functions: list[Function] = []
        self.users: dict[nn.Variable, list[Function]] = collections.defaultdict(list)
        self._varying = set(inputs.values())
        for function in _all_functions(outputs):
            if not self._varying.isdisjoint(function.inputs):
                self._add(function)

    def _add(self, function):
        if function.name == "Callback":
            raise ValueError(f"{function.info.type_name}: this function is Python and has no ONNX form; build "
                             "the graph inside native_functions()")
        self.functions.append(function)
        self._varying.update(function.outputs)
        for variable in function.inputs:
            self.users[variable].append(function)

    def is_constant(self, variable: nn.Variable) -> bool:
        """Whether a variable depends on no input."""
        return variable not in self._varying

    def values(self, variable: nn.Variable) -> np.ndarray:
        """Values of a constant variable."""
        if not self.is_constant(variable):
            raise ValueError(f"{self.users[variable][0].name}: it has an ONNX form only for constant parameters")
        if variable.parent is not None:
            variable.forward()
        return variable.d


def batch_scale_shift(graph: Graph, function: Function) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift, float64 arrays that broadcast, that a normalization by running statistics comes to.

    Raises
    ------
    ValueError
        It normalizes by the statistics of the batch.
    """
    args = function.info.args
    if args["batch_stat"]:
        raise ValueError(f"{function.name}: it normalizes by the statistics of the batch, which is for training")
    beta, gamma, mean, var = (graph.values(v).astype(np.float64) for v in function.inputs[1:])
    scale = gamma / np.sqrt(var + args["eps"])
    return scale, beta - mean * scale


def _all_functions(outputs):
    """Functions that outputs depend on, each once and after those that it depends on."""
    functions = {}
    for variable in outputs.values():
        variable.visit(functions.setdefault)
    return list(functions)


def function_types(outputs: Variables) -> set[str]:
    """Types of the functions that outputs depend on."""
    return {function.info.type_name for function in _all_functions(outputs)}


def fingerprint(inputs: Variables, outputs: Variables) -> str:
    """Digest of all that `onnx_export.export(inputs, outputs)` makes its model of.

    Returns
    -------
    str
        Hexadecimal digits; equal ones mean equal models.

    Raises
    ------
    ValueError
        A function in Python.
    """
    graph = Graph(inputs, outputs)
    digest = hashlib.blake2b(digest_size=16)
    numbers = {}    # of the variables, in the order in which they come up

    def describe(key, variables):
        for variable in variables:
            if graph.is_constant(variable) and variable not in numbers:
                digest.update(np.ascontiguousarray(graph.values(variable)).data)
        described = [(numbers.setdefault(variable, len(numbers)), variable.shape) for variable in variables]
        digest.update(repr((key, described)).encode())

    describe((EXPORT_VERSION, *inputs), inputs.values())
    for function in graph.functions:
        key = function.info.type_name, sorted(function.info.args.items())
        describe(key, [*function.inputs, *function.outputs])
    describe(tuple(outputs), outputs.values())
    return digest.hexdigest()
