"""Ranks that train together do what one process with the whole batch does."""
import functools
import operator
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import nnabla.solvers as S
import numpy as np
import pytest

from common.machine.context import use_context
from common.machine.distributed import GPUWorld, World, join_ranks, world
from common.machine.errors import UsageError
from common.machine.launching import find_mpirun, launched_rank, launched_size, start_ranks
from common.runs.checkpoint import load_state

WORKER = Path(__file__).parent / "ranks_worker.py"
needs_mpi = pytest.mark.skipif(find_mpirun() is None, reason="no mpirun: pip install -r requirements-distributed.txt")


def start(ranks, folder, *flags, batch_size=8, epochs=1):
    """Run the worker and return (exit status, stdout, stderr)."""
    command = [sys.executable, str(WORKER), "--folder", str(folder), "--batch-size", str(batch_size), "--epochs",
               str(epochs), *flags]
    done = start_ranks(ranks, command, "--oversubscribe")
    return done.returncode, done.stdout, done.stderr


def results(folder, rank=0):
    with np.load(Path(folder) / f"rank{rank}.npz") as archive:
        return dict(archive)


@pytest.mark.slow
@needs_mpi
@pytest.mark.parametrize("flags", [(), ("--normalize",)], ids=["plain", "normalized"])
def test_two_ranks_train_as_one_process_with_twice_the_batch(tmp_path, flags):
    for ranks, batch_size in ((1, 16), (2, 8)):
        status, out, err = start(ranks, tmp_path / str(ranks), *flags, batch_size=batch_size, epochs=2)
        assert status == 0, err
    assert out.count("rank") == 1 and "2 processes" in out    # the other rank is silent
    alone, first, second = results(tmp_path / "1"), results(tmp_path / "2"), results(tmp_path / "2", 1)
    assert len(alone["losses"]) == 12 and np.ptp(alone["losses"]) > 0.05
    for name, value in first.items():
        np.testing.assert_allclose(value, alone[name], rtol=1e-5, atol=2e-6, err_msg=name)
        np.testing.assert_array_equal(value, second[name], err_msg=name)


@pytest.mark.slow
@needs_mpi
def test_a_run_is_resumed_by_another_number_of_ranks(tmp_path):
    status, _, err = start(2, tmp_path, "--fail", "rank1", epochs=2)
    assert status == 1 and err.count("error: rank 1 failed") == 1, err
    assert load_state(tmp_path / "checkpoint" / "latest.h5")["epoch"] == 1
    status, _, err = start(1, tmp_path, "--resume", batch_size=16, epochs=2)
    assert status == 0, err
    status, _, err = start(1, tmp_path / "alone", batch_size=16, epochs=2)
    assert status == 0, err
    np.testing.assert_allclose(results(tmp_path)["losses"], results(tmp_path / "alone")["losses"][6:], rtol=1e-5)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3


@pytest.mark.slow
@needs_mpi
def test_a_rank_that_is_killed_ends_the_other_and_leaves_a_checkpoint(tmp_path):
    status, _, err = start(2, tmp_path, "--fail", "kill1", epochs=2)
    assert status != 0 and "killed" in err.lower(), err
    assert load_state(tmp_path / "checkpoint" / "latest.h5")["epoch"] == 1
    status, _, err = start(2, tmp_path, "--resume", epochs=2)
    assert status == 0, err
    status, _, err = start(2, tmp_path / "alone", epochs=2)
    assert status == 0, err
    for name, value in results(tmp_path).items():
        np.testing.assert_array_equal(value, results(tmp_path / "alone")[name][-len(value):], err_msg=name)


@pytest.mark.slow
@needs_mpi
def test_averaging_among_swapped_arrays_gives_the_same_bits(tmp_path):
    status, _, err = start(2, tmp_path / "in-core", "--normalize")
    assert status == 0, err
    status, _, err = start(2, tmp_path / "swapped", "--normalize", "--out-of-core", "100kB")
    assert status == 0 and "arrays may take 100 kB" in err, err
    for rank in (0, 1):
        for name, value in results(tmp_path / "swapped", rank).items():
            np.testing.assert_array_equal(value, results(tmp_path / "in-core", rank)[name], err_msg=name)


@needs_mpi
@pytest.mark.parametrize(("fail", "status", "message"), [
    ("all", 2, "error: all ranks refuse this"), ("bug1", 1, "ZeroDivisionError: a bug of ours"),
])
def test_a_failure_ends_all_ranks_and_is_shown_once(tmp_path, fail, status, message):
    found, _, err = start(2, tmp_path, "--fail", fail)
    assert found == status and err.count(message) == 1, err


def test_one_process_needs_no_mpi(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert (launched_rank(), launched_size()) == (0, 1)
    assert join_ranks("cpu") == "cpu"
    alone = world()
    assert alone.any([True, 0]) == [True, False] and alone.mean([1.5, 2]).tolist() == [1.5, 2]


def test_missing_mpi4py_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="requirements-distributed.txt"):
        join_ranks("cpu")


def test_each_item_belongs_to_one_rank():
    worlds = [World() for _ in range(3)]
    for rank, each in enumerate(worlds):
        each.rank, each.size = rank, 3
    assert sorted(sum((each.share([*range(10)]) for each in worlds), [])) == [*range(10)]
    assert [[*range(12)][each.rows(4)] for each in worlds] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


class Float32Adding:
    """What connects threads in place of ranks, and adds in float32, as NCCL does."""

    def __init__(self, rank, given, barrier):
        self.rank, self.size, self.given, self.barrier = rank, len(given), given, barrier

    def all_reduce(self, array, division, inplace):
        assert (division, inplace) == (False, True)
        self.given[self.rank] = array.data.astype(np.float32)
        self.barrier.wait()
        array.data = functools.reduce(operator.add, self.given)


@pytest.mark.parametrize("values", [
    [[2 ** 24, 1, 2 ** 40], [1, 2 ** 25 + 1, 3], [1, 1, 2 ** 52]],    # counts of pixels
    [[0.1, -0.0, 1e-300], [0.2, -0.0, 1e300], [0.3, -0.0, np.inf]],
    [[], [], []],
    [7.25, 2.0 ** 30, 1.0],
])
def test_sums_over_gpus_are_those_of_double_precision(values):
    given, barrier = [None] * len(values), threading.Barrier(len(values))

    def rank(number):
        return GPUWorld(Float32Adding(number, given, barrier)).sum(values[number])

    with ThreadPoolExecutor(len(values)) as ranks:
        results = list(ranks.map(rank, range(len(values))))
    for found in results:
        np.testing.assert_array_equal(found, np.sum(values, axis=0))
        assert (found.dtype, found.shape) == (np.float64, np.shape(values[0]))


class Watching:
    """A communicator of one rank that notes how gradients are averaged, and what they are then."""

    rank, size = 0, 1

    def __init__(self):
        self.calls = []

    def all_reduce_callback(self, gradients, pack, division):
        self.calls.append(("callback", None))

    def all_reduce(self, gradients, division, inplace):
        assert division
        self.calls.append(("afterwards", [gradient.data.copy() for gradient in gradients]))


@pytest.mark.parametrize("uses, way", [(1, "callback"), (2, "afterwards"), (3, "afterwards")])
def test_gradients_of_parameters_that_are_used_twice_are_averaged_when_they_are_whole(uses, way):
    use_context("cpu")
    nn.clear_parameters()
    x = nn.Variable.from_numpy_array(np.ones((2, 3), np.float32))
    loss = F.sum(sum(PF.affine(x, 4, name="shared", with_bias=False) for _ in range(uses)))
    solver, communicator = S.Sgd(0.1), Watching()
    solver.set_parameters(nn.get_parameters())
    loss.forward()
    solver.zero_grad()
    GPUWorld(communicator).backward(loss, solver)
    (found, gradients), = communicator.calls
    assert found == way
    for gradient in gradients or [nn.get_parameters()["shared/affine/W"].g]:
        np.testing.assert_array_equal(gradient, np.full((3, 4), 2 * uses, np.float32))
