"""Train ResNet-50, DenseNet-121, Pix2PixHD or DeepLabv3+, with more memory than the GPU has if need be (2010.14109).

    python out-of-core-training/train.py RESNET50 --data-dir IMAGENET --batch-size 1440 --out-of-core 16GB
    python out-of-core-training/train.py DEEPLABV3PLUS --data-dir CITYSCAPES [--output DIR] [--resume]
    python out-of-core-training/train.py PIX2PIXHD --data random --steps-per-epoch 10 --epochs 1
    python out-of-core-training/train.py SMALL        # seconds, on generated pictures

The first argument is a section of the .cfg file.
"""
import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import nnabla as nn

from common.console import cli
from common.machine.distributed import world
from common.machine.output_folders import claimed
from common.machine.seeding import seed_everything
from common.out_of_core import InCore, OutOfCore
from common.runs.config import defaults_of, to_dict, with_former_paths
from common.runs.experiments import add_experiment_flags, open_experiment
from common.runs.readings import scalar_later
from common.runs.training import CONFIG, Run
from out_of_core_training import models
from out_of_core_training.config import Config, learning_rate
from out_of_core_training.data import RandomBatches, identities, load_data, validate

PANELS = (("loss", ("loss", "loss_generator", "loss_discriminator")), ("validation error [share]", ("valid_error",)))
RANDOM_STEPS = 10    # of an epoch


class Solvers:
    """Several solvers, of different parameters, saved and restored as one."""

    def __init__(self, solvers: Sequence[Any]) -> None:
        self.solvers = solvers

    def get_states(self) -> dict[str, Any]:
        return {name: state for solver in self.solvers for name, state in solver.get_states().items()}

    def set_states(self, states: Mapping[str, Any]) -> None:
        for solver in self.solvers:
            solver.set_states({name: states[name] for name in solver.get_states()})

    def set_learning_rate(self, rate: float) -> None:
        for solver in self.solvers:
            solver.set_learning_rate(rate)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    add_experiment_flags(parser, Config, "train.cfg")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    cfg, memory = open_experiment(args, Config, "out_of_core_training")
    with claimed(args.output or args.experiment) as folder:
        train(cfg, folder, memory, args.resume, args.overwrite)


def train(cfg: Config, folder: Path, memory: OutOfCore | InCore, resume: bool = False, overwrite: bool = False) -> None:
    """Train the network of `cfg` in `folder`; `memory` says where its arrays are kept."""
    cfg = with_former_paths(cfg, folder / CONFIG) if resume else cfg
    nn.clear_parameters()
    with world().main_first():
        train_data, valid_data, num_classes = load_data(cfg)
    run = Run(folder, to_dict(cfg), resume, overwrite,
              lambda epochs, epoch: learning_rate(attrs.evolve(cfg, epochs=epochs), epoch, 9, 10),    # at its end
              data=identities(train_data, valid_data), later=defaults_of(Config))
    seed_everything(cfg.seed)
    options: dict[str, Any] = cfg.network_options | ({"num_classes": num_classes} if num_classes else {})
    network = models.build(cfg.network, cfg.batch_size, cfg.size, **options)
    models.check_statistics(network)
    train_data = train_data or RandomBatches(network, cfg.steps_per_epoch or RANDOM_STEPS, cfg.seed)
    if valid_data:
        valid_network = models.build(cfg.network, valid_data.batch_size, cfg.size, train=False, **options)
    solver = Solvers([solver for _, solver in network.steps])
    run.attach(solver)
    memory.attach(*solver.solvers)

    for epoch in run.epochs(cfg.epochs):
        started, first = time.perf_counter(), run.state["step"]
        for arrays in run.steps(train_data):
            solver.set_learning_rate(learning_rate(cfg, epoch, run.state["step"], len(train_data)))
            memory.run(models.iterate, network, arrays, cfg.weight_decay)
            run.record(**{name: scalar_later(loss) for name, loss in network.losses.items()})
        images = (len(train_data) - first) * cfg.batch_size * world().size
        speed = images / (time.perf_counter() - started)
        error = validate(valid_network, valid_data, memory) if valid_data else None
        finish_epoch(run, cfg, error, speed)


def finish_epoch(run: Run, cfg: Config, error: float | None, speed: float) -> None:
    """Keep the parameters if they are the best, or the last ones without validation; log and save."""
    row = run.means() | ({} if error is None else {"valid_error": error})
    # The speed is no result of the training: two equal runs have equal rows.
    run.keep_best(-run.state["epoch"] if error is None else error)
    run.finish_epoch(row, PANELS, speed)
    values = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in row.items())
    print(f"epoch {len(run.rows)}/{cfg.epochs}: {values}, {speed:.3g} images/s", flush=True)


if __name__ == "__main__":
    cli.run(main)
