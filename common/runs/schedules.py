"""Learning rates over epochs, and when to stop."""
import math
from collections.abc import Sequence


def step_decay(initial: float, epoch: int, drops: Sequence[int], factor: float = 0.1) -> float:
    """Learning rate that is multiplied by `factor` at each epoch in `drops`.

    Parameters
    ----------
    initial
        Learning rate of the first epochs.
    epoch
        From 0.
    drops
        First epoch of each lower rate.
    factor

    Examples
    --------
    >>> [round(step_decay(0.1, epoch, drops=(80, 120)), 4) for epoch in (0, 79, 80, 120)]
    [0.1, 0.1, 0.01, 0.001]
    """
    return initial * factor ** sum(epoch >= drop for drop in drops)


def poly_decay(initial: float, final: float, power: float, time: float, end: float) -> float:
    """Learning rate that falls from `initial` to `final` with a power of the time that is left.

    Parameters
    ----------
    initial, final, power
    time, end
        Now, and when the training is over; both in epochs, or both in updates. Later the rate stays at `final`.

    Examples
    --------
    >>> [round(poly_decay(0.01, 1e-4, 0.9, iteration, 100), 5) for iteration in (0, 50, 99, 101)]
    [0.01, 0.00541, 0.00026, 0.0001]
    """
    return (initial - final) * max(0, 1 - time / end) ** power + final


def plateau_decay(initial: float, values: Sequence[float], factor: float = 0.1, patience: int = 10, cooldown: int = 10,
                  min_rate: float = 0.0, eps: float = 1e-8, threshold: float = 1e-4) -> float:
    """Learning rate that drops when a loss has not improved for a while.

    A value is better than the best one if it is lower by `threshold` times that. After more than `patience` worse ones
    in a row the rate is multiplied by `factor`; then, for `cooldown` values, worse ones are not counted.

    Parameters
    ----------
    initial
    values
        The loss after each epoch so far; so that nothing else need be kept to resume.
    factor, patience, cooldown, min_rate, threshold
    eps
        A rate that would drop by no more than this stays.

    Returns
    -------
    float
        For the epoch that follows.

    Examples
    --------
    >>> [plateau_decay(1.0, [5.0] * epochs, factor=0.5, patience=1, cooldown=0) for epochs in range(6)]
    [1.0, 1.0, 1.0, 0.5, 0.5, 0.25]
    """
    rate, best, bad, resting = initial, math.inf, 0, 0
    for value in values:
        if value < best * (1 - threshold) if math.isfinite(best) else value < best:
            best, bad = value, 0
        else:
            bad += 1
        if resting:
            resting, bad = resting - 1, 0
        if bad > patience:
            lower = max(rate * factor, min_rate)
            rate = lower if rate - lower > eps else rate
            resting, bad = cooldown, 0
    return rate


def epochs_without_gain(values: Sequence[float]) -> int:
    """Count the epochs since the lowest loss; early stopping compares it with its patience.

    Parameters
    ----------
    values
        The loss after each epoch so far.

    Examples
    --------
    >>> epochs_without_gain([3.0, 2.0, 2.0, 2.5])
    2
    """
    return len(values) - 1 - min(range(len(values)), key=values.__getitem__) if values else 0
