"""The flags that say what a trained network runs on, and the line that confirms it."""
import argparse
from collections.abc import Callable
from typing import TypeVar

import attrs

from common.console import cli
from common.inference.engines import ENGINES, PRECISIONS
from common.machine.context import use_context

T = TypeVar("T")


def add_computing_flags(parser: argparse.ArgumentParser, engine: str = "auto") -> None:
    """Add the flags that `Computation` holds; `engine` is the default of --engine."""
    parser.add_argument("--engine", choices=("auto", *ENGINES), default=engine,
                        help="what runs the network; auto takes the fastest that is installed, and nnabla on a GPU "
                             "(default: %(default)s)")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="float32",
                        help="bf16 is faster and less exact, for --engine openvino on a CPU that has it (default: "
                             "%(default)s)")
    cli.add_context_flags(parser)


@attrs.frozen
class Computation:
    """What a network runs on. Each field is the value of the flag of its name."""

    context: str
    device_id: str
    engine: str
    precision: str

    @classmethod
    def of_flags(cls, args: argparse.Namespace) -> "Computation":
        return cls(args.context, args.device_id, args.engine, args.precision)

    def start(self, name: str, make: Callable[..., T]) -> T:
        """Make what runs a network, and print what it computes on.

        Parameters
        ----------
        name
            Of the network, for the line that is printed.
        make
            Takes `engine` and `precision`.

        Returns
        -------
        What `make` returns.

        Raises
        ------
        UsageError
            As `use_context`; and what `make` raises.
        """
        context = use_context(self.context, self.device_id)
        runner = make(engine=self.engine, precision=self.precision)
        print(f"{name}: computing on {context}", flush=True)
        return runner
