"""Quantizers of one pass on a GPU, and the limits of their scalars kept there: the host reads no value.

`kernels/quantizers.cu` has the arithmetic; the structures here are those there.
"""
import ctypes
import enum
from collections.abc import Sequence

import attrs
import nnabla as nn
import numpy as np

from common.gpu.functions import DeviceFunction
from common.gpu.loading import Kernels, load

SOURCE = "quantizers.cu"
BLOCK = 256    # threads
_PER_THREAD, _MOST_BLOCKS = 4, 1024    # elements, and blocks of the largest tensors: fixed, as sums depend on them
ROWS = 56    # scalars of so many quantizers in one launch


class Kind(enum.IntEnum):
    """How two scalars describe the smallest magnitude, or the step size, and the largest one of a quantizer."""

    GIVEN = 0
    D_XMAX = 1
    D_N = 2
    N_XMAX = 3
    XMIN_XMAX = 4
    POW2_N_XMAX = 5
    POW2_N_XMIN = 6


@attrs.frozen(kw_only=True)
class Settings:
    """What a quantizer is, but for its scalars a and b.

    `limits` are (lowest, highest) of a and of b; `reserved` counts the bits for sign and zero; `pow2`: the levels are
    powers of two.
    """

    kind: Kind
    pow2: bool
    sign: bool
    with_zero: bool = False
    reserved: int = 0
    limits: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 0.0), (0.0, 0.0))


class _Quantizer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "a", "b", "y", "dy", "dx", "da", "db", "sums")),
        ("size", ctypes.c_uint64),
        *((name, ctypes.c_float) for name in ("a_lowest", "a_highest", "b_lowest", "b_highest")),
        *((name, ctypes.c_int) for name in ("kind", "reserved", "pow2", "sign", "with_zero", "add_dx", "add_da",
                                            "add_db", "blocks")),
    ]


class Quantize(DeviceFunction):
    """Inputs x and two scalars a and b, of shape (); output of the shape of x. Arrays stay on the GPU, uncopied."""

    def __init__(self, kernels: Kernels, settings: Settings) -> None:
        super().__init__(kernels)
        (a_lowest, a_highest), (b_lowest, b_highest) = settings.limits
        self._argument = _Quantizer(
            kind=settings.kind, reserved=settings.reserved, pow2=settings.pow2, sign=settings.sign,
            with_zero=settings.with_zero, a_lowest=a_lowest, a_highest=a_highest, b_lowest=b_lowest,
            b_highest=b_highest)

    def setup_impl(self, inputs, outputs):
        outputs[0].reset_shape(inputs[0].shape, True)
        size = inputs[0].size
        self._argument.size = size
        self._argument.blocks = max(1, min(-(-size // (BLOCK * _PER_THREAD)), _MOST_BLOCKS))
        self._sums = nn.NdArray((2, self._argument.blocks))

    def _set_inputs(self, inputs):
        self._argument.x, self._argument.a, self._argument.b = (self.pointer(v.data) for v in inputs)

    def forward_impl(self, inputs, outputs):
        self._set_inputs(inputs)
        self._argument.y = self.pointer(outputs[0].data, True)
        self.kernels.launch("quantize_forward", self._argument.blocks, BLOCK, self._argument)

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        self._set_inputs(inputs)
        self._argument.dy = self.pointer(outputs[0].grad)
        self._argument.sums = self.pointer(self._sums, True)
        gradients = self.gradient_pointers(inputs, propagate_down, accum)
        self._argument.dx, self._argument.da, self._argument.db = gradients
        self._argument.add_dx, self._argument.add_da, self._argument.add_db = accum
        self.kernels.launch("quantize_backward", self._argument.blocks, BLOCK, self._argument)
        if any(propagate_down[1:]):
            self.kernels.launch("finish_backward", 1, BLOCK, self._argument)


def quantize(x: nn.Variable, a: nn.Variable, b: nn.Variable, settings: Settings) -> nn.Variable | None:
    """Quantize `x` by the scalars `a` and `b` on the current GPU; None where its kernels cannot be used."""
    kernels = load(SOURCE)
    return None if kernels is None else Quantize(kernels, settings)(x, a, b)


# Limits ---------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Pair:
    """The two scalars of a quantizer with what they are kept within, (lowest, highest), in the order of `scalars`.

    `is_range`: they are the ends of a range, the first below the second.
    """

    scalars: Sequence[nn.Variable]
    limits: Sequence[tuple[float, float]]
    is_range: bool


class _Pair(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("a", "b", "da", "db")),
        *((name, ctypes.c_double) for name in ("a_lowest", "a_highest", "b_lowest", "b_highest")),
        ("is_range", ctypes.c_int), ("unused", ctypes.c_int),
    ]


class _Pairs(ctypes.Structure):
    _fields_ = [("rows", _Pair * ROWS), ("margin", ctypes.c_double), ("count", ctypes.c_int), ("unused", ctypes.c_int)]


def clip_values(kernels: Kernels, pairs: Sequence[Pair], margin: float) -> None:
    """Keep ranges in order, `margin` apart, and all scalars within their limits, in a launch for 56 quantizers."""
    _launch(kernels, "clip_values", pairs, margin)


def clip_gradients(kernels: Kernels, pairs: Sequence[Pair]) -> None:
    """Bound the gradients of both ends of a range by its smallest value."""
    _launch(kernels, "clip_gradients", [pair for pair in pairs if pair.is_range], 0.0)


def _launch(kernels, name, pairs, margin):
    context, with_gradients = nn.get_current_context(), name == "clip_gradients"
    for start in range(0, len(pairs), ROWS):
        table = _Pairs(margin=margin, count=len(pairs[start:start + ROWS]))
        for row, pair in zip(table.rows, pairs[start:start + ROWS], strict=False):
            row.a, row.b = (scalar.data.data_ptr(np.float32, context) for scalar in pair.scalars)
            if with_gradients:
                row.da, row.db = (scalar.grad.data_ptr(np.float32, context) for scalar in pair.scalars)
            (row.a_lowest, row.a_highest), (row.b_lowest, row.b_highest) = pair.limits
            row.is_range = pair.is_range
        kernels.launch(name, 1, ROWS, table)
