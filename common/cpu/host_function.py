"""The base of functions that compute in Python on the host, and views of nnabla's arrays as NumPy arrays."""
import functools

import nnabla as nn
import numpy as np
from nnabla.function import PythonFunction


class HostFunction(PythonFunction):
    """A function with one output. Its gradients need the inputs but not the output, unless a subclass differs."""

    @property
    def name(self):
        return type(self).__name__

    def min_outputs(self):
        return 1

    def setup_impl(self, inputs, outputs):
        outputs[0].reset_shape(inputs[0].shape, True)

    def grad_depends_output_data(self, i, o):
        return False

    def grad_depends_input_data(self, i, j):
        return True


def data_of(variable: nn.Variable) -> np.ndarray:
    """Values as a float32 array that shares memory, and keeps it."""
    return _float32(variable.data)


def grad_of(variable: nn.Variable, keep: bool = True) -> np.ndarray:
    """Gradient as a float32 array that shares memory, and keeps it.

    Without `keep` its values are undefined; all have to be written. nnabla spares itself zeros then.
    """
    array = variable.grad
    if not keep:
        array.data_ptr(np.float32, _host(), True)
    return _float32(array)


@functools.cache
def _host():
    return nn.Context(["cpu:float"], "CpuCachedArray", "0")


def _float32(nd_array):
    # An address alone would be quicker. But nnabla frees the memory behind it, as when arrays are swapped.
    # Assigning an array of another type to a variable changes the type that the variable holds.
    array = nd_array.data
    return array if array.dtype == np.float32 else nd_array.cast(np.float32)


def as_float32(array: np.ndarray) -> np.ndarray:
    """Contiguous float32 array for a compiled loop."""
    return np.ascontiguousarray(array, np.float32)


def store_gradient(variable: nn.Variable, value: np.ndarray | float, add: bool) -> None:
    """Write or add `value` to the gradient of an input."""
    gradient = grad_of(variable, keep=add)
    gradient[...] = gradient + value if add else value
