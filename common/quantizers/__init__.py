"""Quantizers whose step size, range and bit width are learned (arXiv 1905.11452), and layers made of them."""
from common.cpu.powers_of_two import log2, to_power_of_two
from common.quantizers.grids import (
    DEFAULT_LIMITS,
    GRIDS,
    POWER_OF_TWO,
    SCALARS,
    UNIFORM,
    Grid,
    Limits,
    clip,
    compose_pow2,
    compose_uniform,
    quantize_pow2,
    quantize_uniform,
)
from common.quantizers.parametrizations import (
    QUANTIZER_NAMES,
    QUANTIZERS,
    STATIC_QUANTIZERS,
    Quantizer,
    StaticQuantizer,
    fixed_point_quantize_b_xmax,
    fixed_point_quantize_d_b,
    fixed_point_quantize_d_xmax,
    grid_of,
    parametric_fixed_point_quantize_b_xmax,
    parametric_fixed_point_quantize_d_b,
    parametric_fixed_point_quantize_d_xmax,
    parametric_pow2_quantize_b_xmax,
    parametric_pow2_quantize_b_xmin,
    parametric_pow2_quantize_xmin_xmax,
    parametric_quantize,
    pow2_quantize_b_xmax,
    pow2_quantize_b_xmin,
    pow2_quantize_xmin_xmax,
    range_quantizer,
)

__all__ = [
    "DEFAULT_LIMITS", "GRIDS", "Grid", "Limits", "POWER_OF_TWO", "QUANTIZERS", "QUANTIZER_NAMES", "Quantizer",
    "SCALARS", "STATIC_QUANTIZERS", "StaticQuantizer", "UNIFORM", "clip", "compose_pow2", "compose_uniform",
    "fixed_point_quantize_b_xmax", "fixed_point_quantize_d_b", "fixed_point_quantize_d_xmax", "grid_of", "log2",
    "parametric_fixed_point_quantize_b_xmax", "parametric_fixed_point_quantize_d_b",
    "parametric_fixed_point_quantize_d_xmax", "parametric_pow2_quantize_b_xmax", "parametric_pow2_quantize_b_xmin",
    "parametric_pow2_quantize_xmin_xmax", "parametric_quantize", "pow2_quantize_b_xmax", "pow2_quantize_b_xmin",
    "pow2_quantize_xmin_xmax", "quantize_pow2", "quantize_uniform", "range_quantizer", "to_power_of_two",
]
