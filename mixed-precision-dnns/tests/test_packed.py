"""The packed file: true bit widths, exact values, damage."""
import nnabla as nn
import numpy as np
import pytest

from common.machine.context import use_context
from common.machine.errors import UsageError, UserError
from common.machine.seeding import seed_everything
from common.quantizers import QUANTIZER_NAMES
from mixed_precision_dnns.config import RELU, Config
from mixed_precision_dnns.deployment import packed
from mixed_precision_dnns.deployment.packed import Coding
from mixed_precision_dnns.finished_run import FinishedRun
from mixed_precision_dnns.network_size import quantized_tensors, weight_kbytes
from mixed_precision_dnns.quantized_network import build_network

SHAPE, CLASSES = (3, 8, 8), 10
EVERY = (None, *QUANTIZER_NAMES)


@pytest.fixture(autouse=True)
def cpu():
    use_context("cpu")
    seed_everything(0)


def some_network(quantizer, seed=0, **keys):
    """Configuration and network with random weights and scalars; its quantized weights are computed."""
    cfg = Config(w_quantize=quantizer, a_quantize=quantizer and quantizer + RELU, **{"w_stepsize": 2 ** -5} | keys)
    rng = np.random.default_rng(seed)
    build_network(cfg, 2, False, SHAPE, CLASSES)
    for tensor in quantized_tensors(cfg):
        for scalar in tensor.scalars.values():
            scalar.d = scalar.d * np.exp(rng.uniform(-0.5, 0.4))
    for name, parameter in nn.get_parameters().items():
        if name.endswith("/W"):
            values = 0.1 * rng.standard_normal(parameter.shape)
            values.flat[:3] = 0.0, -1e-9, 9.0    # zero, what becomes -0, and beyond the range
            parameter.d = values
    built = build_network(cfg, 2, False, SHAPE, CLASSES)
    return cfg, built, logits_of(built)


def logits_of(built):
    image = np.random.default_rng(1).standard_normal((2, *SHAPE), dtype=np.float32)
    return built.predict(image).copy()


def quantized_weights(cfg):
    parameters = nn.get_parameters(grad_only=False)
    return {tensor.name: packed.quantized_values(tensor.name, parameters) for tensor in quantized_tensors(cfg)
            if tensor.kind != "activations"}


@pytest.mark.parametrize("quantizer", EVERY)
def test_unpacked_weights_have_the_same_bits(quantizer, tmp_path):
    cfg, _, logits = some_network(quantizer)
    expected = quantized_weights(cfg)
    packed.save(tmp_path / "a.mpdnn", FinishedRun(cfg, SHAPE, CLASSES))
    others = {name: p.d.copy() for name, p in nn.get_parameters(grad_only=False).items()
              if name not in expected and not name.endswith("_q")}
    nn.clear_parameters()
    found = packed.load(tmp_path / "a.mpdnn")
    assert found.run == FinishedRun(cfg, SHAPE, CLASSES)
    assert found.parameters.keys() == {**expected, **others}.keys()
    for name, values in {**expected, **others}.items():
        assert found.parameters[name].tobytes() == np.asarray(values, np.float32).tobytes(), name
        assert found.parameters[name].shape == values.shape
    np.testing.assert_array_equal(logits_of(found.install(2)), logits)    # quantizing twice changes nothing
    for name, values in quantized_weights(cfg).items():
        np.testing.assert_array_equal(values, expected[name])


@pytest.mark.parametrize("quantizer", EVERY)
def test_weights_take_the_reported_size(quantizer, tmp_path):
    cfg, _, _ = some_network(quantizer)
    sizes = packed.save(tmp_path / "a.mpdnn", FinishedRun(cfg, SHAPE, CLASSES))
    kbytes = weight_kbytes(cfg)
    kbytes.forward()
    assert sizes.reported == pytest.approx(1024 * float(kbytes.d))
    assert (tmp_path / "a.mpdnn").stat().st_size == sizes.header + sizes.weights
    extra = 0
    if quantizer == "parametric_fp_b_xmax":    # whose levels may take a bit more than n says
        codings = packed.load(tmp_path / "a.mpdnn").codings
        tensors = {tensor.name: tensor for tensor in quantized_tensors(cfg)}
        extra = sum((coding.bits - packed._number(tensors[name].bits())) * tensors[name].numel
                    for name, coding in codings.items()) / 8
        assert 0 < extra < 0.3 * sizes.reported
    assert 0 <= sizes.weights - sizes.reported - extra < 1    # the last byte is filled up


def test_a_level_that_u2_does_not_report_takes_a_bit():
    """n = 3, sign and 2 bits, promises 3 levels; xmax = 1 gives d = 2^round(log2 1/3) = 1/4 and so 4 of them."""
    cfg, _, _ = some_network("parametric_fp_b_xmax")
    tensor = quantized_tensors(cfg)[0]
    tensor.scalars["n"].d, tensor.scalars["xmax"].d = 3, 1
    for largest, bits in ((0.75, 3), (1.0, 4)):
        values = np.array([0, -0.25, largest], np.float32)
        assert packed.coding_of(tensor, values, nn.get_parameters(grad_only=False)).bits == bits


@pytest.mark.parametrize("keys", [{"published": True}, {"w_bitwidth": 6}, {"w_bitwidth": 6, "published": True}])
def test_fixed_step_sizes_survive(keys, tmp_path):
    cfg, _, logits = some_network("fp", **keys)
    packed.save(tmp_path / "a.mpdnn", FinishedRun(cfg, SHAPE, CLASSES))
    nn.clear_parameters()
    np.testing.assert_array_equal(logits_of(packed.load(tmp_path / "a.mpdnn").install(2)), logits)


def test_bits_are_packed_without_gaps():
    stream = packed.pack([(np.array(codes, np.uint32), bits) for codes, bits in (([5, 2], 3), ([1], 1), ([9], 5))])
    assert [f"{byte:08b}" for byte in stream] == ["10101010", "10010000"]
    assert [codes.tolist() for codes in packed.unpack(stream, [(2, 3), (1, 1), (1, 5)])] == [[5, 2], [1], [9]]


@pytest.mark.parametrize("bits", [1, 2, 3, 7, 8, 9, 17, 31, 32])
def test_packing_is_reversible(bits):
    rng = np.random.default_rng(bits)
    coded = [(rng.integers(0, 2 ** width, num, dtype=np.uint32), width) for num, width in ((5, bits), (0, 4), (77, 3))]
    stream = packed.pack(coded)
    assert len(stream) == -(-(5 * bits + 77 * 3) // 8)
    found = list(packed.unpack(stream, [(len(codes), width) for codes, width in coded]))
    for (codes, _), other in zip(coded, found, strict=True):
        np.testing.assert_array_equal(other, codes)


def test_codes_are_sign_and_magnitude():
    values = np.array([0.0, -0.0, 0.5, -1.5], np.float32)
    coding = Coding("uniform", 3, 0.5)
    assert coding.encode(values).tolist() == [0b000, 0b100, 0b001, 0b111]
    assert coding.decode(coding.encode(values)).tobytes() == values.tobytes()
    tiny = np.array([2.0 ** -130, -2.0 ** -127, 1], np.float32)    # the first has no full precision
    coding = Coding("pow2", 9, 2.0 ** -130)
    assert coding.encode(tiny).tolist() == [0, 256 + 3, 130]
    assert coding.decode(coding.encode(tiny)).tobytes() == tiny.tobytes()


@pytest.mark.parametrize("damage, error, says", [
    (lambda content: content[:-1], UserError, "damaged"), (lambda content: content[:12], UserError, "damaged"),
    (lambda content: content[:60] + bytes([content[60] ^ 1]) + content[61:], UserError, "damaged"),
    (lambda content: b"something else", UserError, "not a packed network"), (lambda content: b"", UserError, "not a")])
def test_refuses_damaged_files(damage, error, says, tmp_path):
    cfg, _, _ = some_network("fp")
    packed.save(tmp_path / "a.mpdnn", FinishedRun(cfg, SHAPE, CLASSES))
    (tmp_path / "a.mpdnn").write_bytes(damage((tmp_path / "a.mpdnn").read_bytes()))
    with pytest.raises(error, match=says) as caught:
        packed.load(tmp_path / "a.mpdnn")
    assert "\n" not in str(caught.value)


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        packed.load(tmp_path / "a.mpdnn")
