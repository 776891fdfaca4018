import resource
import signal
import subprocess
import sys

import h5py
import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import nnabla.solvers as S
import numpy as np
import pytest

from common.machine.errors import UsageError, UserError
from common.quantizers.layers import Quantization, quantized_convolution
from common.runs import checkpoint
from common.runs.checkpoint import (
    load_parameters,
    load_state,
    parameter_shapes,
    restore,
    save_checkpoint,
    save_parameters,
    save_solver_states,
    stored_scopes,
    stored_shapes,
)

SHAPES = {"b/W": (3, 2), "a/bias": (2,), "a/n": ()}    # not in alphabetical order


def make_parameters(seed=0, shapes=SHAPES):
    rng = np.random.RandomState(seed)
    for name, shape in shapes.items():
        variable = nn.Variable.from_numpy_array(np.asarray(rng.randn(*shape), np.float32))
        nn.parameter.set_parameter(name, variable.apply(need_grad=name != "a/n"))


def parameters():
    return nn.get_parameters(grad_only=False)


def values():
    return {name: p.d.copy() for name, p in parameters().items()}


def assert_equal(first, second):
    assert list(first) == list(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def refusal(path, shapes=SHAPES, kind=UserError, **settings):
    """The one line that refuses a file, which changes no parameter."""
    before = values()
    with pytest.raises(kind) as caught:
        load_parameters(path, shapes, **settings)
    assert_equal(values(), before)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.fixture
def path(tmp_path):
    return tmp_path / "params.h5"


@pytest.fixture
def saved(path):
    make_parameters()
    save_parameters(path)
    return path


# Parameter files ----------------------------------------------------------------------------------------------------


def test_parameters_return_as_they_were(saved):
    before = values()
    nn.clear_parameters()
    load_parameters(saved, SHAPES)
    assert_equal(values(), before)
    assert {name: p.need_grad for name, p in parameters().items()} == {"b/W": True, "a/bias": True, "a/n": False}


def test_order_is_that_of_the_network(saved):
    nn.clear_parameters()
    load_parameters(saved, dict(sorted(SHAPES.items())))
    assert list(parameters()) == sorted(SHAPES)


def test_nnabla_reads_our_file(saved):
    before = values()
    nn.clear_parameters()
    nn.load_parameters(str(saved))
    assert_equal(values(), before)
    assert not parameters()["a/n"].need_grad


def test_we_read_the_file_of_nnabla(path):
    make_parameters()
    before = values()
    nn.save_parameters(str(path))
    nn.clear_parameters()
    load_parameters(path, SHAPES)
    assert_equal(values(), before)
    assert not parameters()["a/n"].need_grad


def test_graphs_that_exist_see_the_loaded_values(saved):
    y = F.sum(parameters()["b/W"])
    expected = parameters()["b/W"].d.sum()
    parameters()["b/W"].d = 0
    load_parameters(saved, SHAPES)
    y.forward()
    assert y.d == pytest.approx(expected)


def test_step_size_is_kept(path):
    spec = Quantization(quantizer="fp", sign=True, bitwidth=4, bitwidth_min=2, bitwidth_max=8, stepsize=0.0625,
                        stepsize_min=0.01, stepsize_max=1, xmin_min=0.01, xmin_max=1, xmax_min=0.01, xmax_max=1)
    quantized_convolution(nn.Variable((1, 2, 3, 3)), 4, 3, spec)
    shapes = {name: p.shape for name, p in parameters().items()}
    save_parameters(path)
    nn.clear_parameters()
    load_parameters(path, shapes)
    assert parameters()["quantized_conv/W_q"].info.step_size == 0.0625
    assert not hasattr(parameters()["quantized_conv/W"].info, "step_size")


def test_a_scope_can_be_loaded_into(saved):
    before = values()
    nn.clear_parameters()
    with nn.parameter_scope("student"):
        load_parameters(saved, SHAPES)
    assert_equal(values(), {f"student/{name}": value for name, value in before.items()})


def test_a_checkpoint_is_read_like_a_parameter_file(path):
    make_parameters()
    before, solver = values(), S.Sgd(0.1)
    solver.set_parameters(nn.get_parameters())
    save_checkpoint(path, parameters(), solver, {})
    nn.clear_parameters()
    load_parameters(path, SHAPES)
    assert_equal(values(), before)


def test_shapes_are_read_in_the_order_in_which_parameters_were_made(saved, tmp_path):
    assert list(stored_shapes(saved).items()) == list(SHAPES.items())
    solver = S.Adam(0.1)
    solver.set_parameters(nn.get_parameters())
    save_checkpoint(tmp_path / "latest.h5", parameters(), solver, {"rows": [1.0]})
    assert list(stored_shapes(tmp_path / "latest.h5").items()) == list(SHAPES.items())
    nn.save_parameters(str(tmp_path / "nnabla.h5"))
    assert list(stored_shapes(tmp_path / "nnabla.h5").items()) == list(SHAPES.items())


def test_outermost_scopes_are_those_of_the_names(saved, tmp_path):
    save_checkpoint(tmp_path / "latest.h5", parameters(), S.Sgd(0.1), {})
    for path in (saved, tmp_path / "latest.h5"):
        found = {f"{scope}/{name}" if names else scope for scope, names in stored_scopes(path).items()
                 for name in names or [""]}
        assert found == {"/".join(name.split("/")[:2]) for name in SHAPES}


def test_shapes_of_no_file_or_of_a_damaged_one_are_refused(saved, tmp_path):
    with pytest.raises(UsageError, match="no such weight file"):
        stored_shapes(tmp_path / "none.h5")
    saved.write_bytes(saved.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read"):
        stored_shapes(saved)


def test_parameters_that_may_be_reshaped_keep_the_order_of_their_elements(saved):
    elements = values()["b/W"].ravel()
    shapes = {**SHAPES, "b/W": (2, 1, 3)}
    nn.clear_parameters()
    load_parameters(saved, shapes, reshaped=lambda name: name == "b/W")
    assert {name: p.shape for name, p in parameters().items()} == shapes
    np.testing.assert_array_equal(values()["b/W"].ravel(), elements)


# Files that do not fit ----------------------------------------------------------------------------------------------


def test_a_missing_file_is_a_usage_error(tmp_path):
    assert "no such weight file" in refusal(tmp_path / "none.h5", kind=UsageError)
    assert "a folder, not an HDF5 file" in refusal(tmp_path, kind=UsageError)


@pytest.mark.parametrize("keep", [0, 100, 0.5, -1])
def test_a_truncated_file_is_refused(saved, keep):
    content = saved.read_bytes()
    saved.write_bytes(content[:int(len(content) * keep) if isinstance(keep, float) else keep])
    assert "cannot be read" in refusal(saved)


def test_garbage_is_refused(path):
    path.write_bytes(np.random.RandomState(0).bytes(10000))
    assert "cannot be read" in refusal(path)
    with pytest.raises(UserError, match="cannot be read"):
        load_state(path)


def test_parameters_that_differ_are_counted(saved):
    shapes = {"a/bias": (2,), "b/W": (2, 3), **{f"new{k}": (1,) for k in range(5)}}
    message = refusal(saved, shapes)
    assert "5 missing (new0, new1, new2, ...)" in message
    assert "1 unexpected (a/n)" in message
    assert "1 of another shape (b/W of shape (3, 2), here (2, 3))" in message


def test_three_names_are_shown_without_dots(saved):
    message = refusal(saved, {**SHAPES, "x": (), "y": (), "z": ()})
    assert message.endswith("weights of another network: 3 missing (x, y, z)")


def test_optional_parameters_may_be_missing_or_too_many(saved):
    nn.clear_parameters()
    shapes = {"b/W": (3, 2), "a/bias": (2,), "a/extra": (4,)}
    load_parameters(saved, shapes, optional=lambda name: name in ("a/n", "a/extra"))
    assert list(parameters()) == ["b/W", "a/bias"]


def test_optional_parameters_of_another_shape_are_refused(saved):
    assert "1 of another shape" in refusal(saved, {**SHAPES, "a/n": (1,)}, optional=lambda name: True)


def test_other_numbers_of_elements_and_other_parameters_are_not_reshaped(saved):
    assert "1 of another shape (b/W of shape (3, 2), here (7,))" in refusal(
        saved, {**SHAPES, "b/W": (7,)}, reshaped=lambda name: True)
    assert "1 of another shape (b/W of shape (3, 2), here (2, 3))" in refusal(
        saved, {**SHAPES, "b/W": (2, 3)}, reshaped=lambda name: name != "b/W")
    assert "1 unexpected (b/W)" in refusal(
        saved, {name: shape for name, shape in SHAPES.items() if name != "b/W"}, reshaped=lambda name: True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(saved, bad):
    with h5py.File(saved, "r+") as file:
        file["b/W"][0, 0] = bad
    nn.clear_parameters()
    assert "b/W holds values that are not finite" in refusal(saved)


@pytest.fixture
def secret(tmp_path):
    """A file that no link may lead to."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["b/W"] = np.ones((3, 2), np.float32)
        file["b/W"].attrs["need_grad"] = True
    np.ones((3, 2), np.float32).tofile(tmp_path / "secret.bin")
    return tmp_path


@pytest.mark.parametrize("link", ["external link", "soft link", "virtual", "external storage", "group", "integers"])
def test_nothing_outside_of_the_file_is_read(link, path, secret):
    with h5py.File(path, "w") as file:
        if link == "external link":
            file["b/W"] = h5py.ExternalLink(str(secret / "secret.h5"), "b/W")
        elif link == "soft link":
            file["b/W"] = h5py.SoftLink("/nowhere")
        elif link == "virtual":
            layout = h5py.VirtualLayout((3, 2), np.float32)
            layout[:] = h5py.VirtualSource(str(secret / "secret.h5"), "b/W", (3, 2))
            file.create_virtual_dataset("b/W", layout)
        elif link == "external storage":
            file.create_dataset("b/W", (3, 2), np.float32, external=[(str(secret / "secret.bin"), 0, 24)])
        elif link == "group":
            file.create_group("b/W")
        else:
            file["b/W"] = np.ones((3, 2), np.int32)
    assert "1 missing (b/W)" in refusal(path, {"b/W": (3, 2)})


def test_a_group_of_another_file_is_not_read(path, secret):
    with h5py.File(path, "w") as file:
        file["parameters"] = h5py.ExternalLink(str(secret / "secret.h5"), "/")
    refusal(path, {"b/W": (3, 2)})


@pytest.mark.parametrize("damage", ["parameters is no group", "index is text", "step size is text"])
def test_strange_files_are_refused_in_one_line(saved, damage):
    with h5py.File(saved, "r+") as file:
        if damage == "parameters is no group":
            file["parameters"] = 1.0
        elif damage == "index is text":
            file["b/W"].attrs["index"] = "first"
        else:
            file["b/W"].attrs["step_size"] = "wide"
    nn.clear_parameters()
    with pytest.raises(UserError):
        stored_shapes(saved) if damage == "index is text" else load_parameters(saved, SHAPES)


@pytest.mark.parametrize("state", [b"{", None])
def test_a_damaged_state_is_refused_in_one_line(path, state):
    with h5py.File(path, "w") as file:
        if state is None:
            file.create_group("state")
        else:
            file["state"] = np.frombuffer(state, np.uint8)
    with pytest.raises(UserError):
        load_state(path)


# Shapes -------------------------------------------------------------------------------------------------------------


def build():
    x = PF.batch_normalization(PF.convolution(nn.Variable((2, 3, 8, 8)), 4, (3, 3)))
    return PF.affine(F.dropout(x), 5)


def test_parameter_shapes_are_those_of_the_network():
    shapes = parameter_shapes(build)
    assert not parameters()
    build()
    assert shapes == {name: p.shape for name, p in parameters().items()}


def test_parameter_shapes_do_not_shift_random_numbers():
    def draw(look_first):
        nn.clear_parameters()
        nn.random.seed(5)
        if look_first:
            parameter_shapes(build)
        build()
        noise = F.rand(shape=(4,))
        noise.forward()
        return {**values(), "noise": noise.d.copy()}

    assert_equal(draw(True), draw(False))


def test_parameter_shapes_leave_random_numbers_alone_when_building_fails():
    def fail():
        build()
        raise UserError("no such network")

    nn.random.seed(5)
    expected = nn.random.prng.randint(1 << 30)
    nn.random.seed(5)
    with pytest.raises(UserError):
        parameter_shapes(fail)
    assert nn.random.prng.randint(1 << 30) == expected


# Checkpoints --------------------------------------------------------------------------------------------------------

SOLVERS = {"momentum": lambda: S.Momentum(0.01, momentum=0.9), "adam": lambda: S.Adam(0.01)}


def network(solver):
    """A seeded network with running statistics, its loss and its solver."""
    nn.clear_parameters()
    nn.random.seed(3)
    x = nn.Variable((4, 2, 5, 5))
    loss = F.mean(PF.affine(PF.batch_normalization(PF.convolution(x, 3, (3, 3))), 2) ** 2)
    solver.set_parameters(nn.get_parameters())
    return x, loss


def train(x, loss, solver, steps):
    for step in steps:
        x.d = np.random.RandomState(step).randn(*x.shape)
        loss.forward()
        solver.zero_grad()
        loss.backward()
        solver.update()


@pytest.mark.parametrize("name", SOLVERS)
def test_going_on_from_a_checkpoint_gives_the_same_bits(name, path):
    solver = SOLVERS[name]()
    graph = network(solver)
    train(*graph, solver, range(4))
    save_checkpoint(path, parameters(), solver, {"step": 4, "rows": [{"loss": 0.1}], "best": None})
    train(*graph, solver, range(4, 9))
    expected = values()

    solver = SOLVERS[name]()
    graph = network(solver)
    train(*graph, solver, range(20, 22))    # somewhere else
    restore(path, parameters(), solver)
    state = load_state(path)
    assert state == {"step": 4, "rows": [{"loss": 0.1}], "best": None}
    train(*graph, solver, range(state["step"], 9))
    assert_equal(values(), expected)


@pytest.mark.parametrize("name", SOLVERS)
def test_nnabla_goes_on_with_the_states_of_a_solver(name, tmp_path):
    solver = SOLVERS[name]()
    graph = network(solver)
    train(*graph, solver, range(4))
    save_parameters(tmp_path / "parameters.h5")
    save_solver_states(tmp_path / "states.h5", solver)
    train(*graph, solver, range(4, 7))
    expected = values()

    solver = SOLVERS[name]()
    graph = network(solver)
    nn.load_parameters(str(tmp_path / "parameters.h5"))
    solver.load_states(str(tmp_path / "states.h5"))
    train(*graph, solver, range(4, 7))
    assert_equal(values(), expected)


def test_a_checkpoint_of_another_network_is_refused(path):
    make_parameters()
    solver = S.Sgd(0.1)
    solver.set_parameters(nn.get_parameters())
    save_checkpoint(path, parameters(), solver, {})
    make_parameters(shapes={"more": (2,)})
    with pytest.raises(UserError, match=r"another network: 1 missing \(more\)"):
        restore(path, parameters(), solver)


def test_a_checkpoint_of_another_solver_is_refused(path):
    solver = SOLVERS["momentum"]()
    network(solver)
    save_checkpoint(path, parameters(), solver, {})
    solver = SOLVERS["adam"]()
    network(solver)
    with pytest.raises(UserError, match="state of another solver: solver/.*, here none"):
        restore(path, parameters(), solver)


@pytest.mark.parametrize("damage", [(), (1, 2), (3,)])
def test_a_checkpoint_whose_solver_has_arrays_of_another_shape_changes_nothing(path, damage):
    solver = SOLVERS["adam"]()
    graph = network(solver)
    train(*graph, solver, range(2))
    save_checkpoint(path, parameters(), solver, {})
    with h5py.File(path, "r+") as file:
        file.move("solver/conv/W", "taken")
        for name in list(solver.get_states()["conv/W"].pstate):
            file[f"solver/conv/W/{name}"] = np.ones(damage, np.float32)
        file["solver/conv/W"].attrs["t"] = 2
        del file["taken"]
    train(*graph, solver, range(2, 4))
    before = values()
    with pytest.raises(UserError, match="state of another solver: solver/conv/W/mean of shape "):
        restore(path, parameters(), solver)
    assert_equal(values(), before)


# Failed writes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken, error, told", [("h5py.Group.create_dataset", ValueError("a bug"), ValueError),
                                                 ("os.fsync", OSError(28, "No space left on device"), UserError)])
def test_a_failed_write_leaves_the_old_file_whole(saved, broken, error, told, monkeypatch):
    before, content = values(), saved.read_bytes()
    solver = S.Sgd(0.1)
    solver.set_parameters(nn.get_parameters())

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(broken, fail)
    for save in (lambda: save_parameters(saved), lambda: save_checkpoint(saved, parameters(), solver, {})):
        with pytest.raises(told, match="a bug|No space"):
            save()
    monkeypatch.undo()
    assert list(saved.parent.iterdir()) == [saved]
    assert saved.read_bytes() == content
    load_parameters(saved, SHAPES)
    assert_equal(values(), before)


FULL_DISK = """
import sys
from common.console import cli
from common.runs.checkpoint import save_parameters
import nnabla as nn
import numpy as np

variable = nn.Variable.from_numpy_array(np.zeros(1 << 20))
cli.run(lambda: save_parameters(sys.argv[1], {"W": variable, "V": variable}))
"""


def limit_file_size():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def test_a_full_disk_is_one_line_and_leaves_the_old_file_whole(saved):
    content = saved.read_bytes()
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(saved)], preexec_fn=limit_file_size,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"error: {saved}: could not be written")
    assert list(saved.parent.iterdir()) == [saved]
    assert saved.read_bytes() == content


def test_a_folder_that_is_none_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    make_parameters()
    with pytest.raises(UserError, match="cannot be written"):
        checkpoint.save_parameters(tmp_path / "file" / "params.h5")
