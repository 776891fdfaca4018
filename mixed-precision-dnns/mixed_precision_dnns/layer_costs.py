"""What the layers of a network cost: bits, kB, multiplications and bit operations."""
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import attrs
import nnabla as nn

from common.console.tables import align
from common.machine.context import native_functions
from mixed_precision_dnns.config import Experiment, without_quantizers
from mixed_precision_dnns.network_size import BITS_PER_KB, FLOAT_BITS, quantized_tensors
from mixed_precision_dnns.quantized_network import build_logits

COLUMNS = ("layer", "weights", "bits", "kbytes", "macs", "input_bits", "bit_operations")
# Functions that leave values on the levels of their quantizer.
_KEEPING = ("MaxPooling", "MinimumScalar", "Reshape", "Identity")


@attrs.frozen
class Layer:
    """A convolution or the last layer: multiply-accumulates for one image, and where its input comes from.

    `source` is the number of the activation tensor that it reads, None if that is the image or another float tensor.
    """

    macs: int
    source: int | None


def trace_layers(cfg: Experiment, image_shape: tuple[int, ...], num_classes: int) -> list[Layer]:
    """List the layers of a network in the order of their weights.

    `image_shape` is (channels, height, width).
    """
    # In the float network each quantizer is a single function, a ReLU.
    with native_functions(), nn.parameter_scope("scratch", OrderedDict()):
        logits = build_logits(nn.Variable((1, *image_shape)), num_classes, without_quantizers(cfg), test=True)
    functions = {}
    logits.visit(functions.setdefault)
    layers, source, num_activations = [], {}, 0    # source: variable -> number of the activation tensor in it
    for function in functions:
        kind, y = function.info.type_name, function.outputs[0]
        if kind in ("Convolution", "Affine"):
            weights = function.inputs[1]
            terms = math.prod(weights.shape[1:]) if kind == "Convolution" else weights.shape[0]
            layers.append(Layer(y.size * terms, source.get(function.inputs[0])))
        elif kind == "ReLU":
            source[y] = num_activations
            num_activations += 1
        elif kind in _KEEPING:
            source[y] = source.get(function.inputs[0])
    return layers


def cost_table(cfg: Experiment, layers: Sequence[Layer],
               activation_bits: int | None = None) -> list[dict[str, Any]]:
    """Describe the layers of a network that has been built in the current parameter scope.

    `layers` are those of `trace_layers`. `activation_bits` replaces the bits of all activation tensors.

    Returns
    -------
    list of dict
        With the keys of `COLUMNS`. `weights` counts the bias, too, and a normalization in integers; `kbytes` has all;
        `bits` are those of a weight, `input_bits` those of the values that they meet, 32 for floats. `bit_operations`
        is the product of `macs` and the two: a multiplication of b by c bits takes about b c additions of bits.
    """
    tensors = quantized_tensors(cfg)
    bits = {tensor.name: _value(tensor.bits()) for tensor in tensors}
    weights = [tensor for tensor in tensors if tensor.kind == "weights"]
    stored = {tensor.name: tensor for tensor in tensors if tensor.is_stored}
    activations = [activation_bits or bits[tensor.name] for tensor in tensors if tensor.kind == "activations"]
    image, mean = (bits.get(name, FLOAT_BITS) for name in ("image", "fc/mean"))
    rows = []
    for tensor, layer in zip(weights, layers, strict=True):
        scope = tensor.name.removesuffix("/W")
        name = scope.rsplit("/", 1)[0]
        parts = [stored[part] for part in (tensor.name, f"{scope}/b", f"{name}/bn/scale", f"{name}/bn/shift")
                 if part in stored]
        others = mean if layer is layers[-1] else image
        input_bits = others if layer.source is None else activations[layer.source]
        kbytes = sum(part.numel * bits[part.name] for part in parts) / BITS_PER_KB
        rows.append(dict(zip(COLUMNS, (name, sum(part.numel for part in parts), bits[tensor.name],
                                       kbytes, layer.macs, input_bits, layer.macs * bits[tensor.name] * input_bits),
                             strict=True)))
    return rows


def _value(bits):
    bits.forward()
    return int(bits.d)


def totals(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sums over the rows, with the mean bits per weight and per multiplication."""
    sums = {column: sum(row[column] for row in rows) for column in ("weights", "kbytes", "macs", "bit_operations")}
    mean = {"bits": sum(row["bits"] * row["weights"] for row in rows) / sums["weights"],
            "input_bits": sum(row["input_bits"] * row["macs"] for row in rows) / sums["macs"]}
    return {"layer": "all", **sums, **mean}


def format_costs(rows: Sequence[dict[str, Any]]) -> str:
    """Format the table and its totals for a terminal; multiplications in millions, bit operations in billions."""
    def cells(row):
        return (row["layer"], f"{row['weights']:d}", f"{row['bits']:.3g}", f"{row['kbytes']:.2f}",
                f"{row['macs'] / 1e6:.2f}", f"{row['input_bits']:.3g}", f"{row['bit_operations'] / 1e9:.2f}")

    header = ("layer", "weights", "bits", "kB", "MACs [10^6]", "input bits", "bit operations [10^9]")
    return align([header, *map(cells, rows), cells(totals(rows))])
