"""Parameters as one flat array, and flat arrays of many steps of a training in a folder or in memory."""
from pathlib import Path

import nnabla as nn
import numpy as np

from common.machine.errors import UsageError, UserError
from common.machine.files import make_folder, replacing, write_json
from common.reading.arrays import read_npy
from common.reading.texts import check_fields, read_json
from data_cleansing.training.record import AGAIN

_VELOCITY = "velocity"    # scope of the last updates of all parameters, in a training with momentum


def velocity_of(name: str, parameter: nn.Variable) -> nn.Variable:
    """Return the last update of a parameter, which is a parameter of the current scope, too; 0 where it is made now.

    So flat arrays hold all that a training with momentum goes on from.
    """
    return nn.parameter.get_parameter_or_create(f"{_VELOCITY}/{name}", parameter.shape, np.zeros(parameter.shape),
                                                need_grad=False)


class Layout:
    """Where each parameter of the current scope lies in a flat array.

    Attributes
    ----------
    parameters : dict of str to nn.Variable
        All of them, in nnabla's order; `need_grad` tells which are trained.
    size : int
        Values in all.
    """

    def __init__(self) -> None:
        self.parameters = nn.get_parameters(grad_only=False)
        ends = np.cumsum([parameter.size for parameter in self.parameters.values()], dtype=np.int64).tolist()
        self.size = ends[-1] if ends else 0
        self._parts = dict(zip(self.parameters, map(slice, [0, *ends[:-1]], ends), strict=True))

    @property
    def trained(self) -> dict[str, nn.Variable]:
        """The parameters that are trained, by name."""
        return {name: parameter for name, parameter in self.parameters.items() if parameter.need_grad}

    @property
    def of_network(self) -> dict[str, nn.Variable]:
        """The parameters without velocities, by name."""
        return {name: parameter for name, parameter in self.parameters.items() if not name.startswith(f"{_VELOCITY}/")}

    def split(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Return views of a flat array (size,) by name, in the shapes of the parameters."""
        return {name: flat[part].reshape(self.parameters[name].shape) for name, part in self._parts.items()}

    def values(self) -> np.ndarray:
        """Return the current values, float32 (size,)."""
        return self._collect(lambda parameter: parameter.d)

    def gradients(self) -> np.ndarray:
        """Return the current gradients, float32 (size,), 0 for parameters that are not trained."""
        return self._collect(lambda parameter: parameter.g if parameter.need_grad else 0)

    def _collect(self, get):
        flat = np.empty(self.size, np.float32)
        for name, part in self.split(flat).items():
            part[...] = get(self.parameters[name])
        return flat

    def assign(self, flat: np.ndarray) -> None:
        """Set the current values to those of a flat array (size,)."""
        for name, part in self.split(flat).items():
            self.parameters[name].d = np.asarray(part, np.float32)

    def clear_gradients(self) -> None:
        """Set all gradients to 0."""
        for parameter in self.parameters.values():
            parameter.grad.zero()

    def shapes(self) -> dict[str, list[int]]:
        """Return the shapes by name, as lists, in order."""
        return {name: list(parameter.shape) for name, parameter in self.parameters.items()}


class ParameterCache:
    """Flat parameters before some steps of a training; those before step `num_steps` are the final ones.

    Parameters
    ----------
    layout : Layout
        Of the network that is trained.
    folder : path, optional
        Each step is a file there, `step_000123.npy`, beside `layout.json` with names and shapes. Not given: in memory.

    Raises
    ------
    UserError
        The folder cannot be written to, or holds parameters of another network.
    """

    def __init__(self, layout: Layout, folder: str | Path | None = None) -> None:
        self.layout = layout
        self._arrays: dict[int, np.ndarray] = {}
        self._folder = None if folder is None else make_folder(folder)
        if self._folder is not None:
            self._check_layout(self._folder)

    def _check_layout(self, folder):
        path = folder / "layout.json"
        shapes = self.layout.shapes()
        if not path.exists():
            write_json(path, shapes)
            return
        what = "shapes of parameters"
        stored = check_fields(read_json(path, what, AGAIN), {}, path, what, AGAIN)
        if list(stored.items()) != list(shapes.items()):
            raise UserError(f"{folder}: holds parameters of another network; choose another folder")

    def steps(self) -> list[int]:
        """Return the steps that are stored, ascending."""
        if self._folder is None:
            return sorted(self._arrays)
        return sorted(int(path.stem.removeprefix("step_")) for path in self._folder.glob("step_*.npy"))

    def store(self, step: int, flat: np.ndarray | None = None) -> None:
        """Store flat parameters, float32 (size,), the current ones if not given."""
        flat = self.layout.values() if flat is None else np.array(flat, np.float32)
        assert flat.shape == (self.layout.size,), (flat.shape, self.layout.size)
        if self._folder is None:
            self._arrays[step] = flat
            return
        with replacing(self._path(step)) as temporary, temporary.open("wb") as stream:
            np.save(stream, flat, allow_pickle=False)

    def load(self, step: int) -> np.ndarray:
        """Return the flat parameters before a step, float32 (size,).

        Raises
        ------
        UsageError
            They are not stored.
        UserError
            The file is damaged.
        """
        if step not in self.steps():
            raise UsageError(f"{self._folder or 'cache'}: the parameters before step {step} are not stored; train with "
                             "more of them kept")
        if self._folder is None:
            return self._arrays[step]
        flat = read_npy(self._path(step), "parameters", AGAIN)
        if flat.shape != (self.layout.size,) or flat.dtype != np.float32:
            raise UserError(f"{self._path(step)}: holds {flat.dtype} {flat.shape}, not {self.layout.size} values; run "
                            "the training again")
        return flat

    def remove(self, step: int) -> None:
        """Forget the parameters before a step."""
        if self._folder is None:
            del self._arrays[step]
        else:
            self._path(step).unlink()

    def _path(self, step):
        assert self._folder is not None
        return self._folder / f"step_{step:06d}.npy"
