"""The command line of a training script: an experiment from a .cfg file, flags that override it, where to compute."""
import argparse
import textwrap
from pathlib import Path
from typing import TypeVar

import nnabla as nn

from common.console import cli
from common.console.tables import align
from common.machine.distributed import join_ranks
from common.out_of_core import InCore, OutOfCore, add_out_of_core_flag, out_of_core
from common.runs.config import add_config_flags, find_cfg, load_section, overrides_of
from common.runs.ini import comments_of_sections

C = TypeVar("C")    # an attrs class


def add_experiment_flags(parser: argparse.ArgumentParser, cls: type, cfg: str, default: str | None = None,
                         default_text: str | None = None, swaps: bool = True, ranks: bool = True) -> None:
    """Add CONFIG, --cfg, and the flags of the context, the run, and every key of a configuration class.

    Parameters
    ----------
    parser
    cls : attrs class
        See `common.runs.config`.
    cfg
        File of experiments that --cfg names by default.
    default
        Experiment that is run if none is named. Without it and `default_text`, one has to be named.
    default_text
        What the help says of the default, where the script chooses it.
    swaps
        Whether the script can train out of core.
    ranks
        Whether several processes can train together (mpirun).
    """
    cli.show_without_arguments(parser, lambda: list_sections(find_cfg(cfg, cls.__module__)))
    default_text = default_text or default
    parser.add_argument("experiment", metavar="CONFIG", nargs="?" if default_text else None, default=default,
                        help="section of the .cfg file" + (f" (default: {default_text})" if default_text else ""))
    parser.add_argument("--cfg", default=cfg, metavar="FILE",
                        help="file of experiments, looked for here and beside the script (default: %(default)s)")
    if swaps:
        add_out_of_core_flag(parser)
    if ranks:
        cli.allow_ranks(parser)
    cli.add_context_flags(parser)
    cli.add_run_flags(parser)
    add_config_flags(parser, cls)


def list_sections(path: Path) -> str:
    """List the experiments of a .cfg file that have a comment, with the beginning of it, and count the others."""
    comments = comments_of_sections(path)
    rows = [(f"  {name}", textwrap.shorten(comment, 88, placeholder=" ..."))
            for name, comment in comments.items() if comment]
    others = len(comments) - len(rows)
    return "\n".join([f"Sections of {path.name}:", *([align(rows, left=2)] if rows else []),
                      *([f"  and {others} more, as the file says"] if others else [])])


def open_experiment(args: argparse.Namespace, cls: type[C], package: str,
                    experiment: str | None = None) -> tuple[C, OutOfCore | InCore]:
    """Load the experiment of the command line, choose where to compute, and say so.

    Graphs are static from here on (`nn.set_auto_forward`): one that computed while a training builds it would draw
    random numbers and move running statistics.

    Parameters
    ----------
    args
        Of the flags of `add_experiment_flags`.
    cls : attrs class
    package
        That of the script, which the .cfg file lies beside.
    experiment
        The section, if the script chooses it.

    Returns
    -------
    cfg, memory

    Raises
    ------
    UsageError
        No such file or section, a value that is not allowed, no such device, a budget that is none.
    """
    section: str = experiment or args.experiment
    cfg = load_section(cls, find_cfg(args.cfg, package), section, overrides_of(args, cls))
    nn.set_auto_forward(False)
    print(f"{section}: computing on {join_ranks(args.context, args.device_id)}", flush=True)
    return cfg, out_of_core(args.out_of_core)
