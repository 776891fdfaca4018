"""The table of what a network has learned, against the levels that its quantizers really have."""
import functools
import json
import math

import attrs
import nnabla as nn
import numpy as np
import pytest

from common.machine.context import use_context
from common.quantizers import POWER_OF_TWO, QUANTIZER_NAMES, STATIC_QUANTIZERS
from mixed_precision_dnns.config import RELU, Config
from mixed_precision_dnns.evaluation import evaluate_run, format_result
from mixed_precision_dnns.network_size import QuantizedTensor, activation_kbytes, quantized_tensors, weight_kbytes
from mixed_precision_dnns.quantized_network import build_network
from mixed_precision_dnns.tensor_table import COLUMNS, format_table, mean_bits, tensor_table, write_table

SMALL = (3, 8, 8)


@pytest.fixture(autouse=True)
def cpu():
    use_context("cpu")


def both(quantizer, **values):
    return Config(w_quantize=quantizer, a_quantize=quantizer and quantizer + RELU, **values)


@attrs.frozen
class Described:
    """A tensor, the values of its scalars, the levels that its quantizer gives, and its row of the table."""

    tensor: QuantizedTensor
    scalars: dict
    levels: np.ndarray
    row: dict


@functools.cache
def described(quantizer):
    """Describe each tensor of a network whose scalars are random; also the sizes that the budget counts, in kB."""
    cfg, rng = both(quantizer), np.random.default_rng(0)
    build_network(cfg, 1, train=False, image_shape=SMALL)
    tensors = quantized_tensors(cfg)
    for scalar in (scalar for tensor in tensors for scalar in tensor.scalars.values()):
        scalar.d = scalar.d * np.exp(rng.uniform(-0.6, 0.3))
    parameters, rows = nn.get_parameters(grad_only=False), tensor_table(cfg)
    described = [Described(tensor, {name: float(scalar.d) for name, scalar in tensor.scalars.items()},
                           levels_of(tensor, parameters), row) for tensor, row in zip(tensors, rows, strict=True)]
    sizes = weight_kbytes(cfg), activation_kbytes(cfg, "max"), activation_kbytes(cfg, "sum")
    nn.forward_all(list(sizes))
    return described, [float(size.d) for size in sizes]


def levels_of(tensor, parameters):
    """Values float64 (levels,) that a quantizer gives to numbers near and far."""
    spec = tensor.spec
    if spec.quantizer is None:
        return None
    half = np.concatenate([np.geomspace(2.0 ** -45, 2.0 ** 45, 4001), np.linspace(0, 8, 9001)])
    x, q = nn.Variable.from_numpy_array(np.concatenate([half, -half])), f"{tensor.name}_q"
    step_size = parameters[q].info.step_size if q in parameters and not spec.is_parametric else spec.stepsize
    if spec.is_parametric:
        y = spec.parametrization.quantize(x, *tensor.scalars.values(), limits=spec.limits,
                                          **spec.grid.settings(spec.sign))
    else:
        y = STATIC_QUANTIZERS[spec.quantizer].quantize(x, *spec.fixed_range(step_size), spec.bitwidth, spec.sign)
    y.forward()
    return np.unique(y.d.astype(np.float64))


def needed_bits(each):
    """Bits that number the levels of a tensor, with one for the sign of a weight, or for the zero of powers of two."""
    is_pow2, is_activation = each.tensor.spec.grid is POWER_OF_TWO, each.tensor.kind == "activations"
    bits = math.log2((each.levels > 0).sum() + (not is_pow2)) + (not is_activation or is_pow2)
    return max(math.ceil(bits), 1 if is_activation else 2)    # the lowest limits


def budgeted_bits(each):
    """Bits that the budget counts, from the definitions (section 3 of the paper)."""
    if each.tensor.spec.quantizer is None:
        return 32
    return math.floor(each.scalars["n"] + 0.5) if "n" in each.scalars else needed_bits(each)


@pytest.mark.parametrize("quantizer", [None, *QUANTIZER_NAMES])
def test_bits_and_sizes_are_those_of_the_budget(quantizer):
    tensors, expected = described(quantizer)
    for tensor, row in ((each.tensor, each.row) for each in tensors):
        assert (row["tensor"], row["kind"], row["elements"]) == (tensor.name, tensor.kind, tensor.numel)
        assert row["quantizer"] == (quantizer or "float")
    for each in tensors:
        assert each.row["bits"] == budgeted_bits(each), each.row
        assert each.row["kbytes"] == pytest.approx(each.row["bits"] * each.row["elements"] / 8 / 1024)
    weights, activations = ([each.row["kbytes"] for each in tensors if (each.tensor.kind == "activations") == is_a]
                            for is_a in (False, True))
    assert [sum(weights), max(activations), sum(activations)] == pytest.approx(expected)


@pytest.mark.parametrize("quantizer", QUANTIZER_NAMES)
@pytest.mark.parametrize("kind", ["weights", "bias", "activations"])
def test_levels_are_those_in_the_table(kind, quantizer):
    for levels, row in ((each.levels, each.row) for each in described(quantizer)[0] if each.tensor.kind == kind):
        assert (row["step_size"], row["range"]) == pytest.approx((levels[levels > 0][0], levels[-1])), row


@pytest.mark.parametrize("quantizer", QUANTIZER_NAMES)
@pytest.mark.parametrize("kind", ["weights", "bias", "activations"])
def test_bits_used_are_those_that_the_levels_need(kind, quantizer):
    for each in (each for each in described(quantizer)[0] if each.tensor.kind == kind):
        assert each.row["bits_used"] == needed_bits(each), each.row


@pytest.mark.parametrize("quantizer", QUANTIZER_NAMES)
def test_the_budget_counts_the_bits_that_are_used(quantizer):
    more = {each.row["bits_used"] - each.row["bits"] for each in described(quantizer)[0]}
    # U2 rounds its step size, so that its levels can take one bit more.
    assert more == ({0, 1} if quantizer == "parametric_fp_b_xmax" else {0})


@pytest.mark.parametrize("n, xmax, bits_used, step_size, largest", [
    (3, 0.75, 3, 0.25, 0.75), (3, 0.5, 4, 0.125, 0.5), (2, 0.5, 2, 0.5, 0.5), (6, 37 / 64, 7, 1 / 64, 37 / 64)])
def test_levels_of_u2_can_take_one_bit_more(n, xmax, bits_used, step_size, largest):
    cfg = Config(w_quantize="parametric_fp_b_xmax")
    build_network(cfg, 1, train=False, image_shape=SMALL)
    scope = "conv1/quantized_conv/Wquant/parametric_fp_b_xmax"
    nn.get_parameters()[f"{scope}/n"].d, nn.get_parameters()[f"{scope}/xmax"].d = n, xmax
    row = tensor_table(cfg)[0]
    assert (row["tensor"], row["bits"], row["bits_used"]) == ("conv1/quantized_conv/W", n, bits_used)
    assert (row["step_size"], row["range"]) == pytest.approx((step_size, largest))


def test_float_tensors_have_no_levels():
    build_network(Config(), 1, train=False, image_shape=SMALL)
    assert {(row["bits"], row["bits_used"], row["step_size"], row["range"]) for row in tensor_table(Config())} == {
        (32, 32, None, None)}


def test_mean_bits_counts_elements():
    rows = [{"kind": "weights", "bits": 2, "elements": 30}, {"kind": "bias", "bits": 6, "elements": 10},
            {"kind": "activations", "bits": 32, "elements": 1000}]
    assert mean_bits(rows, ("weights", "bias")) == 3 and mean_bits(rows, ("bias",)) == 6


ROWS = [dict(zip(COLUMNS, values, strict=True)) for values in (
    ("conv1/W", "weights", "parametric_fp_d_xmax", 432, 3, 3, 0.125, 0.375, 0.158203125),
    ("res1/layer1/basicblock1/W", "weights", "parametric_fp_d_xmax", 1048576, 12, 12, 2.0 ** -8, 127.5, 1536.0),
    ("conv1", "activations", "float", 16384, 32, 32, None, None, 64.0))]


def columns_of(line):
    """(start, end, text) of each word."""
    found, position = [], 0
    for word in line.split():
        start = line.index(word, position)
        position = start + len(word)
        found.append((start, position, word))
    return found


def test_columns_of_the_table_are_aligned():
    lines = format_table(ROWS).splitlines()
    header, *body = map(columns_of, lines)
    assert [word for *_, word in header][:4] == ["tensor", "kind", "elements", "bits"]
    for row in body:
        assert [start for start, *_ in row[:2]] == [start for start, *_ in header[:2]]    # names from the left
        assert [end for _, end, _ in row[2:]] == [end for _, end, _ in header[2:]]    # numbers from the right
    assert [word for *_, word in body[0]] == ["conv1/W", "weights", "432", "3", "0.125", "0.375", "0.158203"]
    assert [word for *_, word in body[2]][4:6] == ["-", "-"]
    assert all(line == line.rstrip() and len(line) < 120 for line in lines)


def test_table_files(tmp_path):
    write_table(tmp_path, ROWS)
    assert json.loads((tmp_path / "layers.json").read_text()) == ROWS
    header, first, _, last = (tmp_path / "layers.csv").read_text().splitlines()
    assert header == ",".join(COLUMNS)
    assert first == "conv1/W,weights,parametric_fp_d_xmax,432,3,3,0.125,0.375,0.158203125"
    assert last == "conv1,activations,float,16384,32,32,,,64.0"


def test_result_is_one_line():
    result = {"valid_error": 0.25, "test_error": 0.0858, "weight_kbytes": 69.987, "activation_kbytes_max": 8.0,
              "activation_kbytes_sum": 92.123, "weight_bits": 2.136, "activation_bits": 4.0}
    assert format_result(result) == (
        "test error 8.58% (validation 25.00%), weights 69.99 kB (2.14 bits), activations 8.00 kB largest, "
        "92.12 kB all (4.00 bits)")


def test_result_of_a_run():
    cfg = both("fp", w_bitwidth=2)
    network = build_network(cfg, 2, train=False, image_shape=SMALL)
    image = np.random.default_rng(0).standard_normal((2, *SMALL), dtype=np.float32)
    network.image.d = image
    network.logits.forward()
    right = network.logits.d.argmax(1)[:, None]
    result = evaluate_run(network, cfg, [(image, right)], [(image, (right + [[0], [1]]) % 10)])
    rows = tensor_table(cfg)
    assert (result["valid_error"], result["test_error"]) == (0, 0.5)
    assert (result["weight_bits"], result["activation_bits"]) == (2, 4)
    assert result["weight_kbytes"] == pytest.approx(268346 * 2 / 8192)
    sizes = [row["kbytes"] for row in rows if row["kind"] == "activations"]
    assert (result["activation_kbytes_max"], result["activation_kbytes_sum"]) == pytest.approx((max(sizes), sum(sizes)))
