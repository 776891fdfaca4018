"""Convolutions in half of the products against nnabla's, and networks made of them."""
import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import numpy as np
import pytest

from common.cpu.winograd import Kernels, convolve
from common.inference.engines import compile_network
from common.machine.context import native_functions
from common.machine.errors import UsageError


def normal(*shape, seed=0):
    return np.random.RandomState(seed).randn(*shape).astype(np.float32)


# One convolution ---------------------------------------------------------------------------------------------------


def with_nnabla(x, w, bias, dilation):
    with native_functions(), nn.auto_forward():
        variables = (nn.Variable.from_numpy_array(array) for array in (x[None], w, bias))
        return F.convolution(*variables, pad=(dilation,) * 2, dilation=(dilation,) * 2).d[0]


@pytest.mark.parametrize("channels, outputs, height, width, dilation", [
    (1, 1, 1, 1, 1), (2, 6, 4, 64, 1), (3, 7, 5, 65, 2), (4, 13, 16, 100, 4), (5, 8, 16, 33, 32), (1, 25, 9, 1100, 3),
    (3, 5, 6, 15, 6), (2, 11, 8, 513, 1)])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("rectify", [False, True])
def test_convolution_agrees_with_nnabla(channels, outputs, height, width, dilation, add, rectify):
    x, w, bias = normal(channels + 3, height, width), normal(outputs, channels, 3, 3, seed=1), normal(outputs, seed=2)
    scale, shift = normal(channels, seed=3), normal(channels, seed=4)
    before = normal(outputs + 2, height, width, seed=5)
    read = x[2:2 + channels] * scale[:, None, None] + shift[:, None, None]
    expected = with_nnabla(np.maximum(read, 0) if rectify else read, w, bias, dilation) + (before[1:-1] if add else 0)
    y = before.copy()
    convolve(x, 2, scale, shift, rectify, Kernels.of(w), bias, y, 1, dilation, add)
    np.testing.assert_allclose(y[1:-1], expected, rtol=0, atol=5e-6 * max(1, np.abs(expected).max()))
    np.testing.assert_array_equal(y[[0, -1]], before[[0, -1]])


def test_rounding_is_that_of_float32():
    x, w, bias = normal(32, 24, 200), normal(20, 32, 3, 3, seed=1), normal(20, seed=2)
    padded = np.pad(x.astype(np.float64), [(0, 0), (2, 2), (2, 2)])
    exact = bias[:, None, None] + sum(
        np.einsum("oc,chw->ohw", w[:, :, i, j].astype(np.float64), padded[:, 2 * i:2 * i + 24, 2 * j:2 * j + 200])
        for i in range(3) for j in range(3))
    y = np.empty_like(exact, np.float32)
    convolve(x, 0, np.ones(32, np.float32), np.zeros(32, np.float32), False, Kernels.of(w), bias, y, 0, 2, False)
    error = np.sqrt(np.mean((y - exact) ** 2) / np.mean(exact ** 2))
    assert error < 1e-6    # sums in order have some 2e-7


def test_what_is_not_finite_stays_in_reach():
    x = normal(2, 40, 80)
    x[1, 20, 40] = np.nan
    y = np.zeros((3, 40, 80), np.float32)
    convolve(x, 0, np.ones(2, np.float32), np.zeros(2, np.float32), False, Kernels.of(normal(3, 2, 3, 3)),
             np.zeros(3, np.float32), y, 0, 1, False)
    rows, columns = np.nonzero(np.isnan(y[0]))
    assert set(columns) == {39, 40, 41}    # along the height, a tile is spoilt
    assert {19, 20, 21} <= set(rows) <= set(range(16, 25))


PROGRAM = """
import numpy as np
from common.cpu import winograd
rng = np.random.RandomState(0)
x, w = rng.randn(3, 9, 53).astype(np.float32), rng.randn(8, 3, 3, 3).astype(np.float32)
y = np.zeros((8, 9, 53), np.float32)
winograd.convolve(x, 0, np.ones(3, np.float32), np.zeros(3, np.float32), False, winograd.Kernels.of(w),
                  np.zeros(8, np.float32), y, 0, 1, False)
padded = np.pad(x, [(0, 0), (1, 1), (1, 1)])
windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
print(np.abs(y - np.einsum("ocij,chwij->ohw", w, windows)).max() < 1e-4 < y.std())
"""


def test_shorter_vectors_give_the_same(run_on_older_cpu):
    assert run_on_older_cpu(PROGRAM) == "True\n"


# Networks ----------------------------------------------------------------------------------------------------------


def unit(x, outputs, dilation, name):
    with nn.parameter_scope(name):
        h = F.relu(PF.batch_normalization(x, batch_stat=False))
        return PF.convolution(h, outputs, (3, 3), pad=(dilation,) * 2, dilation=(dilation,) * 2)


def dense(x):
    first = unit(x, 12, 1, "first")
    chain = unit(first[:, :4], 8, 2, "second") + first[:, 4:]
    return first[:, 4:] + unit(chain[:, :4], 8, 4, "third"), chain    # reads again what a sum might lie on


def dense_chain(x):
    first = unit(x, 12, 1, "first")
    chain = unit(first[:, :4], 8, 2, "second") + first[:, 4:]
    return unit(chain[:, :4], 4, 4, "third") + chain[:, 4:]


def overlapping(x):
    first = unit(x, 8, 1, "first")
    return unit(first[:, :5], 4, 2, "second") + first[:, 4:], unit(first[:, 2:6], 3, 1, "third")


def on_an_input(x):
    part = x[:, 1:]
    return unit(x, 2, 1, "first") + part[:, :], F.sigmoid(x)


def fetched_on_the_way(x):
    first = unit(x, 8, 1, "first")
    return first, unit(first[:, :4], 4, 2, "second") + first[:, 4:]


def both_operands(x):
    return unit(x, 4, 1, "first") + unit(x, 4, 2, "second")


def scales(x):
    h = unit(x, 4, 1, "first")
    low = PF.batch_normalization(F.average_pooling(F.relu(h), (2, 2)), batch_stat=False, name="low")
    high = F.concatenate(PF.deconvolution(low, 5, (2, 2), stride=(2, 2)), h, axis=1)
    high = PF.batch_normalization(high, batch_stat=False, name="high")
    gate, value = (PF.convolution(high, 2, (1, 1), name=name) for name in ("gate", "value"))
    offset, var = (nn.parameter.get_parameter_or_create(key, (1, 1, 1, x.shape[3] - 3)) for key in ("offset", "var"))
    copied = (x[:, :2, :, 3:] - offset) / var
    return F.transpose(F.concatenate(F.sigmoid(gate) * value, copied, axis=3), (0, 2, 1, 3))


def normalized_twice(x):
    h = F.relu(PF.batch_normalization(x, batch_stat=False, name="a"))
    again = PF.batch_normalization(h, batch_stat=False, name="b")
    return unit(again, 3, 1, "c"), PF.convolution(h, 2, (1, 1), name="d")


NETWORKS = (dense, dense_chain, overlapping, on_an_input, fetched_on_the_way, both_operands, scales, normalized_twice)


def prepare(build, shape):
    with nn.auto_forward(False):
        build(nn.Variable(shape))
    rng = np.random.RandomState(3)
    for name, parameter in nn.get_parameters(grad_only=False).items():
        values = rng.randn(*parameter.shape) * 0.5
        parameter.d = np.abs(values) + 0.5 if name.endswith("var") else values


@pytest.mark.parametrize("build", NETWORKS, ids=lambda build: build.__name__)
def test_networks_agree_with_nnabla(build):
    shape = (3, 3, 8, 36)
    prepare(build, shape)
    network, nnabla = (compile_network(build, [shape], engine) for engine in ("winograd", "nnabla"))
    x = normal(*shape)
    given = x.copy()
    results = network(x)
    for ours, theirs in zip(results, nnabla(x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
    np.testing.assert_array_equal(x, given)
    before = [array.copy() for array in results]
    network(normal(*shape, seed=1))
    for parameter in nn.get_parameters(grad_only=False).values():
        parameter.d = 7    # the network has its own
    for array, copy, again in zip(results, before, network(x), strict=True):
        np.testing.assert_array_equal(array, copy)
        np.testing.assert_array_equal(again, copy)


@pytest.mark.parametrize("build, message", [
    (lambda x: F.softmax(x, axis=1), "Softmax"),
    (lambda x: PF.convolution(x, 2, (3, 3), pad=(1, 1), stride=(2, 2)), "strides"),
    (lambda x: PF.convolution(x, 2, (3, 3)), "padded by"),
    (lambda x: PF.convolution(x, 2, (5, 5), pad=(2, 2)), "kernels"),
    (lambda x: F.average_pooling(x, (3, 3)), "2 x 2"),
    (lambda x: F.concatenate(x, x, axis=0), "Concatenate"),
    (lambda x: F.transpose(x, (2, 0, 1, 3)), "Transpose"),
    (lambda x: PF.batch_normalization(x, batch_stat=True), "statistics of the batch")])
def test_other_networks_are_refused_in_one_line(build, message):
    with pytest.raises(UsageError, match=f"^--engine winograd: it cannot run this network .*{message}.*[^\n]*$"):
        compile_network(build, [(1, 3, 8, 12)], "winograd")
