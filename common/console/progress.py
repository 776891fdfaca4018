"""Progress bars."""
import sys

from tqdm import tqdm


def progress(iterable, **kwargs):
    """Wrap `iterable` in a tqdm bar that vanishes when done; there is none where stdout is not a terminal."""
    return tqdm(iterable, disable=not sys.stdout.isatty(), leave=False, dynamic_ncols=True, **kwargs)
