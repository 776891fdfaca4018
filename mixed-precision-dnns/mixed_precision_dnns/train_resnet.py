"""Train a ResNet on CIFAR-10 that learns its own bit widths (arXiv 1905.11452, section 4.1).

    python train_resnet.py CONFIG --cfg train_resnet_quant_fp.cfg [--output DIR] [--resume]    # hours on a CPU
    python train_resnet.py DEFAULT --dataset digits --epochs 2 --steps-per-epoch 30    # half a minute on a CPU

CONFIG is a section of the .cfg file; DEFAULT is the float network that sections with INIT in their name start from.
"""
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import nnabla as nn
import nnabla.functions as F
import nnabla.solvers as S
import numpy as np

from common.console import cli
from common.machine.distributed import world
from common.machine.seeding import seed_everything
from common.out_of_core import InCore, OutOfCore
from common.runs.config import defaults_of, to_dict, with_former_paths
from common.runs.readings import read_later, scalar_later
from common.runs.schedules import step_decay
from common.runs.training import CHECKPOINT, CONFIG, Run
from mixed_precision_dnns.clipping import clip_gradients, clip_values, learned_tensors
from mixed_precision_dnns.command_line import train_from_command_line
from mixed_precision_dnns.config import Config, Experiment
from mixed_precision_dnns.data import build_network_for, load_data, print_skipped
from mixed_precision_dnns.epoch_logs import log_epoch
from mixed_precision_dnns.evaluation import remove_report, report_best, top_errors
from mixed_precision_dnns.network_size import QuantizedTensor, least_kbytes
from mixed_precision_dnns.quantized_network import QuantizedNetwork
from mixed_precision_dnns.starting_weights import find_weights, load_starting_weights, recorded


def main(argv: Sequence[str] | None = None) -> None:
    train_from_command_line(argv, __doc__, Config, train)


def train(cfg: Experiment, folder: Path, memory: OutOfCore | InCore, resume: bool = False,
          overwrite: bool = False) -> None:
    """Run the experiment `cfg` in `folder` and print what it has learned; `memory` says where its arrays are kept."""
    cfg = with_former_paths(cfg, folder / CONFIG) if resume else cfg
    nn.clear_parameters()
    # The published script derives step sizes from the first weights, so there a run that goes on needs these.
    goes_on = resume and (folder / CHECKPOINT).exists() and not cfg.as_published
    with world().main_first():
        weights = folder / CHECKPOINT if goes_on else find_weights(cfg, folder)
        train_data, valid_data, test_data = load_data(cfg)
    run = Run(folder, to_dict(recorded(cfg, folder)), resume, overwrite,
              functools.partial(learning_rate, cfg.initial_learning_rate),
              {"training images": train_data.dataset.identity, "validation images": valid_data.dataset.identity,
               "test images": test_data.dataset.identity}, later=defaults_of(type(cfg)))
    seed_everything(cfg.seed)
    if weights:
        load_starting_weights(weights, cfg, train_data, goes_on)
    graph = build_loss(cfg, build_network_for(cfg, train_data, train=True))
    valid_net = build_network_for(cfg, valid_data, train=False)    # the same parameters, and running statistics
    solver, tensors = make_solver(cfg), learned_tensors(cfg)
    if not cfg.as_published:
        clip_values(tensors)    # at its limit a scalar would get no gradient in the first step
    note_small_budgets(cfg)
    run.attach(solver)
    memory.attach(solver)
    remove_report(folder)

    def validate():
        with memory.validation():
            return top_errors(valid_net.predict, valid_data, cfg.tops)

    for epoch in run.epochs(cfg.epochs):
        solver.set_learning_rate(learning_rate(cfg.initial_learning_rate, cfg.epochs, epoch))
        for image, label in run.steps(train_data):
            with memory:
                values = clipped_update(graph, solver, tensors, cfg, image, label)
            run.record(**values)
            # The published script looks for the best parameters after every step, once a weight budget is met.
            if cfg.as_published and cfg.target_weight_kbytes > 0 and cfg.within_budget(*valid_net.sizes()):
                run.keep_best(validate()[0])
        errors = validate()
        sizes = valid_net.sizes()
        # A network over budget is no result, however accurate: only those within it compete for the best.
        if cfg.within_budget(*sizes):
            run.keep_best(errors[0])
        log_epoch(run, cfg, len(train_data), errors, sizes, solver.learning_rate(), tensors)
    if world().rank == 0:
        report_best(run, cfg, valid_net, valid_data, test_data)
        print_skipped(train_data, valid_data, test_data)


def note_small_budgets(cfg: Experiment) -> None:
    """Print which budgets cannot be met, rather than have it turn out after the last epoch."""
    least = least_kbytes(cfg)
    for key, size in zip(("target_weight_kbytes", "target_activation_kbytes"), least, strict=True):
        if 0 < getattr(cfg, key) < size:
            print(f"no training will meet the budget: {key} = {getattr(cfg, key):g} is less than the {size:.4g} kB at "
                  "the fewest bits that the configuration allows", flush=True)


@attrs.frozen
class TrainingGraph:
    """A network with its loss; all variables but `label`, (batch, 1), have shape ()."""

    network: QuantizedNetwork
    label: nn.Variable
    loss: nn.Variable
    cross_entropy: nn.Variable
    weights_over_budget: nn.Variable
    activations_over_budget: nn.Variable

    def values(self, label: np.ndarray) -> dict[str, Callable[[], float]]:
        """What a forward pass has computed, for `Run.record`, which reads it later: on a GPU the host does not wait.

        Losses by the columns of the published log, and the share of wrong answers to `label`, int (batch, 1).
        """
        logits = read_later(self.network.logits)
        losses = {"loss": self.loss, "loss1": self.cross_entropy, "loss2": self.weights_over_budget,
                  "loss3": self.activations_over_budget}
        return {"error": lambda: float((logits().argmax(1) != label[:, 0]).mean()),
                **{name: scalar_later(loss) for name, loss in losses.items()}}


def learning_rate(initial: float, epochs: int, epoch: int) -> float:
    """Learning rate of an epoch, from 0, of so many: a tenth after half of them, and again after three quarters.

    The first epoch has the initial one, also where it is the only one.
    """
    return step_decay(initial, epoch, drops=(max(1, epochs // 2), max(1, epochs * 3 // 4)))


def build_loss(cfg: Experiment, network: QuantizedNetwork) -> TrainingGraph:
    """Build the loss: cross entropy, and a penalty for the memory of weights and of activations over their budgets."""
    label = nn.Variable((network.logits.shape[0], 1))
    cross_entropy = F.mean(F.softmax_cross_entropy(network.logits, label))
    weights = squared_excess(network.weight_kbytes, cfg.target_weight_kbytes)
    activations = squared_excess(network.activation_kbytes, cfg.target_activation_kbytes)
    loss = cross_entropy + cfg.initial_cost_lambda2 * weights + cfg.initial_cost_lambda3 * activations
    # These are read after the backward pass has cleared what it no longer needs.
    for variable in (loss, cross_entropy, weights, activations):
        variable.persistent = True
    return TrainingGraph(network, label, loss, cross_entropy, weights, activations)


def squared_excess(kbytes: nn.Variable, target: float) -> nn.Variable:
    """Squared hinge of a size over its budget (equation 10); 0 where there is no budget."""
    return F.relu(kbytes - target) ** 2 if target > 0 else F.constant(0, ())


def make_solver(cfg: Experiment) -> S.Solver:
    """Make the solver of `cfg` for all trainable parameters of the current scope."""
    learning_rate = cfg.initial_learning_rate
    solver = S.Adam(learning_rate) if cfg.optimizer == "adam" else S.Momentum(learning_rate, momentum=0.9)
    solver.set_parameters(nn.get_parameters())
    return solver


def clipped_update(graph: TrainingGraph, solver: S.Solver, tensors: Sequence[QuantizedTensor],
                   cfg: Experiment, image: np.ndarray, label: np.ndarray) -> dict[str, Callable[[], float]]:
    """Update the parameters once, with the scalars of `tensors` within their limits; the result reads values before.

    `image` is float32 (batch, channels, height, width), `label` int32 (batch, 1).
    """
    graph.network.image.d, graph.label.d = image, label
    graph.loss.forward(clear_no_need_grad=True)
    solver.zero_grad()
    world().backward(graph.loss, solver)
    solver.weight_decay(cfg.weight_decay)
    if cfg.has_budget:
        clip_gradients(tensors)
    solver.update()
    clip_values(tensors)
    return graph.values(label)


if __name__ == "__main__":
    cli.run(main)
