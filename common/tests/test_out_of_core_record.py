"""What the table says that functions touch, against nnabla: its scheduler plans with the smallest budget, no less."""
import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import nnabla.solvers as S
import numpy as np
import pytest
from nnabla.lms import SwapInOutScheduler

from common.machine.context import use_context
from common.out_of_core import schedule as scheduling
from common.out_of_core.accesses import UPDATES
from common.out_of_core.observer import split_passes
from common.out_of_core.record import Access, Record
from common.out_of_core.recorder import Recorder, backward_functions, functions_of
from common.out_of_core.schedule import PlanError, make_schedule
from common.out_of_core.smallest import smallest_budget

X = (4, 4, 12, 12)

FUNCTIONS = {
    "tanh": lambda h: F.tanh(h), "relu": lambda h: F.relu(h), "leaky_relu": lambda h: F.leaky_relu(h),
    "elu": lambda h: F.elu(h), "swish": lambda h: F.swish(h), "softmax": lambda h: F.softmax(h),
    "dropout": lambda h: F.dropout(h, 0.3), "add": lambda h: h + F.relu(h), "multiply": lambda h: h * F.tanh(h),
    "broadcasting": lambda h: h * F.sigmoid(F.mean(h, axis=(2, 3), keepdims=True)), "scalars": lambda h: 2 * h + 1,
    "mean": lambda h: F.mean(h, axis=1), "max": lambda h: F.max(h, axis=1), "split": lambda h: F.split(h, axis=1)[1],
    "concatenate": lambda h: F.concatenate(h, F.relu(h), axis=1), "reshape": lambda h: F.tanh(F.reshape(h, (4, -1))),
    "transpose": lambda h: F.transpose(h, (0, 2, 3, 1)), "pad": lambda h: F.pad(h, (1,) * 4, "reflect"),
    "slice": lambda h: h[:, 1:3], "max_pooling": lambda h: F.max_pooling(h, (3, 3), stride=(2, 2)),
    "average_pooling": lambda h: F.average_pooling(h, (2, 2)), "interpolate": lambda h: F.interpolate(h, scale=(2, 2)),
    "convolution": lambda h: PF.convolution(h, 6, (3, 3)), "grouped": lambda h: PF.convolution(h, 6, (3, 3), group=2),
    "fixed": lambda h: PF.convolution(h, 6, (3, 3), fix_parameters=True), "affine": lambda h: PF.affine(h, 7),
    "deconvolution": lambda h: PF.deconvolution(h, 6, (3, 3), stride=(2, 2)),
    "depthwise": lambda h: PF.depthwise_convolution(h, (3, 3)), "prelu": lambda h: PF.prelu(h),
    "batch_normalization": lambda h: PF.batch_normalization(h),
    "fixed_statistics": lambda h: PF.batch_normalization(h, batch_stat=False),
    "fixed_statistics_alone": lambda h: PF.batch_normalization(h, batch_stat=False, fix_parameters=True),
    "constant": lambda h: h * F.constant(2, X),
    "fused": lambda h: PF.fused_batch_normalization(h, F.tanh(h)),
    "unlinked": lambda h: h + F.tanh(h.get_unlinked_variable(need_grad=False)),
    "instance_normalization": lambda h: F.instance_normalization(h, None, None),
    "instance_normalization_scaled": lambda h: PF.instance_normalization(h),
    "layer_normalization": lambda h: PF.layer_normalization(h),
}


class Net:
    """An input, a parameter, and a function between them and a loss."""

    def __init__(self, function, solver="Momentum"):
        use_context("cpu")
        nn.clear_parameters()
        self.x = nn.Variable(X)
        weight = nn.parameter.get_parameter_or_create("weight", X, lambda shape: np.ones(shape, np.float32))
        self.loss = F.mean(F.tanh(function(F.tanh(weight + self.x))))
        self.solver = getattr(S, solver)()
        self.solver.set_parameters(nn.get_parameters())

    def step(self):
        self.x.d = np.ones(X, np.float32)
        self.loss.forward(clear_no_need_grad=True)
        self.solver.zero_grad()
        self.loss.backward(clear_buffer=True)
        self.solver.update()

    def record(self):
        recorder = Recorder()
        recorder.write(self.x)
        recorder.forward(self.loss)
        recorder.zero_grad(self.solver)
        recorder.backward(self.loss)
        recorder.solver_call(self.solver, "update")
        return recorder.finish()

    def is_planned_with(self, budget):
        return is_planned(self.step, budget)


def is_planned(step, budget):
    """Whether nnabla plans an iteration with a budget."""
    host = nn.Context(["cpu:float"], "CpuCachedArray", "0")
    scheduler = SwapInOutScheduler(host, nn.get_current_context(), budget)
    with scheduler:
        step()
    try:
        with scheduler:
            step()
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("name", FUNCTIONS)
def test_smallest_budget_is_that_of_nnabla(name):
    smallest, _ = Net(FUNCTIONS[name]).record().minimum()
    assert Net(FUNCTIONS[name]).is_planned_with(smallest)
    assert not Net(FUNCTIONS[name]).is_planned_with(smallest - 1)


@pytest.mark.parametrize("solver", sorted(UPDATES))
def test_smallest_budget_of_a_solver_is_that_of_nnabla(solver):
    smallest, block = Net(F.relu, solver).record().minimum()
    assert Net(F.relu, solver).is_planned_with(smallest)
    assert not Net(F.relu, solver).is_planned_with(smallest - 1)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_blocks_are_the_calls_of_the_hooks(name):
    net, seen = Net(FUNCTIONS[name]), []
    nn.callback.set_function_pre_hook("test", lambda f: seen.append(f.info.type_name))
    nn.callback.set_solver_pre_hook("test", lambda: seen.append("update"))
    net.step()
    nn.callback.unset_function_pre_hook("test")
    nn.callback.unset_solver_pre_hook("test")
    assert [label.split()[0] for label in net.record().labels[1:]] == seen


def clears(record, index):
    """Sizes in elements of what the first function of an index clears."""
    return [access.size for access in record.blocks[index] if access.kind == "clear"]


def test_an_array_is_cleared_after_its_last_use_by_a_function_that_uses_it_twice():
    x = nn.Variable((2, 3))
    h = x + 1    # used by the concatenation twice, and then once more
    record = Recorder()
    record.forward(F.mean(F.concatenate(h, h) + F.concatenate(h * 2, h * 3)))
    done = record.finish()
    assert [label.split()[0] for label in done.labels[1:6]] == ["AddScalar", "Concatenate", "MulScalar", "MulScalar",
                                                                "Concatenate"]
    assert [6 in clears(done, block) for block in range(1, 5)] == [False, False, False, True]


def test_what_is_reshaped_in_place_is_not_cleared():
    h = nn.Variable((2, 3)) + 1
    record = Recorder()
    record.forward(F.sum(F.reshape(h, (6,))) + F.sum(h * 2))
    done = record.finish()
    assert not any(number == done.blocks[1][1].array for block in done.blocks for number in
                   (access.array for access in block if access.kind == "clear"))


def test_an_unlinked_variable_is_counted_for_itself():
    h = nn.Variable((2, 3)) + 1
    record = Recorder()
    record.forward(F.sum(h + F.tanh(h.get_unlinked_variable(need_grad=False))))
    done = record.finish()
    assert done.labels[3].startswith("Add2") and len(clears(done, 3)) == 2


def test_a_buffer_of_an_update_is_no_state():
    net = Net(F.relu, "Lamb")
    update = net.record().blocks[-1]
    assert [access.temporary for access in update] == [False] * 4 + [True]


@pytest.mark.parametrize("dtype, features", [("float64", 10), ("int32", 13)])
def test_smallest_budget_holds_where_inputs_are_converted_and_soon_used_again(dtype, features):
    def step():
        x.d = np.ones(x.shape, dtype)
        loss.forward(clear_no_need_grad=True)
        solver.zero_grad()
        loss.backward(clear_buffer=True)
        solver.update()

    use_context("cpu")
    nn.clear_parameters()
    x, recorder = nn.Variable((5, features)), Recorder()
    loss = F.mean(PF.affine(x * PF.affine(x, features, name="gate"), 2, name="out") ** 2)
    solver = S.Sgd()
    solver.set_parameters(nn.get_parameters())
    recorder.write(x, dtype)
    recorder.forward(loss)
    recorder.zero_grad(solver)
    recorder.backward(loss)
    recorder.solver_call(solver, "update")
    record = recorder.finish()
    smallest, _ = smallest_budget(record)
    assert smallest > record.minimum()[0]
    assert is_planned(step, smallest) and not is_planned(step, smallest - 1)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_smallest_budget_holds_where_labels_are_computed(dtype):
    """As for segmentation: pixels without a label are given class 0 and do not count."""
    def step():
        x.d, label.d = np.ones(x.shape, np.float32), np.ones(label.shape, dtype)
        loss.forward(clear_no_need_grad=True)
        loss.backward(clear_buffer=True)

    use_context("cpu")
    nn.clear_parameters()
    x, label, recorder = nn.Variable((1, 2, 9, 9)), nn.Variable((1, 1, 9, 9)), Recorder()
    counts = F.not_equal_scalar(label, 255)
    losses = F.softmax_cross_entropy(PF.convolution(x, 9, (1, 1)), label * counts, axis=1)
    loss = F.sum(losses * counts) / F.sum(counts)
    recorder.write(x)
    recorder.write(label, dtype)
    recorder.forward(loss)
    recorder.backward(loss)
    record = recorder.finish()
    smallest, block = smallest_budget(record)
    assert smallest > record.minimum()[0]
    assert "SoftmaxCrossEntropy" in record.labels[block]
    assert is_planned(step, smallest) and not is_planned(step, smallest - 1)


def test_smallest_budget_is_that_of_nnabla_in_the_context_that_computes():
    """The half context of nnabla's extension for a CPU computes in float16, and keeps parameters in float32."""
    def step():
        x.d = np.ones(x.shape, np.float32)
        loss.forward(clear_no_need_grad=True)
        solver.zero_grad()
        loss.backward(clear_buffer=True)
        solver.update()

    smallest = {}
    nn.clear_parameters()
    for backend in ("cpu:float", "cpu:half"):
        with nn.context_scope(nn.Context([backend, "cpu:float"], "CpuCachedArray", "0")):
            x, recorder = nn.Variable((8, 3, 16, 16)), Recorder()
            h = F.relu(PF.batch_normalization(PF.convolution(x, 8, (3, 3), pad=(1, 1))))
            loss, solver = F.mean(PF.affine(h, 5) ** 2), S.Momentum()
            solver.set_parameters(nn.get_parameters())
            recorder.write(x)
            recorder.forward(loss)
            recorder.zero_grad(solver)
            recorder.backward(loss)
            recorder.solver_call(solver, "update")
            smallest[backend], _ = smallest_budget(recorder.finish())
            assert is_planned(step, smallest[backend]) and not is_planned(step, smallest[backend] - 1)
    assert smallest["cpu:half"] < 0.7 * smallest["cpu:float"]


def test_passes_are_told_apart():
    net = Net(lambda h: F.relu(h) + F.tanh(h))
    seen = []
    net.loss.forward(function_pre_hook=seen.append)
    net.loss.backward(function_pre_hook=seen.append)
    passes = split_passes([*seen, None, None, *seen])
    assert [direction for direction, _ in passes] == ["forward", "backward"] * 2
    assert passes[0][1] == functions_of(net.loss) and passes[1][1] == backward_functions(net.loss)


def accesses(*blocks):
    """A record of blocks of (kind, array, size in elements)."""
    made = [[Access(kind, array, size, "float32", transfers=kind == "get") for kind, array, size in block]
            for block in blocks]
    held = {access.array: "float32" for block in made for access in block if access.kind != "clear"}
    return Record(made, [f"block {i}" for i in range(len(blocks))], held)


def test_an_array_that_is_used_again_soon_stays():
    record = accesses([("cast", 0, 10)], [("get", 0, 10), ("cast", 1, 10)], [("get", 1, 10), ("cast", 2, 10)])
    schedule = make_schedule(record, 1000)
    assert schedule.count("in") == (0, 0)
    assert schedule.count("out") == (3, 120)


def test_an_array_that_is_used_late_goes_and_comes_back():
    record = accesses([], [("get", 0, 10)], [("get", 1, 10)], [("get", 2, 10)], [("get", 0, 10)])
    assert make_schedule(record, 40).count("in") == (4, 160)
    assert make_schedule(record, 200).count("in") == (3, 120)


def test_a_block_without_room_is_named():
    record = accesses([], [("get", 0, 10)], [("get", 1, 30), ("cast", 2, 10)])
    with pytest.raises(PlanError) as error:
        make_schedule(record, 159)
    assert error.value.block == 2
    assert record.minimum() == (160, 2)


def random_record(seed):
    """Arrays of one or two types, used, written and cleared in any order, some of them temporary."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 12, rng.integers(5, 20)).tolist()
    types = [rng.choice(["float32", "float64", "float16"], rng.integers(1, 3)).tolist() for _ in sizes]

    def access(kinds):
        kind, array = rng.choice(kinds), int(rng.integers(len(sizes)))
        return Access(kind, array, sizes[array], "bool" if kind == "clear" else rng.choice(types[array]),
                      transfers=bool(rng.random() < 0.7), temporary=bool(kind != "clear" and rng.random() < 0.05))

    blocks = [[access(["get", "get", "cast", "cast", "clear"] if number else ["get", "cast"])
               for _ in range(rng.integers(5))] for number in range(rng.integers(2, 80))]
    return Record(blocks, [""] * len(blocks), {array: kinds[0] for array, kinds in enumerate(types) if array % 5})


def planned(record, budget, seed):
    """The schedule of a record, or the block that has no room; the number of tries."""
    tries, plan = [], scheduling._Planner.plan
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scheduling._Planner, "plan", lambda self, saved: tries.append(0) or plan(self, saved))
            result = make_schedule(record, budget, budget * 4 if seed % 3 else None, save_host_memory=seed % 2 == 0)
    except PlanError as error:
        result = error.block, error.reason
    return result, len(tries)


def test_a_plan_that_goes_on_after_cancelled_prefetches_is_the_one_made_from_the_beginning(monkeypatch):
    cancelled = 0
    for seed in range(40):
        record = random_record(seed)
        budget = int(record.minimum()[0] * (1 + seed % 4 / 10))
        found, tries = planned(record, budget, seed)
        for saved in (1, 10**6):    # no copy on the way, or one after each block
            with monkeypatch.context() as patch:
                patch.setattr(scheduling, "_SAVED", saved)
                assert planned(record, budget, seed) == (found, tries)
        cancelled += tries > 1
    assert cancelled > 5


def test_in_core_counts_what_lives_at_a_time():
    record = accesses([("cast", 0, 10)], [("get", 0, 10), ("cast", 1, 30)], [("clear", 1, 30), ("cast", 2, 20)])
    record = Record(record.blocks, record.labels, {0: "float32"})
    assert record.in_core() == [40, 160, 160]
