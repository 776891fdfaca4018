"""Steps of a training: forward and backward pass, and update."""
from collections.abc import Callable
from typing import Any

import nnabla as nn

from common.machine.distributed import world
from common.runs.readings import scalar_later


def update_parameters(loss: nn.Variable, solver: Any, weight_decay: float = 0.0) -> None:
    """Take a training step: forward and backward pass, weight decay, update.

    Parameters
    ----------
    loss : nn.Variable ()
        A mean over the rows of this rank; gradients are averaged over the ranks.
    solver : nnabla solver
    weight_decay
        Factor of the parameters that are added to their gradients.
    """
    loss.forward(clear_no_need_grad=True)
    solver.zero_grad()
    world().backward(loss, solver)
    if weight_decay:
        solver.weight_decay(weight_decay)
    solver.update()


def train_step(loss: nn.Variable, solver: Any, weight_decay: float = 0.0) -> Callable[[], float]:
    """Update the parameters once, as `update_parameters` does; the result reads the loss before on this rank."""
    update_parameters(loss, solver, weight_decay)
    return scalar_later(loss)
