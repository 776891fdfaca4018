"""LSTM layers: against the reference, nnabla, and, where these say nothing (dropout), against laws."""
import contextlib
import functools
import zlib
from pathlib import Path

import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import numpy as np
import pytest

from common.cpu import parallel
from common.gpu import driver
from common.gpu import recurrent as gpu_recurrent
from common.layers import composed_lstm, recurrent
from common.layers.recurrent import lstm
from common.machine import context
from common.machine.context import native_functions
from common.machine.seeding import seed_everything
from common.workbench.testing import host_arrays

REFERENCE = Path(__file__).parent / "data" / "lstm.npz"

# frames, batch, features, hidden size, layers, bidirectional
SIZES = [
    (13, 2, 10, 6, 3, True),
    (70, 1, 3, 4, 2, True),    # batch 1; more frames than a block has rows
    (5, 3, 4, 7, 1, False),
    (5, 3, 4, 7, 2, False),
    (6, 2, 4, 3, 1, True),
    (1, 2, 3, 2, 2, True),    # one frame
    (1, 1, 1, 1, 1, False),
]


def normal(name, *shape):
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def set_parameters(deviation=0.5):
    for name, parameter in nn.get_parameters().items():
        parameter.d = normal(name, *parameter.shape) * np.float32(deviation)


def run(x, *args, native=False, **kwargs):
    """Return the output for the array `x`."""
    with native_functions() if native else contextlib.nullcontext():
        y = lstm(nn.Variable.from_numpy_array(x), *args, **kwargs)
    y.forward()
    return y.d.copy()


def gradients(y, named, g, present=0.0):
    """Gradients of sum(y g), added to what is `present`, of the variables in a dict."""
    for variable in named.values():
        variable.g = present
    y.forward(clear_no_need_grad=True)
    result = {"y": y.d.copy()}
    y.backward(nn.NdArray.from_numpy_array(g), clear_buffer=True)
    return result | {name: variable.g.copy() for name, variable in named.items()}


def evaluate(sizes, native=False, present=0.0, layer=lstm, deviation=0.5):
    """Output and gradients of the input and of the parameters in training."""
    frames, batch, features, *rest = sizes
    x = nn.Variable.from_numpy_array(normal("x", frames, batch, features)).apply(need_grad=True)
    with native_functions() if native else contextlib.nullcontext():
        y = layer(x, *rest, train=True)
    set_parameters(deviation)
    return gradients(y, {"x": x, **nn.get_parameters()}, normal("gradient", *y.shape), present)


def assert_close(ours, theirs, tolerance=1e-5):
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=tolerance * np.abs(expected).max(), err_msg=name)


@pytest.mark.parametrize("native", [False, True])
def test_agrees_with_reference(native):
    ref = np.load(REFERENCE)
    x = nn.Variable.from_numpy_array(ref["x"]).apply(need_grad=True)
    with native_functions() if native else contextlib.nullcontext():
        y = lstm(x, 6, 3, train=True)
    parameters = nn.get_parameters()
    for name, parameter in parameters.items():
        parameter.d = ref[name.removeprefix("lstm/")]
    named = {name.removeprefix("lstm/"): variable for name, variable in {"x": x, **parameters}.items()}
    result = gradients(y, named, ref["grad_y"])
    assert_close(result, {"y": ref["y"], **{name: ref[f"grad_{name}"] for name in named}})


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_agrees_with_nnabla(sizes):
    assert_close(evaluate(sizes), evaluate(sizes, native=True))


@pytest.mark.parametrize("sizes", SIZES[:3], ids=str)
def test_adds_to_gradients_that_exist(sizes):
    once, more = (evaluate(sizes, present=present) for present in (0, 3))
    assert_close({name: value - 3 * (name != "y") for name, value in more.items()}, once)


@pytest.mark.parametrize("sizes", SIZES[:3], ids=str)
def test_gradients_of_two_uses_add_up(sizes):
    def twice(x, *args, **kwargs):
        x = F.mul_scalar(x, 1.5)
        return lstm(x, *args, **kwargs) - 3 * lstm(x, *args, **kwargs)

    assert_close(evaluate(sizes, layer=twice), evaluate(sizes, native=True, layer=twice))


@pytest.mark.parametrize("dropout", [0, 0.4])
def test_backward_passes_may_follow_one_another(dropout):
    x = nn.Variable.from_numpy_array(normal("x", 6, 2, 4)).apply(need_grad=True)
    y = lstm(x, 3, 3, dropout=dropout, train=True)
    set_parameters()
    named = {"x": x, **nn.get_parameters()}
    first = gradients(y, named, normal("gradient", *y.shape))
    for present in (0, 3):
        for variable in named.values():
            variable.g = present
        y.backward(nn.NdArray.from_numpy_array(normal("gradient", *y.shape)))
        for name, variable in named.items():
            np.testing.assert_allclose(variable.g - present, first[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("sizes", SIZES[:3], ids=str)
def test_gradients_without_train_are_those_with_it(sizes):
    def testing(x, *args, train):
        return lstm(x, *args, dropout=0.4)

    assert_close(evaluate(sizes, layer=testing), evaluate(sizes))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_parameters_begin_as_those_of_nnabla(sizes):
    """Names, shapes, whether they are learnt, and values to the bit."""
    def parameters():
        return {name: (p.d.tolist(), p.need_grad) for name, p in nn.get_parameters(grad_only=False).items()}

    frames, batch, features, hidden, num_layers, bidirectional = sizes
    seed_everything(5)
    lstm(nn.Variable((frames, batch, features)), hidden, num_layers, bidirectional)
    ours = parameters()
    nn.clear_parameters()
    seed_everything(5)
    states = (F.constant(0, (num_layers, 1 + bidirectional, batch, hidden)) for _ in range(2))
    PF.lstm(nn.Variable((frames, batch, features)), *states, num_layers=num_layers, bidirectional=bidirectional)
    assert ours == parameters()


@pytest.fixture(params=["functions", "kernels"])
def gpu_without_lstm(request, monkeypatch):
    """Make layers as on a GPU whose cuDNN has no LSTM; the CPU computes them. Returns what counts launches."""
    monkeypatch.setattr(recurrent, "_cudnn_has_lstm", lambda: False)
    if request.param == "kernels":
        return request.getfixturevalue("gpu_kernels")
    monkeypatch.setattr(gpu_recurrent, "load", lambda source: None)
    monkeypatch.setattr(context, "on_gpu", lambda: True)
    return None


of_functions = pytest.mark.parametrize("gpu_without_lstm", ["functions"], indirect=True)
of_kernels = pytest.mark.parametrize("gpu_without_lstm", ["kernels"], indirect=True)


def functions_of(y):
    names = []
    y.visit(lambda function: names.append(function.info.type_name))
    return names


@pytest.mark.usefixtures("gpu_without_lstm")
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_layer_for_gpus_without_lstm_agrees_with_nnabla(sizes):
    assert_close(evaluate(sizes), evaluate(sizes, native=True))


@pytest.mark.parametrize("sizes, gpu_without_lstm", [
    ((9, 2, 512, 256, 3, True), "functions"), ((3, 2, 64, 256, 1, True), "kernels")], indirect=["gpu_without_lstm"])
def test_layer_for_gpus_without_lstm_agrees_at_the_size_of_x_umx(sizes, gpu_without_lstm):
    """Parameters are as large as initial ones: larger ones saturate, and rounding grows from frame to frame."""
    assert_close(evaluate(sizes, deviation=0.04), evaluate(sizes, native=True, deviation=0.04))


@pytest.mark.usefixtures("gpu_without_lstm")
def test_layer_for_gpus_without_lstm_adds_to_gradients_that_exist():
    once, more = (evaluate(SIZES[0], present=present) for present in (0, 3))
    assert_close({name: value - 3 * (name != "y") for name, value in more.items()}, once)


@of_functions
def test_layer_for_gpus_without_lstm_leaves_nothing_to_the_host_and_little_to_each_frame(gpu_without_lstm):
    y, longer = (lstm(nn.Variable((frames, 2, 3)), 4, 2, train=True) for frames in (9, 14))
    assert host_arrays(y) == [] and not {"LSTM", "Constant"} & set(functions_of(y))
    assert len(functions_of(longer)) - len(functions_of(y)) == 13 * 5 * 2    # for both directions together


@pytest.mark.usefixtures("gpu_without_lstm")
def test_layer_for_gpus_without_lstm_drops_between_layers_while_training():
    x = normal("x", 5, 2, 3)
    run(x, 4, 3)
    set_parameters()
    np.testing.assert_array_equal(run(x, 4, 3, dropout=0.9), run(x, 4, 3))
    silent = run(x, 4, 3, dropout=1 - 1e-6, train=True)    # nothing reaches the last layer
    np.testing.assert_allclose(silent, run(np.zeros_like(x), 4, 3, dropout=1 - 1e-6, train=True), atol=1e-6)
    assert (silent != run(x, 4, 3)).any()
    nn.clear_parameters()
    np.testing.assert_array_equal(run(x, 4, 1, dropout=0.9, train=True), run(x, 4, 1))    # the only layer is the last


@of_functions
def test_a_graph_that_would_be_too_deep_is_left_to_the_compiled_layer(gpu_without_lstm, monkeypatch):
    monkeypatch.setattr(recurrent, "_MOST_STEPS", 18)
    for frames, composed in ((9, True), (10, False)):
        assert ("BatchMatmul" in functions_of(lstm(nn.Variable((frames, 2, 3)), 4, 2))) == composed


@of_kernels
@pytest.mark.parametrize("sizes", [
    (7, 4, 3, 8, 2, True),     # exactly one block and one group
    (6, 9, 5, 20, 2, True),    # three blocks, three groups, the last of each not full
    (2, 16, 4, 17, 1, False),
], ids=str)
def test_kernels_share_work_among_blocks(gpu_without_lstm, sizes):
    expected = evaluate(sizes, native=True)
    before = gpu_without_lstm()
    found = evaluate(sizes)
    assert gpu_without_lstm() - before == 2 * sizes[4]    # layers, forward and backward
    assert_close(found, expected)
    assert_close(evaluate(sizes), found, tolerance=0)


@of_kernels
def test_kernels_take_groups_in_turns_where_the_gpu_cannot_hold_all_at_once(gpu_without_lstm, monkeypatch):
    sizes = (5, 13, 3, 9, 1, True)    # four groups for each direction
    whole = evaluate(sizes)
    monkeypatch.setattr(gpu_recurrent, "groups_at_once", lambda kernels, name, hidden: 3)
    before = gpu_without_lstm()
    assert_close(evaluate(sizes), whole, tolerance=0)
    assert gpu_without_lstm() - before == 2 * 3    # of 3, 3 and 2 groups


@of_kernels
def test_kernels_run_a_large_layer_after_a_small_one(gpu_without_lstm):
    sizes = (2, 1, 2, 240, 1, False)    # 49 KB of shared memory in the backward pass, where 48 KB need no permission
    before = gpu_without_lstm()
    large = evaluate(sizes, deviation=0.04)
    assert gpu_recurrent.fitting_kernels(3) is not None
    assert_close(evaluate(sizes, deviation=0.04), large, tolerance=0)
    assert gpu_without_lstm() - before == 4


@of_kernels
def test_kernels_take_graphs_of_any_length(gpu_without_lstm, monkeypatch):
    monkeypatch.setattr(recurrent, "_MOST_STEPS", 18)
    assert functions_of(lstm(nn.Variable((10, 2, 3)), 4, 2)).count("Recurrence") == 2


@of_kernels
def test_kernels_add_to_gradients_and_leave_alone_those_that_are_not_asked_for(gpu_without_lstm):
    shapes = {"gates": (5, 3, 2 * 4 * 7), "weights": (2, 4 * 7, 7)}

    def wanting(*names, run_frames):
        named = {name: nn.Variable.from_numpy_array(normal(name, *shape)) for name, shape in shapes.items()}
        for name, variable in named.items():
            variable.need_grad = name in names
            variable.g = 3
        y = run_frames(*named.values())
        gradients(y, {name: named[name] for name in names}, normal("gradient", *y.shape), present=2)
        return {name: variable.g.copy() for name, variable in named.items()}

    kernels = functools.partial(gpu_recurrent.recurrence, kernels=gpu_recurrent.fitting_kernels(7), train=True)
    for names in (("gates", "weights"), ("gates",), ("weights",)):
        assert_close(wanting(*names, run_frames=kernels), wanting(*names, run_frames=composed_lstm.run_frames))


@of_kernels
def test_gradients_by_kernels_need_a_forward_pass_in_training(gpu_without_lstm):
    x = nn.Variable.from_numpy_array(normal("x", 3, 2, 4)).apply(need_grad=True)
    y = lstm(x, 3, 1)
    y.forward()
    with pytest.raises(SystemError) as caught:    # of nnabla, whatever a function raises
        y.backward()
    assert "gradients of an LSTM need train=True" in str(caught.value.__cause__)


@of_kernels
def test_a_layer_is_made_of_functions_where_there_is_no_driver(gpu_without_lstm, monkeypatch, capsys):
    monkeypatch.setattr(driver, "LIBRARY", "libcuda_that_is_not_there.so.1")
    assert_close(evaluate(SIZES[3]), evaluate(SIZES[3], native=True))
    assert "BatchMatmul" in functions_of(lstm(nn.Variable((2, 1, 4)), 7, 2, bidirectional=False))
    err = capsys.readouterr().err
    assert err.startswith("warning: computing with nnabla's functions") and err.count("\n") == 1 and "lstm.cu" in err


@of_kernels
def test_a_layer_that_is_too_large_for_the_gpu_is_made_of_functions(gpu_without_lstm, capsys):
    """Its weights have no room in shared memory, or its blocks not in the GPU."""
    for hidden in (1300, 20000):
        assert gpu_recurrent.fitting_kernels(hidden) is None
    assert "BatchMatmul" in functions_of(lstm(nn.Variable((2, 1, 1)), 1300, 1, bidirectional=False))
    err = capsys.readouterr().err
    assert err.count("\n") == 2 and all(line.startswith("warning: ") for line in err.splitlines()) and "1300" in err


@pytest.mark.usefixtures("gpu_without_lstm")
def test_exports_have_nnablas_function_on_every_gpu():
    with native_functions():
        assert "LSTM" in functions_of(lstm(nn.Variable((3, 2, 3)), 4, 2))


def test_does_not_depend_on_the_number_of_threads(monkeypatch):
    monkeypatch.setattr(parallel, "_SMALL", 0)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(parallel, "num_threads", lambda threads=threads: threads)
        results.append(evaluate((70, 2, 10, 40, 2, True)))    # 160 gates: two blocks of columns
    assert_close(*results, tolerance=0)


def test_an_input_without_gradient_is_left_alone():
    x = nn.Variable.from_numpy_array(normal("x", 13, 2, 10))
    y = lstm(x, 6, 3, train=True)
    set_parameters()
    x.g = 3
    result = gradients(y, nn.get_parameters(), normal("gradient", *y.shape))
    assert (x.g == 3).all()
    whole = evaluate(SIZES[0])
    assert_close(result, {name: whole[name] for name in result}, tolerance=0)


def test_second_direction_is_the_first_on_reversed_frames():
    x = normal("x", 9, 2, 3)
    run(x, 4, 1)
    set_parameters()
    y = run(x, 4, 1)
    for parameter in nn.get_parameters().values():
        axis = 0 if parameter.ndim == 4 and parameter.shape[-1] > 4 else 1    # (directions, ...) or (layers, ...)
        parameter.d = np.flip(parameter.d, axis)
    swapped = run(x[::-1], 4, 1)[::-1]
    np.testing.assert_allclose(np.roll(swapped, 4, axis=2), y, atol=1e-6)


def test_items_of_a_batch_do_not_see_each_other():
    x = normal("x", 9, 3, 2)
    together = run(x, 4, 2)
    alone = [run(x[:, k:k + 1], 4, 2) for k in range(3)]
    np.testing.assert_allclose(together, np.concatenate(alone, axis=1), atol=1e-6)


def test_huge_inputs_saturate():
    x = np.full((4, 1, 2), 1e30, np.float32)
    y = run(x, 3, 2)
    assert np.isfinite(y).all() and (np.abs(y) <= 1).all()


@pytest.mark.parametrize("num_layers, dropout", [(3, 0), (1, 0.9)])
def test_without_dropout_training_and_testing_agree(num_layers, dropout):
    """Dropout is between layers only."""
    x = normal("x", 5, 2, 3)
    np.testing.assert_array_equal(run(x, 4, num_layers, dropout=dropout, train=True), run(x, 4, num_layers))


def make_second_layer_linear(hidden, factor=1e-3):
    """Its output becomes about factor / 4 times its input, and 0 exactly where its input is 0: one frame, one way."""
    parameters = nn.get_parameters()
    weight = np.zeros(parameters["lstm/weight"].shape, np.float32)    # (1, 1, gates, hidden, 2 hidden)
    weight[0, 0, 2, :, :hidden] = factor * np.eye(hidden)
    parameters["lstm/weight"].d = weight
    parameters["lstm/bias"].d[1] = 0


def dropping(x, hidden, dropout, train=True):
    return run(x, hidden, 2, bidirectional=False, dropout=dropout, train=train)


@pytest.mark.parametrize("dropout", [0.1, 0.4, 0.75])
def test_dropout_drops_its_share_and_keeps_the_mean(dropout):
    batch, hidden = 500, 40
    x = np.repeat(normal("x", 1, 1, 3), batch, axis=1)
    dropping(x, hidden, 0)
    set_parameters()
    make_second_layer_linear(hidden)
    seed_everything(1)
    whole, dropped = (dropping(x, hidden, share)[0] for share in (0, dropout))    # (batch, hidden)
    deviation = np.sqrt(dropout * (1 - dropout))    # of one draw
    assert abs(np.mean(dropped == 0) - dropout) < 4 * deviation / np.sqrt(dropped.size)
    np.testing.assert_allclose(dropped[dropped != 0], whole[dropped != 0] / (1 - dropout), rtol=1e-4)
    error = np.abs(dropped.mean(0) / whole[0] - 1)
    assert error.max() < 5 * deviation / (1 - dropout) / np.sqrt(batch)


def test_dropout_follows_from_the_seed_and_differs_between_steps():
    x = nn.Variable.from_numpy_array(normal("x", 5, 2, 3))
    y = lstm(x, 4, 2, dropout=0.5, train=True)

    def two_steps(seed):
        seed_everything(seed)
        steps = []
        for _ in range(2):
            y.forward()
            steps.append(y.d.copy())
        return steps

    first, again, other = two_steps(1), two_steps(1), two_steps(2)
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).any() and (first[0] != other[0]).any()


def test_every_layer_but_the_last_drops():
    """A dropout of nearly 1 leaves the last of three layers nothing but its bias."""
    x = normal("x", 5, 2, 3)
    run(x, 4, 3)
    set_parameters()
    silent = run(np.zeros_like(x), 4, 3, dropout=1 - 1e-9, train=True)
    np.testing.assert_array_equal(run(x, 4, 3, dropout=1 - 1e-9, train=True), silent)
    assert silent.any()


def test_nothing_is_dropped_without_train():
    x = normal("x", 5, 2, 3)
    np.testing.assert_array_equal(run(x, 4, 3, dropout=0.9), run(x, 4, 3))


def test_gradients_with_dropout_agree_with_finite_differences():
    x = nn.Variable.from_numpy_array(normal("x", 7, 2, 3)).apply(need_grad=True)
    y = lstm(x, 4, 3, dropout=0.4, train=True)
    set_parameters()
    g = normal("gradient", *y.shape)
    named = {"x": x, **nn.get_parameters()}
    seed_everything(3)
    analytic = gradients(y, named, g)
    for name, variable in named.items():
        value, direction, step = variable.d.copy(), normal(f"direction {name}", *variable.shape), 1e-2
        sides = []
        for sign in (1, -1):
            variable.d = value + np.float32(sign * step) * direction
            seed_everything(3)
            y.forward()
            sides.append(np.sum(y.d * g, dtype=np.float64))
        variable.d = value
        expected = np.sum(analytic[name] * direction)
        assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(expected, rel=5e-3), name    # step^2 and rounding


@pytest.mark.cuda
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("frames", [1, 2, 259])
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_on_a_gpu_kernels_agree_with_the_cpu(gpu, monkeypatch, batch, frames, bidirectional):
    monkeypatch.setattr(recurrent, "_cudnn_has_lstm", lambda: False)
    sizes = (frames, batch, 512, 256, 2, bidirectional)
    assert gpu_recurrent.fitting_kernels(256) is not None
    found, again = (evaluate(sizes, deviation=0.04) for _ in range(2))
    context.use_context("cpu")
    assert_close(found, evaluate(sizes, deviation=0.04))
    assert_close({name: again[name] for name in ("y", "x")}, {name: found[name] for name in ("y", "x")}, tolerance=0)
