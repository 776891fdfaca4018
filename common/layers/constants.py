"""Arrays that do not change, made by the device that computes."""
from collections.abc import Sequence

import nnabla as nn
import nnabla.functions as F


def zeros(shape: Sequence[int]) -> nn.Variable:
    """Zeros of a shape. `F.constant` would fill and send all of them from the host in every step on a GPU."""
    return F.broadcast(F.constant(0, (1,) * len(shape)), tuple(shape))
