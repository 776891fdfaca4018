"""The largest number for which something still works."""
from collections.abc import Callable


def largest(works: Callable[[int], bool], first: int = 1, limit: int = 1 << 20, share: float = 0) -> int:
    """Find the largest number up to `limit` that works, in growing steps from a guess, and then by halving the gap.

    Parameters
    ----------
    works
        `works(number)` is true up to some number and false above it.
    first
        Where to begin, from 1. The closer, the fewer tries.
    limit
    share
        Stop where a number works and one that is larger by this share of it, or by 1, does not.

    Returns
    -------
    int
        0 where not even 1 works.

    Examples
    --------
    >>> largest(lambda number: number <= 37, first=8)
    37
    >>> largest(lambda number: number <= 800, first=830, share=0.03)
    794
    >>> largest(lambda number: False)
    0
    """
    low, high = 0, limit + 1    # works, does not work
    trial = min(first, limit)
    step = max(1, int(share * first))
    while high - low > max(1, share * low):
        if works(trial):
            low, trial = trial, trial + step
        else:
            high, trial = trial, trial - step
        step *= 2
        if not low < trial < high or low and high <= limit:
            trial = (low + high) // 2
    return low
