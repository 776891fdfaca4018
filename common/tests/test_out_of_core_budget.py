"""The budget as a promise about the device, and hooks whose errors reach the caller; the device is an imitation."""
import os

import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import nnabla.solvers as S
import numpy as np
import pytest

from common.cpu.host_function import HostFunction
from common.machine.context import use_context
from common.machine.errors import UsageError, UserError
from common.out_of_core import InCore, OutOfCore, allocators, device, meter, replay, scheduler
from common.out_of_core.hooks import Hooks
from common.out_of_core.meter import Meter

MB = 10**6


class Device:
    """A GPU whose free memory a test sets; freeing caches gives back `cached` bytes."""

    def __init__(self, monkeypatch):
        self.taken, self.cached, self.freed = 0, 0, 0
        monkeypatch.setattr(meter, "on_gpu", lambda: True)
        monkeypatch.setattr(meter, "_load_libraries", lambda: None)
        monkeypatch.setattr(meter, "free_caches", self.free_caches)
        monkeypatch.setattr(meter, "device_memory", lambda: (1000 * MB - self.taken - self.cached, 1000 * MB))

    def free_caches(self, virtual):
        self.freed += 1
        self.cached = 0


@pytest.fixture
def gpu(monkeypatch):
    return Device(monkeypatch)


class Training:
    """Convolutions in a row within `memory`, many arrays of the same size."""

    def __init__(self, memory):
        use_context("cpu")
        nn.clear_parameters()
        self.memory = memory
        self.x = nn.Variable((4, 8, 16, 16))
        h = self.x
        for i in range(6):
            h = F.relu(PF.convolution(h, 8, (3, 3), pad=(1, 1), name=f"conv{i}"))
        self.loss = F.mean(h ** 2)
        for i, p in enumerate(nn.get_parameters().values()):
            p.d = np.random.RandomState(i).randn(*p.shape) * 0.1
        self.solver = S.Momentum(0.1)
        self.solver.set_parameters(nn.get_parameters())
        memory.attach(self.solver)

    def step(self):
        self.x.d = np.random.RandomState(0).randn(*self.x.shape).astype(np.float32)
        self.loss.forward(clear_no_need_grad=True)
        self.solver.zero_grad()
        self.loss.backward(clear_buffer=True)
        self.solver.update()

    def run(self, steps=4):
        for _ in range(steps):
            self.memory.run(self.step)
        return {name: p.d.copy() for name, p in nn.get_parameters().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


class TestHooks:
    def network(self):
        use_context("cpu")
        x = nn.Variable((2, 3))
        x.d = 1
        return F.relu(x * 2) + 1

    @pytest.mark.parametrize("error", [MemoryError("8 GB are taken"), KeyboardInterrupt(), ValueError("x")])
    def test_the_first_error_leaves_the_block_as_itself(self, error):
        calls, y = [], self.network()

        def hook(function):
            calls.append(function.info.type_name)
            raise error

        with pytest.raises(type(error)) as caught, Hooks("test", before_function=hook):
            y.forward()
        assert caught.value is error and calls == ["MulScalar"]
        y.forward()    # nothing is left behind
        np.testing.assert_array_equal(y.d, np.full((2, 3), 3))

    def test_all_hooks_are_called_and_gone_after_the_block(self):
        calls, y = [], self.network()
        weight = nn.parameter.get_parameter_or_create("weight", (1,))
        solver = S.Sgd()
        solver.set_parameters(nn.get_parameters())
        hooks = Hooks("test", lambda f: calls.append("before"), lambda f: calls.append("after"),
                      lambda: calls.append("update"))
        with hooks:
            y.forward()
            weight.grad.zero()
            weight.g = 1
            solver.update()
        assert calls == ["before", "after"] * 3 + ["update"]
        y.forward()
        solver.update()
        assert len(calls) == 7

    def test_an_error_of_the_block_stays_itself(self):
        with pytest.raises(SystemError, match="of the block"), Hooks("test", before_function=str):
            raise SystemError("of the block")


def recurrent(function):
    x, h = nn.Variable((5, 2, 3)), nn.Variable((1, 1, 2, 4))
    return {"LSTM": lambda: PF.lstm(x, h, nn.Variable(h.shape))[0], "GRU": lambda: PF.gru(x, h)[0],
            "RNN": lambda: PF.rnn(x, h)[0],
            "SpectralNorm": lambda: PF.spectral_norm(nn.parameter.get_parameter_or_create("w", (3, 4)))}[function]()


@pytest.mark.parametrize("function", ["LSTM", "GRU", "RNN", "SpectralNorm"])
def test_a_function_that_runs_others_is_named(function):
    use_context("cpu")
    memory = OutOfCore("100MB", note=str)
    loss = F.mean(recurrent(function))
    with pytest.raises(UserError, match=f"^{function} runs functions of its own"):
        memory.run(loss.forward)
    loss.forward()    # alone it still works
    Training(memory).run()


class TestMeter:
    def test_it_counts_from_its_beginning(self, gpu):
        gpu.taken = 300 * MB
        taken = Meter(None)
        for gpu.taken in (310 * MB, 350 * MB, 320 * MB):
            taken.measure()
        assert taken.peak == 50 * MB and not taken.exceeded()

    def test_caches_are_freed_above_the_limit_alone(self, gpu):
        taken = Meter(100 * MB)
        freed = gpu.freed
        gpu.taken, gpu.cached = 60 * MB, 40 * MB
        taken.measure()
        assert gpu.freed == freed and taken.peak == 100 * MB
        gpu.cached = 41 * MB
        taken.measure()
        assert gpu.freed == freed + 1 and taken.peak == 100 * MB and not taken.exceeded()
        gpu.taken = 101 * MB
        taken.measure()
        assert taken.exceeded()

    def test_a_cpu_is_not_measured(self):
        use_context("cpu")
        taken = Meter(1)
        taken.measure()
        assert taken.peak is None and not taken.exceeded()


@pytest.mark.parametrize("num_bytes, expected", [
    (1, 512), (512, 512), ((1 << 20) - 1, 1 << 20), (1 << 20, 1 << 20), ((1 << 20) + 1, (1 << 20) + (128 << 10))])
def test_bytes_of_a_block_of_the_caching_allocator(num_bytes, expected):
    assert allocators.rounded(num_bytes) == expected


@pytest.mark.parametrize("budget, expected", [
    (1, 2 << 20), (2 << 30, 2 << 20), (8_000_000_000, 8 << 20), (16_000_000_000, 16 << 20), (72_000_000_000, 64 << 20)])
def test_chunks_are_about_a_thousandth_of_the_budget(budget, expected):
    assert device.chunk_for(budget) == expected
    use_context("cpu")
    assert OutOfCore(10_000_000, note=str).chunk == 2 << 20
    assert OutOfCore(10_000_000, chunk=4 << 20, note=str).chunk == 4 << 20


@pytest.mark.parametrize("argument, message", [({"chunk": 0}, "chunk 0"), ({"chunk": "much"}, "chunk 'much'"),
                                               ({"prefetch": 0}, "prefetch window 0")])
def test_amounts_of_memory_are_checked_on_a_cpu_too(argument, message):
    use_context("cpu")
    with pytest.raises(UsageError, match=message):
        OutOfCore(10_000_000, note=str, **argument)


def test_on_a_cpu_the_environment_stays_as_it_is(monkeypatch):
    """The limit would hold for whatever uses cuDNN later, and for the processes that this one starts."""
    monkeypatch.delenv(device.WORKSPACE_LIMIT, raising=False)
    use_context("cpu")
    OutOfCore(10_000_000, note=str)
    assert device.WORKSPACE_LIMIT not in os.environ


class Wasteful:
    """An allocator that takes so many bytes more for each array, and gives all back."""

    def __init__(self, waste):
        self.waste, self.now, self.taken, self.mapped = waste, 0, 0, 0

    def allocate(self, num_bytes):
        self.now += num_bytes + self.waste
        self.taken = max(self.taken, self.now)
        return num_bytes

    def free(self, block):
        self.now -= block + self.waste


class TestBudget:
    def plans(self, monkeypatch):
        """Sizes that schedulers are made with."""
        sizes, make = [], scheduler.SwapInOutScheduler
        monkeypatch.setattr(scheduler, "SwapInOutScheduler",
                            lambda host, device, size, **more: sizes.append(size) or make(host, device, size, **more))
        return sizes

    @pytest.mark.parametrize("waste", [0, 1000])
    def test_what_the_allocator_takes_is_within_the_budget(self, waste, monkeypatch):
        expected = Training(InCore()).run()
        monkeypatch.setattr(scheduler, "on_gpu", lambda: True)
        monkeypatch.setattr(OutOfCore, "new_allocator", lambda self: Wasteful(waste))
        sizes, plans, follow = self.plans(monkeypatch), [], replay.replay
        monkeypatch.setattr(replay, "replay", lambda *args: plans.append(follow(*args)) or plans[-1])
        assert_same(Training(OutOfCore(300_000, note=str)).run(), expected)
        assert plans[-1].device_bytes <= 0.95 * 300_000
        assert all(plan.device_bytes > 0.95 * 300_000 for plan in plans[:-2])    # the last one was replayed twice
        # At least the 12 parameters and their 12 states live at any time.
        assert 200_000 < sizes[-1] <= 300_000 - 24 * waste

    def test_the_plan_never_asks_for_less_than_the_smallest_budget(self, monkeypatch):
        expected = Training(InCore()).run()
        monkeypatch.setattr(scheduler, "on_gpu", lambda: True)
        monkeypatch.setattr(OutOfCore, "new_allocator", lambda self: Wasteful(100_000))
        sizes = self.plans(monkeypatch)
        assert_same(Training(OutOfCore(300_000, note=str)).run(), expected)
        # A convolution backward: input, two gradients, columns of an image, weights, their gradient and that of biases.
        assert sizes == [300_000, 3 * 32_768 + 73_728 + 2 * 2_304 + 32]

    def test_a_plan_with_too_little_is_made_with_more(self, monkeypatch):
        """As on a GPU, where the smallest budget is not known exactly."""
        expected = Training(InCore()).run(6)
        monkeypatch.setattr(scheduler, "on_gpu", lambda: True)
        monkeypatch.setattr(OutOfCore, "new_allocator", lambda self: Wasteful(100_000))
        minimum = scheduler.Observer.minimum
        monkeypatch.setattr(scheduler.Observer, "minimum",
                            lambda self: (int(0.6 * minimum(self)[0]), *minimum(self)[1:]))
        sizes = self.plans(monkeypatch)
        assert_same(Training(OutOfCore(300_000, note=str)).run(6), expected)
        smallest = 3 * 32_768 + 73_728 + 2 * 2_304 + 32
        assert sizes[-1] >= smallest > sizes[1] and sorted(sizes[1:]) == sizes[1:]

    def test_more_than_the_budget_is_planned_away(self, gpu, monkeypatch):
        expected = Training(InCore()).run(8)
        sizes, notes = self.plans(monkeypatch), []
        training = Training(OutOfCore("1MB", note=notes.append))
        measure = meter.Meter.measure

        def taken_as_planned(self, function=None):
            gpu.taken = int(1.3 * sizes[-1])
            measure(self, function)

        monkeypatch.setattr(meter.Meter, "measure", taken_as_planned)
        assert_same(training.run(8), expected)
        assert sizes == [1_000_000, 800_000, 640_000]    # 1.3 times the last is within the budget
        assert [note for note in notes if "planning with" in note] == [
            "training: 1.3 MB were taken, more than the budget of 1 MB; planning with 800 kB for arrays from here on",
            "training: 1.04 MB were taken, more than the budget of 1 MB; planning with 640 kB for arrays from here on"]

    def test_what_cannot_be_planned_away_is_said_once(self, gpu):
        notes = []
        training = Training(OutOfCore("1MB", note=notes.append))
        gpu.taken = 5 * MB
        training.run(20)
        assert sum("no plan for this iteration takes less" in note for note in notes) == 1


class Exhausted(HostFunction):
    """A function of nnabla in Python that passes its input on, and before that may find no memory."""

    def __init__(self, finds_memory):
        super().__init__()
        self.finds_memory = finds_memory

    def grad_depends_input_data(self, i, j):
        return False

    def forward_impl(self, inputs, outputs):
        if not self.finds_memory():
            raise RuntimeError("memory error in alloc\nout of memory")    # as nnabla's own has it
        outputs[0].data.copy_from(inputs[0].data)

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        inputs[0].grad.copy_from(outputs[0].grad)


class Exhausting(Training):
    """Memory runs out in iteration `at`, once or always."""

    def __init__(self, memory, at, times=1):
        super().__init__(memory)
        self.calls, self.failing = 0, range(at, at + times)
        self.loss = Exhausted(self.finds_memory)(self.loss)

    def finds_memory(self):
        self.calls += 1
        return self.calls - 1 not in self.failing


class TestMemoryThatRunsOut:
    @pytest.fixture
    def automatic(self, monkeypatch):
        """`auto` on a device of 2 MB, on which all arrays fit."""
        monkeypatch.setattr(scheduler, "device_memory", lambda: (2 * MB, 2 * MB))
        notes = []
        memory = OutOfCore("auto", note=notes.append)
        monkeypatch.setattr(scheduler, "on_gpu", lambda: True)
        return memory, notes

    @pytest.mark.parametrize("at", [0, 1, 3])
    def test_less_is_taken_and_results_stay(self, at, automatic):
        memory, notes = automatic
        expected = Exhausting(InCore(), 100).run(6)
        training = Exhausting(memory, at)
        assert_same(training.run(6), expected)
        assert training.calls == 7 and sum("memory ran out" in note for note in notes) == 1
        assert memory.budget == int(0.8 * 0.9 * 2 * MB)

    def test_what_fits_no_more_is_swapped(self, automatic, monkeypatch):
        memory, notes = automatic
        expected = Exhausting(InCore(), 100).run(6)
        training = Exhausting(memory, 3, times=4)
        assert_same(training.run(6), expected)
        assert "does not fit" in [note for note in notes if "all arrays together" in note][-1]

    def test_a_given_budget_is_kept(self):
        training = Exhausting(OutOfCore("1MB", note=str), 1)
        training.run(1)
        with pytest.raises(SystemError):
            training.run(1)
        assert training.memory.budget == MB


def test_ctrl_c_within_a_hook_ends_the_iteration(monkeypatch):
    expected = Training(InCore()).run(6)
    training = Training(OutOfCore("1MB", note=str))
    training.run(2)

    def interrupted(self, function=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(meter.Meter, "measure", interrupted)
        training.run(1)
    assert_same(training.run(3), expected)    # nnabla had computed the interrupted iteration to its end
