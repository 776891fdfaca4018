"""What a quantized network has learned, as a table: bits, step size, range and kB of every tensor."""
import math

import nnabla as nn

from common.console.tables import align
from common.machine.files import write_csv, write_json
from common.quantizers import QUANTIZERS
from mixed_precision_dnns.network import top_errors
from mixed_precision_dnns.network_size import FLOAT_BITS, activation_kbytes, quantized_tensors

COLUMNS = ("tensor", "kind", "quantizer", "elements", "bits", "bits_used", "step_size", "range", "kbytes")


def layer_table(cfg):
    """Describe every weight, bias and activation tensor of a network that has been built.

    Parameters
    ----------
    cfg : mixed_precision_dnns.config.Config

    Returns
    -------
    list of dict
        With the keys of `COLUMNS`. `bits` is the width that budgets count, `bits_used` the one that the levels really
        take: one more for some of U2, whose step size is rounded. `step_size` is the distance of two levels, or the
        smallest magnitude of powers of two; `range` the largest level. None where there is none.
    """
    parameters = nn.get_parameters(grad_only=False)
    return [_row(tensor, parameters) for tensor in quantized_tensors(cfg)]


def _row(tensor, parameters):
    spec = tensor.spec
    bits, kbytes = tensor.bits(), tensor.kbytes()
    nn.forward_all([bits, kbytes])
    step_size, largest, used = levels_of(tensor, int(bits.d), parameters)
    return dict(zip(COLUMNS, (tensor.name, tensor.kind, spec.quantizer or "float", tensor.numel, int(bits.d), used,
                              step_size, largest, float(kbytes.d)), strict=True))


def levels_of(tensor, bits, parameters):
    """Find the levels of a quantized tensor.

    Parameters
    ----------
    tensor : QuantizedTensor
    bits : int
        What `tensor.bits()` gives.
    parameters : dict of str to nn.Variable
        All of the network.

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
    if not spec.is_parametric:
        stored = parameters.get(f"{tensor.name}_q")
        step_size = spec.stepsize if stored is None else stored.info.step_size
        largest = step_size * (2 ** (bits - spec.sign) - 1)
        if spec.quantizer == "pow2":
            largest = 2.0 ** round(math.log2(largest))
            return largest / 2 ** (2 ** (bits - 1) - 1), largest, bits
        return step_size, largest, bits
    quantizer = QUANTIZERS[spec.quantizer]
    reserved = 1 if quantizer.is_pow2 else int(spec.sign)    # sign of weights; zero of powers of two in activations
    low, high = quantizer.range(*tensor.scalars.values(), spec.limits, reserved)
    nn.forward_all([low, high])
    low, high = float(low.d), float(high.d)
    if quantizer.is_pow2:
        return low, high, bits
    levels = math.floor(high / low + 0.5)
    return low, levels * low, max(math.ceil(math.log2(levels + 1)) + spec.sign, spec.bitwidth_min)


def mean_bits(rows, kinds):
    """Mean bits per element over the rows of some kinds."""
    rows = [row for row in rows if row["kind"] in kinds]
    return sum(row["bits"] * row["elements"] for row in rows) / sum(row["elements"] for row in rows)


def write_table(folder, rows):
    """Write the table to `layers.json` and `layers.csv` in `folder`."""
    write_json(folder / "layers.json", rows)
    write_csv(folder / "layers.csv", COLUMNS, [row.values() for row in rows])


def format_table(rows):
    """Format the table for a terminal."""
    def cell(value):
        return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)

    header = [column for column in COLUMNS if column not in ("quantizer", "bits_used")]
    return align([header, *([cell(row[column]) for column in header] for row in rows)], left=2)


def evaluate_run(network, cfg, valid_data, test_data):
    """Measure a network: errors on both data sets, sizes in kB, mean bits per weight and per activation.

    Parameters
    ----------
    network : Network
        Built for testing.
    cfg : mixed_precision_dnns.config.Config
    valid_data, test_data : iterable of batches
        Images that the parameters were chosen by, and others.

    Returns
    -------
    dict of str to float
    """
    valid_errors = top_errors(network.predict, valid_data, cfg.tops)
    test_errors = valid_errors if cfg.published else top_errors(network.predict, test_data, cfg.tops)
    further = {f"test_top{k}_error": error for k, error in zip(cfg.tops[1:], test_errors[1:], strict=True)}
    rows = layer_table(cfg)
    activations = {kind: activation_kbytes(cfg, kind) for kind in ("max", "sum")}
    nn.forward_all(list(activations.values()))
    return {"valid_error": valid_errors[0], "test_error": test_errors[0], **further,
            "weight_kbytes": network.sizes()[0],
            **{f"activation_kbytes_{kind}": float(size.d) for kind, size in activations.items()},
            "weight_bits": mean_bits(rows, ("weights", "bias")), "activation_bits": mean_bits(rows, ("activations",))}


def format_result(result):
    """Format what `evaluate_run` measured in one line."""
    further = "".join(f", {key.split('_')[1]} {value:.2%}" for key, value in result.items()
                      if key.startswith("test_top"))
    return ("test error {test_error:.2%}{further} (validation {valid_error:.2%}), weights {weight_kbytes:.2f} kB "
            "({weight_bits:.2f} bits), activations {activation_kbytes_max:.2f} kB largest, {activation_kbytes_sum:.2f} "
            "kB all ({activation_bits:.2f} bits)".format(further=further, **result))
