"""Train the music network of one target (arXiv 2010.01733).

    python d3net/train.py mss SYNTHETIC --epochs 1    # half a minute, on generated music

The folder of --output gets TARGET.h5, the parameters with the lowest loss in validation, TARGET.yaml, the
hyper-parameters, TARGET_final.h5, the parameters of the last epoch, and a folder TARGET with log, curves and
checkpoint. Trainings of several targets may share it.
"""
import argparse
import functools
import time
from pathlib import Path

import attrs
import nnabla as nn
import nnabla.functions as F
import nnabla.solvers as S

from common.audio.stft import num_frames
from common.audio.stft_functions import spectrum
from common.datasets.songs import Songs
from common.machine.distributed import world
from common.machine.errors import UsageError
from common.machine.output_folders import claimed
from common.machine.seeding import seed_everything
from common.out_of_core import InCore, OutOfCore
from common.runs.checkpoint import save_parameters
from common.runs.config import defaults_of, to_dict, with_former_paths
from common.runs.experiments import add_experiment_flags, open_experiment
from common.runs.schedules import step_decay
from common.runs.steps import train_step
from common.runs.training import CONFIG, Run
from common.separation.training import Losses, LossGraph, finish_epoch, scaled_rates, validate
from d3net.hyperparameters import MSSHyperParameters, load_mss, save_hyper_parameters
from d3net.mss_model import D3NetMSS
from d3net.music.config import MSSConfig

PUBLISHED_BATCH = 6    # excerpts per update that learning rate and weight decay are meant for
GAINS = (0.75, 1.25)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment_flags(parser, MSSConfig, "mss.cfg", "vocals")


def start(args: argparse.Namespace) -> None:
    """Train as the command line says."""
    cfg, memory = open_experiment(args, MSSConfig, "d3net")
    output = Path(args.output or args.experiment)
    with claimed(output / cfg.target):    # other targets may be trained beside it
        train(cfg, output, memory, args.resume, args.overwrite)


def train(cfg: MSSConfig, output: Path, memory: InCore | OutOfCore, resume: bool = False,
          overwrite: bool = False) -> None:
    """Train the network of `cfg` in a folder, and keep the parameters with the lowest loss in validation.

    `memory` says where the arrays are kept.
    """
    cfg = with_former_paths(cfg, output / cfg.target / CONFIG) if resume else cfg
    hparams = cfg.resolved(load_mss(cfg.hparams or cfg.target))
    songs = open_songs(cfg, hparams)
    if not songs.valid_tracks:
        print("no validation songs: the training loss takes the place of theirs", flush=True)
    best, final = output / f"{cfg.target}.h5", output / f"{cfg.target}_final.h5"
    run = Run(output / cfg.target, attrs.asdict(hparams) | to_dict(cfg), resume, overwrite, data=songs.identities,
              weights=(best, final), later=defaults_of(MSSConfig))
    nn.clear_parameters()
    seed_everything(cfg.seed)
    network = D3NetMSS(hparams, cfg.target)
    losses = Losses(functools.partial(build_graph, network, False, cfg.patch_length))
    valid_losses = Losses(functools.partial(build_graph, network, True, 0))
    network(nn.Variable((1, hparams.frame_multiple, hparams.n_channels, hparams.bins)))    # makes the parameters
    network.set_statistics(*songs.statistics(hparams.fft_size, hparams.hop_size))
    learning_rate, weight_decay = scaled_rates(cfg.lr, cfg.weight_decay, cfg.batch_size, PUBLISHED_BATCH)
    solver = S.Adam(learning_rate)
    solver.set_parameters(nn.get_parameters())
    run.attach(solver)
    memory.attach(solver)
    if world().rank == 0:
        final.unlink(missing_ok=True)    # of a shorter run, which goes on
    save_hyper_parameters(best.with_suffix(".yaml"), hparams)

    for epoch in run.epochs(cfg.epochs):
        solver.set_learning_rate(step_decay(learning_rate, epoch, drops=(cfg.lr_drop_epoch,)))
        started = time.perf_counter()
        for mixture, target in run.steps(songs):
            with memory:
                loss = train_step(losses(mixture, target), solver, weight_decay)
            run.record(loss=loss)
        seconds = time.perf_counter() - started
        train_loss = run.means()["loss"]
        with memory.validation():
            valid_loss = validate(valid_losses, songs.validation()) if songs.valid_tracks else train_loss
        finish_epoch(run, {"train_loss": train_loss, "valid_loss": valid_loss, "learning_rate": solver.learning_rate()},
                     best, seconds, per="epoch")
        print(f"epoch {len(run.rows)}/{cfg.epochs}: training loss {train_loss:.4f}, validation loss {valid_loss:.4f}, "
              f"lowest {run.best:.4f}, {seconds:.1f} s", flush=True)
    save_parameters(final, run.parameters)


def open_songs(cfg: MSSConfig, hparams: MSSHyperParameters) -> Songs:
    """Find the songs of an experiment.

    Raises
    ------
    UsageError, UserError
        As of `Songs`; hyper-parameters or a patch length that do not suit them.
    """
    if hparams.n_channels != 2:
        raise UsageError(f"n_channels = {hparams.n_channels} in the hyper-parameters: music is read in stereo")
    try:
        hparams.check_frames()
    except ValueError as error:
        raise UsageError(f"{error} (--nhop, --nfft)") from error
    most, multiple = usable_frames(round(cfg.seq_dur * hparams.fs), hparams), hparams.frame_multiple
    shortest = max((multiple - 1) * hparams.hop_size, hparams.fft_size // 2 + 1)
    songs = Songs(cfg, cfg.target_sources, hparams.fs, shortest=shortest, add_up=True, gains=GAINS)
    if cfg.patch_length % multiple or cfg.patch_length > most:
        raise UsageError(f"--patch-length {cfg.patch_length}: choose a multiple of {multiple} up to {most}, "
                         f"the frames of --seq-dur {cfg.seq_dur:g}; for more, raise that")
    return songs


def usable_frames(samples: int, hparams: MSSHyperParameters) -> int:
    """Count the frames of an excerpt that the network can take: the first ones, in a multiple of its own."""
    frames = num_frames(samples, hparams.fft_size, hparams.hop_size)
    return frames // hparams.frame_multiple * hparams.frame_multiple


def build_graph(network: D3NetMSS, test: bool, patch_length: int, batch_size: int, num_samples: int) -> LossGraph:
    """Build the graph of a network and its loss for the first frames of stereo waveforms.

    Parameters
    ----------
    network
    test
        Normalize by the running statistics instead of those of the batch.
    patch_length
        How many frames; 0: all that the network can take.
    batch_size, num_samples
    """
    frames = patch_length or usable_frames(num_samples, network.hparams)
    mixture, target = (nn.Variable((batch_size, 2, num_samples)) for _ in range(2))
    x, wanted = (magnitudes(waveforms, network.hparams, frames) for waveforms in (mixture, target))
    return LossGraph(mixture, target, F.mean(F.squared_error(network(x, test), wanted)))


def magnitudes(waveforms: nn.Variable, hparams: MSSHyperParameters, frames: int) -> nn.Variable:
    """Take the first frames of a magnitude spectrogram: (batch, channels, samples) -> (batch, frames, channels, bins).
    """
    magnitude = spectrum(waveforms, hparams.fft_size, hparams.hop_size)[2]    # (frames, batch, channels, bins)
    return F.transpose(magnitude[:frames], (1, 0, 2, 3))
