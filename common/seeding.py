"""One seed for everything random."""
import nnabla as nn


def seed_everything(seed):
    """Make initial parameters and random functions of nnabla follow from `seed`.

    Data takes its seed explicitly (`common.datasets.batches.Batches`); numpy's global generator is used by nothing.

    Parameters
    ----------
    seed : int
        0 to 2^31 - 1.
    """
    nn.random.seed(seed)
