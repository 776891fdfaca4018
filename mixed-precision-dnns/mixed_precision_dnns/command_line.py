"""The command line of the training scripts."""
import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from common.console import cli
from common.machine.context import fast_gradients
from common.machine.output_folders import claimed
from common.runs.config import find_cfg, overrides_of
from common.runs.experiments import add_experiment_flags, open_experiment
from mixed_precision_dnns.config import Experiment
from mixed_precision_dnns.starting_weights import missing_starts

PACKAGE = "mixed_precision_dnns"


def make_parser(description: str | None, cls: type[Experiment]) -> argparse.ArgumentParser:
    """Make a parser of the flags of an experiment (`common.runs.experiments`), `--pretrain` and `--fast-gradients`."""
    parser = cli.parser(description)
    add_experiment_flags(parser, cls, cls.cfg_file)
    parser.add_argument("--pretrain", action="store_true",
                        help="first train the network that CONFIG starts from, where its weights are missing")
    add_fast_gradients_flag(parser)
    return parser


def add_fast_gradients_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--fast-gradients`, to be passed to `common.machine.context.fast_gradients`."""
    parser.add_argument("--fast-gradients", action="store_true",
                        help="on a CPU, sum the gradients of convolutions in the fastest order: a step takes "
                             "less time, and the gradients differ by rounding from those without it")


def train_from_command_line(argv: Sequence[str] | None, description: str | None, cls: type[Experiment],
                            train: Callable[..., None]) -> None:
    """Run the experiment that the command line names by `train(cfg, folder, memory, resume, overwrite)`."""
    args = make_parser(description, cls).parse_args(argv)
    cfg, memory = open_experiment(args, cls, PACKAGE)
    folder = Path(args.output or args.experiment)
    with fast_gradients(args.fast_gradients):
        if args.pretrain:
            shared = {key: value for key, value in overrides_of(args, cls).items() if key in cls.start_keys}
            for start in missing_starts(cfg, folder, find_cfg(args.cfg, PACKAGE), shared):
                print(f"first {start.folder.name}, which {start.needed_by} starts from", flush=True)
                with claimed(start.folder):
                    train(start.cfg, start.folder, memory, resume=True)
        with claimed(folder):
            train(cfg, folder, memory, args.resume, args.overwrite)
