"""Reshaping in graphs of nnabla, dynamic ones too."""
from collections.abc import Sequence

import nnabla as nn
import nnabla.functions as F


def reshape(x: nn.Variable, shape: Sequence[int]) -> nn.Variable:
    """Give a variable another shape, with its elements in their order; one -1 stands for what is left.

    Both share memory, but for a dynamic graph (`nn.set_auto_forward`). There nnabla 1.39 frees what they share although
    gradients still need it, and gives wrong gradients.
    """
    return F.reshape(x, tuple(shape), inplace=not nn.get_auto_forward())
