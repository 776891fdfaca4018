"""The commands of a paper's package, as `python -m PACKAGE COMMAND`, as scripts, and on the path of an installation."""
import ast
import importlib
import importlib.util
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from common.console.stopping import Stop


def launch(package: str, command: str | None = None) -> NoReturn:
    """Run `main` of a module of a package with the arguments of this process, and leave it as `cli.run` does.

    Parameters
    ----------
    command
        One of `commands_of(package)`, if the arguments do not begin with it.
    """
    Stop().install()    # modules load for a second
    try:
        from common.console import cli
    except ModuleNotFoundError as missing:
        print(f"error: {missing}: run 'make demo' or, with Python 3.10, 'pip install -r requirements.txt' at the top",
              file=sys.stderr)
        sys.exit(2)
    cli.run_loaded(lambda: _main_of(package, command))


def commands_of(package: str) -> dict[str, str]:
    """List the modules of a package that have a `main`, each with its first line; none of them is imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None, package
    found = {}
    for path in sorted(Path(spec.origin).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def _main_of(package: str, command: str | None) -> Callable[[], int | None]:
    from common.machine.errors import UsageError

    if command is None:
        name = Path(sys.argv[0]).name
        name = f"python -m {package}" if name == "__main__.py" else name
        command = sys.argv[1] if len(sys.argv) > 1 else "--help"
        commands = commands_of(package)
        if command in ("--help", "-h"):
            return lambda: print(_overview(name, commands))
        if command not in commands:
            raise UsageError(f"{name} {command}: no such command; there are {', '.join(commands)}")
        sys.argv[:2] = [f"{name} {command}"]
    return importlib.import_module(f"{package}.{command}").main


def _overview(name, commands):
    from common.console.tables import align

    return (f"usage: {name} COMMAND ...\n\n{textwrap.indent(align(commands.items(), left=2), '  ')}\n\n"
            f"Arguments of a command: {name} COMMAND --help")
