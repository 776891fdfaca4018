"""Learning rates over epochs."""


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
