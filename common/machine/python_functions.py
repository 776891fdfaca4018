"""What makes nnabla's functions in Python quick to call."""
import sys

import nnabla


def spare_failing_imports() -> None:
    """Let nnabla find at once what it imports whenever it calls a function in Python.

    Its Cython code asks ten times in a call for a module `nnabla.nnabla`, and only when that is not found, after a
    search through all folders of packages, for `nnabla`. That is most of the time of a call.
    """
    sys.modules.setdefault("nnabla.nnabla", nnabla)
