"""The compiled functions against nnabla's own: the same bits forward, gradients up to the order of sums."""
import importlib
import importlib.util
import os
import subprocess
import sys

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest

from common.cpu import parallel
from common.cpu.channels import BatchNormalization
from common.cpu.convolution import Convolution
from common.cpu.elements import Pow2Quantize, ReLU, UniformQuantize
from common.cpu.host_function import data_of, grad_of
from common.cpu.kernels.elements import BLOCK
from common.layers import basic as layers
from common.quantizers import compose_pow2, compose_uniform

# (batch, channels, height, width), outputs, kernel, pad, stride
CONVOLUTIONS = [
    ((2, 3, 32, 32), 16, 3, 1, 1),    # more tiles than samples
    ((3, 16, 9, 7), 12, 3, 1, 2),
    ((2, 16, 8, 8), 64, 1, 0, 2),
    ((1, 64, 11, 13), 16, 3, 1, 1),
    ((20, 64, 3, 3), 4, 3, 0, 1),    # 1 pixel each: more samples than tiles
    ((2, 3, 17, 15), 4, 5, 2, 1),
    ((2, 16, 17, 15), 4, 5, 2, 3),
    ((2, 16, 10, 7), 8, 3, 0, 3),    # the last lines are never touched
    ((3, 3, 5, 6), 4, 1, 1, 1),    # padding as wide as the kernel
    ((2, 3, 6, 5), 4, 3, 4, 2),
    ((1, 3, 3, 300), 4, 3, 1, 1),    # a line longer than a tile
]
# nnabla sums in another order where its matrices do not fill its blocks of 4 rows and some hundred terms.
UNEVEN_CONVOLUTIONS = [
    ((3, 16, 9, 7), 5, 3, 1, 2),
    ((2, 3, 8, 9), 3, 3, 1, 1),
    ((2, 1, 5, 5), 1, 5, 0, 1),    # 1 pixel, 1 channel
    ((1, 64, 6, 6), 16, 5, 2, 1),
]
QUANTIZER_SIZES = (1, BLOCK - 1, BLOCK + 1, 2 * BLOCK + 17)


def normal(*shape, seed=0, mean=0.0, scale=1.0):
    return (mean + scale * np.random.RandomState(seed).randn(*shape)).astype(np.float32)


def variables(arrays, need_grad):
    return [nn.Variable.from_numpy_array(a).apply(need_grad=n) for a, n in zip(arrays, need_grad, strict=True)]


def evaluate(function, arrays, need_grad=None, present=0.0):
    """Return the output, and the gradients (None for inputs without) added to what is `present`."""
    need_grad = need_grad or [True] * len(arrays)
    inputs = variables(arrays, need_grad)
    for variable in inputs:
        variable.g = present
    y = function(*inputs)
    y.forward()
    y.backward(normal(*y.shape, seed=9))
    return y.d.copy(), [v.g.copy() if n else None for v, n in zip(inputs, need_grad, strict=True)]


def assert_close_gradients(ours, theirs, tolerance=1e-5):
    """Within `tolerance` of the largest entry: sums are taken in another order."""
    for mine, expected in zip(ours[1], theirs[1], strict=True):
        assert (mine is None) == (expected is None)
        if expected is not None:
            np.testing.assert_allclose(mine, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def assert_same(ours, theirs, tolerance=1e-5):
    """Equal bits forward, close gradients."""
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert_close_gradients(ours, theirs, tolerance)


def convolutions(kernel, pad, stride):
    """Our convolution and nnabla's."""
    return (lambda x, w: layers.convolution(x, w, None, pad, stride, in_order=True),
            lambda x, w: F.convolution(x, w, pad=(pad, pad), stride=(stride, stride)))


def convolution_arrays(shape, outputs, kernel):
    return normal(*shape), normal(outputs, shape[1], kernel, kernel, seed=1)


@pytest.mark.parametrize("shape, outputs, kernel, pad, stride", CONVOLUTIONS)
def test_convolution_agrees_with_nnabla(shape, outputs, kernel, pad, stride):
    arrays = convolution_arrays(shape, outputs, kernel)
    ours, theirs = convolutions(kernel, pad, stride)
    assert_same(evaluate(ours, arrays), evaluate(theirs, arrays))


@pytest.mark.parametrize("shape, outputs, kernel, pad, stride", UNEVEN_CONVOLUTIONS)
def test_convolution_of_any_size_is_close_to_nnabla(shape, outputs, kernel, pad, stride):
    arrays = convolution_arrays(shape, outputs, kernel)
    ours, theirs = (evaluate(f, arrays) for f in convolutions(kernel, pad, stride))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-6 * np.abs(theirs[0]).max())
    assert_close_gradients(ours, theirs)


@pytest.mark.parametrize("shape, outputs, kernel, pad, stride", CONVOLUTIONS[:3] + CONVOLUTIONS[8:9])
def test_convolution_adds_to_gradients_that_exist(shape, outputs, kernel, pad, stride):
    arrays = convolution_arrays(shape, outputs, kernel)
    ours, theirs = convolutions(kernel, pad, stride)
    assert_same(evaluate(ours, arrays, present=50), evaluate(theirs, arrays, present=50))


@pytest.mark.parametrize("need_grad", [(True, False), (False, True)])
def test_convolution_leaves_gradients_alone_that_nobody_needs(need_grad):
    arrays = convolution_arrays((2, 3, 9, 9), 4, 3)
    ours, theirs = convolutions(3, 1, 1)
    x, w = inputs = variables(arrays, need_grad)
    x.g = w.g = 3
    y = ours(x, w)
    y.forward()
    y.backward(1)
    for variable, needed in zip(inputs, need_grad, strict=True):
        assert (variable.g != 3).all() if needed else (variable.g == 3).all()
    assert_same(evaluate(ours, arrays, need_grad), evaluate(theirs, arrays, need_grad))


def batch_normalizations(train):
    """Our batch normalization and nnabla's, of the variables x, beta, gamma, mean, var."""
    return (BatchNormalization(0.9, 1e-5, train),
            lambda *inputs: F.batch_normalization(*inputs, decay_rate=0.9, eps=1e-5, batch_stat=train))


def normalization_arrays(shape, mean=0.0):
    parameter_shape = (1, shape[1], 1, 1)
    beta, gamma, average = (normal(*parameter_shape, seed=seed) for seed in (2, 3, 4))
    return normal(*shape, mean=mean), beta, 1 + gamma, mean + average, 0.5 + normal(*parameter_shape, seed=5) ** 2


NORMALIZED = (True, True, True, False, False)    # the running statistics have no gradient


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("shape", [(4, 3, 5, 7), (2, 16, 16, 16), (2, 64, 1, 1), (5, 1, 3, 2)])
@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_batch_normalization_agrees_with_nnabla(shape, mean, train):
    arrays = normalization_arrays(shape, mean)
    ours, theirs = (evaluate(f, arrays, NORMALIZED) for f in batch_normalizations(train))
    # A mean over two elements that nearly agree leaves few digits to nnabla's gradients.
    assert_same(ours, theirs, tolerance=1e-5 if np.prod(shape) > 2 * shape[1] else 1e-3)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("mean", [100.0, -1000.0])
def test_batch_normalization_has_the_same_bits_far_from_zero(mean, train):
    arrays = normalization_arrays((4, 3, 9, 7), mean)
    ours, theirs = (evaluate(f, arrays, NORMALIZED)[0] for f in batch_normalizations(train))
    np.testing.assert_array_equal(ours, theirs)


def test_a_variance_lost_to_rounding_does_not_become_nan():
    y, _ = evaluate(batch_normalizations(True)[0], normalization_arrays((4, 3, 9, 7), mean=1e4), NORMALIZED)
    assert np.isfinite(y).all()


@pytest.mark.parametrize("mean", [0.0, 3.0, 1000.0])
def test_running_statistics_have_the_same_bits(mean):
    arrays = normalization_arrays((4, 3, 9, 7), mean)
    for train in (True, False):
        results = []
        for function in batch_normalizations(train):
            inputs = variables(arrays, NORMALIZED)
            y = function(*inputs)
            for _ in range(3):
                y.forward()
            results.append([v.d.copy() for v in inputs[3:]])
        np.testing.assert_array_equal(*results)
        assert np.array_equal(results[0], arrays[3:]) != train


@pytest.mark.parametrize("train", [True, False])
def test_batch_normalization_adds_to_gradients_that_exist(train):
    arrays = normalization_arrays((4, 3, 5, 7))
    assert_same(*(evaluate(f, arrays, NORMALIZED, present=20) for f in batch_normalizations(train)))


@pytest.mark.parametrize("needed", [0, 1, 2])
@pytest.mark.parametrize("train", [True, False])
def test_batch_normalization_gives_the_gradients_asked_for_alone(needed, train):
    arrays = normalization_arrays((4, 3, 5, 7))
    need_grad = [k == needed for k in range(5)]
    assert_same(*(evaluate(f, arrays, need_grad) for f in batch_normalizations(train)))


def test_batch_normalization_layer_has_the_parameters_of_nnabla():
    x = nn.Variable.from_numpy_array(normal(4, 3, 5, 5))
    with nn.parameter_scope("ours"):
        layers.batch_normalization(x, train=True)
        ours = {name: (p.shape, p.need_grad, p.d.tolist()) for name, p in nn.get_parameters(grad_only=False).items()}
    with nn.parameter_scope("theirs"):
        nn.parametric_functions.batch_normalization(x)
        theirs = {name: (p.shape, p.need_grad, p.d.tolist()) for name, p in nn.get_parameters(grad_only=False).items()}
    assert ours == theirs


@pytest.mark.parametrize("size", QUANTIZER_SIZES)
def test_relu_agrees_with_nnabla(size):
    x = normal(size)
    x[:size // 3] = np.resize(np.float32([-0.0, 0.0, 1e-45, -1e-45]), size // 3)
    assert_same(evaluate(layers.relu, [x]), evaluate(F.relu, [x]), tolerance=0)
    assert not np.signbit(evaluate(layers.relu, [x])[0]).any()    # 0 is not -0
    assert_same(evaluate(layers.relu, [x], present=2), evaluate(F.relu, [x], present=2), tolerance=0)


def assert_same_quantizer(ours, theirs):
    """Equal outputs; the gradients of scalars are sums over all elements, in which positive and negative cancel."""
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_allclose(ours[1][0], theirs[1][0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours[1][1:], theirs[1][1:], rtol=0, atol=1e-6 * max(10, ours[0].size))


@pytest.mark.parametrize("size", QUANTIZER_SIZES)
@pytest.mark.parametrize("sign", [True, False])
@pytest.mark.parametrize("present", [0, 5])
def test_uniform_quantizer_agrees_with_nnabla(size, sign, present):
    d, xmax = np.float32(0.25), np.float32(1.1)
    x = np.concatenate([normal(size), [d / 2, 0, xmax]]).astype(np.float32)[-size:]
    assert_same_quantizer(evaluate(UniformQuantize(sign), [x, d, xmax], present=present),
                          evaluate(lambda *inputs: compose_uniform(*inputs, sign), [x, d, xmax], present=present))


@pytest.mark.parametrize("size", QUANTIZER_SIZES)
@pytest.mark.parametrize("sign, with_zero", [(True, False), (False, True), (True, True), (False, False)])
@pytest.mark.parametrize("present", [0, 5])
def test_pow2_quantizer_agrees_with_nnabla(size, sign, with_zero, present):
    xmin, xmax = np.float32(0.125), np.float32(2)
    x = np.concatenate([normal(size), [xmin, 0, xmax]]).astype(np.float32)[-size:]
    assert_same_quantizer(evaluate(Pow2Quantize(sign, with_zero), [x, xmin, xmax], present=present),
                          evaluate(lambda *inputs: compose_pow2(*inputs, sign, with_zero), [x, xmin, xmax],
                                   present=present))


@pytest.mark.parametrize("function", [UniformQuantize(True), Pow2Quantize(False, True)],
                         ids=["uniform", "pow2"])
@pytest.mark.parametrize("needed", [0, 1, 2])
def test_quantizers_give_the_gradients_asked_for_alone(function, needed):
    arrays = normal(100), np.float32(0.25), np.float32(1)
    _, every = evaluate(function, arrays)
    _, some = evaluate(function, arrays, [k == needed for k in range(3)])
    np.testing.assert_array_equal(some[needed], every[needed])


def test_pow2_quantizer_rounds_subnormal_values_up_to_xmin():
    tiny = np.float32(1e-42)
    x = np.asarray([tiny, -tiny, np.finfo(np.float32).tiny, -1e-38, 0], np.float32)
    for xmin in (2.0 ** -120, 2.0 ** -126):
        y, (dx, *_) = evaluate(Pow2Quantize(True, False), [x, np.float32(xmin), np.float32(1)])
        np.testing.assert_array_equal(y, np.where(x < 0, -1, 1) * np.float32(xmin))
        assert np.isfinite(dx).all()
        assert dx[-1] == 0


def test_pow2_quantizer_takes_a_subnormal_xmin():
    xmin = np.float32(2.0 ** -130)
    x = np.asarray([2.0 ** -140, 2.0 ** -130, 2.0 ** -126, 0.9, 4], np.float32)
    y, _ = evaluate(Pow2Quantize(True, False), [x, xmin, np.float32(2)])
    np.testing.assert_array_equal(y, np.asarray([xmin, xmin, 2.0 ** -126, 1, 2], np.float32))


# NaN of either sign: what a processor makes of 0 * inf can be negative.
NANS = np.asarray([np.nan, -np.nan], np.float32)


@pytest.mark.parametrize("function", [
    lambda x, *_: ReLU()(x),
    UniformQuantize(True), UniformQuantize(False),
    *(Pow2Quantize(sign, with_zero) for sign in (True, False) for with_zero in (True, False)),
], ids=["relu", "uniform", "uniform unsigned", "pow2 with zero", "pow2", "pow2 unsigned with zero", "pow2 unsigned"])
def test_nan_is_not_hidden(function):
    assert np.signbit(NANS).tolist() == [False, True]
    x, *scalars = variables([np.concatenate([NANS, [1, -1]]).astype(np.float32), np.float32(0.25), np.float32(1)],
                            [True] * 3)
    y = function(x, *scalars)
    y.forward()
    assert np.isnan(y.d).tolist() == [True, True, False, False]


def test_infinity_is_clipped_by_the_quantizers():
    x = np.asarray([np.inf, -np.inf], np.float32)
    for function in (UniformQuantize(True), Pow2Quantize(True, False)):
        y, _ = evaluate(function, [x, np.float32(0.25), np.float32(1)])
        assert y.tolist() == [1, -1]


def small_network(ours):
    """A graph that uses its input and its weights twice: gradients come from two sides."""
    x, w = variables(convolution_arrays((3, 3, 7, 7), 3, 3), [True, True])
    convolution = convolutions(3, 1, 1)[0 if ours else 1]
    relu = layers.relu if ours else F.relu

    def normalization(*inputs):
        return batch_normalizations(True)[0 if ours else 1](*inputs)

    statistics = variables(normalization_arrays((3, 3, 7, 7))[1:], NORMALIZED[1:])
    x.g = w.g = 0
    for variable in statistics[:2]:
        variable.g = 0
    h = normalization(convolution(x, w), *statistics)
    h = relu(h) + normalization(convolution(relu(h) + x, w), *statistics)
    y = F.sum(h ** 2)
    y.forward()
    y.backward()
    return y.d.copy(), [v.g.copy() for v in (x, w, *statistics[:2])]


def test_a_variable_used_twice_gets_both_gradients():
    ours, theirs = small_network(True), small_network(False)
    assert_same(ours, theirs, tolerance=2e-5)    # two layers of sums in another order


def assert_same_bits(ours, theirs):
    np.testing.assert_array_equal(ours[0], theirs[0])
    for mine, expected in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_array_equal(mine, expected)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("shape", [(4, 3, 5, 7), (2, 16, 16, 16), (3, 6, 1, 1)])
@pytest.mark.parametrize("present", [0, 50])
def test_normalization_that_rectifies_has_the_bits_of_two_functions(shape, train, present):
    arrays = normalization_arrays(shape)
    one, two = BatchNormalization(0.9, 1e-5, train, rectify=True), BatchNormalization(0.9, 1e-5, train)
    assert_same_bits(evaluate(one, arrays, NORMALIZED, present=present),
                     evaluate(lambda *inputs: ReLU()(two(*inputs)), arrays, NORMALIZED, present=present))


@pytest.mark.parametrize("present", [0, 50])
def test_relu_of_a_sum_has_the_bits_of_two_functions(present):
    arrays = normal(3, 5, 7), normal(3, 5, 7, seed=1)
    arrays[1][0] = -arrays[0][0]    # sums of 0, which pass nothing
    assert_same_bits(evaluate(ReLU(), arrays, present=present),
                     evaluate(lambda a, b: F.relu(a + b), arrays, present=present))


EVERYTHING = {
    "convolution with fast gradients": (Convolution(1, in_order=True, fast_gradients=True),
                                        convolution_arrays((7, 5, 31, 29), 6, 3)),
    "convolution": (Convolution(1, in_order=True), convolution_arrays((7, 5, 31, 29), 6, 3)),
    "strided convolution": (Convolution(1, 2, in_order=True), convolution_arrays((7, 5, 31, 29), 6, 3)),
    "batch normalization": (BatchNormalization(0.9, 1e-5, True), normalization_arrays((7, 5, 31, 29))),
    "relu": (ReLU(), (normal(7 * 5 * 31 * 29),)),
    "uniform": (UniformQuantize(True), (normal(7, 5, 31, 29), np.float32(0.25), np.float32(1))),
    "pow2": (Pow2Quantize(True, False), (normal(7, 5, 31, 29), np.float32(0.25), np.float32(1))),
}


@pytest.fixture
def cores(monkeypatch):
    """Make the kernels use a number of cores, whatever the size of the arrays."""
    monkeypatch.setattr(parallel, "_SMALL", 0)

    def cores(number):
        parallel._workers.cache_clear()
        monkeypatch.setattr(parallel, "num_threads", lambda: number)

    yield cores
    parallel._workers.cache_clear()


@pytest.mark.parametrize("name", EVERYTHING)
def test_results_do_not_depend_on_the_number_of_cores(name, cores):
    function, arrays = EVERYTHING[name]
    need_grad = NORMALIZED if name == "batch normalization" else [True] * len(arrays)
    results = []
    for number in (1, 2, 3, 8):
        cores(number)
        results.append(evaluate(function, arrays, need_grad))
    for y, gradients in results[1:]:
        np.testing.assert_array_equal(y, results[0][0])
        for one, other in zip(gradients, results[0][1], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", EVERYTHING)
def test_float64_data_may_be_assigned(name):
    function, arrays = EVERYTHING[name]
    expected = nn.Variable.from_numpy_array(arrays[0])
    others = variables(arrays[1:], [False] * (len(arrays) - 1))
    y, wanted = (function(x, *others) for x in (nn.Variable(arrays[0].shape), expected))
    y.parent.inputs[0].d = arrays[0].astype(np.float64)
    y.forward()
    wanted.forward()
    assert y.d.dtype == np.float32
    np.testing.assert_array_equal(y.d, wanted.d)


def test_loops_compile_where_no_folder_can_be_written():
    program = """if True:
        import tempfile

        def refuse(*args, **kwargs):
            raise PermissionError
        tempfile.TemporaryFile = refuse    # by which numba finds out whether it can write to a folder

        import numpy as np
        from common.cpu.kernels.elements import relu_forward

        x, y = np.array([-1.5, 2.5], np.float32), np.empty(2, np.float32)
        relu_forward(0, 1, x, y)
        print(y.tolist(), relu_forward.compile().stats.cache_path)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[0.0, 2.5] None\n"


@pytest.mark.parametrize("cpu, registers", [
    ("generic", (4, 16)), ("nehalem", (4, 16)), ("haswell", (8, 16)), ("skylake-avx512", (16, 32)),
    ("znver4", (16, 32))])
def test_vectors_are_those_of_the_processor_that_numba_compiles_for(cpu, registers, run_on):
    program = "from common.cpu.kernels.registers import vector_registers; print(vector_registers())"
    assert run_on(cpu, program) == f"{registers}\n"


@pytest.fixture
def kept_loop(tmp_path, monkeypatch):
    """A function that loads a loop as a new process does, whose machine code lies in `tmp_path`."""
    monkeypatch.setattr("numba.config.CACHE_DIR", "")    # where the user keeps all of it
    path = tmp_path / "loops.py"
    path.write_text("from common.cpu.compiling import compile_exact\n"
                    "@compile_exact\ndef twice(x):\n    return 2 * x\n")

    def load():
        spec = importlib.util.spec_from_file_location("loops", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.twice
    return load


def hits(loop):
    return sum(loop.compile().stats.cache_hits.values())


@pytest.mark.parametrize("kind, size", [("nbi", 0), ("nbi", 30), ("nbc", 0), ("nbc", 1000)])
def test_damaged_machine_code_is_made_again(kept_loop, tmp_path, kind, size):
    assert kept_loop()(3) == 6
    damaged, = tmp_path.rglob(f"*.{kind}")
    os.truncate(damaged, size)
    for expected in (0, 1):
        loop = kept_loop()
        assert loop(3) == 6 and hits(loop) == expected


@pytest.mark.parametrize("damaged", [False, True])
def test_loops_run_where_the_disk_is_full(kept_loop, tmp_path, monkeypatch, damaged):
    if damaged:
        kept_loop()(3)
        os.truncate(*tmp_path.rglob("*.nbi"), 0)

    def refuse(*args):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._open_for_write", refuse)
    loop = kept_loop()
    assert loop(3) == 6 and hits(loop) == 0


def test_numba_is_loaded_by_the_first_loop_that_runs():
    program = """if True:
        import sys
        import numpy as np
        from common.cpu.kernels.features import tanh_forward

        before = "numba" in sys.modules
        x, y = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
        tanh_forward(0, 1, x, y)
        print(before, "numba" in sys.modules, y.tolist())
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False True [[0.0, 0.0]]\n"


def test_a_call_of_a_function_in_python_loads_no_module_twice():
    """A module that nnabla asks for as `nnabla.nnabla.functions` would take the place of `nnabla.auto_forward`."""
    program = """if True:
        import sys, nnabla as nn
        from common.layers import scale_shift
        scale_shift(nn.Variable((2, 3)), nn.Variable((3,)), nn.Variable((3,))).forward()
        print(callable(nn.auto_forward), [name for name in sys.modules if name.startswith("nnabla.nnabla.")])
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True []\n"


def test_a_call_of_a_function_in_python_searches_for_no_module(monkeypatch):
    """nnabla's code asks for `nnabla.nnabla` ten times in each; a search takes longer than most functions."""
    searched, find = [], importlib._bootstrap._find_and_load
    x = nn.Variable.from_numpy_array(np.ones(4, np.float32)).apply(need_grad=True)
    y = layers.relu(x)

    def call():
        y.forward()
        y.backward()
        return x.d + x.data.data + x.g

    call()    # compiles
    monkeypatch.setattr(importlib._bootstrap, "_find_and_load",
                        lambda name, *rest: searched.append(name) or find(name, *rest))
    call()
    assert searched == []


@pytest.mark.parametrize("view", [data_of, grad_of, lambda variable: grad_of(variable, keep=False)])
def test_a_view_keeps_its_memory_when_nnabla_frees_the_array(view):
    """As when arrays are swapped, or cleared behind a function that keeps one for its gradient."""
    x = nn.Variable((1000,), need_grad=True)
    values = view(x)
    values[...] = 1
    x.data.clear()
    x.grad.clear()
    others = [nn.Variable.from_numpy_array(np.zeros(1000, np.float32)) for _ in range(20)]
    assert (values == 1).all() and len(others) == 20
