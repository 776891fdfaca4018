"""The planner and the scheduler against what nnabla 1.39 recorded, planned and computed for four networks."""
import json
from pathlib import Path

import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import nnabla.solvers as S
import numpy as np
import pytest

from common.machine.context import use_context
from common.machine.errors import UserError
from common.out_of_core import OutOfCore
from common.workbench.testing import fill_parameters
from out_of_core_training.planner import plan

CASES = json.loads((Path(__file__).parent / "data" / "cases.json").read_text())
SOLVERS = {"momentum": lambda rate: S.Momentum(rate, 0.9), "sgd": S.Sgd, "adam": S.Adam}
STEPS = 5


def each(kind):
    return [pytest.param(case, run, id=f"{case['spec']['name']}-{run['budget']}")
            for case in CASES for run in case[kind]]


@pytest.fixture(params=CASES, ids=lambda case: case["spec"]["name"])
def case(request):
    return request.param


def mlp(h, classes, hidden):
    for i, size in enumerate(hidden):
        h = F.tanh(PF.affine(h, size, name=f"fc{i}"))
    return PF.affine(h, classes, name="out")


def convnet(h, classes, ch, blocks):
    for i in range(blocks):
        h = PF.convolution(h, ch, (3, 3), pad=(1, 1), with_bias=False, name=f"conv{i}")
        h = F.max_pooling(F.relu(PF.batch_normalization(h, name=f"bn{i}")), (2, 2))
    return PF.affine(h, classes, name="fc")


def resnet(x, classes, ch, blocks):
    def normalized(h, conv, bn):
        h = PF.convolution(h, ch, (3, 3), pad=(1, 1), with_bias=False, name=conv)
        return PF.batch_normalization(h, name=bn)

    with nn.parameter_scope("stem"):
        h = F.relu(normalized(x, "conv", "bn"))
    for i in range(blocks):
        with nn.parameter_scope(f"block{i}"):
            r = normalized(F.relu(normalized(h, "conv1", "bn1")), "conv2", "bn2")
            h = F.relu(h + r)
    return PF.affine(F.average_pooling(h, h.shape[2:]), classes, name="fc")


class Training:
    """A network of the reference with its data and solver."""

    def __init__(self, spec):
        use_context("cpu")
        nn.clear_parameters()
        self.spec, self.x, self.t = spec, nn.Variable(spec["x_shape"]), nn.Variable((spec["x_shape"][0], 1))
        network = {"mlp": mlp, "convnet": convnet, "resnet": resnet}[spec["net"]]
        logits = network(self.x, spec["classes"], **spec["net_args"])
        self.loss = F.mean(F.softmax_cross_entropy(logits, self.t))
        fill_parameters(nn.get_parameters(grad_only=False), spec["seed"])
        self.solver = SOLVERS[spec["solver"]](spec["lr"])
        self.solver.set_parameters(nn.get_parameters())
        self.rng = np.random.RandomState(spec["seed"])

    def step(self):
        self.x.d = self.rng.randn(*self.x.shape).astype(self.spec.get("x_dtype", "float32"))
        self.t.d = self.rng.randint(0, self.spec["classes"], self.t.shape).astype(np.int32)
        self.loss.forward(clear_no_need_grad=True)
        self.solver.zero_grad()
        self.loss.backward(clear_buffer=True)
        if "weight_decay" in self.spec:
            self.solver.weight_decay(self.spec["weight_decay"])
        self.solver.update()

    def plan(self, budget=None):
        inputs = [(self.x, self.spec.get("x_dtype", "float32")), (self.t, "int32")]
        return plan([(self.loss, self.solver)], inputs, budget, weight_decay="weight_decay" in self.spec)

    def run(self, budget=None, steps=STEPS):
        """Losses and final parameters."""
        memory = OutOfCore(budget, note=str) if budget else None
        losses = []
        for _ in range(steps):
            if memory:
                memory.run(self.step)
            else:
                self.step()
            losses.append(float(self.loss.d))
        return losses, {name: p.d.copy() for name, p in nn.get_parameters(grad_only=False).items()}


def test_plan_names_blocks_accesses_and_smallest_budget_as_recorded(case):
    needs = Training(case["spec"]).plan()
    assert needs.function_blocks == case["function_blocks"]
    assert needs.recorded_accesses == case["recorded_accesses"]
    assert needs.block_bytes == case["block_bytes"]
    assert needs.minimum_budget == case["minimum_budget"]


@pytest.mark.parametrize("case, run", each("ok"))
def test_schedule_is_that_of_nnabla(case, run):
    swapped = Training(case["spec"]).plan(run["budget"])
    counts = swapped.counts()
    assert swapped.peak_bytes == run["peak_bytes"]
    assert counts["wait"][0] == run["wait_count"]
    for name in ("swap_in", "swap_out", "preclear"):
        assert counts[name] == (run[f"{name}_count"], run[f"{name}_bytes"])


def test_losses_and_parameters_are_those_of_plain_training(case):
    losses, parameters = Training(case["spec"]).run()
    np.testing.assert_allclose(losses, case["losses"], rtol=1e-3)
    for run in case["ok"]:
        swapped_losses, swapped = Training(case["spec"]).run(run["budget"])
        assert swapped_losses == losses
        for name, value in parameters.items():
            np.testing.assert_array_equal(swapped[name], value)


@pytest.mark.parametrize("case, run", each("fail"))
def test_too_small_a_budget_names_the_smallest_and_keeps_what_was_trained(case, run):
    message = f"smallest feasible one is {case['minimum_budget']} bytes"
    training = Training(case["spec"])
    with pytest.raises(UserError, match=message):
        training.plan(run["budget"])
    plain, _ = Training(case["spec"]).run()
    training = Training(case["spec"])
    memory = OutOfCore(run["budget"], note=str)
    memory.attach(training.solver)
    memory.run(training.step)
    for _ in range(2):
        with pytest.raises(UserError, match=message) as error:
            memory.run(training.step)
        assert "backward" in str(error.value) and "\n" not in str(error.value)
    losses, _ = training.run(case["minimum_budget"], STEPS - 1)
    assert losses == plain[1:]
