"""The fast convolution against nnabla's, its gradients, and that it gives the same bits again."""
import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest

from common.cpu import parallel
from common.cpu.convolution import Convolution
from common.cpu.kernels import convolution as kernels
from common.layers import convolution
from common.machine import context
from common.machine.context import fast_gradients, native_functions
from common.machine.errors import UsageError

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
@BIAS
@pytest.mark.parametrize("before", [0, 50])
def test_fast_gradients_agree_and_change_no_output(case, with_bias, before):
    values, (pad, stride, dilation) = arrays(case, with_bias)
    fast, exact = (evaluate(Convolution(pad, stride, dilation, True, wanted), values, before)
                   for wanted in (True, False))
    np.testing.assert_array_equal(fast[0], exact[0])
    assert_close(fast[1:], exact[1:])


def test_fast_gradients_round_no_worse():
    """Root mean square errors of the gradients of a layer of ResNet-20, by sums in float64."""
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, 4, 16, 32, 32))
    w = rng.standard_normal((16, 16, 3, 3))
    values = [array.astype(np.float32) for array in (x, w)]
    padded, spread = (np.pad(array.astype(np.float32).astype(np.float64), [(0, 0), (0, 0), (1, 1), (1, 1)])
                      for array in (x, g))
    windows, of_g = (np.lib.stride_tricks.sliding_window_view(array, (3, 3), (2, 3)) for array in (padded, spread))
    wanted = [np.einsum("nohwij,ocij->nchw", of_g, values[1].astype(np.float64)[:, :, ::-1, ::-1], optimize=True),
              np.einsum("nchwij,nohw->ocij", windows, g.astype(np.float32).astype(np.float64), optimize=True)]
    for k, truth in enumerate(wanted):
        errors = []
        for fast in (True, False):
            inputs = [nn.Variable.from_numpy_array(value, need_grad=True) for value in values]
            y = Convolution(1, in_order=True, fast_gradients=fast)(*inputs)
            y.forward()
            y.backward(g.astype(np.float32))
            errors.append(np.sqrt(np.mean((inputs[k].g - truth) ** 2)))
        assert errors[0] < 2 * errors[1] < 1e-5 * np.abs(truth).max()


PROGRAM = """
import numpy as np
from common.cpu import direct
from common.cpu.convolution import convolve, parameter_gradients
rng = np.random.default_rng(0)
x, w, g = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 5, 9, 11), (21, 5, 3, 3), (2, 21, 9, 11)))
y, wanted = np.empty((2, *g.shape), np.float32)
direct.convolve(x, w, None, y, (3, 1, 1, 1))
convolve(x, w, None, wanted, (3, 1, 1, 1))
dw = direct.weight_gradient(x, g, (3, 1, 1, 1)), parameter_gradients(x, g, (3, 1, 1, 1))[0]
print(np.abs(y - wanted).max() < 1e-4 < y.std(), np.abs(dw[0] - dw[1]).max() < 1e-3 < dw[0].std())
"""


def test_shorter_vectors_give_the_same(run_on_older_cpu):
    assert run_on_older_cpu(PROGRAM) == "True True\n"


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
@pytest.mark.parametrize("fast", [False, True], ids=["blas", "fast gradients"])
def test_the_number_of_cores_changes_no_bit(case, fast, monkeypatch):
    values, (pad, stride, dilation) = arrays(case, True)
    ours = Convolution(pad, stride, dilation, fast, fast)
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


def test_the_layer_has_fast_gradients_where_they_are_asked_for():
    values = arrays("many tiles", True)[0]
    usual = evaluate(lambda *inputs: convolution(*inputs, in_order=True), values)
    for wanted in (True, False):
        with fast_gradients(wanted):
            found = evaluate(lambda *inputs: convolution(*inputs, in_order=True), values)
        np.testing.assert_array_equal(found[0], usual[0])
        assert np.array_equal(found[2], usual[2]) == (not wanted)    # of the weights: partial sums are other ones


def test_a_gpu_has_no_fast_gradients(monkeypatch):
    monkeypatch.setattr(context, "on_gpu", lambda: True)
    with pytest.raises(UsageError, match="--fast-gradients is for a CPU"), fast_gradients():
        pass
    with fast_gradients(False):
        assert not context.wants_fast_gradients()


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
