"""Times of a plan: against what an H100 was measured to do, and measurements with clocks and links of known speed."""
import ctypes
import re

import attrs
import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest
from nnabla.function import PythonFunction

from common.machine.context import use_context
from common.machine.errors import UserError
from common.out_of_core.record import Access, Record
from common.out_of_core.schedule import Event, Schedule
from common.pictures.image_files import read_image
from out_of_core_training import models
from out_of_core_training import plan as command
from out_of_core_training.planner import Plan, plan
from out_of_core_training.planning import h100
from out_of_core_training.planning.devices import Device
from out_of_core_training.planning.link import TO_DEVICE, TO_HOST, CudaCopies, HostCopies, measure_link
from out_of_core_training.planning.plots import plot_validation
from out_of_core_training.planning.profile import Profile, measure_iteration, measure_profile
from out_of_core_training.planning.timeline import make_timeline

DEVICE = Device("test", "", 1e9, to_device=40.0, to_host=20.0, mapping=0.5)    # bytes/s, seconds


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_predictions_agree_with_what_an_h100_was_measured_to_do():
    rows = list(h100.predictions())
    assert len(rows) == len(h100.MEASURED)
    far_off = "virtual", 96, 8    # little memory, many small arrays: the README says so
    for row, speed, peak in rows:
        if (row.mode, row.batch, row.chunk) != far_off:
            assert speed == pytest.approx(row.speed, rel=0.15), row
            # What the cuts of the caching allocator waste is not known so well.
            assert peak == pytest.approx(row.peak, rel=0.25 if row.mode == "scheduler" else 0.15), row


def test_the_picture_has_what_was_measured_with_one_plan_beside_the_predictions(monkeypatch, tmp_path):
    monkeypatch.setattr(h100, "CURVE", (64,))
    measured, predicted = h100.curves()
    assert measured == {"in-core": [(64, 700), (720, 772)], "virtual": [(96, 454), (384, 308), (720, 263)],
                        "scheduler": [(384, 333)]}
    (batch, in_core), = predicted["in-core"]
    assert batch == 64 and in_core == pytest.approx(700)    # it calibrates
    assert all(0 < predicted[mode][0][1] < in_core for mode in ("virtual", "scheduler"))
    plot_validation(tmp_path / "a.png", measured, predicted, "title")
    assert read_image(tmp_path / "a.png").std() > 10


# Array 0 goes out after block 1 and comes back for block 3; array 1 is written by block 2.
BLOCKS = [[], [Access("cast", 0, 10, "float32", transfers=False)], [Access("cast", 1, 10, "float32", transfers=False)],
          [Access("get", 0, 10, "float32")]]


def timeline_of(begin, end, mapped=()):
    schedule = Schedule([begin.get(block, []) for block in range(5)], [end.get(block, []) for block in range(4)], 0, [])
    record = Record(BLOCKS, ["the inputs", "a", "b", "c"], {0: "float32", 1: "float32"})
    return make_timeline(Plan(record, schedule), [3.0, 1.0, 1.0, 1.0], DEVICE, mapped)


OUT, WAIT, IN = (Event(kind, index, BLOCKS[block][0]) for kind, index, block in
                 (("out", 0, 1), ("wait", 0, 1), ("in", 2, 3)))


def test_a_wait_holds_up_the_computation_and_a_copy_back_waits_for_it():
    """Inputs 0-3, a 3-4, out 4-6; b waits for that 6-7; in 6-7 beside it, c 7-8."""
    timeline = timeline_of({2: [WAIT, IN]}, {1: [OUT]})
    assert timeline.compute == [(0, 3), (3, 4), (6, 7), (7, 8)]
    assert timeline.swap_out == [(4, 6)] and timeline.swap_in == [(6, 7)]
    assert (timeline.seconds, timeline.in_core_seconds) == (8, 3)


def test_a_copy_to_the_device_does_not_overtake_the_computation_before_it():
    """Nothing waits for the copy out; the copy in is asked for after b (4-5), so it runs 5-6 and c 6-7."""
    timeline = timeline_of({3: [IN]}, {1: [OUT]})
    assert timeline.swap_in == [(5, 6)]
    assert timeline.compute[-1] == (6, 7)


def test_mapping_takes_its_time():
    plain, mapped = timeline_of({}, {}), timeline_of({}, {}, [0, 2, 0, 0, 4])
    assert mapped.seconds == plain.seconds + 6 * DEVICE.mapping


def test_a_device_is_as_slow_as_an_iteration_was():
    device = attrs.evolve(DEVICE, flops=10.0, bandwidth=20.0).calibrated(predicted=2.0, measured=4.0)
    assert (device.flops, device.bandwidth) == (5, 10)


class TimedCopies:
    """Copies of 600 bytes: 300 bytes/s to the device, 200 to the host; of both together the slower takes 6 s."""

    num_bytes = 600

    def __init__(self):
        self.clock, self.started = Clock(), []

    def start(self, direction):
        self.started.append(direction)

    def wait(self):
        seconds = {(TO_DEVICE,): 2, (TO_HOST,): 3, (TO_DEVICE, TO_HOST): 6}
        self.clock.now += seconds[tuple(self.started)]
        self.started.clear()


def test_a_link_is_measured_each_way_alone_and_both_together():
    copies = TimedCopies()
    link = measure_link(copies, copies.clock)
    assert (link.to_device_alone, link.to_host_alone, link.to_device, link.to_host) == (300, 200, 100, 100)


def test_copies_of_this_machine_copy():
    copies = HostCopies(1000)
    source, target = copies._arrays[TO_HOST]
    source[:], target[:] = 7, 0
    assert measure_link(copies).to_host > 0
    assert (target == 7).all()
    copies.close()


def snake(name):
    return re.sub("([A-Z])", r"_\1", name.removeprefix("cuda")).lower().lstrip("_").replace("to_h", "toh")


class Runtime:
    """A CUDA runtime in the memory of this machine; it knows what is pinned, and lets no other pointer through."""

    def __init__(self, fail=None):
        self.fail, self.blocks, self.streams, self.copied = fail, {"host": {}, "device": {}}, set(), []

    def __getattr__(self, name):
        return lambda *args: 2 if name == self.fail else getattr(self, "do_" + snake(name))(*args)

    def do_set_device(self, number):
        assert number.value == 1
        return 0

    def _allocate(self, kind, made, size):
        block = ctypes.create_string_buffer(size.value)
        made._obj.value = ctypes.addressof(block)
        self.blocks[kind][made._obj.value] = block
        return 0

    def do_host_alloc(self, made, size, flags):
        return self._allocate("host", made, size)

    def do_malloc(self, made, size):
        return self._allocate("device", made, size)

    def do_stream_create_with_flags(self, made, flags):
        assert flags.value == 1    # not blocking
        made._obj.value = 1 + len(self.streams)
        self.streams.add(made._obj.value)
        return 0

    def do_memcpy_async(self, target, source, size, kind, stream):
        assert stream.value in self.streams
        places = ("device", "host") if kind.value == 1 else ("host", "device")
        assert target.value in self.blocks[places[0]] and source.value in self.blocks[places[1]]
        ctypes.memmove(target.value, source.value, size.value)
        self.copied.append((kind.value, stream.value))
        return 0

    def do_stream_synchronize(self, stream):
        return 0

    def do_stream_destroy(self, stream):
        self.streams.remove(stream.value)
        return 0

    def do_free_host(self, pointer):
        del self.blocks["host"][pointer.value]
        return 0

    def do_free(self, pointer):
        del self.blocks["device"][pointer.value]
        return 0


def test_copies_of_a_gpu_are_pinned_and_have_a_stream_for_each_direction():
    runtime = Runtime()
    copies = CudaCopies("1", 100, runtime)
    measure_link(copies)
    assert len(runtime.copied) == 4 * (1 + 1 + 2)
    assert len(set(runtime.copied)) == 2 and len({stream for _, stream in runtime.copied}) == 2
    copies.close()
    assert runtime.blocks == {"host": {}, "device": {}} and not runtime.streams


@pytest.mark.parametrize("call", ["cudaSetDevice", "cudaHostAlloc", "cudaMalloc", "cudaStreamCreateWithFlags"])
def test_a_failing_runtime_is_one_line(call):
    with pytest.raises(UserError, match=f"^the link cannot be measured: {call} failed with CUDA error 2$"):
        CudaCopies("1", 100, Runtime(fail=call))


class Slow(PythonFunction):
    """The identity; it takes 2 s and 3 s for each image forward, twice that backward."""

    def __init__(self, context, clock):
        super().__init__(context)
        self.clock = clock

    @property
    def name(self):
        return "Slow"

    def min_outputs(self):
        return 1

    def grad_depends_output_data(self, i, o):
        return False

    def grad_depends_input_data(self, i, j):
        return False

    def setup_impl(self, inputs, outputs):
        outputs[0].reset_shape(inputs[0].shape, True)

    def forward_impl(self, inputs, outputs):
        self.clock.now += 2 + 3 * inputs[0].shape[0]
        outputs[0].d = inputs[0].d

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        self.clock.now += 2 * (2 + 3 * inputs[0].shape[0])
        inputs[0].g = outputs[0].g


def slow_network(batch, clock):
    """Two functions that take time between others that take none."""
    use_context("cpu")
    image, label = nn.Variable((batch, 3), need_grad=True), nn.Variable((batch, 1))
    image.name, label.name = "image", "label"
    h = Slow(nn.get_current_context(), clock)(F.tanh(image))
    loss = F.mean(Slow(nn.get_current_context(), clock)(h))
    solver = models.S.Sgd(0.1)
    return models.TrainingGraph("resnet50", 3, [image, label], h, [(loss, solver)])


def test_functions_of_a_network_are_timed_where_they_run():
    clock = Clock()
    seconds = measure_iteration(slow_network(4, clock), clock)
    # Inputs, forward: tanh, slow, slow, mean; backward: mean, slow, slow, tanh.
    assert seconds == pytest.approx([0, 0, 14, 14, 0, 0, 28, 28, 0])


def test_a_profile_carries_on_to_other_batches():
    clock = Clock()
    profile = measure_profile(lambda batch: slow_network(batch, clock), 8, clock)
    assert profile.batches == (1, 2)    # an iteration takes long enough
    assert sum(profile.at(100)) == pytest.approx(6 * (2 + 3 * 100))
    assert Profile((1, 2), ([1.0], [0.5])).at(4) == [0.5]


def test_a_profile_has_the_blocks_of_the_plan():
    use_context("cpu")
    nn.clear_parameters()
    for name in ("resnet50", "pix2pixhd"):
        def build(batch, name=name):
            return models.build(name, batch, (64, 64), width=0.05)
        network = build(1)
        blocks = plan(network.steps, network.typed_inputs).function_blocks
        assert len(measure_iteration(network)) == blocks


def test_the_command_measures_and_says_how_far_off_it_is(tmp_path, capsys):
    command.main(["resnet50", "--device", "mine", "-c", "cpu", "--image-size", "32", "--width", "0.05", "--batch-size",
                  "2", "--measure", "-o", str(tmp_path / "plan.png")])
    shown = capsys.readouterr().out
    assert "resnet50 on cpu, mine (measured here: link" in shown
    assert "measured in-core" in shown and "the prediction is off by" in shown
    assert np.isfinite(float(shown.split("measured in-core")[1].split()[0]))
