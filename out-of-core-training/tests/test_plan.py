import itertools
from pathlib import Path

import attrs
import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import nnabla.solvers as S
import numpy as np
import pytest

from common.machine.errors import UsageError, UserError
from common.out_of_core.recompute import LEVELS
from out_of_core_training import models
from out_of_core_training import plan as command
from out_of_core_training.planner import plan, plan_record
from out_of_core_training.planning.devices import DEVICES, Device
from out_of_core_training.planning.timeline import estimated_seconds, make_timeline
from out_of_core_training.planning.what_if import LIMIT, Growth, in_core_needs, swapped_needs, what_if_rows

SMALL = ["--image-size", "32", "--device", "V100-16GB"]


def small_net(batch_size=8, weight_decay=False, budget=None, prefetch=None):
    nn.clear_parameters()
    x, t = nn.Variable((batch_size, 3, 16, 16)), nn.Variable((batch_size, 1))
    h = F.relu(PF.batch_normalization(PF.convolution(x, 8, (3, 3), pad=(1, 1))))
    loss = F.mean(F.softmax_cross_entropy(PF.affine(h, 5), t))
    solver = S.Momentum(0.1)
    solver.set_parameters(nn.get_parameters())
    steps = [(loss, solver)]
    return plan(steps, [x, (t, "int32")], budget, prefetch, weight_decay), steps


def resnet50(batch_size):
    network = models.build("resnet50", batch_size)
    return plan(network.steps, network.typed_inputs), network


def test_resnet50_takes_86_megabytes_of_an_image_and_its_largest_block_9_63():
    one, _ = resnet50(1)
    many, _ = resnet50(1440)
    growth = Growth({1: one, 1440: many}.__getitem__, 1440)
    assert many.in_core_bytes / 1440 == pytest.approx(86e6, rel=0.005)
    assert many.minimum_budget / 1440 == pytest.approx(9.63e6, rel=0.001)
    for batch_size, total in ((64, 5.6e9), (192, 16.6e9), (768, 66.1e9)):
        further = max(growth.slopes(in_core_needs))
        # The momentum, 0.1 GB, lives from the second iteration on.
        assert one.in_core_bytes + further * (batch_size - 1) == pytest.approx(total + 0.1e9, rel=0.02)
    assert growth.estimate(swapped_needs, 14e9) == 1453    # 14e9 / 9.6338e6


def test_limits_are_planned_and_changes_never_take_less_than_nothing():
    """Pix2PixHD once had negative bytes for each image."""
    def plan_at(batch_size, recompute="none"):
        network = models.build("pix2pixhd", batch_size, (64, 64), width=0.05, recompute=recompute)
        return plan(network.steps, network.typed_inputs, backend="cudnn")
    planned = []
    growth = Growth(lambda batch_size: planned.append(batch_size) or plan_at(batch_size), 4)
    memory = 1.5 * max(in_core_needs(growth.plan(4)))
    again = Growth(lambda batch_size: plan_at(batch_size, "all"), 4)
    rows = dict(what_if_rows(growth, memory, {"--recompute all": again}))
    limits = {name: int(row.split()[0]) for name, row in rows.items()}
    for name, needs in (("swapped", swapped_needs), ("in-core", in_core_needs)):
        assert {limits[name], limits[name] + 1} <= set(planned)
        assert max(needs(plan_at(limits[name]))) <= memory < max(needs(plan_at(limits[name] + 1)))
    assert len(planned) == len(set(planned)) < 12
    assert all("-" not in row for row in rows.values())
    assert limits["in-core"] <= limits["in-core, --recompute all, about"] <= limits["swapped, --recompute all, about"]
    assert limits["swapped"] <= limits["swapped, elementwise functions in place, about"]


class Curve:
    """Plans that need what a function of the batch size says."""

    def __init__(self, needs):
        self.needs, self.asked = needs, []

    def __call__(self, batch_size):
        self.asked.append(batch_size)
        return self.needs(batch_size)


@pytest.mark.parametrize("needs", [lambda n: [5 + 2 * n], lambda n: [3 * n, n * n], lambda n: [n ** 0.5],
                                   lambda n: [7 * n, 1000 + n]], ids=["line", "square", "root", "two"])
@pytest.mark.parametrize("memory", [1, 7, 1100, 12345.6])
def test_the_largest_batch_is_found_whatever_the_needs(needs, memory):
    curve = Curve(needs)
    found = Growth(curve, 4).largest_batch(lambda plan: plan, memory)
    fitting = [n for n in range(1, 2000) if max(needs(n)) <= memory]
    if len(fitting) < 1999:
        assert found == len(fitting)
    else:
        assert max(needs(found)) <= memory < max(needs(found + 1)) or found == LIMIT
    assert len(curve.asked) < 60


def test_smallest_budget_is_the_largest_block_and_one_byte_less_is_too_small():
    needs, _ = small_net()
    assert needs.minimum_budget == max(needs.block_bytes[1:])
    assert small_net(budget=needs.minimum_budget)[0].peak_bytes == needs.minimum_budget
    with pytest.raises(UserError, match=f"smallest feasible one is {needs.minimum_budget} bytes .* set by .*backward"):
        small_net(budget=needs.minimum_budget - 1)


def test_weight_decay_adds_a_block_for_each_parameter():
    assert small_net(weight_decay=True)[0].function_blocks == small_net()[0].function_blocks + len(nn.get_parameters())


def test_more_memory_moves_less():
    smallest = small_net()[0].minimum_budget
    moved = [small_net(budget=factor * smallest)[0].counts()["swap_in"][1] for factor in (1, 2, 8)]
    assert moved[0] > moved[2] and moved == sorted(moved, reverse=True)


def test_every_swap_out_is_waited_for_once():
    counts = small_net(budget=small_net()[0].minimum_budget)[0].counts()
    assert counts["wait"] == counts["swap_out"]


def test_timeline_is_not_below_its_bounds_and_without_stall_on_a_fast_link():
    smallest = small_net()[0].minimum_budget
    swapped, steps = small_net(budget=smallest)
    seconds = estimated_seconds(swapped, steps, DEVICES["V100-16GB"])
    counts = swapped.counts()
    slow, fast = (make_timeline(swapped, seconds, attrs.evolve(DEVICES["V100-16GB"], to_device=link, to_host=link))
                  for link in (1e9, 1e18))
    assert slow.seconds >= max(sum(seconds), counts["swap_in"][1] / 1e9)
    assert fast.stall == pytest.approx(seconds[0])    # the inputs come before anything else
    assert slow.share < 1
    for spans in (slow.compute, slow.swap_in, slow.swap_out):
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_computing_again_takes_time_and_saves_memory(name):
    plans, seconds = {}, {}
    for level in LEVELS:
        nn.clear_parameters()
        network = models.build(name, 256, 64, width=0.25, recompute=level)
        plans[level] = plan(network.steps, network.typed_inputs, backend="cudnn")
        seconds[level] = sum(estimated_seconds(plans[level], network.steps, DEVICES["V100-16GB"]))
    none, cheap, full = plans.values()
    assert none.in_core_bytes > cheap.in_core_bytes > full.in_core_bytes
    assert none.minimum_budget < cheap.minimum_budget < full.minimum_budget
    assert seconds["none"] < seconds["cheap"] < seconds["all"] < 1.5 * seconds["none"]
    budget = max(full.minimum_budget, none.in_core_bytes // 4)
    moved = [plan_record(needs.record, budget).counts()["swap_in"][1] for needs in (none, cheap, full)]
    assert moved[0] > moved[1] > moved[2]


def test_convolutions_take_their_operations():
    device = Device("test", "", 1e9, to_device=1.0, to_host=1.0, flops=1.0)
    needs, steps = small_net()
    seconds = dict(zip(needs.labels, estimated_seconds(needs, steps, device), strict=True))
    forward = 2 * 3 * 3 * 3 * 8 * 8 * 16 * 16    # two operations for each weight at each position of each image
    assert seconds["Convolution of 8x8x16x16, forward"] == forward
    assert seconds["Convolution of 8x8x16x16, backward"] == forward    # no gradient of the image


@pytest.mark.parametrize("name", DEVICES)
def test_devices_name_their_source(name):
    assert "data sheet" in DEVICES[name].source


def test_command_prints_a_table_and_writes_a_picture(tmp_path, capsys):
    picture = tmp_path / "plan.png"
    command.main(["resnet50", "--batch-size", "8", "--gpu-memory", "300MB", "-o", str(picture), "--host-memory", "1MB",
                  *SMALL])
    shown = capsys.readouterr().out
    assert "smallest budget" in shown and "in-core speed" in shown
    assert "resnet50 on cudnn, V100-16GB" in shown and "does not fit into 1 MB" in shown
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_no_picture_is_overwritten_unasked(own_folder, capsys):
    Path("plan.png").write_text("mine")
    command.main(["resnet50", "--batch-size", "8", "--gpu-memory", "300MB", *SMALL])
    assert capsys.readouterr().out.endswith("picture: plan-2.png\n") and Path("plan-2.png").exists()
    assert Path("plan.png").read_text() == "mine"


@pytest.mark.slow
def test_sweep_goes_up_to_the_largest_batch_that_the_table_names(tmp_path, capsys):
    picture = tmp_path / "sweep.png"
    arguments = ["resnet50", "--gpu-memory", "100MB", "-o", str(picture), *SMALL]
    command.main([*arguments, "--sweep"])
    shown = capsys.readouterr().out
    assert shown.count("images/s") >= 3
    assert picture.exists()
    command.main([*arguments, "--batch-size", "7"])
    rows = {words[0]: words[1] for words in map(str.split, capsys.readouterr().out.splitlines()) if len(words) > 3}
    assert f"largest batch in-core {rows['in-core']}, swapped {rows['swapped']}\n" in shown


@pytest.mark.parametrize("arguments, message", [
    (["nonet"], "unknown network 'nonet'"),
    (["resnet50", "--batch-size", "0"], "not an integer from 1"),
    (["resnet50", "--gpu-memory", "0"], "choose an amount from 1 byte"),
    (["resnet50", "--gpu-memory=-3GB"], "not an amount of memory"),
    (["resnet50", "--gpu-memory", "much"], "not an amount of memory"),
    (["resnet50", "--gpu-memory", "17GB", "--device", "V100-16GB"], "V100-16GB has 16 GB"),
    (["resnet50", "--image-size", "8"], "image size 8 x 8"),
    (["resnet50", "--image-size", "big"], "not height and width"),
    (["resnet50", "--width", "0"], "width"), (["resnet50", "--workspace", "big"], "not an amount of memory"),
    (["resnet50", "--host-memory", "0"], "from 1 byte"), (["resnet50", "--measure"], "needs --device mine"),
    (["densenet121", "--validate"], "only resnet50 was measured"),
    (["resnet50", "--half", "-c", "cpu"], "computes in float32"),
    (["resnet50", "--half", "-c", "cpu", "--device", "mine"], "computes in float32"),
])
def test_bad_arguments_are_told_in_one_line(arguments, message, tmp_path):
    with pytest.raises(UsageError, match=message) as error:
        command.main([*arguments, "-o", str(tmp_path / "plan.png")])
    assert "\n" not in str(error.value)


def test_a_batch_that_does_not_fit_names_the_function(tmp_path):
    with pytest.raises(UserError, match="too small: .* set by"):
        command.main(["resnet50", "--gpu-memory", "1MB", "-o", str(tmp_path / "plan.png"), *SMALL])
    assert not list(tmp_path.iterdir())


def test_a_window_that_is_too_small_is_named(tmp_path):
    with pytest.raises(UserError, match="^prefetch window 1000 bytes is too small: the smallest feasible one is"):
        command.main(["resnet50", "--prefetch", "1kB", "-o", str(tmp_path / "plan.png"), *SMALL])


def test_amounts_types_and_losses_as_they_are_given():
    given, steps = small_net(budget="300kB", prefetch="450 kB")
    as_numbers, _ = small_net(budget=300_000, prefetch=450_000.0)
    assert given.counts() == as_numbers.counts() and given.peak_bytes == as_numbers.peak_bytes
    loss = steps[0][0]
    x = nn.Variable((1, 3))
    for dtype in ("int32", np.int32, np.dtype("int32")):
        assert plan([loss], [(x, dtype)]).minimum_budget == plan([(loss, None)], [(x, "int32")]).minimum_budget


@pytest.mark.parametrize("arguments, message", [
    ({"budget": "auto"}, "budget 'auto'"), ({"budget": 0}, "budget 0"), ({"budget": 10**6, "prefetch": -1}, "prefetch"),
    ({"inputs": [(nn.Variable((1,)), "int3")]}, "type 'int3'"), ({"inputs": [(nn.Variable((1,)), 3)]}, "type 3")])
def test_a_plan_names_the_argument_that_is_wrong(arguments, message):
    _, steps = small_net()
    with pytest.raises(UsageError, match=message):
        plan(**{"steps": steps, **arguments})


def test_without_a_budget_there_are_no_transfers():
    planned, _ = small_net()
    with pytest.raises(ValueError, match="without a budget: give one"):
        planned.counts()
