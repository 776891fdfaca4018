"""Parameter files in nnabla's HDF5 layout, and checkpoints from which a run goes on bit by bit."""
import contextlib
import io
import json
import math
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import h5py
import nnabla as nn
import numpy as np

from common.machine.errors import UserError
from common.machine.files import replacing
from common.reading.hdf5 import Hdf5, read_hdf5
from common.reading.texts import parse_json

Parameters = Mapping[str, nn.Variable]
_SCOPE, _SOLVER = "parameters", "solver"    # groups of a checkpoint
_NUM_SHOWN = 3    # names that a report lists before it only counts


def save_parameters(path: str | Path, parameters: Parameters | None = None) -> None:
    """Write parameters to an HDF5 file that `nnabla.load_parameters` reads; the file appears whole or not at all.

    A parameter that keeps a static `step_size` (`common.quantizers.layers`) has it as an attribute.

    Parameters
    ----------
    path
    parameters
        Those of the current scope if not given.
    """
    with _writing(path) as file:
        _write_parameters(file, nn.get_parameters(grad_only=False) if parameters is None else parameters)


@contextlib.contextmanager
def _writing(path: str | Path) -> Iterator[h5py.File]:
    """Yield an HDF5 file that takes the place of `path` when it is complete."""
    buffer = io.BytesIO()    # HDF5 itself fails in strange ways where the disk is full
    with h5py.File(buffer, "w") as file:
        yield file
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _write_parameters(group: h5py.Group, parameters: Parameters) -> None:
    for index, (name, parameter) in enumerate(parameters.items()):
        dataset = group.create_dataset(name, data=parameter.d)
        dataset.attrs["need_grad"] = parameter.need_grad
        dataset.attrs["index"] = index
        if hasattr(parameter.info, "step_size"):
            dataset.attrs["step_size"] = parameter.info.step_size


def _open(path: str | Path) -> contextlib.AbstractContextManager[Hdf5]:
    return read_hdf5(path, missing=f"{path}: no such weight file")


def parameter_shapes(build: Callable[[], object]) -> dict[str, tuple[int, ...]]:
    """Find the parameters that `build()` creates, without creating them in the current scope.

    Parameters
    ----------
    build
        Builds a graph with nnabla's parametric functions.
    """
    with nn.parameter_scope("scratch", OrderedDict()), _no_random_values():
        build()
        return {name: p.shape for name, p in nn.get_parameters(grad_only=False).items()}


class _Zeros(np.random.RandomState):
    """Draws zeros, in no time, where nnabla's initializers draw."""

    def uniform(self, low: float = 0.0, high: float = 1.0, size: Any = None) -> Any:
        return np.zeros(size)

    def randn(self, *shape: int) -> Any:
        return np.zeros(shape)


@contextlib.contextmanager
def _no_random_values():
    """Let nnabla draw nothing: of values that are not used, and that would shift those of the real network."""
    generator = nn.random.prng
    nn.random.prng = _Zeros()
    try:
        yield
    finally:
        nn.random.prng = generator


def stored_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Return {name: shape} of the parameters in a file, or in a checkpoint, in the order in which they were made.

    Raises
    ------
    UserError
        The file cannot be read.
    UsageError
        There is no such file.
    """
    with _open(path) as file:
        datasets = {name: file.datasets[stored] for name, stored in _parameters_in(file).items()}
        in_order = sorted(datasets, key=lambda name: int(datasets[name].attrs.get("index", 0)))
        return {name: datasets[name].shape for name in in_order}


def stored_scopes(path: str | Path) -> dict[str, list[str]]:
    """Return the outermost scopes in a file of parameters, or in a checkpoint, and the names directly in each.

    Much faster than `stored_shapes`, as no parameter is looked at.

    Raises
    ------
    UserError, UsageError
        As `stored_shapes`.
    """
    with _open(path) as file:
        outer = _scope_of(file)
        return {name: list(file.group(f"{outer}{name}") or ()) for name in file.group(outer.rstrip("/"))}


def load_parameters(path: str | Path, shapes: Mapping[str, tuple[int, ...]],
                    optional: Callable[[str], bool] = lambda name: False,
                    reshaped: Callable[[str], bool] = lambda name: False) -> None:
    """Read a parameter file, or a checkpoint, into the current scope, if it fits the network that `shapes` describes.

    Parameters that exist get new values, so that graphs built on them see them; others are made.

    Parameters
    ----------
    path
    shapes
        From `parameter_shapes`.
    optional
        `optional(name)` is true for parameters that the file may lack, or have beyond the network's: those are
        left out.
    reshaped
        `reshaped(name)` is true for parameters that may have another shape in the file, with as many elements in the
        same order.

    Raises
    ------
    UserError
        The file cannot be read, holds values that are not finite, or belongs to another network.
    UsageError
        There is no such file.
    """
    with _open(path) as file:
        datasets = _parameters_in(file)
        found = {name: file.datasets[stored].shape for name, stored in datasets.items()}
        fitting = {name: shapes[name] for name, shape in found.items()
                   if reshaped(name) and math.prod(shape) == math.prod(shapes.get(name, ()))}
        check_fit(path, found | fitting, shapes, optional)
        values = {name: _value_of(file, datasets[name]) for name in shapes if name in datasets}
    for name, value in values.items():
        if not np.isfinite(value.array).all():
            raise UserError(f"{path}: {name} holds values that are not finite; the run that wrote it had diverged")
    for name, value in values.items():
        _set_parameter(name, attrs.evolve(value, array=value.array.reshape(shapes[name])))


def _parameters_in(file: Hdf5) -> dict[str, str]:
    """Return {name of a parameter: that of its data set}."""
    scope = _scope_of(file)
    return {name.removeprefix(scope): name for name, dataset in file.datasets.items()
            if name.startswith(scope) and dataset.dtype.kind == "f"}


def _scope_of(file: Hdf5) -> str:
    """Return how the names of all data sets of parameters begin."""
    return "" if file.group(_SCOPE) is None else f"{_SCOPE}/"


def check_fit(path: str | Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]],
              optional: Callable[[str], bool]) -> None:
    """Raise a UserError that names what does not fit, if the parameters in a file are not those of a network.

    Parameters
    ----------
    path
        Of the file, for the error.
    found, expected
        Shapes.
    optional
        As for `load_parameters`.
    """
    missing = [name for name in expected if name not in found and not optional(name)]
    unexpected = [name for name in found if name not in expected and not optional(name)]
    wrong = [f"{name} of shape {tuple(found[name])}, here {tuple(expected[name])}" for name in expected
             if name in found and tuple(found[name]) != tuple(expected[name])]
    reports = [f"{len(names)} {what} ({', '.join(names[:_NUM_SHOWN])}{', ...' if len(names) > _NUM_SHOWN else ''})"
               for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
               if names]
    if reports:
        raise UserError(f"{path}: weights of another network: {'; '.join(reports)}")


@attrs.frozen
class _Value:
    """What a file holds of a parameter: float32, whether it is trained, and the static step size of a quantizer."""

    array: np.ndarray
    need_grad: bool
    step_size: float | None


def _value_of(file: Hdf5, stored: str) -> _Value:
    attributes = file.datasets[stored].attrs
    return _Value(file.array(stored).astype(np.float32), bool(attributes.get("need_grad", True)),
                  float(attributes["step_size"]) if "step_size" in attributes else None)


def _set_parameter(name: str, value: _Value) -> None:
    parameter = nn.parameter.get_parameter(name)
    if parameter is None:
        parameter = nn.Variable(value.array.shape, need_grad=value.need_grad)
        nn.parameter.set_parameter(name, parameter)
    _assign(parameter, value)


def _assign(parameter: nn.Variable, value: _Value) -> None:
    parameter.d = value.array
    if value.step_size is not None:
        parameter.info = types.SimpleNamespace(step_size=value.step_size)


def save_solver_states(path: str | Path, solver: Any) -> None:
    """Write the states of a solver to a file that its `load_states` in nnabla reads; whole or not at all."""
    with _writing(path) as file:
        for index, (name, solver_state) in enumerate(solver.get_states().items()):
            group = file.create_group(name)
            group.attrs["index"] = index
            for place, (key, value) in enumerate(solver_state.pstate.items()):
                group.create_dataset(key, data=value.d).attrs["index"] = place
            group.create_dataset("t", data=solver_state.t)


def save_checkpoint(path: str | Path, parameters: Parameters, solver: Any, state: object) -> None:
    """Write all that a run needs to go on: parameters, solver and a JSON-able `state`; whole or not at all."""
    with _writing(path) as file:
        _write_parameters(file.create_group(_SCOPE), parameters)
        for name, solver_state in solver.get_states().items():
            group = file.create_group(f"{_SOLVER}/{name}")
            group.attrs["t"] = solver_state.t
            for key, value in solver_state.pstate.items():
                group.create_dataset(key, data=value.d)
        file.create_dataset("state", data=np.frombuffer(json.dumps(state).encode(), np.uint8))


def load_state(path: str | Path) -> Any:
    """Read the `state` of a checkpoint alone.

    Raises
    ------
    UserError
        The file cannot be read.
    """
    with _open(path) as file:
        return parse_json(file.array("state").tobytes(), path, "the state of a run")


def restore(path: str | Path, parameters: Parameters, solver: Any) -> None:
    """Put the values of a checkpoint into the parameters and the solver of the same network.

    Raises
    ------
    UserError
        The file cannot be read, or belongs to another network or solver; nothing is changed then.
    """
    states = solver.get_states()
    arrays = {f"{_SOLVER}/{name}/{key}": array for name, state in states.items() for key, array in state.pstate.items()}
    with _open(path) as file:
        datasets = _parameters_in(file)
        check_fit(path, {name: file.datasets[stored].shape for name, stored in datasets.items()},
                  {name: p.shape for name, p in parameters.items()}, optional=lambda name: False)
        _check_solver(path, file, {name: array.shape for name, array in arrays.items()})
        values = {name: _value_of(file, datasets[name]) for name in parameters}
        solver_values = {name: file.array(name) for name in arrays}
        times = {name: int(file.group(f"{_SOLVER}/{name}").attrs["t"]) for name in states}
    for name, parameter in parameters.items():
        _assign(parameter, values[name])
    for name, array in arrays.items():
        array.d = solver_values[name]
    for name, state in states.items():
        state.t = times[name]
    solver.set_states(states)


def _check_solver(path: str | Path, file: Hdf5, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise a UserError if the arrays of the solver in a file are not those of `expected`."""
    found = {name: dataset.shape for name, dataset in file.datasets.items() if name.startswith(f"{_SOLVER}/")}
    wrong = sorted(name for name in {**found, **expected} if found.get(name) != expected.get(name))
    if wrong:
        name = wrong[0]
        raise UserError(f"{path}: state of another solver: {name} of shape {found.get(name, 'none')}, here "
                        f"{expected.get(name, 'none')} ({len(wrong)} such arrays)")
