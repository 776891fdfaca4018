"""Memory of many quantized tensors as one function on a GPU, where composed functions take some twenty for each."""
import ctypes
import enum
from collections.abc import Sequence

import attrs
import nnabla as nn

from common.gpu.functions import DeviceFunction
from common.gpu.loading import Kernels, load
from common.gpu.quantizers import ROWS, SOURCE


class Bits(enum.IntEnum):
    """What the bit width of a tensor follows from: n alone, the step size and range, or two magnitudes."""

    OF_N = 0
    OF_STEP_AND_RANGE = 1
    OF_MAGNITUDES = 2


@attrs.frozen(kw_only=True)
class SizedTensor:
    """A tensor whose bit width follows from one or two `scalars` of shape () with `limits` (lowest, highest) each.

    `sign`: the levels have a sign. `lowest` is the fewest bits, which n has by its limits. `kbytes_per_bit` is the size
    in kB of a bit per element.
    """

    bits: Bits
    scalars: Sequence[nn.Variable]
    limits: Sequence[tuple[float, float]]
    sign: bool
    lowest: float
    kbytes_per_bit: float


class _Tensor(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("a", "b", "da", "db")),
        *((name, ctypes.c_float) for name in ("a_lowest", "a_highest", "b_lowest", "b_highest", "lowest",
                                              "kbytes_per_bit")),
        *((name, ctypes.c_int) for name in ("bits", "sign", "add_da", "add_db")),
    ]


class _Tensors(ctypes.Structure):
    _fields_ = [("rows", _Tensor * ROWS), *((name, ctypes.c_void_p) for name in ("kbytes", "y", "dy")),
                *((name, ctypes.c_int) for name in ("first", "count", "total", "largest"))]


class Sizes(DeviceFunction):
    """Inputs: the scalars of all tensors, one after the other. Output (): kB of all, or of the largest one."""

    def __init__(self, kernels: Kernels, tensors: Sequence[SizedTensor], largest: bool) -> None:
        super().__init__(kernels)
        self._counts = [len(tensor.scalars) for tensor in tensors]
        self._kbytes = nn.NdArray((len(tensors),))
        self._tables = [_table(tensors[first:first + ROWS], first, len(tensors), largest)
                        for first in range(0, len(tensors), ROWS)]
        self._rows = [row for table in self._tables for row in table.rows[:table.count]]

    def setup_impl(self, inputs, outputs):
        outputs[0].reset_shape((), True)

    def _of_rows(self, values):
        """Cut what there is for each scalar into pairs; a tensor of one scalar has it twice."""
        values = iter(values)
        for count in self._counts:
            pair = [next(values) for _ in range(count)]
            yield pair[0], pair[-1]

    def _set_inputs(self, inputs):
        for row, pointers in zip(self._rows, self._of_rows(self.pointer(v.data) for v in inputs), strict=True):
            row.a, row.b = pointers

    def forward_impl(self, inputs, outputs):
        self._set_inputs(inputs)
        kbytes, y = self.pointer(self._kbytes, True), self.pointer(outputs[0].data, True)
        for table in self._tables:
            table.kbytes, table.y = kbytes, y
            self.kernels.launch("sizes_forward", 1, ROWS, table)
        self.kernels.launch("join_sizes", 1, 1, self._tables[0])

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        self._set_inputs(inputs)
        gradients = self.gradient_pointers(inputs, propagate_down, accum)
        for row, count, (da, db), (add_da, add_db) in zip(
                self._rows, self._counts, self._of_rows(gradients), self._of_rows(accum), strict=True):
            row.da, row.db, row.add_da, row.add_db = da, db if count > 1 else None, add_da, add_db
        kbytes, dy = self.pointer(self._kbytes), self.pointer(outputs[0].grad)
        for table in self._tables:
            table.kbytes, table.dy = kbytes, dy
            self.kernels.launch("sizes_backward", 1, ROWS, table)


def _table(tensors, first, total, largest):
    table = _Tensors(first=first, count=len(tensors), total=total, largest=largest)
    for row, tensor in zip(table.rows, tensors, strict=False):
        row.bits, row.sign, row.lowest = tensor.bits, tensor.sign, tensor.lowest
        row.kbytes_per_bit = tensor.kbytes_per_bit
        (row.a_lowest, row.a_highest), (row.b_lowest, row.b_highest) = tensor.limits[0], tensor.limits[-1]
    return table


def kbytes(tensors: Sequence[SizedTensor], largest: bool = False) -> nn.Variable | None:
    """Size in kB of all tensors together, or of the `largest` one, of shape (); None where kernels cannot be used.

    Of several largest tensors the first one alone gets a gradient. No two tensors share a scalar: their gradients are
    written at the same time.
    """
    kernels = load(SOURCE)
    if kernels is None:
        return None
    return Sizes(kernels, tensors, largest)(*(scalar for tensor in tensors for scalar in tensor.scalars))
