"""Memory of small networks on a GPU, computed by hand, and which backend counts."""
import os

import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import nnabla.solvers as S
import pytest

from common.machine.context import use_context
from common.machine.errors import UsageError
from common.out_of_core.backends import Backend, backend_named
from common.out_of_core.device import WORKSPACE_LIMIT, limit_workspaces, workspace_limit
from common.out_of_core.recorder import Recorder

MAP = 2 * 4 * 8 * 8    # elements of the map that every function below gets
HALF = Backend("cudnn", half=True)


def blocks_of(function, backend, solver=None):
    """Bytes of the blocks of an iteration, by the name of the function and the direction; of equal names the last."""
    use_context("cpu")
    nn.clear_parameters()
    x = nn.Variable((2, 4, 8, 8), need_grad=True)
    loss = F.mean(function(x))
    recorder = Recorder(backend)
    recorder.write(x)
    recorder.forward(loss)
    if solver:
        solver.set_parameters(nn.get_parameters())
        recorder.zero_grad(solver)
    recorder.backward(loss)
    if solver:
        recorder.solver_call(solver, "update")
    record = recorder.finish()
    sizes = {}
    for label, size in zip(record.labels, record.block_bytes(), strict=True):
        sizes[" ".join(label.replace(",", "").split(" of ")[0].split() + label.split(", ")[1:])] = size
    return sizes


def convolution(x):
    return PF.convolution(x, 6, (3, 3), pad=(1, 1))    # W: 6 x 4 x 3 x 3 = 216, b: 6, y: 2 x 6 x 8 x 8 = 768


# Function, its name, backend, bytes forward and backward. Elements: x y W b; dy dx dW db; statistics.
BY_HAND = [
    (convolution, "Convolution", Backend("cudnn"), 4 * (MAP + 768 + 216 + 6), 4 * (768 + MAP + 216 + MAP + 216 + 6)),
    (convolution, "Convolution", Backend("cudnn", workspace=1000), 4 * (MAP + 768 + 216 + 6) + 1000,
     4 * (768 + MAP + 216 + MAP + 216 + 6) + 2 * 1000),
    (convolution, "Convolution", HALF, 2 * (MAP + 768 + 216 + 6), 2 * (768 + MAP + 216 + MAP + 216 + 6)),
    # A column matrix of one image: 4 x 3 x 3 rows of 8 x 8 positions.
    (convolution, "Convolution", Backend("cpu"), 4 * (MAP + 768 + 216 + 6 + 36 * 64),
     4 * (768 + MAP + 216 + MAP + 216 + 6 + 36 * 64)),
    # W: 4 x 6 x 3 x 3 = 216; y: 2 x 6 x 10 x 10 = 1200.
    (lambda x: PF.deconvolution(x, 6, (3, 3)), "Deconvolution", Backend("cudnn", workspace=1000),
     4 * (MAP + 1200 + 216 + 6) + 1000, 4 * (1200 + MAP + 216 + MAP + 216 + 6) + 1000),
    # beta, gamma, mean and variance of the batch, running ones: 4 elements each.
    (PF.batch_normalization, "BatchNormalization", Backend("cudnn"), 4 * (2 * MAP + 6 * 4), 4 * (3 * MAP + 6 * 4)),
    (PF.batch_normalization, "BatchNormalization", HALF, 2 * 2 * MAP + 4 * 6 * 4, 2 * 3 * MAP + 4 * 6 * 4),
    (F.relu, "ReLU", Backend("cudnn"), 4 * 2 * MAP, 4 * 3 * MAP),
    (F.relu, "ReLU", HALF, 2 * 2 * MAP, 2 * 3 * MAP),
    (lambda x: F.concatenate(x, F.relu(x), axis=1), "Concatenate", Backend("cudnn"), 4 * 4 * MAP, 4 * 4 * MAP),
    (lambda x: x + F.relu(x), "Add2", Backend("cudnn"), 4 * 3 * MAP, 4 * 3 * MAP),
    # W: 256 x 5, b: 5, y: 2 x 5.
    (lambda x: PF.affine(x, 5), "Affine", Backend("cudnn"), 4 * (MAP + 1280 + 5 + 10),
     4 * (10 + MAP + 1280 + MAP + 1280 + 5)),
    # cuDNN asks for the data of both sides, and keeps no positions.
    (lambda x: F.max_pooling(x, (2, 2)), "MaxPooling", Backend("cudnn"), 4 * (MAP + MAP // 4),
     4 * 2 * (MAP + MAP // 4)),
    (lambda x: F.max_pooling(x, (2, 2)), "MaxPooling", Backend("cpu"), 4 * (MAP + 2 * (MAP // 4)),
     4 * (MAP + 2 * (MAP // 4))),
    (lambda x: F.dropout(x, 0.5), "Dropout", HALF, (2 + 2 + 4) * MAP, (2 + 2 + 4) * MAP),
    # Output and input are one array; their gradients are two.
    (lambda x: F.reshape(F.relu(x), (2, -1)), "Reshape", Backend("cudnn"), 0, 4 * 2 * MAP),
]


@pytest.mark.parametrize("function, name, backend, forward, backward", BY_HAND)
def test_memory_of_a_function_is_that_computed_by_hand(function, name, backend, forward, backward):
    blocks = blocks_of(function, backend)
    assert (blocks[f"{name} forward"], blocks[f"{name} backward"]) == (forward, backward)


@pytest.mark.parametrize("backend", [Backend("cudnn"), HALF])
@pytest.mark.parametrize("solver, states", [(S.Sgd, 0), (S.Momentum, 1), (S.Adam, 2)])
def test_a_solver_has_float32_states_in_every_backend(solver, states, backend):
    blocks = blocks_of(lambda x: PF.affine(x, 5, with_bias=False), backend, solver())
    assert blocks["update"] == 4 * (2 + states) * 1280


def test_arrays_of_an_iteration_in_core_by_hand():
    """x -> convolution -> ReLU -> mean, with momentum. All live when ReLU goes back: x, y of ReLU, dy, dx."""
    def in_core(backend):
        use_context("cpu")
        nn.clear_parameters()
        x = nn.Variable((2, 4, 8, 8))
        loss = F.mean(F.relu(PF.convolution(x, 6, (3, 3), pad=(1, 1))))
        solver = S.Momentum()
        solver.set_parameters(nn.get_parameters())
        recorder = Recorder(backend)
        recorder.write(x)
        recorder.forward(loss)
        recorder.zero_grad(solver)
        recorder.backward(loss)
        recorder.solver_call(solver, "update")
        record = recorder.finish()
        return record.in_core()[record.labels.index("ReLU of 2x6x8x8, backward")]
    parameters = 4 * 2 * (216 + 6)    # with their momentum; gradients come last
    assert in_core(Backend("cudnn")) == 4 * (MAP + 3 * 768) + parameters + 4    # and the loss
    # The input and the parameters have a float16 copy beside the float32 one.
    assert in_core(HALF) == (4 + 2) * MAP + 2 * 3 * 768 + parameters + 2 * (216 + 6) + 2


@pytest.mark.parametrize("name, expected", [
    ("cpu", Backend("cpu")), ("cpu:half", Backend("cpu", half=True)), ("cudnn", Backend("cudnn")),
    ("cudnn:float", Backend("cudnn")), ("cudnn:half", HALF)])
def test_backends_by_name(name, expected):
    assert backend_named(name) == expected
    with nn.context_scope(nn.Context([name, "cpu:float"], "CpuCachedArray", "0")):
        assert backend_named() == expected


@pytest.mark.parametrize("value, workspace", [("1000", 1000), ("0", 0), ("-1", None), (None, 1 << 30)])
def test_the_user_or_the_budget_limits_workspaces(value, workspace, monkeypatch):
    monkeypatch.setenv(WORKSPACE_LIMIT, "")    # so that it is as before afterwards
    monkeypatch.delenv(WORKSPACE_LIMIT)
    if value is not None:
        monkeypatch.setenv(WORKSPACE_LIMIT, value)
    assert workspace_limit(8 << 30) == workspace
    limit_workspaces(8 << 30)
    assert os.environ[WORKSPACE_LIMIT] == (value or str(workspace))


def test_a_limit_of_workspaces_fits_into_what_nnabla_reads_it_with(monkeypatch):
    monkeypatch.delenv(WORKSPACE_LIMIT, raising=False)
    assert workspace_limit(80 << 30) == 2**31 - 1


@pytest.mark.parametrize("name", ["gpu", "cpu:double", "", "cudnn:double"])
def test_unknown_backends_are_refused(name):
    with pytest.raises(UsageError, match="choose one of cpu, cpu:half, cudnn, cudnn:half"):
        backend_named(name)
