"""Layers with nnabla's parameter names, on the fastest functions that the current context has."""
from common.layers.basic import (
    affine,
    average,
    batch_normalization,
    convolution,
    feature_normalization,
    normalization_terms,
    relu,
    scale_shift,
    scale_shift_channels,
    tanh,
    thin_out,
)

__all__ = [
    "affine",
    "average",
    "batch_normalization",
    "convolution",
    "feature_normalization",
    "normalization_terms",
    "relu",
    "scale_shift",
    "scale_shift_channels",
    "tanh",
    "thin_out",
]
