"""Progress bars."""
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from common.machine.streams import unescaped_stderr


def progress(iterable: Iterable | None, **kwargs: Any) -> tqdm:
    """Wrap `iterable` in a tqdm bar that vanishes when done; there is none where stdout is not a terminal.

    A program may have no stdout or stderr (`pythonw`), or some that only write: those are no terminals.
    """
    wanted = sys.stderr is not None and _is_terminal(sys.stdout)
    return tqdm(iterable, disable=not wanted, file=unescaped_stderr(), leave=False, dynamic_ncols=True, **kwargs)


def _is_terminal(stream: Any) -> bool:
    asked = getattr(stream, "isatty", None)
    return asked is not None and asked()
