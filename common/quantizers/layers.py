"""Layers whose weights and activations are quantized, with the parameter names of the published code.

Beside a weight `W` stand, where weights are quantized, `W_q` with its quantized values and the scalars of its quantizer
in `Wquant/<quantizer>/`; likewise `b_q` and `bquant/` beside a bias `b`. An activation has its number of elements per
sample in `Asize` and its scalars in `Aquant/<quantizer>/`. What is added to sums of products of integers, `b` or
another name, has `b_q` and the step size of those sums in `bquant/step`.
"""
import functools
import math
import types

import attrs
import nnabla as nn
import nnabla.functions as F
import numpy as np
from nnabla.initializer import ConstantInitializer, UniformInitializer, calc_uniform_lim_glorot
from nnabla.parameter import get_parameter, get_parameter_or_create

from common.layers import basic as layers
from common.quantizers import (
    DEFAULT_LIMITS,
    QUANTIZERS,
    STATIC_QUANTIZERS,
    UNIFORM,
    Grid,
    Limits,
    Quantizer,
    grid_of,
    parametric_quantize,
    quantize_uniform,
)

SUM_BITS = 24    # of integers that are added to sums of products; float32 holds all sums of two such integers
LIMIT_MARGIN = 1e-5    # distance that scalars keep from their limits, where they would get no gradient


@attrs.frozen(kw_only=True)
class Quantization:
    """How the weights, or the activations, of a network are quantized: names, first values and limits of the scalars.

    `quantizer` is an entry of `QUANTIZERS` or `STATIC_QUANTIZERS`, or None for float. `sign` is true for weights and
    false for activations, whose quantizer takes the place of ReLU. `recompute_step_size` derives the step size of a
    static quantizer anew from the weights whenever a graph is built, as the published code does, instead of keeping it.
    """

    quantizer: str | None
    sign: bool
    bitwidth: int
    bitwidth_min: int
    bitwidth_max: int
    stepsize: float
    stepsize_min: float
    stepsize_max: float
    xmin_min: float
    xmin_max: float
    xmax_min: float
    xmax_max: float
    recompute_step_size: bool = False

    @functools.cached_property
    def limits(self) -> Limits:
        """(lowest, highest) value of each scalar, as the functions of `common.quantizers` take them.

        The published quantizers let the xmin of activations go up to the highest xmax. Its first value, and its value
        after each step, is clipped to the highest xmin there, too, so that both limits give the same numbers.
        """
        return {**DEFAULT_LIMITS, "n": (self.bitwidth_min, self.bitwidth_max),
                "d": (self.stepsize_min, self.stepsize_max), "xmin": (self.xmin_min, self.xmin_max),
                "xmax": (self.xmax_min, self.xmax_max)}

    @property
    def is_parametric(self) -> bool:
        """Whether scalars are learned."""
        return self.quantizer in QUANTIZERS

    @property
    def parametrization(self) -> Quantizer:
        """Row of the quantizer in `QUANTIZERS`; only if it is there."""
        assert self.quantizer is not None
        return QUANTIZERS[self.quantizer]

    @property
    def grid(self) -> Grid:
        """What the levels lie on; there is none without a quantizer."""
        assert self.quantizer is not None
        return grid_of(self.quantizer)

    def initial(self, step_size: float) -> dict[str, float]:
        """First values of the scalars of a quantizer that starts with `step_size` and `bitwidth` bits."""
        first = self.grid.scalars_for(step_size, self.bitwidth, self.sign)
        if self.grid is UNIFORM:
            return first
        return first | {name: float(np.clip(first[name], self.limits[name][0] + LIMIT_MARGIN,
                                            self.limits[name][1] - LIMIT_MARGIN)) for name in ("xmin", "xmax")}

    def fixed_range(self, step_size: float) -> tuple[float, float]:
        """Smallest and largest magnitude of a quantizer without scalars that starts with `step_size`.

        Powers of two move so that the largest is the one nearest to the first value of xmax, which is within its
        limits.
        """
        smallest, largest = self.grid.range_for(step_size, self.bitwidth, self.sign)
        if self.grid is UNIFORM:
            return smallest, largest
        within = 2.0 ** round(math.log2(self.initial(step_size)["xmax"]))
        return smallest * (within / largest), within

    def quantize(self, x: nn.Variable, step_size: float, scope: str) -> nn.Variable:
        """Quantize `x`; scalars that do not exist yet are made in `scope`, starting from `step_size`."""
        assert self.quantizer is not None
        if not self.is_parametric:
            return STATIC_QUANTIZERS[self.quantizer].quantize(x, *self.fixed_range(step_size), self.bitwidth, self.sign)
        with nn.parameter_scope(scope):
            return parametric_quantize(self.quantizer, x, self.initial(step_size), limits=self.limits,
                                       **self.grid.settings(self.sign))

    def smallest(self, name: str) -> nn.Variable:
        """Step size, or smallest magnitude, of what has been quantized in the current scope, an `nn.Variable` ().

        `name` is that of a parameter, or A for activations. All levels are multiples of it.
        """
        if not self.is_parametric:
            stored = get_parameter(f"{name}_q")
            step_size = self.stepsize if stored is None else stored.info.step_size
            return F.constant(self.fixed_range(step_size)[0], ())
        scalars = [get_parameter(f"{name}quant/{self.quantizer}/{scalar}") for scalar in self.parametrization.scalars]
        return self.parametrization.range(*scalars, self.limits, self.grid.reserved_bits(self.sign))[0]


def step_size_for(weights: np.ndarray, bitwidth: int) -> float:
    """Power of two that spreads the levels of `bitwidth` bits over an array of weights.

    2^floor(log2 v) up to 4 bits, 2^ceil(log2 v) above, where v = max |W| / (2^(bitwidth - 1) - 1).
    """
    v = (np.abs(weights).max() + np.finfo(np.float32).eps) / (2 ** (bitwidth - 1) - 1)
    return float(2.0 ** (np.floor if bitwidth <= 4 else np.ceil)(np.log2(v)))


def _weight_step_size(existing, spec):
    """First step size of a weight tensor: from weights that were loaded before the graph is built, or as configured."""
    return spec.stepsize if existing is None else step_size_for(existing.d, spec.bitwidth)


def quantized_parameter(w: nn.Variable, name: str, step_size: float, spec: Quantization) -> nn.Variable:
    """Quantize the variable `w`, a parameter or made of some, into the parameter `<name>_q`.

    `step_size` is the first one, or that of a fixed quantizer unless the parameter has one already.
    """
    stored = get_parameter_or_create(f"{name}_q", w.shape, ConstantInitializer(0), need_grad=False)
    if not spec.is_parametric:
        step_size = _kept_step_size(f"{name}_q", step_size, spec)
    return _written_to(stored, spec.quantize(w, step_size, f"{name}quant"))


def _written_to(parameter, variable):
    """Let every graph write its values into the one parameter, so that a saved `W_q` is never of another graph."""
    variable.data = parameter.data
    variable.persistent = True
    return variable


def on_grid_of_sums(b: nn.Variable, name: str, step: nn.Variable) -> nn.Variable:
    """Round `b`, which is added to sums of products of integers, to multiples of their step size.

    Parameters
    ----------
    b : nn.Variable, any shape
        A parameter, or made of some.
    name
        The result is stored as `<name>_q`, the step size as `<name>quant/step`.
    step : nn.Variable ()
        Product of the step sizes of the two factors.

    Returns
    -------
    nn.Variable, shape of `b`
        Integers of `SUM_BITS` bits times `step`. Gradients as those of `quantize_uniform`.
    """
    stored = get_parameter_or_create(f"{name}_q", b.shape, ConstantInitializer(0), need_grad=False)
    kept = get_parameter_or_create(f"{name}quant/step", (), ConstantInitializer(1), need_grad=False)
    step = _written_to(kept, F.identity(step))
    return _written_to(stored, quantize_uniform(b, step, step * (2 ** (SUM_BITS - 1) - 1)))


def _kept_step_size(name, step_size, spec):
    """Remember the static step size of a tensor with its parameter, so that all graphs and later runs use the same.

    Weight files keep it as the HDF5 attribute `step_size` (see `common.runs.checkpoint`).
    """
    parameter = get_parameter(name)
    assert parameter is not None
    if spec.recompute_step_size or not hasattr(parameter.info, "step_size"):
        parameter.info = types.SimpleNamespace(step_size=step_size)
    return parameter.info.step_size


def quantized_convolution(x: nn.Variable, outmaps: int, kernel: int, spec: Quantization, pad: int = 0, stride: int = 1,
                          group: int = 1, name: str = "quantized_conv") -> nn.Variable:
    """Convolve `x` with quantized square kernels, without bias.

    `x` is (batch, channels, height, width), the result (batch, outmaps, out_height, out_width). `kernel` is the side of
    the kernels in pixels, `group` the number of parts of the channels that are convolved on their own, `name` the
    parameter scope.
    """
    inmaps = x.shape[1] // group
    shape = (outmaps, inmaps, kernel, kernel)
    with nn.parameter_scope(name):
        existing = get_parameter("W")
        limits = calc_uniform_lim_glorot(inmaps, outmaps // group, (kernel, kernel))
        w = get_parameter_or_create("W", shape, UniformInitializer(limits), True)
        if spec.quantizer is not None:
            w = quantized_parameter(w, "W", _weight_step_size(existing, spec), spec)
    if group > 1:
        return F.convolution(x, w, pad=(pad, pad), stride=(stride, stride), group=group)
    return layers.convolution(x, w, pad=pad, stride=stride, in_order=True)


def quantized_affine(x: nn.Variable, outmaps: int, spec: Quantization, name: str = "quantized_affine",
                     step: nn.Variable | None = None) -> nn.Variable:
    """Multiply `x` by a quantized matrix and add a quantized bias; both start uniform in +-1/sqrt(features).

    `x` is (batch, features), where several dimensions of features count as one; the result is (batch, outmaps). The
    quantizer of the bias starts from the step size of the matrix. If `x` consists of multiples of a `step` (), the bias
    has no quantizer of its own, but lies on the grid of the sums. `name` is the parameter scope.
    """
    features = x.size // x.shape[0]
    initializer = UniformInitializer((-features ** -0.5, features ** -0.5))
    with nn.parameter_scope(name):
        existing = get_parameter("W")
        parameters = {key: get_parameter_or_create(key, shape, initializer, True)
                      for key, shape in (("W", (features, outmaps)), ("b", (outmaps,)))}
        if spec.quantizer is None:
            return F.affine(x, parameters["W"], parameters["b"])
        step_size = _weight_step_size(existing, spec)
        w = quantized_parameter(parameters["W"], "W", step_size, spec)
        b = (quantized_parameter(parameters["b"], "b", step_size, spec) if step is None else
             on_grid_of_sums(parameters["b"], "b", step * spec.smallest("W")))
    return F.affine(x, w, b)


def quantized_activation(x: nn.Variable, spec: Quantization, shortcut: nn.Variable | None = None) -> nn.Variable:
    """Quantize activations (batch, ...), by ReLU alone where `spec` names no quantizer.

    A `shortcut` of the same shape is added first.
    """
    _record_size(x)
    if spec.quantizer is None:
        return layers.relu(x, shortcut)
    return spec.quantize(x if shortcut is None else x + shortcut, spec.stepsize, "Aquant")


def normalized_activation(x: nn.Variable, spec: Quantization, train: bool) -> nn.Variable:
    """Batch normalization of (batch, channels, height, width), see `common.layers`, and `quantized_activation`."""
    if spec.quantizer is not None:
        return quantized_activation(layers.batch_normalization(x, train), spec)
    y = layers.batch_normalization(x, train, rectify=True)
    _record_size(y)
    return y


def _record_size(x):
    """Note the elements of a sample, those of the graph that is built last where images have several sizes."""
    size = get_parameter_or_create("Asize", (), ConstantInitializer(0), need_grad=False)
    size.d = x.size // x.shape[0]
