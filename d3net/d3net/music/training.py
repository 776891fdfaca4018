"""Train the music network of one target (arXiv 2010.01733).

The folder of --output gets TARGET.h5, the parameters with the lowest loss in validation, TARGET.yaml, the
hyper-parameters, TARGET_final.h5, the parameters of the last epoch, and a folder TARGET with log, curves and
checkpoint. Trainings of several targets may share it.
"""
import time
from pathlib import Path

import attrs
import nnabla as nn
import nnabla.functions as F
import nnabla.solvers as S

from common.audio.stft_functions import spectrum
from common.machine.distributed import world
from common.machine.errors import UsageError
from common.machine.files import link, replacing
from common.machine.seeding import seed_everything
from common.runs.checkpoint import save_parameters
from common.runs.config import to_dict
from common.runs.curves import write_series
from common.runs.experiments import add_experiment_flags, open_experiment
from common.runs.schedules import step_decay
from common.runs.training import BEST, CHECKPOINT, Run, train_step
from d3net.hyperparameters import load_mss, save_hyper_parameters
from d3net.mss_model import D3NetMSS
from d3net.music.config import MSSConfig
from d3net.music.data import Songs

PANELS = (("loss", ("train_loss", "valid_loss")), ("learning rate", ("learning_rate",)))
PUBLISHED_BATCH = 6    # excerpts per update that learning rate and weight decay are meant for


def add_arguments(parser):
    add_experiment_flags(parser, MSSConfig, "mss.cfg", "vocals")


def start(args):
    """Train as the command line says."""
    cfg, memory = open_experiment(args, MSSConfig, __package__)
    train(cfg, Path(args.output or args.experiment), memory, args.resume, args.overwrite)


def train(cfg, output, memory, resume=False, overwrite=False):
    """Train the network of `cfg` in a folder, and keep the parameters with the lowest loss in validation.

    `memory` says where the arrays are kept.
    """
    hparams = cfg.resolved(load_mss(cfg.hparams or cfg.target))
    songs = Songs(cfg, hparams)
    if not songs.valid_tracks:
        print("no validation songs: the training loss takes the place of theirs", flush=True)
    run = open_run(cfg, hparams, output, resume, overwrite)
    nn.clear_parameters()
    seed_everything(cfg.seed)
    network = D3NetMSS(hparams, cfg.target)
    graphs, valid_graphs = Graphs(network, test=False), Graphs(network, test=True)
    network(nn.Variable((1, hparams.frame_multiple, hparams.n_channels, hparams.bins)))    # makes the parameters
    network.set_statistics(*songs.statistics())
    # The published rule scales learning rate and weight decay by ranks times batch / 6, and adds up the gradients of
    # the ranks. Here they are averaged, so the weight decay is smaller by their number; to Adam both are the same.
    scale = cfg.batch_size / PUBLISHED_BATCH
    learning_rate, weight_decay = cfg.lr * world().size * scale, cfg.weight_decay * scale
    solver = S.Adam(learning_rate)
    solver.set_parameters(nn.get_parameters())
    run.attach(solver)
    memory.attach(solver)

    for epoch in run.epochs(cfg.epochs):
        solver.set_learning_rate(step_decay(learning_rate, epoch, drops=(cfg.lr_drop_epoch,)))
        started = time.perf_counter()
        for mixture, target in run.steps(songs):
            frames = cfg.patch_length or songs.num_frames(mixture.shape[-1])
            with memory:
                loss = train_step(graphs.loss(mixture, target, frames), solver, weight_decay)
            run.record(loss=loss)
        seconds = time.perf_counter() - started
        train_loss = run.means()["loss"]
        with memory.validation():
            valid_loss = validate(valid_graphs, songs) if songs.valid_tracks else train_loss
        finish_epoch(run, cfg, train_loss, valid_loss, solver.learning_rate(), seconds)
    save_parameters(output / f"{cfg.target}_final.h5", run.parameters)


def open_run(cfg, hparams, output, resume, overwrite):
    """Start or resume the run of a target in a folder that it may share with others."""
    folder, weights = output / cfg.target, output / f"{cfg.target}.h5"
    if weights.exists() and not (resume or overwrite or (folder / CHECKPOINT).exists()):
        raise UsageError(f"{weights}: is there already, and of no run in {folder}; add --overwrite to replace it, or "
                         "choose another --output")
    run = Run(folder, attrs.asdict(hparams) | to_dict(cfg), resume, overwrite)
    if run.best is None and world().rank == 0:
        for old in (weights, output / f"{cfg.target}_final.h5"):
            old.unlink(missing_ok=True)    # of a run that is overwritten
    with replacing(weights.with_suffix(".yaml")) as temporary:
        save_hyper_parameters(temporary, hparams)
    return run


class Graphs:
    """Losses of a network; a graph is built once for each batch size and length.

    Parameters
    ----------
    network : D3NetMSS
    test : bool
        Normalize by the running statistics instead of those of the batch.
    """

    def __init__(self, network, test):
        self.network, self.test, self.graphs = network, test, {}

    def loss(self, mixture, target, frames):
        """Return the loss, not computed yet, of the first frames of waveforms.

        Parameters
        ----------
        mixture, target : array (batch, 2, samples)
        frames : int
            A multiple of what the network asks for.

        Returns
        -------
        nn.Variable ()
        """
        key = (*mixture.shape, frames)
        if key not in self.graphs:
            self.graphs[key] = self._build(mixture.shape, frames)
        *inputs, loss = self.graphs[key]
        for variable, waveforms in zip(inputs, (mixture, target), strict=True):
            variable.d = waveforms
        return loss

    def _build(self, shape, frames):
        hparams = self.network.hparams
        mixture, target = nn.Variable(shape), nn.Variable(shape)
        x, wanted = (magnitudes(waveforms, hparams, frames) for waveforms in (mixture, target))
        return mixture, target, F.mean(F.squared_error(self.network(x, self.test), wanted))


def magnitudes(waveforms, hparams, frames):
    """Take the first frames of a magnitude spectrogram.

    Parameters
    ----------
    waveforms : nn.Variable (batch, channels, samples)
    hparams : MSSHyperParameters
    frames : int

    Returns
    -------
    nn.Variable (batch, frames, channels, bins)
    """
    magnitude = spectrum(waveforms, hparams.fft_size, hparams.hop_size)[2]    # (frames, batch, channels, bins)
    return F.transpose(magnitude[:frames], (1, 0, 2, 3))


def validate(graphs, songs):
    """Mean loss over the validation songs of the mean over their pieces.

    Returns
    -------
    float
    """
    def piece_loss(mixture, target):
        loss = graphs.loss(mixture, target, songs.num_frames(mixture.shape[-1]))
        loss.forward(clear_buffer=True)
        return float(loss.d)

    total = 0.0
    for song in songs.validation():
        losses = [piece_loss(*piece) for piece in song]
        total += sum(losses) / len(losses)
    return float(world().sum(total)) / len(songs.valid_tracks)


def finish_epoch(run, cfg, train_loss, valid_loss, learning_rate, seconds):
    """Keep the parameters if they are the best, log and save."""
    run.require_finite(valid_loss=valid_loss)
    if run.keep_best(valid_loss):
        link(run.folder / BEST, run.folder.parent / f"{cfg.target}.h5")
    run.finish_epoch({"train_loss": train_loss, "valid_loss": valid_loss, "learning_rate": learning_rate}, PANELS,
                     seconds)
    for name, column in (("Training loss", "train_loss"), ("Validation loss", "valid_loss"),
                         ("learning rate", "learning_rate")):
        write_series(run.folder, name, [row[column] for row in run.rows])
    write_series(run.folder, "training time per epoch", run.extras)
    print(f"epoch {len(run.rows)}/{cfg.epochs}: training loss {train_loss:.4f}, validation loss {valid_loss:.4f}, "
          f"lowest {run.best:.4f}, {seconds:.1f} s", flush=True)
