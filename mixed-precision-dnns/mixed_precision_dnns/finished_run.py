"""What a training has left in its folder: configuration, files, and the network that its parameters belong to."""
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from common.machine.errors import UsageError, UserError
from common.reading.texts import check_fields, read_json
from common.runs.checkpoint import load_parameters, parameter_shapes, stored_shapes
from common.runs.training import BEST, CHECKPOINT, read_state
from mixed_precision_dnns import data
from mixed_precision_dnns.config import Experiment, config_from
from mixed_precision_dnns.quantized_network import QuantizedNetwork, build_network

LAST_BIAS = "fc/quantized_affine/b"
_WHAT, _REMEDY = "a result of a run", "run the experiment again"    # for errors


def read_config(folder: str | Path) -> Experiment:
    """Read the configuration of a run from the output folder of train_resnet.py or train_imagenet.py.

    Raises
    ------
    UsageError
        `folder` holds no run.
    UserError
        Its config.json is damaged.
    """
    path = Path(folder) / "config.json"
    missing = f"{folder}: no config.json there; name the output folder of train_resnet.py or train_imagenet.py"
    return config_from(read_json(path, "the configuration of a run", "run the experiment again", missing=missing), path)


def find_parameters(folder: str | Path, weights: str | Path | None = None) -> Path:
    """Return `weights`, or else the best parameters of the run in `folder`, which must be there."""
    path = Path(weights or Path(folder) / BEST)
    if weights is None and not path.exists():
        raise UsageError(f"{path}: no such file; a run has it from its best epoch on: train on with --resume, or name "
                         "parameters by --weights")
    return path


@attrs.frozen
class FinishedRun:
    """An experiment and the network that it has trained, for images (channels, height, width) of some classes."""

    cfg: Experiment
    image_shape: tuple[int, ...]
    num_classes: int

    def build(self, batch_size: int) -> QuantizedNetwork:
        """Build the network for testing on the parameters of the current scope."""
        return build_network(self.cfg, batch_size, False, self.image_shape, self.num_classes)


def load_finished_run(folder: str | Path, weights: str | Path | None = None) -> FinishedRun:
    """Load the parameters of a run into the current parameter scope; no data are needed.

    `folder` is the output folder of train_resnet.py or train_imagenet.py. `weights` names other parameters of the same
    network than the best ones of the run.

    Raises
    ------
    UsageError
        There is no such run, or no such file.
    UserError
        Its files are damaged, or the parameters are of another network.
    """
    cfg = read_config(folder)
    path = find_parameters(folder, weights)
    shapes = stored_shapes(path)
    if len(shapes.get(LAST_BIAS, ())) != 1:
        raise UserError(f"{path}: weights of another network: no {LAST_BIAS!r} of shape (classes,) in it")
    run = FinishedRun(cfg, data.shape_of_images(cfg), shapes[LAST_BIAS][0])
    load_parameters(path, parameter_shapes(lambda: run.build(1)))
    return run


def read_result(run: Path, name: str) -> Any:
    """Read a JSON file that a finished run leaves, as `read_json` does."""
    return read_json(run / name, _WHAT, _REMEDY,
                     missing=f"{run / name}: no such file; train_resnet.py writes it when a run is finished")


def read_layers(run: Path, columns: Mapping[str, type]) -> list[dict[str, Any]]:
    """Read what a run says of its tensors, a dict for each; at least `columns`, a name with its type, are in all.

    Raises
    ------
    UserError
        The run is not finished, or its file is damaged.
    """
    path, rows = run / "layers.json", read_result(run, "layers.json")
    if not isinstance(rows, list):
        raise UserError(f"{path}: cannot be read as {_WHAT} (it holds a {type(rows).__name__}, no list); {_REMEDY}")
    return [check_fields(row, columns, path, _WHAT, _REMEDY) for row in rows]


def read_error_and_size(run: Path) -> tuple[float, float]:
    """Read the test error of a finished run, as a share, and the kB of its weights; errors as for `read_layers`."""
    path = run / "result.json"
    result = check_fields(read_result(run, path.name), {"test_error": float, "weight_kbytes": float}, path, _WHAT,
                          _REMEDY)
    error, size = result["test_error"], result["weight_kbytes"]
    if not (0 <= error <= 1 and 0 < size < math.inf):
        raise UserError(f"{path}: a test error of {error} with weights of {size} kB; {_REMEDY}")
    return error, size


def read_scalars(run: Path, num_tensors: int) -> list[Sequence[Mapping[str, float]]]:
    """Read the scalars of the quantizers from the checkpoint of a run: epoch, tensor and name -> value, above 0.

    Raises
    ------
    UserError
        There is no checkpoint, or it is damaged, or of another network than one of `num_tensors` that learn.
    """
    path = run / CHECKPOINT
    epochs = read_state(path)["extras"]
    for scalars in epochs:
        if not isinstance(scalars, list) or len(scalars) != num_tensors or not all(map(_are_scalars, scalars)) \
                or [tensor.keys() for tensor in scalars] != [tensor.keys() for tensor in epochs[0]]:
            raise UserError(f"{path}: does not have the scalars of the {num_tensors} quantizers in layers.json; "
                            f"{_REMEDY}")
    return epochs


def _are_scalars(tensor: Any) -> bool:
    return isinstance(tensor, dict) and all(
        isinstance(value, (int, float)) and 0 < value < math.inf for value in tensor.values())
