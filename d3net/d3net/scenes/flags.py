"""The flags of `segment.py` and `eval.py segmentation` that choose a model, and what it runs on."""
import argparse
import functools
from typing import TYPE_CHECKING

import attrs

from common.inference.flags import Computation, add_computing_flags
from d3net.scenes.published import DEFAULT, PUBLISHED, published_name

if TYPE_CHECKING:
    from d3net.scenes.segmenter import Segmenter


def add_network_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose a network."""
    names = [name.replace("-", "_") for name in PUBLISHED]
    parser.add_argument("--model", "-m", metavar="MODEL",
                        help=f"{', '.join(PUBLISHED)} (fetched on the first use), a weight file, or the output folder "
                             f"of train.py (default: the published one of --config, otherwise {DEFAULT})")
    parser.add_argument("--config", "--config-file", "-cfg", metavar="CONFIG",
                        help=f"hyper-parameters of the network: {', '.join(names)} or a YAML file (default: those that "
                             "belong to the model)")


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `SegmenterFlags` holds."""
    add_network_flags(parser)
    add_computing_flags(parser)


def model_of_flags(args: argparse.Namespace) -> str:
    """Return the model that the flags of `add_network_flags` choose."""
    return args.model or published_name(args.config) or DEFAULT


@attrs.frozen
class SegmenterFlags:
    """Which model to segment with, and what it runs on.

    Attributes
    ----------
    model
        As for `d3net.scenes.weights.segmentation_file`.
    config
        Hyper-parameters, by name or of a file; None: those that belong to the model.
    """

    model: str
    config: str | None
    computation: Computation

    @classmethod
    def of_flags(cls, args: argparse.Namespace) -> "SegmenterFlags":
        return cls(model_of_flags(args), args.config, Computation.of_flags(args))

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
