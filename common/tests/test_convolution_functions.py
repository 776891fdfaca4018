"""The fast convolution against nnabla's, its gradients, and that it gives the same bits again."""
import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest

from common.cpu import parallel
from common.cpu.convolution import Convolution
from common.cpu.kernels import convolution as kernels
from common.layers import convolution
from common.machine.context import native_functions

# batch, channels, height, width; outputs, kernel, pad, stride, dilation
CASES = {
    "3x3": ((2, 5, 9, 12), (7, 3, 1, 1, 1)),
    "dilated": ((2, 4, 11, 13), (6, 3, 4, 1, 4)),
    "dilated beyond the image": ((1, 3, 5, 4), (4, 3, 8, 1, 8)),
    "one pixel": ((1, 17, 6, 40), (9, 1, 0, 1, 1)),
    "many tiles": ((2, 8, 40, 70), (12, 3, 2, 1, 2)),
    "wide lines": ((1, 4, 3, 3000), (4, 3, 1, 1, 1)),
    "many terms": ((1, 150, 16, 16), (8, 3, 1, 1, 1)),
    "stride": ((2, 3, 9, 12), (5, 3, 1, 2, 1)),
    "stride, even kernel": ((1, 3, 9, 12), (5, 2, 0, 3, 1)),
    "stride and dilation": ((2, 3, 12, 13), (4, 3, 3, 2, 3)),
    "no padding": ((2, 3, 9, 12), (5, 3, 0, 1, 2)),
    "much padding": ((2, 3, 6, 7), (5, 3, 4, 1, 1)),
    "many pixels and a stride": ((1, 3, 40, 50), (4, 3, 1, 2, 1)),
    "a single output": ((1, 2, 3, 3), (1, 3, 0, 1, 1)),
}
PARAMETERS = pytest.mark.parametrize("case", CASES)
BIAS = pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])


def arrays(case, with_bias):
    (batch, channels, *size), (outputs, kernel, *geometry) = CASES[case]
    rng = np.random.default_rng(0)
    shapes = [(batch, channels, *size), (outputs, channels, kernel, kernel), (outputs,)][:3 if with_bias else 2]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes], geometry


def evaluate(build, values, before=0.0):
    """Output, and gradients of all inputs, which hold `before` when they are added to."""
    inputs = [nn.Variable.from_numpy_array(value, need_grad=True) for value in values]
    y = build(*inputs)
    y.forward()
    for variable in inputs:
        variable.g = before
    y.backward(np.random.default_rng(1).standard_normal(y.shape).astype(np.float32))
    return [y.d.copy(), *(variable.g.copy() for variable in inputs)]


def assert_close(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


def both(case, with_bias):
    values, (pad, stride, dilation) = arrays(case, with_bias)
    return values, Convolution(pad, stride, dilation), lambda *inputs: F.convolution(
        *inputs, pad=(pad, pad), stride=(stride, stride), dilation=(dilation, dilation))


@pytest.mark.slow
@PARAMETERS
@BIAS
def test_agrees_with_nnabla(case, with_bias):
    values, ours, nnablas = both(case, with_bias)
    assert_close(evaluate(ours, values), evaluate(nnablas, values))


@PARAMETERS
def test_gradients_are_added_where_a_variable_is_used_twice(case):
    values, (pad, stride, dilation) = arrays(case, True)

    def twice(convolve):
        return lambda *inputs: convolve(*inputs) + 2 * convolve(*inputs)

    _, ours, nnablas = both(case, True)
    other = Convolution(pad, stride, dilation)
    found = evaluate(lambda *inputs: ours(*inputs) + 2 * other(*inputs), values)
    assert_close(found, evaluate(twice(nnablas), values))


@PARAMETERS
def test_the_number_of_cores_changes_no_bit(case, monkeypatch):
    values, ours, _ = both(case, True)
    monkeypatch.setattr(parallel, "_SMALL", 0)
    found = []
    for threads in (1, 2, 3, 2):
        monkeypatch.setattr(parallel, "num_threads", lambda threads=threads: threads)
        found.append(evaluate(ours, values))
    for again in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], again, strict=True))


@pytest.mark.parametrize("dilation, stride, kernel", [(1, 1, 3), (4, 1, 3), (1, 2, 3), (1, 1, 1)])
def test_the_layer_pads_by_half_of_the_reach(dilation, stride, kernel):
    values = arrays("many tiles", True)[0]
    values[1] = values[1][:, :, :kernel, :kernel].copy()

    def build(*inputs):
        return convolution(*inputs, stride=stride, dilation=dilation)

    with native_functions():
        wanted = evaluate(build, values)
    found = evaluate(build, values)
    assert found[0].shape[2:] == (-(-40 // stride), -(-70 // stride))
    assert_close(found, wanted)


def test_for_few_pixels_the_layer_takes_nnablas_function():
    values = arrays("3x3", True)[0]    # 2 x 9 x 12 pixels
    x, w, b = map(nn.Variable.from_numpy_array, values)
    assert convolution(x, w, b).parent.name == "Convolution"
    assert convolution(x, w, b, in_order=True).parent.name == "Callback"    # a function in Python
    x = nn.Variable((2, 5, 18, 12))
    assert convolution(x, w, b).parent.name == "Callback"


def test_without_a_gradient_for_the_input_the_weights_still_have_theirs():
    values, ours, nnablas = both("dilated", True)
    found = []
    for build in (ours, nnablas):
        x, w, b = (nn.Variable.from_numpy_array(value, need_grad=k > 0) for k, value in enumerate(values))
        y = build(x, w, b)
        y.forward(clear_no_need_grad=True)
        w.grad.zero()
        b.grad.zero()
        y.backward(clear_buffer=True)
        found.append([w.g.copy(), b.g.copy()])
    assert_close(*found)


def test_tiles_are_whole_lines_of_every_size():
    for shape in ((1, 4, 1, 1), (2, 4, 2, 2), (1, 4, 256, 1600), (8, 4, 512, 1024), (1, 4, 3, 5000)):
        lines = kernels.tile_lines(shape, 1296)
        assert lines >= 1
        tiles = kernels.num_tiles(shape, lines)
        assert (tiles - 1) * lines < shape[0] * shape[2] <= tiles * lines
