"""The network whose weights an experiment starts from: where its weights are, and which runs make them."""
from pathlib import Path

import attrs
import nnabla as nn

from common.datasets.batches import Batches
from common.machine.errors import UsageError
from common.runs.checkpoint import load_parameters, parameter_shapes
from common.runs.config import load_section
from common.runs.training import BEST
from mixed_precision_dnns.config import VALUES, Experiment
from mixed_precision_dnns.data import build_network_for


@attrs.frozen
class Start:
    """An experiment that has to be run in `folder` first, because the one in the folder `needed_by` starts from it."""

    cfg: Experiment
    folder: Path
    needed_by: str


def missing_starts(cfg: Experiment, folder: Path, cfg_path: Path, overrides: dict[str, object]) -> list[Start]:
    """List the experiments that `cfg` in `folder` starts from and whose weights are missing, in the order to run them.

    Their folders lie beside `folder`. `overrides` are the keys and values that they share with `cfg`.
    """
    if cfg.weightfile is None or not _is_result(cfg.weightfile) or _existing(cfg.weightfile, folder):
        return []
    start = _beside(cfg.weightfile, folder).parent
    before = load_section(type(cfg), cfg_path, start.name, overrides)
    return [*missing_starts(before, start, cfg_path, overrides), Start(before, start, folder.name)]


def _is_result(weightfile):
    """Whether a weight file is what a run of an experiment leaves, EXPERIMENT/params_best.h5."""
    return len(Path(weightfile).parts) == 2 and Path(weightfile).name == BEST


def _beside(weightfile, folder):
    """Path of a weight file in another run beside the output folder."""
    return folder.resolve().parent / weightfile


def _existing(weightfile, folder):
    """Path of a weight file beside the output folder, or else as given; None if there is neither."""
    return next((path for path in (_beside(weightfile, folder), Path(weightfile)) if path.is_file()), None)


def recorded(cfg: Experiment, folder: Path) -> Experiment:
    """Return the experiment with the path of its weights that a run in `folder` is to keep.

    It is absolute, but for weights in another run beside the output folder: these go where the folder goes.
    """
    if cfg.weightfile is None or _beside(cfg.weightfile, folder).is_file() or not Path(cfg.weightfile).is_file():
        return cfg
    return attrs.evolve(cfg, weightfile=str(Path(cfg.weightfile).absolute()))


def find_weights(cfg: Experiment, folder: Path, otherwise: str = "--pretrain does that first") -> Path | None:
    """Find the weights that `cfg` starts from, for a run in `folder`; None if it starts from random ones.

    `otherwise` says what helps, too, where another run should have left them.

    Raises
    ------
    UsageError
        They are missing.
    """
    if cfg.weightfile is None:
        return None
    path = _existing(cfg.weightfile, folder)
    if path:
        return path
    start = _beside(cfg.weightfile, folder).parent
    hint = (f"'{cfg.script} {start.name} --output {start}' makes it, {otherwise}"
            if _is_result(cfg.weightfile) else "check the path")
    raise UsageError(f"{cfg.weightfile}: no such weight file, neither here nor beside {folder}; {hint}")


def load_starting_weights(path: Path, cfg: Experiment, batches: Batches, goes_on: bool = False) -> None:
    """Load weights of the network of `cfg` for the images of `batches`; scalars that they lack get first values.

    So do step sizes of fixed quantizers, which are derived from the weights: those in the file were for its own bits.
    They stay where a run `goes_on`, with the file as its checkpoint.
    """
    shapes = parameter_shapes(lambda: build_network_for(cfg, batches, train=True))
    load_parameters(path, shapes, optional=is_quantizer_parameter)
    if not goes_on:
        for parameter in nn.get_parameters(grad_only=False).values():
            parameter.info = None    # see `common.quantizers.layers`


def is_quantizer_parameter(name: str) -> bool:
    """Whether a parameter belongs to a quantizer, or scales the output: weights to start from may lack it."""
    scopes = ("Wquant", "bquant", "Aquant", "scalequant", "shiftquant")
    return any(f"/{scope}/" in name for scope in scopes) or name.endswith(
        ("/W_q", "/b_q", "/scale_q", "/shift_q", "/scale_layer", *(f"{scope}/Asize" for scope in VALUES)))
