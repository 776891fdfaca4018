"""What a quantized network has learned, as a table: bits, step size, range and kB of every tensor."""
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nnabla as nn

from common.console.tables import align
from common.machine.files import write_csv, write_json
from common.quantizers import POWER_OF_TWO
from mixed_precision_dnns.config import QuantizationConfig
from mixed_precision_dnns.network_size import FLOAT_BITS, QuantizedTensor, quantized_tensors

COLUMNS = ("tensor", "kind", "quantizer", "elements", "bits", "bits_used", "step_size", "range", "kbytes")
TABLES = "layers.json", "layers.csv"    # files of `write_table`


def tensor_table(cfg: QuantizationConfig) -> list[dict[str, Any]]:
    """Describe every weight, bias and activation tensor of a network that has been built.

    Returns
    -------
    list of dict
        With the keys of `COLUMNS`. `bits` is the width that budgets count, `bits_used` the one that the levels really
        take: one more for some of U2, whose step size is rounded. `step_size` is the distance of two levels, or the
        smallest magnitude of powers of two; `range` the largest level. None where there is none.
    """
    parameters = nn.get_parameters(grad_only=False)
    return [_row(tensor, parameters) for tensor in quantized_tensors(cfg)]


def _row(tensor: QuantizedTensor, parameters: Mapping[str, nn.Variable]) -> dict[str, Any]:
    spec = tensor.spec
    bits, kbytes = tensor.bits(), tensor.kbytes()
    nn.forward_all([bits, kbytes])
    step_size, largest, used = levels_of(tensor, int(bits.d), parameters)
    return dict(zip(COLUMNS, (tensor.name, tensor.kind, spec.quantizer or "float", tensor.numel, int(bits.d), used,
                              step_size, largest, float(kbytes.d)), strict=True))


def levels_of(tensor: QuantizedTensor, bits: int,
              parameters: Mapping[str, nn.Variable]) -> tuple[float | None, float | None, int]:
    """Find the levels of a quantized tensor.

    `bits` are those that `tensor.bits()` gives, `parameters` all those of the network.

    Returns
    -------
    step_size, largest : float
        Distance of two levels, or smallest magnitude of powers of two; largest level. None for floats.
    used : int
        Bits that the levels take.
    """
    spec = tensor.spec
    if spec.quantizer is None:
        return None, None, FLOAT_BITS
    if spec.is_parametric:
        ends = spec.parametrization.range(*tensor.scalars.values(), spec.limits, spec.grid.reserved_bits(spec.sign))
        nn.forward_all(ends)
        low, high = (float(end.d) for end in ends)
    else:
        low, high = spec.fixed_range(_fixed_step_size(tensor, parameters))
    if spec.grid is POWER_OF_TWO:
        return low, high, bits
    levels = math.floor(high / low + 0.5)
    return low, levels * low, max(math.ceil(math.log2(levels + 1)) + spec.sign, spec.bitwidth_min)


def _fixed_step_size(tensor, parameters):
    """Step size of a tensor without scalars: its own, that of the sums that it is added to, or the configured one."""
    step = parameters.get(f"{tensor.name}quant/step")
    if step is not None:
        return float(step.d)
    stored = parameters.get(f"{tensor.name}_q")
    return tensor.spec.stepsize if stored is None else stored.info.step_size


def mean_bits(rows: Sequence[dict[str, Any]], kinds: Sequence[str]) -> float:
    """Mean bits per element over the rows of some kinds."""
    rows = [row for row in rows if row["kind"] in kinds]
    return sum(row["bits"] * row["elements"] for row in rows) / sum(row["elements"] for row in rows)


def write_table(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the table to `TABLES` in `folder`."""
    as_json, as_csv = (folder / name for name in TABLES)
    write_json(as_json, rows)
    write_csv(as_csv, COLUMNS, [row.values() for row in rows])


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """Format the table for a terminal."""
    def cell(value):
        return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)

    header = [column for column in COLUMNS if column not in ("quantizer", "bits_used")]
    return align([header, *([cell(row[column]) for column in header] for row in rows)], left=2)
