"""Guards of the scheduler: whatever an iteration does, results are those without it and the process lives on."""
import re
import subprocess
import sys
import threading

import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import nnabla.solvers as S
import numpy as np
import pytest

from common.console import cli
from common.machine.context import use_context
from common.machine.errors import UsageError, UserError
from common.machine.threads import NNABLA
from common.out_of_core import InCore, OutOfCore, add_out_of_core_flag, out_of_core
from common.out_of_core.device import parse_budget
from common.out_of_core.recorder import Recorder

BUDGET = 600_000
GB = 10**9


class Training:
    """A small network, trained within `memory`."""

    def __init__(self, memory, batch_size=8):
        use_context("cpu")
        nn.clear_parameters()
        self.memory, self.seen, self.rng = memory, [], np.random.RandomState(0)
        self.build(batch_size)
        for i, p in enumerate(nn.get_parameters().values()):
            p.d = np.random.RandomState(i).randn(*p.shape) * 0.1
        self.solver = S.Momentum(0.1)
        self.solver.set_parameters(nn.get_parameters())

    def build(self, batch_size):
        self.x, self.t = nn.Variable((batch_size, 3, 16, 16)), nn.Variable((batch_size, 1))
        h = PF.convolution(self.x, 8, (3, 3), pad=(1, 1), name="conv")
        self.hidden = F.relu(PF.batch_normalization(h, name="bn"))
        self.logits = PF.affine(F.max_pooling(self.hidden, (2, 2)), 5, name="fc")
        self.loss = F.mean(F.softmax_cross_entropy(self.logits, self.t))

    def data(self):
        self.x.d = self.rng.randn(*self.x.shape).astype(np.float32)
        self.t.d = self.rng.randint(0, 5, self.t.shape).astype(np.int32)

    def gradients(self):
        self.data()
        self.loss.forward(clear_no_need_grad=True)
        self.solver.zero_grad()
        self.loss.backward(clear_buffer=True)

    def step(self):
        self.gradients()
        self.solver.update()


def interrupted(at):
    def scenario(training):
        for i in range(5):
            try:
                with training.memory:
                    training.data()
                    training.loss.forward(clear_no_need_grad=True)
                    if i == at:
                        raise ValueError
                    training.solver.zero_grad()
                    training.loss.backward(clear_buffer=True)
                    training.solver.update()
            except ValueError:
                pass
    return scenario


def update_every_second_time(training):
    training.solver.zero_grad()
    for i in range(8):
        with training.memory:
            training.data()
            training.loss.forward(clear_no_need_grad=True)
            training.loss.backward(clear_buffer=True)
            if i % 2:
                training.solver.update()
                training.solver.zero_grad()


def ever_more_steps(training):
    for i in range(5):
        with training.memory:
            for _ in range(1 + i):
                training.step()


def fewer_steps(training):
    for i in range(5):
        with training.memory:
            for _ in range(5 - i):
                training.step()


def values_read_later(training):
    for i in range(5):
        with training.memory:
            training.step()
            if i >= 2:
                training.seen += [float(p.d.sum()) for p in nn.get_parameters(grad_only=False).values()] * 3


def gradients_read_later(training):
    for i in range(5):
        with training.memory:
            training.gradients()
            if i >= 2:
                training.seen += [float(p.g.sum()) for p in nn.get_parameters().values()]
            training.solver.update()


def intermediate_read_later(training):
    for i in range(5):
        with training.memory:
            training.data()
            training.loss.forward(clear_no_need_grad=True)
            if i >= 2:
                training.seen.append(float(training.hidden.d.sum()))
            training.solver.zero_grad()
            training.loss.backward(clear_buffer=True)
            training.solver.update()


def another_batch_size(training):
    for i in range(6):
        if i == 3:
            training.build(5)
        with training.memory:
            training.step()


def nothing_at_first(training):
    for i in range(4):
        with training.memory:
            if i:
                training.step()


def validation_between(training):
    for _ in range(4):
        with training.memory:
            training.step()
        with training.memory.validation():
            training.data()
            training.logits.forward(clear_buffer=True)
        training.seen.append(training.logits.d.copy())


SCENARIOS = {
    "exception in the first iteration": interrupted(0), "exception later": interrupted(3),
    "update every second time": update_every_second_time, "ever more steps": ever_more_steps,
    "fewer steps": fewer_steps, "values read later": values_read_later, "gradients read later": gradients_read_later,
    "intermediate read later": intermediate_read_later, "another batch size": another_batch_size,
    "nothing at first": nothing_at_first, "validation between": validation_between,
}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_results_are_those_without(scenario):
    plain = Training(InCore())
    scenario(plain)
    expected = {name: p.d.copy() for name, p in nn.get_parameters(grad_only=False).items()}
    swapped = Training(OutOfCore(BUDGET, note=str))
    scenario(swapped)
    for name, p in nn.get_parameters(grad_only=False).items():
        np.testing.assert_array_equal(p.d, expected[name])
    np.testing.assert_array_equal(swapped.seen, plain.seen)


def test_a_change_of_sequence_is_told():
    notes = []
    ever_more_steps(Training(OutOfCore(BUDGET, note=notes.append)))
    assert any("recording again" in note for note in notes)


def test_a_sequence_that_stays_is_recorded_once():
    notes = []
    training = Training(OutOfCore(BUDGET, note=notes.append))
    for _ in range(4):
        training.memory.run(training.step)
    assert not any("recording" in note for note in notes)


IN_A_PROCESS = """
import nnabla as nn, nnabla.functions as F, numpy as np
from common.machine.context import use_context
from common.out_of_core import OutOfCore
use_context("cpu")
x = nn.Variable((4, 6))
x.d = np.ones(x.shape)
y, memory = F.sum(F.tanh(F.reshape(x, (24,)))), OutOfCore(10**6, note=str)
for _ in range(3):
    with memory:
        y.forward(clear_no_need_grad=True)
    print(float(y.d))
"""


def test_nothing_before_and_in_the_first_function_is_no_end_of_the_process():
    done = subprocess.run([sys.executable, "-c", IN_A_PROCESS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.split())) == 1 and len(done.stdout.split()) == 3


def test_it_says_that_a_cpu_saves_no_memory(capsys):
    OutOfCore(BUDGET)
    assert "no memory is saved" in capsys.readouterr().err


@pytest.mark.parametrize("inner", [lambda memory: memory, lambda memory: memory.validation(),
                                   lambda memory: OutOfCore(BUDGET, note=str)])
def test_nested_use_is_an_error_and_leaves_the_outer_one_working(inner):
    training = Training(OutOfCore(BUDGET, note=str))
    with pytest.raises(UserError, match="within a training iteration"), training.memory, inner(training.memory):
        pass
    for _ in range(3):
        training.memory.run(training.step)


def is_free():
    """Whether another thread could use nnabla now."""
    taken = []

    def take():
        taken.append(NNABLA.acquire(blocking=False))
        if taken[0]:
            NNABLA.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return taken[0]


def test_other_threads_wait_until_an_iteration_ends():
    training = Training(OutOfCore(BUDGET, note=str))
    with training.memory:
        training.step()
        assert not is_free()
    assert is_free()
    with pytest.raises(UserError, match="within a training"), training.memory, training.memory.validation():
        pass
    assert is_free()
    with pytest.raises(ZeroDivisionError), training.memory.validation():
        raise ZeroDivisionError
    assert is_free()


def regression():
    """Return a solver and a step that takes 50 inputs to 300 outputs; an update needs parameter and gradient."""
    x = nn.Variable((1, 50))
    loss = F.mean(PF.affine(x, 300) ** 2)
    solver = S.Sgd(0.1)
    solver.set_parameters(nn.get_parameters())

    def step():
        x.d = np.ones(x.shape, np.float32)
        loss.forward(clear_no_need_grad=True)
        solver.zero_grad()
        loss.backward(clear_buffer=True)
        solver.update()
    return solver, step


def test_too_small_a_budget_names_the_update_that_sets_it():
    use_context("cpu")
    solver, step = regression()
    needed = 4 * 2 * 50 * 300
    memory = OutOfCore(needed - 1, note=str)
    memory.attach(solver)
    memory.run(step)
    with pytest.raises(UserError, match=f"one is {needed} bytes .* set by update of affine/W"):
        memory.run(step)
    memory = OutOfCore(needed, note=str)
    for _ in range(3):
        memory.run(step)


@pytest.mark.parametrize("context", [
    nn.Context(["cpu:float"], "", "0"),    # as nnabla starts
    nn.Context(["cpu:float"], "CpuCachedArray", ""),    # as nnabla.ext_utils.get_extension_context("cpu") makes it
], ids=["first", "of the extension"])
def test_it_needs_no_context_to_be_chosen_before(context):
    nn.set_default_context(context)
    try:
        memory = OutOfCore(BUDGET, note=str)
        _, step = regression()
        for _ in range(3):
            memory.run(step)
    finally:
        use_context("cpu")


@pytest.mark.parametrize("value, expected", [
    ("auto", int(8 * GB * 0.9)), ("12GB", 12 * GB), ("1.5 GiB", int(1.5 * 2**30)), ("800MB", 800 * 10**6), (1000, 1000),
    ("1000", 1000), (0.5, 8 * GB), ("0.5", 8 * GB), (3.5e9, 3_500_000_000), (1.0, 16 * GB), ("1.0", 16 * GB), (1, 1),
])
def test_budgets(value, expected):
    assert parse_budget(value, free=8 * GB, total=16 * GB) == expected


@pytest.mark.parametrize("value", [0, "0", -1, "-1", "-3GB", "much", "", "nan", "inf", float("nan"), "12 apples",
                                   "17GB", None, 1e-12, "1e-12"])
def test_bad_budgets_are_told_in_one_line(value):
    with pytest.raises(UsageError) as error:
        parse_budget(value, free=8 * GB, total=16 * GB)
    assert "\n" not in str(error.value)


def test_prefetch_window_is_checked():
    with pytest.raises(UsageError, match="prefetch window"):
        OutOfCore(BUDGET, prefetch="little", note=str)


@pytest.mark.parametrize("budget, prefetch, limit", [
    (BUDGET, 10_000, "prefetch window 10000 bytes"), (50_000, 10_000, "budget 50000 bytes"),
    (50_000, None, "budget 50000 bytes")])
def test_the_limit_that_is_too_small_is_named(budget, prefetch, limit):
    training = Training(OutOfCore(budget, prefetch, note=str))
    training.memory.attach(training.solver)
    training.memory.run(training.step)
    with pytest.raises(UserError, match=f"^{limit} is too small .* smallest feasible one is ([0-9]+) bytes") as error:
        training.memory.run(training.step)
    smallest = int(re.findall("one is ([0-9]+)", str(error.value))[0])
    training = Training(OutOfCore(smallest, smallest, note=str))    # the window need not be larger than the budget
    for _ in range(3):
        training.memory.run(training.step)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_smallest_budget_has_room_for_the_inputs_beside_the_first_function(dtype):
    use_context("cpu")
    nn.clear_parameters()
    x, t = nn.Variable((16, 500)), nn.Variable((16, 1))
    loss, solver = F.mean(F.softmax_cross_entropy(PF.affine(x, 3), t)), S.Sgd(0.1)
    solver.set_parameters(nn.get_parameters())

    def step():
        x.d, t.d = np.ones(x.shape, dtype), np.ones(t.shape, np.int32)
        loss.forward(clear_no_need_grad=True)
        solver.zero_grad()
        loss.backward(clear_buffer=True)
        solver.update()

    def train(budget):
        memory = OutOfCore(budget, note=str)
        memory.attach(solver)
        for _ in range(3):
            memory.run(step)

    with pytest.raises(UserError) as error:
        train(1)
    smallest = int(re.findall("one is ([0-9]+) bytes", str(error.value))[0])
    train(smallest)
    with pytest.raises(UserError, match=f"budget {smallest - 1} bytes is too small"):
        train(smallest - 1)
    recorder = Recorder()
    recorder.write(x, dtype)
    recorder.write(t, "int32")
    recorder.forward(loss)
    assert recorder.finish().minimum() == (smallest, 1)


@pytest.mark.parametrize("arguments, kind", [([], InCore), (["--out-of-core", "1MB"], OutOfCore)])
def test_flag(arguments, kind, capsys):
    parser = cli.parser("")
    add_out_of_core_flag(parser)
    use_context("cpu")
    assert isinstance(out_of_core(parser.parse_args(arguments).out_of_core), kind)


def test_flag_without_a_value_is_automatic(capsys):
    assert out_of_core("auto").automatic


def test_run_returns_what_the_step_does():
    assert OutOfCore(BUDGET, note=str).run(lambda a: a + 1, 2) == InCore().run(lambda a: a + 1, 2) == 3
