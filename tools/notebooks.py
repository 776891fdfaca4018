"""Run the notebooks anew, each from its first cell in a process of its own, and write them with their outputs.

    python tools/notebooks.py                                # all, a minute or two
    python tools/notebooks.py x-umx/notebook.ipynb
    python tools/notebooks.py --check                        # write nothing

What is written has nothing of the machine and of the moment: no numbers of executions, times, paths or kernels. Status
1 where a cell fails.
"""
import base64
import copy
import io
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.console import cli
from common.machine.errors import UsageError, UserError
from common.machine.files import replacing
from common.reading.files import decoding
from common.reading.texts import read_text

if TYPE_CHECKING:
    from nbformat import NotebookNode

TOP = Path(__file__).resolve().parents[1]
INSTALL = "run 'pip install -r requirements-notebooks.txt' first"
SECONDS = 600    # that a cell may take
UNSEEN = 32    # change of a colour, of 255
METADATA = {"language_info": {"name": "python"}}    # any kernel of Python will do


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="files to run (default: one of each paper)")
    parser.add_argument("--check", action="store_true", help="run them, and write nothing")
    args = parser.parse_args(argv)
    failed = 0
    for path in args.notebooks or all_notebooks():
        try:
            notebook = run(path)
        except UsageError:
            raise
        except UserError as error:    # the others run all the same
            failed += 1
            print(error, file=sys.stderr)
            continue
        if not args.check:
            write(path, notebook)
        print(path)
    return int(failed > 0)


def all_notebooks() -> list[Path]:
    """The notebook of each paper."""
    return sorted(TOP.glob("[!.]*/*.ipynb"))


def read(path: str | Path) -> "NotebookNode":
    """Read a notebook.

    Raises
    ------
    UsageError
        There is no such file, or what reads notebooks is not installed.
    UserError
        It is no notebook, or a damaged one.
    """
    try:
        import nbformat
    except ImportError as error:
        raise UsageError(f"{error.name} is not installed: {INSTALL}") from error
    text = read_text(path, "a notebook", missing=f"{path}: no such notebook")
    with decoding(path, "a notebook"):
        nbformat.validate(json.loads(text))    # what reads says nothing of damage
        return nbformat.reads(text, as_version=4)


def run(path: str | Path) -> "NotebookNode":
    """Run all cells of a notebook in a new process with this Python, in an empty folder.

    Returns
    -------
    nbformat.NotebookNode
        The notebook with its outputs, `cleaned`.

    Raises
    ------
    UsageError
        There is no such file, or what runs notebooks is not installed.
    UserError
        It is no notebook, or a cell fails.
    """
    notebook = read(path)
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as empty:
        client = NotebookClient(notebook, timeout=SECONDS, kernel_manager_class=kernel_manager(folder),
                                resources={"metadata": {"path": empty}})
        client.log.setLevel(logging.ERROR)
        try:
            client.execute(env=environment(folder))
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise UserError(f"{path}, {failure(notebook) or str(error).strip()}") from error
    return cleaned(notebook)


def failure(notebook: "NotebookNode") -> str | None:
    """Say in one line which cell, counted from 1, has failed and how; None where none has an error as output."""
    for number, cell in enumerate(notebook.cells, start=1):
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                return f"cell {number}: {output.ename}: {output.evalue}"
    return None


def kernel_manager(folder: str) -> type:
    """What starts the process that runs the cells: with this Python, whatever kernels the user has installed."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    class Manager(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])

        @default("transport")
        def _sockets_of_files(self):    # another process may take a port between its choice and its use
            return "ipc"

        @default("connection_file")
        def _in_the_folder(self):
            return str(Path(folder) / "kernel")

    return Manager


def environment(folder: str) -> Mapping[str, str]:
    """Variables for the process that runs the cells, without the settings and the history of the user."""
    return {**os.environ, "IPYTHONDIR": folder, "JUPYTER_CONFIG_DIR": folder}


def cleaned(notebook: "NotebookNode") -> "NotebookNode":
    """Return a notebook without what differs between two runs of the same cells; streams of text are in one piece."""
    import nbformat

    notebook = copy.deepcopy(notebook)
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = list(joined(cell.outputs))
    return notebook


def joined(outputs: Iterable["NotebookNode"]) -> Iterable["NotebookNode"]:
    """Join texts that follow each other in one stream, and clean the other outputs."""
    last = None
    for output in outputs:
        if output.output_type == "stream" and last is not None and last.get("name") == output.name:
            last.text += output.text
            continue
        if output.output_type != "stream":
            output.metadata = {}
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = with_palette(output.data["image/png"])
        if output.output_type == "execute_result":
            output.execution_count = None
        last = output
        yield output


def with_palette(picture: str) -> str:
    """Make a picture small by a palette, unless its colours would change by more than `UNSEEN`; PNG files in base64."""
    from PIL import Image

    content = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        if image.mode == "P":
            return picture
        colours = image.convert("RGB")
        few = colours.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1)
        off = np.abs(np.asarray(colours, int) - np.asarray(few.convert("RGB"), int)).max()
        (few if off <= UNSEEN else colours).save(content, format="PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()


def write(path: str | Path, notebook: "NotebookNode") -> None:
    """Write a notebook; it appears whole or not at all."""
    import nbformat

    with replacing(path) as temporary:
        temporary.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
