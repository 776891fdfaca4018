"""One seed for everything random."""
import nnabla as nn
import numpy as np


def seed_everything(seed: int) -> None:
    """Make initial parameters and random functions of nnabla follow from `seed`.

    Data takes its seed explicitly (`common.datasets.batches.Batches`); numpy's global generator is used by nothing.

    Parameters
    ----------
    seed
        0 to 2^31 - 1.
    """
    nn.random.seed(seed)


def derived_seed(*numbers: int) -> int:
    """Seed from 0 to 2^31 - 1 that follows from several numbers, such as seed, epoch and step.

    Zeros at their end change nothing.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)
