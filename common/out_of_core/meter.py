"""How much of the device's memory this process takes, measured while it computes."""
from typing import Any

import nnabla as nn
import nnabla.functions as F

from common.machine.context import on_gpu
from common.out_of_core.device import device_memory, free_caches, synchronize


class Meter:
    """Measures after each function what is taken beyond CUDA itself, and frees caches where that is above a limit.

    nnabla's allocators keep what is given back to them. The memory of the process therefore grows beyond its arrays,
    until a limit makes the allocators return what nobody uses. The driver tells only what all processes take together,
    so another process that grows on the same device counts as well. On a CPU nothing is measured.

    Parameters
    ----------
    limit
        Bytes; None: none.
    virtual
        Whether arrays lie at virtual addresses.

    Attributes
    ----------
    peak
        Most bytes that were taken, after caches were freed; None before the first measurement.
    """

    def __init__(self, limit: int | None, virtual: bool = False) -> None:
        self.limit, self.virtual, self.peak = limit, virtual, None
        self._measures = on_gpu()
        if self._measures:
            _load_libraries()
            free_caches(virtual)
            self._free_at_first, _ = device_memory()

    def measure(self, function: Any = None) -> None:
        """Note what is taken now; `function` is what a hook gets."""
        if not self._measures:
            return
        taken = self._taken()
        if self.limit is not None and taken > self.limit:
            free_caches(self.virtual)
            taken = self._taken()
        self.peak = max(taken, self.peak or 0)

    def exceeded(self) -> bool:
        """Whether more than the limit was taken, although caches were freed."""
        return self.limit is not None and self.peak is not None and self.peak > self.limit

    def _taken(self):
        return self._free_at_first - device_memory()[0]


def _load_libraries():
    """Let CUDA and its libraries take what they need for themselves, which they do at their first call."""
    x = nn.Variable((1, 1, 8, 8), need_grad=True)
    weight, matrix = nn.Variable((1, 1, 3, 3), need_grad=True), nn.Variable((36, 1), need_grad=True)
    for variable in (x, weight, matrix):
        variable.d = 0
    y = F.affine(F.convolution(x, weight), matrix)
    y.forward()
    y.backward()
    synchronize()
