"""What test_distributed.py starts through mpirun: a small training, with its parameters and losses as a result."""
import os
import signal
import sys
from pathlib import Path

import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import nnabla.solvers as S
import numpy as np

from common.console import cli
from common.datasets.batches import Batches
from common.datasets.dataset import Dataset
from common.layers import basic as layers
from common.machine.distributed import join_ranks, world
from common.machine.errors import UsageError, UserError
from common.machine.launching import launched_rank
from common.machine.seeding import seed_everything
from common.out_of_core import add_out_of_core_flag, out_of_core
from common.runs.training import Run

EXAMPLES = 96


def images():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (EXAMPLES, 3, 8, 8), dtype=np.uint8)
    return Dataset(pixels, rng.integers(0, 4, EXAMPLES).astype(np.int32), tuple("abcd"))


def logits_of(image, normalize):
    with nn.parameter_scope("conv"):
        w = nn.parameter.get_parameter_or_create("W", (4, 3, 3, 3), nn.initializer.NormalInitializer(0.2))
    h = layers.convolution(image, w, pad=1, in_order=True)
    h = layers.relu(layers.batch_normalization(h, train=True) if normalize else h)
    if not normalize:
        return PF.affine(h, 4)
    h = F.reshape(h, (h.shape[0], -1))
    with nn.parameter_scope("hidden"):
        h = layers.feature_normalization(layers.affine(h, 8), train=True)
    return PF.affine(h, 4)


def train(folder, batch_size, normalize, epochs, fail, resume, memory):
    batches = Batches(images(), batch_size, seed=3, drop_last=True, world=world())
    run = Run(folder, {"seed": 1}, resume=resume)
    seed_everything(1)
    image, label = nn.Variable((batch_size, 3, 8, 8)), nn.Variable((batch_size, 1))
    loss = F.mean(F.softmax_cross_entropy(logits_of(image, normalize), label))
    loss.persistent = True
    solver = S.Momentum(0.05, momentum=0.9)
    solver.set_parameters(nn.get_parameters())
    run.attach(solver)
    memory.attach(solver)

    def step(x, t):
        image.d, label.d = x, t
        loss.forward(clear_no_need_grad=True)
        solver.zero_grad()
        world().backward(loss, solver)
        solver.update()

    losses = []
    for epoch in run.epochs(epochs):
        for x, t in run.steps(batches):
            memory.run(step, x, t)
            run.record(loss=float(loss.d))
            losses.append(run.last["loss"])
            if fail == f"rank{world().rank}" and epoch == 1:
                raise UserError(f"rank {world().rank} failed as it was asked to")
            if fail == f"kill{world().rank}" and epoch == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if fail == f"bug{world().rank}":
                raise ZeroDivisionError("a bug of ours")
        run.finish_epoch(run.means(), (("loss", ("loss",)),))
    values = {name: value.d for name, value in nn.get_parameters(grad_only=False).items()}
    np.savez(Path(folder) / f"rank{world().rank}.npz", losses=losses, **values)


def main():
    parser = cli.parser(__doc__)
    cli.allow_ranks(parser)
    for flag, kind in (("--folder", str), ("--batch-size", int), ("--epochs", int), ("--fail", str)):
        parser.add_argument(flag, type=kind)
    parser.add_argument("--normalize", action="store_true")
    parser.add_argument("--resume", action="store_true")
    add_out_of_core_flag(parser)
    args = parser.parse_args()
    print(join_ranks("cpu"), f"rank {launched_rank()}", os.fsdecode(b"\xff"))    # no UTF-8: a name that can be
    if args.fail == "all":
        raise UsageError("all ranks refuse this")
    train(args.folder, args.batch_size, args.normalize, args.epochs, args.fail, args.resume,
          out_of_core(args.out_of_core))


if __name__ == "__main__":
    cli.run(main)
    sys.exit(0)
