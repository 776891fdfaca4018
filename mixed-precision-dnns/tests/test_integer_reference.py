"""The network in integers alone: exact, equal to nnabla's, and what sessions with default settings give."""
from fractions import Fraction

import nnabla as nn
import numpy as np
import pytest

from common.inference.engines import is_installed
from common.machine.context import use_context
from common.machine.seeding import seed_everything
from common.workbench.testing import fill_normalizations
from mixed_precision_dnns.config import RELU, Config, ImageNetConfig
from mixed_precision_dnns.deployment.dyadic import integers_of
from mixed_precision_dnns.deployment.integer_reference import IntegerNetwork
from mixed_precision_dnns.deployment.onnx_network import OnnxNetwork
from mixed_precision_dnns.deployment.quantized_onnx import export_network
from mixed_precision_dnns.finished_run import FinishedRun
from mixed_precision_dnns.quantized_network import build_network

SMALL = ((3, 8, 8), 10)
U3, P3 = "parametric_fp_d_xmax", "parametric_pow2_xmin_xmax"


@pytest.fixture(autouse=True)
def cpu():
    use_context("cpu")
    seed_everything(0)


def network_and_pixels(cfg, settings, num):
    """A network with a random normalization, and images of 8 bits as integers and as floats."""
    rng = np.random.default_rng(3)
    build_network(cfg, num, False, *settings)
    fill_normalizations(nn.get_parameters(grad_only=False), rng)
    pixels = rng.integers(0, 256, (num, *settings[0]), dtype=np.uint8)
    return build_network(cfg, num, False, *settings), pixels, ((pixels / 255 - 0.5) * 2).astype(np.float32)


def floats(integers):
    return (integers.values * float(integers.scale)).astype(np.float32)


@pytest.mark.parametrize("cfg, settings", [
    (Config(w_quantize=U3, a_quantize=U3 + RELU, w_stepsize=2 ** -4, a_stepsize=0.25), SMALL),
    (Config(w_quantize="fp", a_quantize="fp_relu", w_stepsize=2 ** -4, a_stepsize=0.25, shortcut_type="b"), SMALL),
    (Config(w_quantize=P3, a_quantize=P3 + RELU, w_stepsize=2 ** -4, a_stepsize=0.25), SMALL),
    (Config(w_quantize=P3, a_quantize=U3 + RELU, w_stepsize=2 ** -4, a_stepsize=0.25), SMALL),
    (ImageNetConfig(model="resnet18", w_quantize=U3, a_quantize=U3 + RELU, w_stepsize=2 ** -5, a_stepsize=0.25),
     ((3, 32, 32), 7))], ids=["U3", "fixed", "P3", "P3 and U3", "resnet18"])
def test_nnabla_and_default_sessions_give_the_same_bits(cfg, settings):
    num = 1 if isinstance(cfg, ImageNetConfig) else 24
    network, pixels, images = network_and_pixels(cfg, settings, num)
    run = FinishedRun(cfg, *settings)
    expected = floats(IntegerNetwork(run).predict(pixels))
    assert expected.std() > 1e-3
    model = export_network(run, num).model.SerializeToString()
    found = {"nnabla": network.predict(images), "onnxruntime": OnnxNetwork(model).predict(images)}
    if is_installed("openvino"):
        found["openvino"] = OnnxNetwork(model, "openvino", "float32").predict(images)
    for engine, logits in found.items():
        # One image may have an activation of a layer that stays float on the other side of a border.
        assert (logits == expected).all(1).sum() >= num - (num > 1), engine


def test_integers_of_an_array():
    values, scale = integers_of(np.array([0.75, -1.5, 0, 6], np.float32))
    assert (values.tolist(), scale) == ([3, -6, 0, 24], Fraction(1, 4))
    assert integers_of(np.zeros(3))[0].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="only quantized networks"):
        integers_of(np.array([1e-6, 12345.678]))


@pytest.mark.parametrize("cfg, says", [
    (Config(w_quantize=U3), "ReLU: this function has no integer form"),
    (Config(a_quantize=U3 + RELU), "only quantized networks"),
    (ImageNetConfig(model="mobilenetv2", w_quantize=U3, a_quantize=U3 + RELU), "takes floats")])
def test_what_is_float_has_no_integer_form(cfg, says):
    _, pixels, _ = network_and_pixels(cfg, SMALL, 1)
    with pytest.raises(ValueError, match=says):
        IntegerNetwork(FinishedRun(cfg, *SMALL)).predict(pixels)
