"""The command line of a training script: an experiment from a .cfg file, flags that override it, where to compute."""
from common.console import cli
from common.machine.distributed import join_ranks
from common.out_of_core import add_out_of_core_flag, out_of_core
from common.runs.config import add_config_flags, find_cfg, load_section, overrides_of


def add_experiment_flags(parser, cls, cfg, default=None, shown=None, swaps=True):
    """Add CONFIG, --cfg, and the flags of the context, the run, and every key of a configuration class.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    cls : attrs class
        See `common.runs.config`.
    cfg : str
        File of experiments that --cfg names by default.
    default : str, optional
        Experiment that is run if none is named. Without it and `shown`, one has to be named.
    shown : str, optional
        What the help says of the default, where the script chooses it.
    swaps : bool
        Whether the script can train out of core.
    """
    shown = shown or default
    parser.add_argument("experiment", metavar="CONFIG", nargs="?" if shown else None, default=default,
                        help="section of the .cfg file" + (f" (default: {shown})" if shown else ""))
    parser.add_argument("--cfg", default=cfg, metavar="FILE",
                        help="file of experiments, looked for here and beside the script (default: %(default)s)")
    if swaps:
        add_out_of_core_flag(parser)
    cli.add_context_flags(parser)
    cli.add_run_flags(parser)
    add_config_flags(parser, cls)


def open_experiment(args, cls, package, experiment=None):
    """Load the experiment of the command line, choose where to compute, and say so.

    Parameters
    ----------
    args : argparse.Namespace
        Of the flags of `add_experiment_flags`.
    cls : attrs class
    package : str
        That of the script, which the .cfg file lies beside.
    experiment : str, optional
        The section, if the script chooses it.

    Returns
    -------
    cfg : cls
    memory : common.out_of_core.OutOfCore or InCore

    Raises
    ------
    UsageError
        No such file or section, a value that is not allowed, no such device, a budget that is none.
    """
    experiment = experiment or args.experiment
    cfg = load_section(cls, find_cfg(args.cfg, package), experiment, overrides_of(args, cls))
    print(f"{experiment}: computing on {join_ranks(args.context, args.device_id)}", flush=True)
    return cfg, out_of_core(args)
