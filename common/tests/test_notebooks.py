"""The notebook of each paper runs, shows what it shows in the repository, and is small."""
import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

from common.machine.errors import UsageError, UserError

TOP = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("tools_notebooks", TOP / "tools/notebooks.py")
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)
NOTEBOOKS = tool.all_notebooks()
READMES = sorted(TOP.glob("[!.]*/README.md"))
MOST_BYTES = 300_000
NUMBER = r"(?<![\w.])[-+]?\d+(?:[.,]\d+)*(?:e[-+]\d+)?"

of_each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.parent.name)


def sources(notebook, kind):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == kind)


def shown(notebook):
    """What the cells show: words, without the numbers between them, and kinds of pictures."""
    return [[re.sub(r"\s+", " ", re.sub(NUMBER, "#", output.text)) if output.output_type == "stream" else
             (output.output_type, sorted(output.data)) for output in cell.outputs]
            for cell in notebook.cells if cell.cell_type == "code"]


def test_every_paper_has_a_notebook_that_its_readme_links():
    assert [path.parent for path in NOTEBOOKS] == [path.parent for path in READMES]
    for notebook, readme in zip(NOTEBOOKS, READMES, strict=True):
        assert f"({notebook.name})" in readme.read_text(encoding="utf-8")


@of_each
def test_what_is_stored_is_small_and_of_no_machine(path):
    notebook, text = tool.read(path), path.read_text(encoding="utf-8")
    assert len(text) < MOST_BYTES
    assert tool.cleaned(notebook) == notebook
    assert not re.search(r"/home/|/root/|/tmp/|\.venv", text)
    assert text.count("image/png") >= 2


@of_each
def test_first_cell_says_how_to_start(path):
    first = tool.read(path).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert "pip install -r requirements-notebooks.txt" in first.source and "arXiv" in first.source


@of_each
def test_texts_state_no_results(path):
    """A number in a text is one that the code has: what comes out is shown by the cells alone."""
    notebook = tool.read(path)
    text = re.sub(r"\]\([^)]*\)|`[^`]*`|arXiv [\d.]+", "", sources(notebook, "markdown"))
    assert set(re.findall(NUMBER, text)) <= set(re.findall(NUMBER, sources(notebook, "code")))


@pytest.mark.slow
@of_each
def test_runs_and_shows_what_is_stored(path):
    assert shown(tool.run(path)) == shown(tool.read(path))


@pytest.mark.slow
def test_a_cell_that_fails_is_told_in_one_line(tmp_path):
    cells = [nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_code_cell("print(1)\n1 / 0")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "fails.ipynb")
    with pytest.raises(UserError, match=r"^\S*fails\.ipynb, cell 2: ZeroDivisionError: division by zero$"):
        tool.run(tmp_path / "fails.ipynb")
    assert tool.main([str(tmp_path / "fails.ipynb")]) == 1


@pytest.mark.slow
def test_writes_what_the_cells_print_and_nothing_else(tmp_path, capsys):
    path = tmp_path / "new.ipynb"
    cell = nbformat.v4.new_code_cell("import os, sys\nprint(1, flush=True)\nprint(os.listdir())\nsys.executable")
    metadata = {"kernelspec": {"name": "other", "display_name": ""}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=metadata), path)
    assert tool.main(["--check", str(path)]) == 0
    assert not tool.read(path).cells[0].outputs
    assert tool.main([str(path)]) == 0
    written = tool.read(path)
    assert written.metadata == tool.METADATA
    stream, result = written.cells[0].outputs
    assert stream.text == "1\n[]\n"
    assert result.data["text/plain"] == repr(tool.sys.executable) and result.execution_count is None


@pytest.mark.parametrize("content", [None, "no JSON", "{}", "[]", '{"cells": 1}', '{"nbformat": 9}'])
def test_what_is_no_notebook_is_refused(content, tmp_path):
    path = tmp_path / "no.ipynb"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError if content is None else UserError, match=r"^\S*no\.ipynb: .*notebook"):
        tool.run(path)


def test_wrong_arguments_are_of_the_user(run_main):
    status, out, err = run_main(tool.main, "missing.ipynb")
    assert (status, out, err) == (2, "", "error: missing.ipynb: no such notebook\n")
