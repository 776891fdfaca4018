"""The commands of a paper's package, as `python -m PACKAGE COMMAND`, as scripts, and on the path of an installation."""
import ast
import importlib
import importlib.util
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from common.console import cli
from common.console.tables import align
from common.machine.errors import UsageError


def launch(package: str, commands: Sequence[str], command: str | None = None) -> NoReturn:
    """Run `main` of a module of a package with the arguments of this process, and leave it as `cli.run` does.

    Parameters
    ----------
    commands
        Modules of the package that have a `main`.
    command
        One of them, if the arguments do not begin with it.
    """
    cli.run(lambda: _main_of(package, commands, command)())


def _main_of(package: str, commands: Sequence[str], command: str | None) -> Callable[[], int | None]:
    if command is None:
        name = Path(sys.argv[0]).name
        name = f"python -m {package}" if name == "__main__.py" else name
        command = sys.argv[1] if len(sys.argv) > 1 else "--help"
        if command in ("--help", "-h"):
            return lambda: print(_overview(name, package, commands))
        if command not in commands:
            raise UsageError(f"{name} {command}: no such command; there are {', '.join(commands)}")
        sys.argv[:2] = [f"{name} {command}"]
    return importlib.import_module(f"{package}.{command}").main


def _overview(name, package, commands):
    """List the commands with the first line of what their modules say; these are not imported."""
    table = align(((command, _first_line(f"{package}.{command}")) for command in commands), left=2)
    return (f"usage: {name} COMMAND ...\n\n{textwrap.indent(table, '  ')}\n\n"
            f"Arguments of a command: {name} COMMAND --help")


def _first_line(module):
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, module
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    return (docstring or "").partition("\n")[0]
