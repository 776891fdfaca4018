"""Learning rates over epochs, and when to stop."""
import math


def step_decay(initial, epoch, drops, factor=0.1):
    """Learning rate that is multiplied by `factor` at each epoch in `drops`.

    Parameters
    ----------
    initial : float
        Learning rate of the first epochs.
    epoch : int
        From 0.
    drops : sequence of int
        First epoch of each lower rate.
    factor : float

    Returns
    -------
    float

    Examples
    --------
    >>> [round(step_decay(0.1, epoch, drops=(80, 120)), 4) for epoch in (0, 79, 80, 120)]
    [0.1, 0.1, 0.01, 0.001]
    """
    return initial * factor ** sum(epoch >= drop for drop in drops)


def plateau_decay(initial, values, factor=0.1, patience=10, cooldown=10, min_rate=0.0, eps=1e-8, threshold=1e-4):
    """Learning rate that drops when a loss has not improved for a while.

    A value is better than the best one if it is lower by `threshold` times that. After more than `patience` worse ones
    in a row the rate is multiplied by `factor`; then, for `cooldown` values, worse ones are not counted.

    Parameters
    ----------
    initial : float
    values : sequence of float
        The loss after each epoch so far; so that nothing else need be kept to resume.
    factor, patience, cooldown, min_rate : float, int, int, float
    eps : float
        A rate that would drop by no more than this stays.
    threshold : float

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


def epochs_without_gain(values):
    """Count the epochs since the lowest loss; early stopping compares it with its patience.

    Parameters
    ----------
    values : sequence of float
        The loss after each epoch so far.

    Returns
    -------
    int

    Examples
    --------
    >>> epochs_without_gain([3.0, 2.0, 2.0, 2.5])
    2
    """
    return len(values) - 1 - min(range(len(values)), key=values.__getitem__) if values else 0
