"""Exported networks: the answers of nnabla's, and integers where the levels allow it."""
import itertools
from fractions import Fraction

import nnabla as nn
import nnabla.functions as F
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from common.inference import onnx_export
from common.inference.engines import is_installed
from common.machine.context import native_functions, use_context
from common.machine.errors import UsageError, UserError
from common.machine.seeding import seed_everything
from common.quantizers import QUANTIZER_NAMES, UNIFORM, grid_of, quantize_pow2, quantize_uniform
from common.workbench.testing import fill_normalizations
from mixed_precision_dnns.config import RELU, Config, ImageNetConfig
from mixed_precision_dnns.deployment import integer_nodes as nodes
from mixed_precision_dnns.deployment.integer_channels import LARGEST_WEIGHT, fit_channels, leaves_16_bits
from mixed_precision_dnns.deployment.integer_nodes import sum_target
from mixed_precision_dnns.deployment.onnx_network import OnnxNetwork
from mixed_precision_dnns.deployment.quantized_onnx import export_network, integer_share
from mixed_precision_dnns.deployment.roundings import UniformRounding, power_rounding, uniform_rounding
from mixed_precision_dnns.finished_run import FinishedRun
from mixed_precision_dnns.imagenet_models import MODELS
from mixed_precision_dnns.network_size import quantized_tensors
from mixed_precision_dnns.quantized_network import build_network

SMALL = ((3, 8, 8), 10)
TOLERANCE = 2e-5    # of the largest logit; seeds below are such that no activation lies on the border of two levels


INSTALLED = [engine for engine in ("onnxruntime", "openvino") if is_installed(engine)]


@pytest.fixture(autouse=True)
def cpu():
    use_context("cpu")
    seed_everything(0)


def fill(rng):
    """Random normalization, also with negative factors and a zero."""
    for name, parameter in nn.get_parameters(grad_only=False).items():
        if name.endswith(("/gamma", "/beta", "/mean")):
            parameter.d = rng.standard_normal(parameter.shape)
        if name.endswith("/gamma"):
            parameter.d.flat[1] = 0
        if name.endswith("/var"):
            parameter.d = rng.uniform(0.5, 1.5, parameter.shape)


def exported(cfg, settings=SMALL, batch=2, scalars=None):
    """Logits of a random network of `cfg` in nnabla and in onnxruntime, and its model."""
    build_network(cfg, batch, False, *settings)
    fill(np.random.default_rng(3))
    for tensor in quantized_tensors(cfg):
        for name, scalar in tensor.scalars.items():
            scalar.d = (scalars or {}).get(name, scalar.d)
    image = np.random.default_rng(4).standard_normal((batch, *settings[0]), dtype=np.float32)
    expected = build_network(cfg, batch, False, *settings).predict(image).copy()
    model = export_network(FinishedRun(cfg, *settings), batch).model
    onnx.checker.check_model(model)
    return expected, OnnxNetwork(model.SerializeToString()).predict(image), model


def kinds(model):
    return {node.op_type for node in model.graph.node}


def assert_agree(expected, found):
    assert np.abs(expected).max() > 0.1 and expected.std(0).max() > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def both(quantizer, **keys):
    keys = {"a_stepsize": 0.25, "w_stepsize": 0.0625} | keys
    return Config(w_quantize=quantizer, a_quantize=quantizer and quantizer + RELU, **keys)


@pytest.mark.parametrize("quantizer", [None, *QUANTIZER_NAMES])
def test_answers_agree(quantizer):
    expected, found, model = exported(both(quantizer))
    assert_agree(expected, found)
    is_uniform = quantizer is not None and grid_of(quantizer) is UNIFORM
    assert ("QuantizeLinear" in kinds(model)) == ("DequantizeLinear" in kinds(model)) == is_uniform
    assert (integer_share(model) > 0.9) == is_uniform
    assert "BatchNormalization" not in kinds(model)
    if is_uniform:    # nothing is left of nnabla's way to quantize, and no normalization beside the weights
        assert kinds(model) == {"Conv", "Add", "Gemm", "Reshape", "GlobalAveragePool", "Concat", "Slice", "Clip",
                                "Cast", "Mul", "LeakyRelu", "QuantizeLinear", "DequantizeLinear", "Identity"}


def test_integers_are_the_levels():
    cfg = both("parametric_fp_d_xmax")
    _, _, model = exported(cfg)
    first, second = [c for c in model.graph.initializer if c.data_type == onnx.TensorProto.INT4][:2]
    for constant, scope in ((first, "conv1"), (second, "res1/layer1/basicblock1")):
        gamma = nn.get_parameters(grad_only=False)[f"{scope}/bn/gamma"].d.ravel()
        w = nn.get_parameters(grad_only=False)[f"{scope}/quantized_conv/W_q"].d
        sign = np.ones(16) if scope == "conv1" else np.where(gamma < 0, -1, 1)    # integer kernels have scales > 0
        integers = numpy_helper.to_array(constant).astype(int)
        np.testing.assert_array_equal(integers, np.rint(w / 0.0625) * sign.reshape(-1, 1, 1, 1))
        assert np.abs(integers).max() in (2, 3) and len(constant.raw_data) == integers.size / 2


@pytest.mark.parametrize("scalars, integers", [
    ({"d": 2 ** -6, "xmax": 127 * 2 ** -6}, True), ({"d": 2 ** -6, "xmax": 128 * 2 ** -6}, False)])
def test_more_than_eight_bits_stay_constants(scalars, integers):
    cfg = Config(w_quantize="parametric_fp_d_xmax")
    expected, found, model = exported(cfg, scalars=scalars)
    assert_agree(expected, found)
    assert (integer_share(model) > 0.9) == integers


@pytest.mark.parametrize("largest, integers", [(255, True), (256, False)])
def test_activations_of_more_than_eight_bits_are_computed_in_float(largest, integers):
    cfg = Config(a_quantize="parametric_fp_d_xmax_relu")
    expected, found, model = exported(cfg, scalars={"d": 2 ** -6, "xmax": largest * 2 ** -6})
    assert_agree(expected, found)
    assert ("QuantizeLinear" in kinds(model)) == integers


def test_a_range_that_is_no_multiple_of_the_step_size():
    """xmax = 1.4 and 1.6 with d = 1: the largest levels are 1 and 2."""
    x = nn.Variable.from_numpy_array(np.linspace(-1, 3, 41, dtype=np.float32)[None, :, None, None])
    for xmax, levels in ((1.4, 1), (1.6, 2)):
        with native_functions():
            y = quantize_uniform(x, F.constant(1, ()), F.constant(xmax, ()), sign=False)
        rounding = uniform_rounding(y)
        assert (rounding.step_size, rounding.levels, rounding.source) == (1, levels, x)
        y.forward()
        assert y.d.max() == levels
    assert uniform_rounding(x) is None and uniform_rounding(F.relu(x)) is None


@pytest.mark.parametrize("model", MODELS)
def test_imagenet_networks(model):
    cfg = ImageNetConfig(model=model, w_quantize="parametric_fp_d_xmax", a_quantize="parametric_fp_d_xmax_relu",
                         w_stepsize=2 ** -6, a_stepsize=0.25, image_size=32)
    expected, found, onnx_model = exported(cfg, ((3, 32, 32), 7), batch=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())
    assert "QuantizeLinear" in kinds(onnx_model) and integer_share(onnx_model) > 0.9


def test_any_number_of_images(tmp_path):
    build_network(Config(), 4, False, *SMALL)
    path = tmp_path / "network.onnx"
    path.write_bytes(export_network(FinishedRun(Config(), *SMALL), 4).model.SerializeToString())
    exported, image = OnnxNetwork(path), np.random.default_rng(0).standard_normal((6, 3, 8, 8), dtype=np.float32)
    assert exported.shape == (4, 3, 8, 8)
    np.testing.assert_allclose(exported.predict(image), np.concatenate([exported.predict(image[:1]),
                                                                        exported.predict(image[1:])]), atol=1e-6)


def test_refuses_what_is_no_exported_network(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        OnnxNetwork(tmp_path / "a.onnx")
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as an ONNX model"):
        OnnxNetwork(tmp_path / "a.onnx")
    x = nn.Variable((1, 2))
    with native_functions():
        model = onnx_export.export({"x": x}, {"y": F.relu(x)})
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="not a network that export.py wrote"):
        OnnxNetwork(tmp_path / "a.onnx")


# Sessions with default settings -------------------------------------------------------------------------------------


def pixels(rng, num, shape):
    """Images of 8 bits, as data sets have them."""
    return ((rng.integers(0, 256, (num, *shape)) / 255 - 0.5) * 2).astype(np.float32)


@pytest.mark.parametrize("cfg, settings, num, kernels", [
    (both("parametric_fp_d_xmax"), SMALL, 1000, (18, 19)),
    (both("fp", w_stepsize=2 ** -4), SMALL, 50, (18, 19)),
    (both("parametric_fp_d_xmax", shortcut_type="b"), SMALL, 50, (16, 21)),
    (ImageNetConfig(model="resnet18", w_quantize="parametric_fp_d_xmax", a_quantize="parametric_fp_d_xmax_relu",
                    w_stepsize=2 ** -6, a_stepsize=0.25), ((3, 32, 32), 7), 25, (13, 20)),
    (ImageNetConfig(model="mobilenetv2", w_quantize="parametric_fp_d_xmax", a_quantize="parametric_fp_d_xmax_relu",
                    w_stepsize=2 ** -5, a_stepsize=0.25), ((3, 32, 32), 7), 25, (0, 52))],
    ids=["U3", "fixed", "convolved shortcuts", "resnet18", "mobilenetv2"])
def test_default_sessions_compute_with_integers_and_agree(cfg, settings, num, kernels):
    batch = 25
    build_network(cfg, batch, False, *settings)
    fill_normalizations(nn.get_parameters(grad_only=False), np.random.default_rng(3))
    images = pixels(np.random.default_rng(5), num, settings[0])
    network = build_network(cfg, batch, False, *settings)
    expected = np.concatenate([network.predict(images[k:k + batch]) for k in range(0, num, batch)])
    exported = export_network(FinishedRun(cfg, *settings), batch)
    assert exported.inexact <= (0 if num == 1000 else 4)    # of 15 for each of up to 4,800 channels
    for engine in INSTALLED:
        session = OnnxNetwork(exported.model.SerializeToString(), engine)
        counted = session.kernels()
        # openvino also takes integers where the result stays float.
        assert counted.all == kernels[1] and (counted.integer == kernels[0] if engine == "onnxruntime"
                                              else counted.integer >= kernels[0])
        if engine == "openvino":    # which computes the first layer in bfloat16 by default, where it can
            session = OnnxNetwork(exported.model.SerializeToString(), engine, "float32")
        found = session.predict(images)
        center = expected.mean(0)    # an untrained network prefers one class
        distance = np.abs(found - expected).max(1) / np.abs(expected).max()
        same = (found - center).argmax(1) == (expected - center).argmax(1)
        assert (found.argmax(1) == expected.argmax(1)).all() and same[distance < 1e-5].all()
        assert same.all() or num < 1000
        assert expected.std(0).max() > 0.01 * np.abs(expected).max()
        # Float32 sums of the layers that stay float may put an activation of an image to the other side of a border,
        # and so does a border that is off.
        most_apart = 0.01 if exported.inexact == 0 and num == 1000 else 0.2
        assert np.median(distance) < 1e-6 and distance.max() < 0.2 and (distance > 1e-5).mean() <= most_apart


# One layer ----------------------------------------------------------------------------------------------------------


def levels(accumulators, scale, bias, step_size, unit, codes):
    """What a layer is to give for accumulators, by fractions."""
    exact = [(Fraction(scale) * Fraction(step_size) * int(a) + Fraction(bias)) / Fraction(unit) for a in accumulators]
    return np.array([min(max((value + Fraction(1, 2)).__floor__(), codes[0]), codes[1]) for value in exact])


def kernel(accumulators, channels, k, step_size, unit, codes):
    """What a kernel for integers gives: a product in float32, halves rounded to even."""
    sums = (accumulators * int(channels.factors[k]) + int(channels.biases[k])).astype(np.float32)
    multiplier = channels.scales[k] * np.float32(step_size) / np.float32(unit)
    return np.clip(np.rint(sums * multiplier), *codes)


@pytest.mark.parametrize("largest, activation_levels, exact", [(1, 15, 1), (3, 3, 1), (7, 15, 0.97), (7, 255, 0.6)])
def test_integers_give_the_levels_of_all_accumulators(largest, activation_levels, exact):
    rng = np.random.default_rng(largest)
    integers = rng.integers(-largest, largest + 1, (12, 9 if activation_levels > 15 else 27))
    integers[:, 0] = largest
    scales, biases = rng.uniform(0.002, 0.05, 12), rng.normal(0, 1, 12)
    codes, step_size, unit = (-9, 15), 0.25, 0.125
    channels = fit_channels(integers, scales, biases, step_size, activation_levels, unit, codes)
    assert np.abs(channels.factors * np.abs(integers).max(1)).max() <= LARGEST_WEIGHT
    wrong = 0
    for k, row in enumerate(integers):
        ends = [activation_levels * row[sign * row > 0].sum() for sign in (-1, 1)]
        accumulators = np.arange(ends[0], ends[1] + 1)
        found = kernel(accumulators, channels, k, step_size, unit, codes)
        expected = levels(accumulators, scales[k], biases[k], step_size, unit, codes)
        # A border that is off by one accumulator makes one level wrong.
        wrong += (found != expected).sum()
        assert np.abs(found - expected).max() <= 1
    assert (wrong == 0) == (channels.inexact == 0) and wrong >= channels.inexact
    assert channels.inexact <= (1 - exact) * 12 * 24    # borders


@pytest.mark.parametrize("bias", [0, 0.0625, 1, -0.5])
def test_halves_are_rounded_up(bias):
    """Scales that are powers of two put accumulators on borders."""
    integers = np.array([[3, -2, 1]])
    channels = fit_channels(integers, np.array([0.125]), np.array([bias]), 0.5, 15, 0.5, (0, 15))
    accumulators = np.arange(-30, 61)
    expected = levels(accumulators, 0.125, bias, 0.5, 0.5, (0, 15))
    assert channels.inexact == 0
    np.testing.assert_array_equal(kernel(accumulators, channels, 0, 0.5, 0.5, (0, 15)), expected)


@pytest.mark.parametrize("lowest, unit", [(0, 0.5), (-15, 0.5), (-15, 0.125)])
def test_halves_are_rounded_away_from_zero(lowest, unit):
    """As nnabla does for values with a sign, also of inputs with a sign."""
    integers, scale, bias, codes = np.array([[3, -2, 1]]), 0.125, 0.0625, (-20, 20)
    channels = fit_channels(integers, np.array([scale]), np.array([bias]), 0.5, 15, unit, codes, lowest, away=True)
    accumulators = np.arange(4 * lowest - 2 * 15, 4 * 15 - 2 * lowest + 1)
    exact = [Fraction(scale) * Fraction(0.5) * int(a) + Fraction(bias) for a in accumulators]
    magnitudes = [(abs(value) / Fraction(unit) + Fraction(1, 2)).__floor__() for value in exact]
    expected = np.clip([m if value > 0 else -m for m, value in zip(magnitudes, exact, strict=True)], *codes)
    assert channels.inexact == 0 and (expected < 0).any()
    np.testing.assert_array_equal(kernel(accumulators, channels, 0, 0.5, unit, codes), expected)


@pytest.mark.parametrize("scale, bias, level", [(0, 1.3, 3), (1e-30, 1.3, 3), (0, -2, 0), (0, 99, 15)])
def test_channels_that_do_not_depend_on_their_input(scale, bias, level):
    channels = fit_channels(np.array([[1, 2]]), np.array([scale]), np.array([bias]), 0.5, 15, 0.5, (0, 15))
    assert channels.inexact == 0 and channels.factors[0] == (0 if scale < 1e-9 else 1)
    assert kernel(np.array([0, 45]), channels, 0, 0.5, 0.5, (0, 15)).tolist() == [level, level]


@pytest.mark.parametrize("step, other_step", [(0.5, 0.5), (0.5, 1), (0.125, 0.5)])
def test_what_is_added_may_be_rounded_before(step, other_step):
    x = nn.Variable(())
    rounding, other = UniformRounding(x, step, 15), UniformRounding(x, other_step, 7)
    target = sum_target(rounding, other)
    values = np.arange(-2048, 2048) / 64 + 1 / 128    # beside all borders
    codes = np.clip(np.floor(values / target.unit + 0.5), target.lowest, target.highest)
    read = codes * target.unit
    for added in np.arange(8) * other_step:
        expected = np.clip(np.floor((values + added) / step + 0.5), 0, 15)
        np.testing.assert_array_equal(np.clip(np.rint((read + added) / step), 0, 15), expected)


def test_sums_that_8_bits_cannot_hold_stay_float():
    x = nn.Variable(())
    assert sum_target(UniformRounding(x, 0.5, 127), UniformRounding(x, 0.5, 128)) is not None
    assert sum_target(UniformRounding(x, 0.5, 128), UniformRounding(x, 0.5, 128)) is None
    assert sum_target(UniformRounding(x, 0.5, 15), UniformRounding(x, 0.25, 15)) is None


@pytest.mark.parametrize("quantize", [
    lambda x: quantize_pow2(x, F.constant(2 ** -3, ()), F.constant(4, ()), sign=False, with_zero=True),
    lambda x: quantize_pow2(x, F.constant(2 ** -14, ()), F.constant(128, ()), sign=False, with_zero=True),
    lambda x: F.pow2_quantize(x, False, True, 4, 2)])
@pytest.mark.parametrize("engine", INSTALLED)
def test_power_of_two_activations_have_the_levels_of_nnabla(quantize, engine):
    with native_functions():
        x = nn.Variable((1, 1, 40, 129))
        y = quantize(x)
    rounding = power_rounding(y)
    centers = (np.ldexp(np.sqrt(2), np.arange(-20, 20)).astype(np.float32).view(np.int32))[:, None]
    x.d = (centers + np.arange(-64, 65, dtype=np.int32)).view(np.float32)    # floats beside the borders
    x.d[0, 0, :, 0], x.d[0, 0, :, 128] = 0, -x.d[0, 0, :, 128]
    y.forward()
    converters = {kind: lambda writer, function: nodes.powers(writer, rounding) for kind in ("Where", "Pow2Quantize")}
    model = onnx_export.export({"image": x}, {"logits": y}, converters=converters).SerializeToString()
    found = OnnxNetwork(model, engine, *(["float32"] if engine == "openvino" else [])).predict(x.d)
    np.testing.assert_array_equal(found, y.d)
    assert "Log" not in kinds(onnx.load_model_from_string(model)) and len(np.unique(found)) > 5


@pytest.mark.parametrize("weights, levels, leaves", [
    ([64, 3, 64], 255, False), ([64, -9, 65], 255, True), ([-64, -65, 3], 255, True), ([127], 255, False),
    ([127, -127], 255, False), ([127, 127], 128, False), ([127, 127], 130, True)])
def test_sums_of_two_products_fit_in_16_bits_or_are_reported(weights, levels, leaves):
    """As CPUs without VNNI add them: codes that are largest where a pair has one sign are cut off, or never."""
    assert leaves_16_bits(np.array([[0, 0, 0], [*weights, 0, 0][:3]]), levels) == leaves
    sums = [levels * max(0, sign * a) + levels * max(0, sign * b) for a, b in itertools.combinations([*weights, 0], 2)
            for sign in (1, -1)]
    assert (max(sums) > np.iinfo(np.int16).max) == leaves
