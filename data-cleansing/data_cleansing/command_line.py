"""The command lines of the stages, with the spellings of the published scripts."""
import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from common.console import cli
from common.datasets import CIFAR10
from common.machine.context import use_context
from common.runs.config import (
    add_config_flags,
    find_cfg,
    load_section,
    overrides_of,
    section_names,
    with_former_paths,
)
from common.runs.experiments import add_experiment_flags
from data_cleansing.config import FILES, Config
from data_cleansing.results.run_folder import CONFIG

CFG = "cleansing.cfg"
# Flag -> how the published scripts spell it, and what argparse is to know of it.
PUBLISHED_FLAGS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "output": (("--output_dir",), {"metavar": "X"}),
    "n_epochs": (("-e", "--n_epochs"), {"metavar": "X"}),
    "n_trials": (("-nt", "--n_trials"), {"metavar": "X"}),
    "remove_n_list": (("-r", "--remove_n_list"), {"nargs": "+"}),
    "dataset": (("-ds",), {"metavar": "X"}),
    "retrain_all": (("-ra", "--retrain_all"), {"action": "store_const", "const": "true"}),
    "device_id": (("-di", "--device_id"), {"metavar": "X"}),
}


@attrs.frozen
class Experiment:
    """What the command line of train.py and cleanse.py asks for."""

    name: str
    cfg: Config
    output: Path
    resume: bool
    overwrite: bool
    choose_context: Callable[[], str]    # makes nnabla compute where the flags say, and returns the name of that place


def add_published_flags(parser: argparse.ArgumentParser, *flags: str) -> None:
    """Add the spellings of `PUBLISHED_FLAGS` for some flags, each called as its `dest`."""
    group = parser.add_argument_group("as the published scripts spell them")
    for flag in flags:
        spellings, options = PUBLISHED_FLAGS[flag]
        group.add_argument(*spellings, dest=flag, default=argparse.SUPPRESS, **options,
                           help=f"the same as --{flag.replace('_', '-')}")


def read_experiment(doc: str | None, argv: Sequence[str] | None = None) -> Experiment:
    """Read the command line of a script that begins with an experiment.

    Parameters
    ----------
    doc : str or None
        For --help.
    argv : sequence of str, optional
        Not given: the arguments of this process.

    Raises
    ------
    UsageError
        There is no such section, or a value is not allowed.
    """
    return experiment_of(experiment_parser(doc).parse_args(argv))


def experiment_parser(doc: str | None) -> argparse.ArgumentParser:
    """Start the parser of a script that begins with an experiment; `experiment_of` reads what it parsed."""
    parser = cli.parser(doc)
    add_experiment_flags(parser, Config, CFG, default_text="that of --dataset; FILES with only --data-dir",
                         swaps=False, ranks=False)    # scores follow the steps of one process
    add_published_flags(parser, *PUBLISHED_FLAGS)
    return parser


def experiment_of(args: argparse.Namespace) -> Experiment:
    """Read what `experiment_parser` parsed.

    Raises
    ------
    UsageError
        As `read_experiment`.
    """
    overrides, path = overrides_of(args, Config), find_cfg(args.cfg, "data_cleansing")
    name = args.experiment or _section_for(overrides, path)
    cfg, output = load_section(Config, path, name, overrides), Path(args.output or name)
    if args.resume:
        cfg = with_former_paths(cfg, output / CONFIG)
    return Experiment(name, cfg, output, args.resume, args.overwrite,
                      partial(use_context, args.context, args.device_id))


def _section_for(overrides, path):
    """The section that is named like the data set on the command line."""
    name = overrides.get("dataset", FILES if "data_dir" in overrides else CIFAR10).upper()
    return name if name in section_names(path) else "DEFAULT"


def stage_parser(doc: str | None, cls: type, overwrite: str) -> argparse.ArgumentParser:
    """Start the parser of a later stage: the folder of a run, and flags that change what its configuration says.

    Parameters
    ----------
    doc : str or None
        For --help.
    cls : attrs class
        The part of `data_cleansing.config.Config` that may change.
    overwrite : str
        What --overwrite does.
    """
    parser = cli.parser(doc)
    parser.add_argument("run", metavar="RUN_DIR", help="output folder of train.py or cleanse.py")
    cli.add_context_flags(parser)
    add_config_flags(parser, cls)
    add_published_flags(parser, *(key for key in PUBLISHED_FLAGS if key in attrs.fields_dict(cls)), "device_id")
    parser.add_argument("--overwrite", action="store_true", help=overwrite)
    return parser
