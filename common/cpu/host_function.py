"""The base of functions that compute in Python on the host, and views of nnabla's arrays as NumPy arrays."""
import functools

import nnabla as nn
import numpy as np
from nnabla.function import PythonFunction


class HostFunction(PythonFunction):
    """A function with one output. Its gradients need the inputs but not the output, unless a subclass differs."""

    def __init__(self) -> None:
        super().__init__()

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
    """Values as a float32 array that shares memory, until nnabla frees them."""
    return np.asarray(_Memory(variable.data))


def grad_of(variable: nn.Variable, keep: bool = True) -> np.ndarray:
    """Gradient as a float32 array that shares memory, until nnabla frees it.

    Without `keep` its values are undefined; all have to be written. nnabla spares itself zeros then.
    """
    return np.asarray(_Memory(variable.grad, not keep))


_FLOAT32 = np.dtype(np.float32).str


@functools.cache
def _host():
    return nn.Context(["cpu:float"], "CpuCachedArray", "0")


class _Memory:
    """What NumPy makes an array of: nnabla's own `NdArray.data` takes ten times as long, and keeps other types."""

    def __init__(self, array: nn.NdArray, write_only: bool = False) -> None:
        self._array = array    # NumPy keeps this object as long as the array it makes
        self.__array_interface__ = {"version": 3, "shape": array.shape, "typestr": _FLOAT32,
                                    "data": (array.data_ptr(np.float32, _host(), write_only), False)}


def as_float32(array: np.ndarray) -> np.ndarray:
    """Contiguous float32 array for a compiled loop."""
    return np.ascontiguousarray(array, np.float32)


def store_gradient(variable: nn.Variable, value: np.ndarray | float, add: bool) -> None:
    """Write or add `value` to the gradient of an input."""
    gradient = grad_of(variable, keep=add)
    gradient[...] = gradient + value if add else value
