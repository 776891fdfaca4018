"""Train X-UMX, or UMX for one source (arXiv 2010.04228).

    python x-umx/train.py [XUMX] --root MUSDB18 [--output DIR] [--resume]
    python x-umx/train.py UMX --source vocals --root MUSDB18
    python x-umx/train.py SYNTHETIC        # minutes, on generated music

The first argument is a section of the .cfg file.
"""
import argparse
import time
from pathlib import Path

import nnabla as nn
import nnabla.solvers as S

from common.console import cli
from common.machine.distributed import world
from common.machine.files import link
from common.machine.seeding import seed_everything
from common.runs.config import FLAGS, overrides_of, to_dict
from common.runs.curves import write_series
from common.runs.experiments import add_experiment_flags, open_experiment
from common.runs.schedules import epochs_without_gain, plateau_decay
from common.runs.training import BEST, Run, train_step
from x_umx.config import Config
from x_umx.data import Songs
from x_umx.model import initialize_statistics
from x_umx.network import Graphs, validate
from x_umx.weights import BEST_UMX, BEST_XUMX

PANELS = (("loss", ("train_loss", "valid_loss")), ("learning rate", ("learning_rate",)))


def parse_args(argv):
    parser = cli.parser(__doc__)
    add_experiment_flags(parser, Config, "train.cfg", default_text="XUMX, or UMX with --umx-train")
    # As the published script spells it.
    parser.add_argument("--valid_dur", dest="valid_dur", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    lone = FLAGS.get(overrides_of(args, Config).get("umx_train", "").lower())
    experiment = args.experiment or ("UMX" if lone else "XUMX")
    cfg, memory = open_experiment(args, Config, __package__, experiment)
    folder = Path(args.output or (f"{experiment}-{cfg.source}" if cfg.umx_train else experiment))
    train(cfg, folder, memory, args.resume, args.overwrite)


def train(cfg, folder, memory, resume=False, overwrite=False):
    """Train the network of `cfg` in `folder`, and keep the parameters with the lowest loss in validation.

    `memory` says where the arrays are kept.
    """
    with world().main_first():
        songs = Songs(cfg)
        statistics = songs.statistics()
    if not songs.valid_tracks:
        print("no validation songs: the training loss takes the place of theirs", flush=True)
    run = Run(folder, to_dict(cfg), resume, overwrite)
    nn.clear_parameters()
    seed_everything(cfg.seed)
    initialize_statistics(cfg.sizes, *statistics, (None,) if cfg.umx_train else cfg.sources)
    cfg.network.masks(nn.Variable((1, 1, cfg.nb_channels, cfg.sizes.max_bin)))    # makes the parameters
    graphs, valid_graphs = Graphs(cfg, train=True), Graphs(cfg, train=False)
    # The published rule scales learning rate and weight decay by ranks times batch / 16, and adds up the gradients of
    # the ranks. Here they are averaged, so the weight decay is smaller by their number; to Adam both are the same.
    learning_rate, weight_decay = (rate * cfg.batch_size / 16 for rate in (cfg.lr * world().size, cfg.weight_decay))
    solver = S.Adam(learning_rate)
    solver.set_parameters(nn.get_parameters())
    run.attach(solver)
    memory.attach(solver)
    if run.best is None:
        for name in (BEST_XUMX, BEST_UMX):
            (folder / name).unlink(missing_ok=True)    # of a run that is overwritten

    for _ in run.epochs(cfg.epochs):
        watched = [row["valid_loss"] for row in run.rows]
        if cfg.umx_train and 0 < cfg.patience <= epochs_without_gain(watched):
            print(f"no gain in {cfg.patience} epochs: stopped after epoch {len(run.rows)}")
            break
        solver.set_learning_rate(plateau_decay(learning_rate, watched, cfg.lr_decay_gamma, cfg.lr_decay_patience))
        started = time.perf_counter()
        for mixture, targets in run.steps(songs):
            with memory:
                loss = train_step(graphs.loss(mixture, targets), solver, weight_decay)
            run.record(loss=loss)
        seconds = (time.perf_counter() - started) / len(songs)
        train_loss = run.means()["loss"]
        with memory.validation():
            valid_loss = validate(valid_graphs, songs.validation()) if songs.valid_tracks else train_loss
        finish_epoch(run, cfg, train_loss, valid_loss, solver.learning_rate(), seconds)


def finish_epoch(run, cfg, train_loss, valid_loss, learning_rate, seconds):
    """Keep the parameters if they are the best, log and save."""
    run.require_finite(valid_loss=valid_loss)
    if run.keep_best(valid_loss):
        link(run.folder / BEST, run.folder / (BEST_UMX if cfg.umx_train else BEST_XUMX))
    losses = [*(row["valid_loss"] for row in run.rows), valid_loss]
    best_epoch = len(losses) - epochs_without_gain(losses)
    run.finish_epoch({"train_loss": train_loss, "valid_loss": valid_loss, "learning_rate": learning_rate,
                      "best_epoch": best_epoch}, PANELS, seconds)
    for name, column in (("Training loss", "train_loss"), ("Validation loss", "valid_loss"),
                         ("learning rate", "learning_rate"), ("Best epoch", "best_epoch")):
        write_series(run.folder, name, [row[column] for row in run.rows])
    write_series(run.folder, "training time per iteration", run.extras)
    print(f"epoch {len(run.rows)}/{cfg.epochs}: training loss {train_loss:.4f}, validation loss {valid_loss:.4f}, "
          f"best in epoch {best_epoch}, {seconds:.2f} s per step", flush=True)


if __name__ == "__main__":
    cli.run(main)
