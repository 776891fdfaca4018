"""What `segment.py` and `eval.py segmentation` know of D3Net: the published models, and the flags that choose one."""
import argparse
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from common.inference.flags import Computation, add_computing_flags

if TYPE_CHECKING:
    from d3net.scenes.segmenter import Segmenter

BASE = "https://nnabla.org/pretrained-models/ai-research-code/d3net/semantic-segmentation"


@attrs.frozen(kw_only=True)
class PublishedModel:
    """Weights that are published under a name, which is also that of their hyper-parameters.

    Attributes
    ----------
    name
    miou
        Whose number -> mean intersection over union in percent on the 500 validation images of Cityscapes.
    """

    name: str
    miou: Mapping[str, float]

    @property
    def url(self) -> str:
        return f"{BASE}/{self.name}.h5"

    @property
    def backbone(self) -> str:
        """Name of the weights that training starts from."""
        return f"{self.name}-pretrained-backbone"

    @property
    def backbone_url(self) -> str:
        return f"{BASE}/{self.backbone}.h5"


# mIoU: arXiv 2011.11844, and the README of the published NNabla weights. The first one is the default.
PUBLISHED = {model.name: model for model in (
    PublishedModel(name="D3Net-L", miou={"paper": 80.6, "NNabla": 81.0}),
    PublishedModel(name="D3Net-S", miou={"paper": 79.5, "NNabla": 79.9}))}
DEFAULT, *_ = PUBLISHED


def published_name(name: str | Path | None) -> str | None:
    """Return the published name that `name` spells, with hyphens or underscores; None if it is another one."""
    spelled = str(name).replace("_", "-")
    return spelled if spelled in PUBLISHED else None


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `SegmenterFlags` holds."""
    names = [name.replace("-", "_") for name in PUBLISHED]
    parser.add_argument("--model", "-m", metavar="MODEL",
                        help=f"{', '.join(PUBLISHED)} (fetched on the first use), a weight file, or the output folder "
                             f"of train.py (default: the published one of --config, otherwise {DEFAULT})")
    parser.add_argument("--config", "--config-file", "-cfg", metavar="CONFIG",
                        help=f"hyper-parameters of the network: {', '.join(names)} or a YAML file (default: those that "
                             "belong to the model)")
    add_computing_flags(parser)


@attrs.frozen
class SegmenterFlags:
    """Which model to segment with, and what it runs on.

    Attributes
    ----------
    model
        As for `d3net.scenes.weights.segmentation_file`.
    config
        Hyper-parameters, by name or of a file; None: those that belong to the model.
    computation
    """

    model: str
    config: str | None
    computation: Computation

    @classmethod
    def of_flags(cls, args: argparse.Namespace) -> "SegmenterFlags":
        return cls(args.model or published_name(args.config) or DEFAULT, args.config, Computation.of_flags(args))

    def make(self) -> "Segmenter":
        """Make the segmenter, and print what it computes on.

        Raises
        ------
        UsageError, UserError
            As `d3net.scenes.segmenter.Segmenter` and `common.machine.context.use_context`.
        """
        # Imported here, as it is slow to load.
        from d3net.scenes.segmenter import Segmenter

        return self.computation.start(self.model, functools.partial(Segmenter, self.model, self.config))
