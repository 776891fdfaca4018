"""Exported networks for inputs of any size, with fewer bits, and the files that run them alone."""
import logging

import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import numpy as np
import onnx
import pytest

from common.audio import numpy_stft
from common.audio.stft import istft, stft
from common.inference import onnx_export, onnx_reduction
from common.inference.onnx_functions import interpolate_to_variable
from common.machine.context import native_functions
from common.workbench.testing import tones_and_noise

BATCH, HEIGHT, WIDTH = 65537, 65539, 65543


def build(x):
    """Two scales, joined on the finer one, and back at the size of the input."""
    fine = PF.convolution(x, 4, (3, 3), pad=(1, 1), stride=(2, 2), name="fine")
    coarse = PF.convolution(F.average_pooling(fine, (2, 2)), 300, (3, 3), pad=(1, 1), name="coarse")
    h = F.concatenate(fine, resized(coarse, fine), axis=1)
    return resized(PF.convolution(F.relu(h), 2, (1, 1), name="out"), x)


def resized(x, like):
    return F.interpolate(x, output_size=like.shape[2:], mode="linear", align_corners=False, half_pixel=True)


def exported():
    x = nn.Variable((BATCH, 3, HEIGHT, WIDTH))
    nn.random.seed(0)
    with native_functions(), nn.auto_forward(False):
        return onnx_export.export({"x": x}, {"y": build(x)}, converters={"Interpolate": interpolate_to_variable})


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (2, 3, 17, 22), (1, 3, 64, 35)])
def test_a_network_with_free_axes_takes_inputs_of_any_size(shape):
    model = exported()
    onnx_reduction.free_axes(model, {BATCH: "batch", HEIGHT: "height", WIDTH: "width"})
    onnx.checker.check_model(model, full_check=True)
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x = nn.Variable.from_numpy_array(values)
    with native_functions():
        y = build(x)
    y.forward()
    np.testing.assert_allclose(onnx_reduction.output_of(model, values), y.d, rtol=0, atol=1e-5 * np.abs(y.d).max())


def test_a_size_that_stays_in_the_network_is_found():
    x = nn.Variable((BATCH, 3, HEIGHT, WIDTH))
    with native_functions(), nn.auto_forward(False):
        model = onnx_export.export({"x": x}, {"y": build(x)})    # with the sizes of the graph
    with pytest.raises(AssertionError):
        onnx_reduction.free_axes(model, {HEIGHT: "height"})


@pytest.mark.parametrize("precision, least, most, size", [("float32", 300, np.inf, 1), ("float16", 55, 90, 0.6),
                                                          ("int8", 25, 60, 0.5)])
def test_weights_of_fewer_bits_are_smaller_and_less_exact(precision, least, most, size):
    model = exported()
    onnx_reduction.free_axes(model, {BATCH: "batch", HEIGHT: "height", WIDTH: "width"})
    logging.disable(logging.DEBUG)    # what the user has chosen
    try:
        reduced = onnx_reduction.reduce(model, precision)
        assert logging.root.manager.disable == logging.DEBUG
    finally:
        logging.disable(logging.NOTSET)
    values = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    with np.errstate(divide="ignore"):
        assert least < onnx_reduction.distance(model, reduced, values) <= most
    assert reduced.ByteSize() <= size * model.ByteSize()


@pytest.mark.parametrize("samples", [1, 100, 20_001])
def test_the_transform_by_numpy_alone_is_that_of_all_others(samples):
    audio = tones_and_noise(samples)
    spectrum = numpy_stft.stft(audio, 256, 64)
    np.testing.assert_allclose(spectrum, stft(audio.T, 256, 64).transpose(2, 0, 1), rtol=0, atol=1e-5)
    found = numpy_stft.istft(2 * spectrum, 64, samples)
    np.testing.assert_allclose(found, istft(2 * spectrum.transpose(1, 2, 0), 64, length=samples).T, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found, 2 * audio, rtol=0, atol=1e-6)
