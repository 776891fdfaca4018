"""The table of methods."""
import re
from pathlib import Path

import data_cleansing
from data_cleansing.influence import METHODS, methods

PACKAGE = Path(data_cleansing.__file__).parent


def test_methods_and_their_folders_are_spelled_in_their_rows_only():
    # A column of a log and what a training stores are also called `loss` and `final`.
    words = {*METHODS, *(method.folder for method in METHODS.values())} - {methods.LOSS, methods.FINAL}
    spelled = re.compile("|".join(f"[\"']{word}[\"']" for word in words))
    sources = [path for path in PACKAGE.rglob("*.py") if path != Path(methods.__file__)]
    assert len(sources) > 30
    assert {path.name: found for path in sources if (found := spelled.findall(path.read_text()))} == {}


def test_each_method_has_a_folder_of_its_own():
    assert len({method.folder.lower() for method in METHODS.values()}) == len(METHODS)
