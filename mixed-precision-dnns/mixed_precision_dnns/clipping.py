"""Clipping of the learned scalars of quantizers, whose limits the solver does not know.

On a GPU one kernel clips them all where they are. Read and written by the host, each would be a reason to wait.
"""
from collections.abc import Sequence

import numpy as np

from common.gpu import quantizers as gpu
from common.quantizers.layers import LIMIT_MARGIN
from mixed_precision_dnns.config import QuantizationConfig
from mixed_precision_dnns.network_size import QuantizedTensor, quantized_tensors


def learned_tensors(cfg: QuantizationConfig) -> list[QuantizedTensor]:
    """Quantized tensors of the current scope whose scalars are learned."""
    return [tensor for tensor in quantized_tensors(cfg) if tensor.scalars]


def clip_gradients(tensors: Sequence[QuantizedTensor]) -> None:
    """Keep a step from changing a range by more than its smallest value, d or xmin.

    For the parametrizations by a range alone; the others have bounded bit widths.
    """
    kernels = gpu.load(gpu.SOURCE)
    if kernels is not None:
        gpu.clip_gradients(kernels, _pairs(tensors))
        return
    for tensor in tensors:
        if tensor.spec.parametrization.is_range:
            smallest, xmax = tensor.scalars.values()
            bound = np.abs(smallest.d)
            for scalar in (smallest, xmax):
                scalar.g = np.clip(scalar.g, -bound, bound)


def clip_values(tensors: Sequence[QuantizedTensor]) -> None:
    """Keep ranges in order, and all scalars strictly inside their limits: at a limit they would get no gradient."""
    kernels = gpu.load(gpu.SOURCE)
    if kernels is not None:
        gpu.clip_values(kernels, _pairs(tensors), LIMIT_MARGIN)
        return
    for tensor in tensors:
        if tensor.spec.parametrization.is_range:
            smallest, xmax = tensor.scalars.values()
            low, high = float(smallest.d), float(xmax.d)
            smallest.d, xmax.d = min(low, high - LIMIT_MARGIN), max(high, low + LIMIT_MARGIN)
        for name, scalar in tensor.scalars.items():
            lowest, highest = tensor.spec.limits[name]
            scalar.d = min(max(float(scalar.d), lowest + LIMIT_MARGIN), highest - LIMIT_MARGIN)


def _pairs(tensors):
    """The scalars of tensors and their limits, less the margin, as a kernel takes them."""
    return [gpu.Pair(tuple(tensor.scalars.values()), [
        (lowest + LIMIT_MARGIN, highest - LIMIT_MARGIN) for lowest, highest in
        (tensor.spec.limits[name] for name in tensor.scalars)], tensor.spec.parametrization.is_range)
        for tensor in tensors]
