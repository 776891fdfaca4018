"""Exported networks: the answers of nnabla's, and integers where the levels allow it."""
import nnabla as nn
import nnabla.functions as F
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from common.machine.context import native_functions, use_context
from common.machine.errors import UsageError, UserError
from common.machine.seeding import seed_everything
from common.quantizers import QUANTIZER_NAMES, UNIFORM, grid_of, quantize_uniform
from mixed_precision_dnns.config import RELU, Config, ImageNetConfig
from mixed_precision_dnns.deployment import quantized_onnx
from mixed_precision_dnns.deployment.onnx_network import OnnxNetwork
from mixed_precision_dnns.deployment.quantized_onnx import export_network, integer_share, uniform_rounding
from mixed_precision_dnns.finished_run import FinishedRun
from mixed_precision_dnns.imagenet_models import MODELS
from mixed_precision_dnns.network_size import quantized_tensors
from mixed_precision_dnns.quantized_network import build_network

SMALL = ((3, 8, 8), 10)
TOLERANCE = 2e-5    # of the largest logit; seeds below are such that no activation lies on the border of two levels


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
    model = export_network(FinishedRun(cfg, *settings), batch)
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
        assert kinds(model) == {"Conv", "Add", "Gemm", "Reshape", "AveragePool", "Concat", "Clip", "QuantizeLinear",
                                "DequantizeLinear", "Identity"}


def test_integers_are_the_levels():
    cfg = both("parametric_fp_d_xmax")
    _, _, model = exported(cfg)
    constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    first = next(node for node in model.graph.node if node.op_type == "DequantizeLinear")
    integers, scale = (constants[name] for name in first.input[:2])
    gamma, var = (nn.get_parameters(grad_only=False)[f"conv1/bn/{key}"].d.ravel() for key in ("gamma", "var"))
    w = nn.get_parameters(grad_only=False)["conv1/quantized_conv/W_q"].d
    np.testing.assert_array_equal(integers, np.rint(w / 0.0625) * np.sign(gamma).reshape(-1, 1, 1, 1))
    np.testing.assert_allclose(scale, 0.0625 * np.abs(gamma) / np.sqrt(var + 1e-5), rtol=1e-6)
    assert integers.dtype == np.int8 and np.abs(integers).max() == 3


@pytest.mark.parametrize("scalars, integers", [
    ({"d": 2 ** -6, "xmax": 127 * 2 ** -6}, True), ({"d": 2 ** -6, "xmax": 128 * 2 ** -6}, False)])
def test_more_than_eight_bits_stay_constants(scalars, integers):
    cfg = Config(w_quantize="parametric_fp_d_xmax")
    expected, found, model = exported(cfg, scalars=scalars)
    assert_agree(expected, found)
    assert (integer_share(model) > 0.9) == integers == ("DequantizeLinear" in kinds(model))


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
    path.write_bytes(export_network(FinishedRun(Config(), *SMALL), 4).SerializeToString())
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
        model = quantized_onnx.onnx_export.export({"x": x}, {"y": F.relu(x)})
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="not a network that export.py wrote"):
        OnnxNetwork(tmp_path / "a.onnx")
