"""Train X-UMX, or UMX for one source (arXiv 2010.04228).

    python x-umx/train.py [XUMX] --root MUSDB18 [--output DIR] [--resume]
    python x-umx/train.py UMX --source vocals --root MUSDB18
    python x-umx/train.py SYNTHETIC --epochs 1    # half a minute, on generated music

The first argument is a section of the .cfg file.
"""
import argparse
import functools
import time
from collections.abc import Sequence
from pathlib import Path

import nnabla as nn
import nnabla.solvers as S

from common.console import cli
from common.datasets.songs import Songs
from common.machine.output_folders import claimed
from common.machine.seeding import seed_everything
from common.out_of_core import InCore, OutOfCore
from common.runs.config import FLAGS, defaults_of, overrides_of, to_dict, with_former_paths
from common.runs.experiments import add_experiment_flags, open_experiment
from common.runs.schedules import epochs_without_gain, plateau_decay
from common.runs.steps import train_step
from common.runs.training import CONFIG, Run
from common.separation.training import Losses, finish_epoch, scaled_rates, validate
from x_umx.config import Config
from x_umx.model import initialize_statistics
from x_umx.network import build_graph, shortest_excerpt
from x_umx.weights import BEST_UMX, BEST_XUMX

PUBLISHED_BATCH = 16    # excerpts per update that learning rate and weight decay are meant for


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__, needs_arguments=True)
    add_experiment_flags(parser, Config, "train.cfg", default_text="XUMX, or UMX with --umx-train")
    # As the published script spells it.
    parser.add_argument("--valid_dur", dest="valid_dur", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    umx_train = FLAGS.get(overrides_of(args, Config).get("umx_train", "").lower())
    experiment = args.experiment or ("UMX" if umx_train else "XUMX")
    cfg, memory = open_experiment(args, Config, "x_umx", experiment)
    folder = Path(args.output or (f"{experiment}-{cfg.source}" if cfg.umx_train else experiment))
    with claimed(folder):
        train(cfg, folder, memory, args.resume, args.overwrite)


def train(cfg: Config, folder: Path, memory: InCore | OutOfCore, resume: bool = False, overwrite: bool = False) -> None:
    """Train the network of `cfg` in `folder`, and keep the parameters with the lowest loss in validation.

    `memory` says where the arrays are kept.
    """
    cfg = with_former_paths(cfg, folder / CONFIG) if resume else cfg
    songs = Songs(cfg, cfg.targets, cfg.sample_rate, shortest=shortest_excerpt(cfg))
    statistics = songs.statistics(cfg.nfft, cfg.nhop)
    if not songs.valid_tracks:
        print("no validation songs: the training loss takes the place of theirs", flush=True)
    run = Run(folder, to_dict(cfg), resume, overwrite, data=songs.identities,
              weights=[folder / name for name in (BEST_XUMX, BEST_UMX)], later=defaults_of(Config))
    nn.clear_parameters()
    seed_everything(cfg.seed)
    initialize_statistics(cfg.sizes, *statistics, (None,) if cfg.umx_train else cfg.sources)
    cfg.network.masks(nn.Variable((1, 1, cfg.nb_channels, cfg.sizes.max_bin)))    # makes the parameters
    losses, valid_losses = (Losses(functools.partial(build_graph, cfg, train)) for train in (True, False))
    learning_rate, weight_decay = scaled_rates(cfg.lr, cfg.weight_decay, cfg.batch_size, PUBLISHED_BATCH)
    solver = S.Adam(learning_rate)
    solver.set_parameters(nn.get_parameters())
    run.attach(solver)
    memory.attach(solver)

    for _ in run.epochs(cfg.epochs):
        history = [row["valid_loss"] for row in run.rows]
        if cfg.umx_train and 0 < cfg.patience <= epochs_without_gain(history):
            print(f"no gain in {cfg.patience} epochs: stopped after epoch {len(run.rows)}")
            break
        solver.set_learning_rate(plateau_decay(learning_rate, history, cfg.lr_decay_gamma, cfg.lr_decay_patience))
        started = time.perf_counter()
        for mixture, targets in run.steps(songs):
            with memory:
                loss = train_step(losses(mixture, targets), solver, weight_decay)
            run.record(loss=loss)
        seconds = (time.perf_counter() - started) / len(songs)
        train_loss = run.means()["loss"]
        with memory.validation():
            valid_loss = validate(valid_losses, songs.validation()) if songs.valid_tracks else train_loss
        history.append(valid_loss)
        best_epoch = len(history) - epochs_without_gain(history)
        finish_epoch(run, {"train_loss": train_loss, "valid_loss": valid_loss, "learning_rate": solver.learning_rate(),
                           "best_epoch": best_epoch},
                     folder / (BEST_UMX if cfg.umx_train else BEST_XUMX), seconds, per="iteration")
        print(f"epoch {len(run.rows)}/{cfg.epochs}: training loss {train_loss:.4f}, validation loss {valid_loss:.4f}, "
              f"best in epoch {best_epoch}, {seconds:.2f} s per step", flush=True)


if __name__ == "__main__":
    cli.run(main)
