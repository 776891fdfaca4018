"""Layers with nnabla's parameter names, on the fastest functions that the current context has."""
from common.layers.basic import (
    affine,
    average,
    batch_normalization,
    convolution,
    feature_normalization,
    relu,
    scale_shift,
    tanh,
    thin_out,
)

__all__ = [
    "affine",
    "average",
    "batch_normalization",
    "convolution",
    "feature_normalization",
    "relu",
    "scale_shift",
    "tanh",
    "thin_out",
]
