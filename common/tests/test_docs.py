"""Examples in docstrings and READMEs run as they stand."""
import doctest
import importlib
import pkgutil
import re
import textwrap
from pathlib import Path

import pytest

import common

ROOT = Path(common.__file__).parent.parent
READMES = sorted(ROOT.glob("[!.]*/README.md"))    # one for each paper
PACKAGES = ["common", *(path.parent.name.replace("-", "_") for path in READMES)]
MODULES = sorted(module.name for package in map(importlib.import_module, PACKAGES)
                 for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
                 if ".tests" not in module.name)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.slow
@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_python_of_a_readme(path, capsys):
    section = path.read_text().split("## From Python\n")[1].split("\n## ")[0]
    code = textwrap.dedent("\n".join(re.findall(r"^    .*$", section, re.MULTILINE)))
    exec(compile(code, str(path), "exec"), {})
    promised = re.findall(r"# (\[.*\])$", code, re.MULTILINE)
    assert capsys.readouterr().out.split("\n")[:len(promised)] == promised


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_headings_of_a_readme(path):
    headings = re.findall(r"^## (.*)$", path.read_text(), re.MULTILINE)
    assert headings == ["Run it", "Use the published weights", "Train", "Results", "From Python", "Citation"]
