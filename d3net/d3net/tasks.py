"""The command line of scripts that have a form for each application, `mss` or `segmentation`."""
import argparse
from collections.abc import Mapping, Sequence
from types import ModuleType

from common.console import cli


def parse_task(doc: str | None, modules: Mapping[str, ModuleType], argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a task, and the flags that `add_arguments` of its module adds; the docstring of the module is its help."""
    parser = cli.parser(doc)
    tasks = parser.add_subparsers(dest="task", metavar="|".join(modules), required=True,
                                  help="music source separation or semantic segmentation; each has flags of its own")
    for name, module in modules.items():
        module.add_arguments(tasks.add_parser(name, description=module.__doc__, needs_arguments=True))
    return parser.parse_args(argv)
