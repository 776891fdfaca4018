"""Memory of a network in kB of 1024 bytes, as nnabla variables that a loss can limit (section 3 of the paper)."""
from collections.abc import Mapping

import attrs
import nnabla as nn
import nnabla.functions as F

from common.gpu.sizes import SizedTensor, kbytes
from common.quantizers.layers import Quantization
from mixed_precision_dnns.config import (
    QuantizationConfig,
    activation_quantization,
    scale_quantization,
    sum_quantization,
    value_quantizations,
    weight_quantization,
)

BITS_PER_KB = 8 * 1024
FLOAT_BITS = 32
STORED = ("weights", "bias", "scales")    # kinds of tensors that are parts of a network
RESULTS = ("activations", "values")    # kinds of tensors that layers make of an image


@attrs.frozen
class QuantizedTensor:
    """A tensor with a quantizer of its own: a weight, a bias, or an activation of one sample.

    `kind` is "weights", "bias" or "activations", or where nothing is float "scales" (of normalizations) or "values"
    (which are no activations). `name` is its parameter, for activations and values the scope it stands in; `scalars`
    are the quantizer's by name, none where the quantizer is fixed or absent.
    """

    name: str
    kind: str
    numel: int
    spec: Quantization
    scalars: dict[str, nn.Variable]

    @property
    def is_stored(self) -> bool:
        """Whether it is a part of the network, and no result of a layer."""
        return self.kind in STORED

    def bits(self) -> nn.Variable:
        """Bits per element, an `nn.Variable` () that passes gradients to the scalars."""
        spec = self.spec
        if not spec.is_parametric:
            return F.constant(FLOAT_BITS if spec.quantizer is None else spec.bitwidth, ())
        return spec.parametrization.bits(self.scalars, spec.limits, spec.sign, spec.bitwidth_min)

    def least_bits(self) -> int:
        """Bits per element below which no training comes."""
        spec = self.spec
        if spec.is_parametric:
            return spec.bitwidth_min
        return FLOAT_BITS if spec.quantizer is None else spec.bitwidth

    def kbytes(self) -> nn.Variable:
        """Size in kB, an `nn.Variable` ()."""
        return self.bits() * (self.numel / BITS_PER_KB)


# Leaf of the parameter that stands for a tensor -> kind, and scope of its quantizer beside it.
_LEAVES = {"/W": ("weights", "Wquant"), "/b": ("bias", "bquant"), "/Asize": ("activations", "Aquant")}
# Of a normalization in integers: its quantized scale and shift, which are made of other parameters.
_INTEGER_LEAVES = {"/scale_q": "scales", "/shift_q": "bias"}


def quantized_tensors(cfg: QuantizationConfig,
                      parameters: Mapping[str, nn.Variable] | None = None) -> list[QuantizedTensor]:
    """List the tensors of a network in the order of its parameters.

    `parameters` are all those of a network that has been built; those of the current scope if not given.

    Raises
    ------
    ValueError
        A weight, bias or activation has no quantizer as `cfg` has it: it is of another network.
    """
    parameters = nn.get_parameters(grad_only=False) if parameters is None else parameters
    tensors = []
    for name, parameter in parameters.items():
        for leaf, (kind, scope) in _LEAVES.items():
            if name.endswith(leaf):
                owner = name.removesuffix(leaf)
                spec, kind = _quantization_of(cfg, owner, kind)
                numel = parameter.size if kind in STORED else int(parameter.d)
                shown = owner + leaf if kind in STORED else owner
                tensors.append(_tensor(shown, kind, numel, spec, f"{owner}/{scope}", parameters))
        for leaf, kind in _INTEGER_LEAVES.items():
            if name.endswith(leaf):
                shown = name.removesuffix("_q")
                spec = scale_quantization(cfg) if kind == "scales" else sum_quantization(cfg)
                tensors.append(_tensor(shown, kind, parameter.size, spec, f"{shown}quant", parameters))
    return tensors


def _quantization_of(cfg, owner, kind):
    """Quantization and kind of a tensor in the scope `owner`."""
    if kind != "activations":
        is_sum = cfg.all_integer and kind == "bias"
        return sum_quantization(cfg) if is_sum else weight_quantization(cfg), kind
    values = value_quantizations(cfg).get(owner.rsplit("/", 1)[-1]) if cfg.all_integer else None
    return (activation_quantization(cfg), kind) if values is None else (values, "values")


def _tensor(name, kind, numel, spec, scope, parameters):
    names = spec.parametrization.scalars if spec.is_parametric else ()
    scalars = {key: f"{scope}/{spec.quantizer}/{key}" for key in names}
    for full in scalars.values():
        if full not in parameters:
            raise ValueError(f"{name} has no {full}: give `parameters` of a network that was built as `cfg` says, and "
                             "of no other")
    return QuantizedTensor(name, kind, numel, spec, {key: parameters[full] for key, full in scalars.items()})


def weight_kbytes(cfg: QuantizationConfig, parameters: Mapping[str, nn.Variable] | None = None) -> nn.Variable:
    """Size of all weights and biases of a network that has been built.

    Those of batch normalization count where they are integers, not where they are float.

    The result is an `nn.Variable` () in kB. `parameters` and errors are as for `quantized_tensors`; it is a ValueError,
    too, if there is no such tensor.
    """
    return _total([t for t in quantized_tensors(cfg, parameters) if t.is_stored])


def least_kbytes(cfg: QuantizationConfig) -> tuple[float, float]:
    """Sizes in kB below which no training comes: of all weights, and of activations as `cfg` has them limited."""
    least = [(tensor, tensor.least_bits() * tensor.numel / BITS_PER_KB) for tensor in quantized_tensors(cfg)]
    combined = max if cfg.target_activation_type == "max" else sum
    return (sum(size for tensor, size in least if tensor.is_stored),
            combined(size for tensor, size in least if not tensor.is_stored))


def _total(tensors, largest=False):
    """Size of all tensors, or of the largest one."""
    if not tensors:
        raise ValueError("there are no tensors of a network among the parameters: build it first")
    size = _in_one_kernel(tensors, largest)
    if size is not None:
        return size
    sizes = [tensor.kbytes() for tensor in tensors]
    return F.max(F.stack(*sizes)) if largest else F.add_n(*sizes)


def _in_one_kernel(tensors, largest):
    """The same by one function on a GPU; None where that cannot be, as for several quantizers."""
    spec = tensors[0].spec
    alike = all(tensor.spec == spec for tensor in tensors)
    found = spec.parametrization.bits_in_kernel if spec.is_parametric and alike else None
    if found is None:
        return None
    bits, names = found
    return kbytes([SizedTensor(
        bits=bits, scalars=[tensor.scalars[name] for name in names], limits=[spec.limits[name] for name in names],
        sign=spec.sign, lowest=spec.bitwidth_min, kbytes_per_bit=tensor.numel / BITS_PER_KB) for tensor in tensors],
        largest)


def activation_kbytes(cfg: QuantizationConfig, kind: str | None = None,
                      parameters: Mapping[str, nn.Variable] | None = None) -> nn.Variable:
    """Size of the activations of one image in a network that has been built.

    Parameters
    ----------
    cfg, parameters
        As for `quantized_tensors`.
    kind
        "max" for the largest tensor, "sum" for all together; `cfg.target_activation_type` if not given. Of several
        largest tensors the first one alone gets a gradient.

    Returns
    -------
    nn.Variable (), in kB

    Raises
    ------
    ValueError
        `kind` is neither; otherwise as `weight_kbytes`.
    """
    kind = kind or cfg.target_activation_type
    if kind not in ("max", "sum"):
        raise ValueError(f"kind must be 'max' or 'sum', got {kind!r}")
    return _total([t for t in quantized_tensors(cfg, parameters) if not t.is_stored], largest=kind == "max")
