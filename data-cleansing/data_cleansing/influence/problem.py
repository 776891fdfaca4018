"""What all methods compute scores from."""
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np

from data_cleansing.data.images import Images
from data_cleansing.data.samples import Samples
from data_cleansing.graphs.rewriting import Network
from data_cleansing.training.parameters import Layout, ParameterCache
from data_cleansing.training.record import TrainingRecord

BOUNDED = "bounded"    # the kind of Hessian that is left out where u grows too much with it


@attrs.frozen
class Choices:
    """How a method computes; None where it has no such choice. `influence_scores` says what they mean."""

    hessian: str | None = None
    normalization: str | None = None
    epochs: str | None = None


@attrs.frozen(eq=False, kw_only=True)
class Problem:
    """The arguments of `influence_scores`, checked and completed."""

    network: Network
    train: Images | Samples
    valid: Images | Samples
    record: TrainingRecord
    layout: Layout
    final: np.ndarray    # float32 (layout.size,), the parameters at the end of the training
    cache: ParameterCache | None
    method: str
    choices: Choices
    published: bool
    damping: float
    seed: int
    state: str | Path | None
    identity: str    # a hash of all that the scores depend on
    on_step: Callable[..., object] | None
