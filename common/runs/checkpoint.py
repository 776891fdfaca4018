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

import h5py
import nnabla as nn
import numpy as np

from common.machine.errors import UsageError, UserError
from common.machine.files import replacing

Parameters = Mapping[str, nn.Variable]
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


@contextlib.contextmanager
def _open(path: str | Path) -> Iterator[Any]:
    """Open an HDF5 file; one that cannot be read is an error of one line."""
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such weight file")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:    # as damage may be
        raise UserError(f"{path}: cannot be read, truncated or not HDF5; copy or make it again") from error


def parameter_shapes(build: Callable[[], object]) -> dict[str, tuple[int, ...]]:
    """Find the parameters that `build()` creates, without creating them in the current scope.

    Parameters
    ----------
    build
        Builds a graph with nnabla's parametric functions.
    """
    # Random values drawn here must not shift those of the real network.
    with nn.parameter_scope("scratch", OrderedDict()), _undisturbed_random_state():
        build()
        return {name: p.shape for name, p in nn.get_parameters(grad_only=False).items()}


@contextlib.contextmanager
def _undisturbed_random_state():
    state = nn.random.prng.get_state()
    try:
        yield
    finally:
        nn.random.prng.set_state(state)


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
        return {name: dataset.shape for name, dataset in _parameters_in(file).items()}


def _parameters_in(file):
    return _datasets(file["parameters"] if _is_checkpoint(file) else file)


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
        found = {name: shapes[name] if reshaped(name) and d.size == math.prod(shapes.get(name, ())) else d.shape
                 for name, d in datasets.items()}
        check_fit(path, found, shapes, optional)
        for name in shapes:
            if name in datasets:
                _set_parameter(path, name, datasets[name], shapes[name])


def _is_checkpoint(file: h5py.File) -> bool:
    return isinstance(file.get("parameters", getlink=True), h5py.HardLink)


def _datasets(group: h5py.Group) -> dict[str, Any]:
    """Data sets of a group by full name, in the order they were saved in; links to other files are not followed."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f" and not item.is_virtual and not item.external:
            found[name] = item

    group.visititems(visit)
    return dict(sorted(found.items(), key=lambda pair: int(pair[1].attrs.get("index", 0))))


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


def _set_parameter(path, name, dataset, shape):
    value = dataset[()].astype(np.float32).reshape(shape)
    if not np.isfinite(value).all():
        raise UserError(f"{path}: {name} holds values that are not finite; the run that wrote it had diverged")
    parameter = nn.parameter.get_parameter(name)
    if parameter is None:
        parameter = nn.Variable(value.shape, need_grad=bool(dataset.attrs.get("need_grad", True)))
        nn.parameter.set_parameter(name, parameter)
    _assign(parameter, dataset, value)


def _assign(parameter: nn.Variable, dataset: Any, value: np.ndarray) -> None:
    parameter.d = value
    if "step_size" in dataset.attrs:
        parameter.info = types.SimpleNamespace(step_size=float(dataset.attrs["step_size"]))


def save_checkpoint(path: str | Path, parameters: Parameters, solver: Any, state: object) -> None:
    """Write all that a run needs to go on: parameters, solver and a JSON-able `state`; whole or not at all."""
    with _writing(path) as file:
        _write_parameters(file.create_group("parameters"), parameters)
        for name, solver_state in solver.get_states().items():
            group = file.create_group(f"solver/{name}")
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
        return json.loads(file["state"][()].tobytes())


def restore(path: str | Path, parameters: Parameters, solver: Any) -> None:
    """Put the values of a checkpoint into the parameters and the solver of the same network.

    Raises
    ------
    UserError
        The file cannot be read, or belongs to another network.
    """
    with _open(path) as file:
        datasets = _datasets(file["parameters"])
        check_fit(path, {name: d.shape for name, d in datasets.items()},
                  {name: p.shape for name, p in parameters.items()}, optional=lambda name: False)
        for name, parameter in parameters.items():
            _assign(parameter, datasets[name], datasets[name][()])
        states = solver.get_states()
        for name, solver_state in states.items():
            group = file[f"solver/{name}"]
            solver_state.t = int(group.attrs["t"])
            for key, value in solver_state.pstate.items():
                value.d = group[key][()]
        solver.set_states(states)
