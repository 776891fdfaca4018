"""What a training has left in its folder: configuration, files, and the network that its parameters belong to."""
from pathlib import Path
from typing import Any

import attrs

from common.machine.errors import UserError
from common.reading.texts import read_json
from common.runs.checkpoint import load_parameters, parameter_shapes, stored_shapes
from common.runs.training import BEST
from mixed_precision_dnns import data
from mixed_precision_dnns.config import Experiment, config_from
from mixed_precision_dnns.quantized_network import QuantizedNetwork, build_network

LAST_BIAS = "fc/quantized_affine/b"


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
    path = weights or Path(folder) / BEST
    shapes = stored_shapes(path)
    if len(shapes.get(LAST_BIAS, ())) != 1:
        raise UserError(f"{path}: weights of another network: no {LAST_BIAS!r} of shape (classes,) in it")
    run = FinishedRun(cfg, data.shape_of_images(cfg), shapes[LAST_BIAS][0])
    load_parameters(path, parameter_shapes(lambda: run.build(1)))
    return run


def read_result(run: Path, name: str) -> Any:
    """Read a JSON file that a finished run leaves, as `read_json` does."""
    return read_json(run / name, "a result of a run", "run the experiment again",
                     missing=f"{run / name}: no such file; train_resnet.py writes it when a run is finished")
