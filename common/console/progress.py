"""Progress bars."""
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from common.machine.streams import unescaped_stderr


def progress(iterable: Iterable | None, **kwargs: Any) -> tqdm:
    """Wrap `iterable` in a tqdm bar that vanishes when done; there is none where stdout is not a terminal."""
    return tqdm(iterable, disable=not sys.stdout.isatty(), file=unescaped_stderr(), leave=False, dynamic_ncols=True,
                **kwargs)
