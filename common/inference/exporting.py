"""What the commands have in common that write a network as ONNX, and beside it a file that runs it without nnabla."""
import argparse
import ast
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from common.machine.errors import UsageError
from common.machine.files import replacing

if TYPE_CHECKING:
    import onnx

PRECISIONS = ("float32", "float16", "int8")


def add_precision_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--precision", choices=PRECISIONS, default="float32",
                        help="of the weights in the file; float16 computes in float32, int8 multiplies in 8 bits "
                             "(default: %(default)s)")


def check_target(target: Path) -> None:
    """Raise a UsageError if --output names no .onnx file in a folder that exists."""
    if target.suffix != ".onnx" or not target.parent.is_dir():
        raise UsageError(f"--output {target}: it is to end in .onnx, in a folder that exists")


def write_model(model: "onnx.ModelProto", target: Path, metadata: Mapping[str, object]) -> None:
    """Write a model whose metadata say what its input is, and how to prepare it."""
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=str(value))
    with replacing(target) as temporary:
        temporary.write_bytes(model.SerializeToString())


def write_companion(module: ModuleType, folder: Path) -> Path:
    """Write a module into a folder, so that it runs there without this repository; returns the path."""
    target = folder / f"{module.__name__.rpartition('.')[2]}.py"
    with replacing(target) as temporary:
        temporary.write_text(standalone(module), encoding="utf-8")
    return target


def standalone(module: ModuleType) -> str:
    """Return the source of a module, in which those modules of `common` that it imports names from take their place.

    Each of these is to have only imports that the module has as well.
    """
    lines = inspect.getsource(module).splitlines()
    for node in reversed(ast.parse("\n".join(lines)).body):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("common."):
            lines[node.lineno - 1:node.end_lineno] = _definitions(importlib.import_module(str(node.module)))
    return "\n".join(lines) + "\n"


def _definitions(module: ModuleType) -> list[str]:
    """Lines of a module behind its docstring and its imports."""
    lines, (_, *statements) = inspect.getsource(module).splitlines(), ast.parse(inspect.getsource(module)).body
    imports = [node for node in statements if isinstance(node, ast.Import)]
    return lines[imports[-1].end_lineno or 0:]
