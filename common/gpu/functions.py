"""A function of nnabla in Python whose arrays stay on the GPU."""
from typing import Any

import nnabla as nn
import numpy as np
from nnabla.function import PythonFunction

from common.gpu.loading import Kernels


class DeviceFunction(PythonFunction):
    """One output, whose gradients depend on the data of the inputs alone; kernels take the arrays uncopied."""

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels
        # That of the function itself names arrays on the host, as nnabla sees it: it is in Python.
        self._context = nn.get_current_context()

    @property
    def name(self) -> str:
        return type(self).__name__

    def min_outputs(self) -> int:
        return 1

    def grad_depends_output_data(self, i: int, o: int) -> bool:
        return False

    def grad_depends_input_data(self, i: int, j: int) -> bool:
        return True

    def pointer(self, array: nn.NdArray, write_only: bool = False) -> int:
        """Address of an array on the device, as float32."""
        return array.data_ptr(np.float32, self._context, write_only)

    def gradient_pointers(self, inputs: Any, propagate_down: Any, accum: Any) -> list[int | None]:
        """Addresses of the gradients of all inputs; None for those that are not wanted."""
        return [self.pointer(variable.grad, not add) if wanted else None
                for variable, wanted, add in zip(inputs, propagate_down, accum, strict=True)]
