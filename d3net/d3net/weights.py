"""A file of weights, with what determines its network."""
from collections.abc import Iterable
from pathlib import Path
from typing import Generic

import attrs

from d3net.hyperparameters import Kind


@attrs.frozen
class WeightFile(Generic[Kind]):
    """A file for `common.runs.checkpoint.load_parameters`, and the hyper-parameters of its network."""

    path: Path
    hparams: Kind


def first_names(names: Iterable[str]) -> str:
    """Name some parameters of a file at the end of a message."""
    found = list(names)
    return f" ({', '.join(found[:2])}, ...)" if found else " (no parameters at all)"
