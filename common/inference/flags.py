"""What the scripts that run a trained network share: the flags that say on what, and the line that confirms it."""
from common.console import cli
from common.inference.engines import add_engine_flags
from common.machine.context import use_context


def add_computing_flags(parser):
    """Add the flags that `make_with_engine` takes."""
    add_engine_flags(parser)
    cli.add_context_flags(parser)


def make_with_engine(args, name, make):
    """Make what runs a network, and print what it computes on.

    Parameters
    ----------
    args : argparse.Namespace
        Of the flags of `add_computing_flags`.
    name : str
        Of the network, for the line that is printed.
    make : callable
        Takes `engine` and `precision`, and returns what is to be made.

    Returns
    -------
    object
        Of `make`.

    Raises
    ------
    UsageError
        As `use_context`; and what `make` raises.
    """
    context = use_context(args.context, args.device_id)
    made = make(engine=args.engine, precision=args.precision)
    print(f"{name}: computing on {context}", flush=True)
    return made
