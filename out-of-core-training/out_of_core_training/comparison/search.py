"""The largest number for which something still works."""
from collections.abc import Callable


def largest(works: Callable[[int], bool], first: int = 1, limit: int = 1 << 20) -> int:
    """Find the largest number up to `limit` that works, by doubling and then halving the gap.

    Parameters
    ----------
    works
        `works(number)` is true up to some number and false above it.
    first
        Where to begin, from 1.
    limit

    Returns
    -------
    int
        0 where not even 1 works.

    Examples
    --------
    >>> largest(lambda number: number <= 37, first=8)
    37
    >>> largest(lambda number: False)
    0
    """
    good, bad = 0, limit + 1
    trial = min(first, limit)
    while bad - good > 1:
        if works(trial):
            good = trial
        else:
            bad = trial
        # Double while nothing has failed, then halve the gap.
        trial = min(2 * good, limit) if bad > limit else (good + bad) // 2
    return good
