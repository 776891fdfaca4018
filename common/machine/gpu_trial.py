"""A trial of reductions on a GPU, in a process of its own: `python -m common.machine.gpu_trial DEVICE_ID`.

A kernel that fails spoils all that its process does later. `common.machine.reductions` starts this one, and reads
what it prints.
"""
import os
import sys

import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import numpy as np

from common.machine.context import tried_context
from common.machine.reductions import reason_of

_SHAPE = (4, 8, 32, 40)    # (batch, channels, height, width): more than a block of threads reduces at once
_REDUCTIONS = {
    "sum": lambda x: F.sum(x),
    "sum over an axis": lambda x: F.sum(x, axis=3),
    "product": lambda x: F.prod(x, axis=3),
    "minimum": lambda x: F.min(x),
    "broadcast": lambda x: F.broadcast(F.mean(x, axis=(0, 2, 3), keepdims=True), x.shape) * x,
    "batch normalization in test mode": lambda x: PF.batch_normalization(x, batch_stat=False) * x,
    "instance normalization": lambda x: PF.instance_normalization(x) * x,
    "cumulative sum": lambda x: F.cumsum(x, axis=3),
}


def try_reductions(context: nn.Context) -> None:
    """Compute reductions and their gradients, and compare them with the CPU's.

    Raises
    ------
    RuntimeError
        One fails or comes out wrong.
    """
    for name, function in _REDUCTIONS.items():
        try:
            found = _evaluate(function, context)
        except RuntimeError as error:
            raise RuntimeError(f"{name}: {reason_of(error)}") from error
        expected = _evaluate(function, nn.Context(["cpu:float"], "CpuCachedArray", "0"))
        for ours, theirs in zip(found, expected, strict=True):
            if not np.allclose(ours, theirs, rtol=1e-2, atol=1e-2 * float(np.abs(theirs).max())):
                raise RuntimeError(f"{name}: differs from the CPU's")


def _evaluate(function, context):
    """Result and gradient of the input of a function of images around 1."""
    nn.clear_parameters()
    with nn.context_scope(context), nn.auto_forward(False):
        image = 1 + 0.1 * np.random.default_rng(0).standard_normal(_SHAPE)
        x = nn.Variable.from_numpy_array(image).apply(need_grad=True)
        x.grad.zero()
        y = function(x)
        y.forward()
        y.backward(1)
        return y.d.copy(), x.g.copy()


def main(device_id: str) -> None:
    """Try reductions on a GPU; leave with status 1 and the reason on stdout if they fail."""
    try:
        try_reductions(tried_context(device_id))
    except Exception as error:    # whatever it is, the parent says it
        print(reason_of(error))
        # What a failed kernel has left behind must not be taken down: that raises, too.
        sys.stdout.flush()
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
