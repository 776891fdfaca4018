"""Train the segmentation network D3Net-S or D3Net-L on Cityscapes (arXiv 2011.11844).

    python d3net/train.py segmentation SYNTHETIC --max-iter 25 --epoch-length 25    # half a minute, on generated scenes

--cfg names the file of experiments; -cfg, as published, or --config-file or --hparams, the hyper-parameters of the
network and its training, which the keys of an experiment and their flags override. -d is --device-id, as in every
script, and not --data-dir.
The output folder gets params_best.h5, the parameters with the highest mean IoU in validation, hparams.yaml,
model_param_*.h5 from time to time with the solver_states.h5 of the last one, final.h5, log, curves and checkpoint.
"""
import argparse
import functools
import math
import time
from pathlib import Path

import attrs
import nnabla as nn
import nnabla.functions as F
import nnabla.solvers as S

from common.machine.distributed import world
from common.machine.errors import UsageError
from common.machine.output_folders import claimed
from common.machine.seeding import seed_everything
from common.machine.streams import say
from common.out_of_core import InCore, OutOfCore
from common.runs.checkpoint import load_parameters, save_parameters, save_solver_states, stored_shapes
from common.runs.config import defaults_of, to_dict, with_former_paths
from common.runs.experiments import add_experiment_flags, open_experiment
from common.runs.schedules import poly_decay
from common.runs.steps import train_step
from common.runs.training import CONFIG, Run
from d3net.hyperparameters import SegmentationHyperParameters, load_segmentation, save_hyper_parameters
from d3net.scenes.config import SegmentationConfig
from d3net.scenes.data import Scenes
from d3net.scenes.series import record_update
from d3net.scenes.validation import Predictor, validate
from d3net.scenes.weights import HPARAMS, pretrained_backbone
from d3net.segmentation_model import BACKBONE, TAPS, d3net_segmentation
from d3net.weights import first_names

PANELS = (("loss", ("train_loss",)), ("validation", ("valid_miou", "valid_pixel_accuracy")),
          ("learning rate", ("learning_rate",)))
PUBLISHED_BATCH = 8    # images per update that learning rate and number of updates are meant for
SNAPSHOT, SOLVER_STATES, FINAL = "model_param_{:08d}.h5", "solver_states.h5", "final.h5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment_flags(parser, SegmentationConfig, "segmentation.cfg", "D3Net_L")
    published = functools.partial(parser.add_argument, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    published("--config-file", "-cfg", dest="hparams")
    published("-p", dest="pretrained")
    published("-r", dest="recompute", action="store_const", const="true")
    published("--output-dir", dest="output")


def start(args: argparse.Namespace) -> None:
    """Train as the command line says."""
    if Path(args.cfg).suffix in (".yaml", ".yml"):
        raise UsageError(f"--cfg {args.cfg}: a file of experiments is expected; hyper-parameters go to --config-file "
                         "(-cfg)")
    cfg, memory = open_experiment(args, SegmentationConfig, __name__)
    with claimed(args.output or args.experiment) as folder:
        train(cfg, folder, memory, args.resume, args.overwrite)


def train(cfg: SegmentationConfig, folder: Path, memory: InCore | OutOfCore, resume: bool = False,
          overwrite: bool = False) -> None:
    """Train the network of `cfg` in a folder, and keep the parameters with the highest mean IoU in validation.

    `memory` says where the arrays are kept.
    """
    cfg = with_former_paths(cfg, folder / CONFIG) if resume else cfg
    hparams = cfg.resolved(load_segmentation(cfg.hparams))
    # The published rule for batches of another size: as many images in all, and a learning rate in proportion.
    batch_ratio = world().size * hparams.batch_size / PUBLISHED_BATCH
    num_updates = max(1, int(hparams.max_iter // batch_ratio))
    if batch_ratio != 1:
        print(f"max_iter = {hparams.max_iter} counts updates of {PUBLISHED_BATCH} images: {num_updates} updates of "
              f"{world().size * hparams.batch_size}", flush=True)
    scenes = Scenes(cfg, hparams, num_updates)
    if not scenes.valid_pairs:
        print("no validation images: the lowest training loss is the best", flush=True)

    run = Run(folder, to_dict(cfg) | attrs.asdict(hparams), resume, overwrite, data=scenes.identities,
              weights=(*sorted(folder.glob("model_param_*.h5")), folder / SOLVER_STATES, folder / FINAL),
              later=defaults_of(SegmentationConfig))
    require_same_ranks(run)
    nn.clear_parameters()
    seed_everything(cfg.seed)
    image, label, loss = build_loss(hparams, cfg.recompute)
    if cfg.pretrained:
        load_backbone(cfg.pretrained)
    solver = S.Momentum(hparams.lr * batch_ratio, hparams.momentum)
    solver.set_parameters(nn.get_parameters())
    run.attach(solver)
    memory.attach(solver)
    save_hyper_parameters(folder / HPARAMS, hparams)
    predictor = Predictor(hparams)

    for epoch in run.epochs(math.ceil(num_updates / cfg.epoch_length)):
        for images, labels in run.steps(scenes):
            started = time.perf_counter()
            iteration = epoch * cfg.epoch_length + run.state["step"]
            learning_rate = poly_decay(hparams.lr, hparams.min_lr, hparams.power, iteration, num_updates)
            solver.set_learning_rate(batch_ratio * learning_rate)
            with memory:
                image.d, label.d = images, labels
                value = train_step(loss, solver, hparams.weight_decay)
            record_update(run, value, cfg.log_interval, iteration, solver.learning_rate(), started)
            if iteration % hparams.save_interval == 0:
                save_parameters(folder / SNAPSHOT.format(iteration), run.parameters)
                save_solver_states(folder / SOLVER_STATES, solver)
        with memory.validation():
            scores = validation_scores(predictor, scenes)
        run.require_finite(**scores)
        # Without validation images, the training loss decides.
        run.keep_best(1 - scores["valid_miou"] if scores else run.means()["loss"])
        finish_epoch(run, scores, epoch * cfg.epoch_length + run.state["step"], num_updates, solver.learning_rate())
    save_parameters(folder / FINAL, run.parameters)


def build_loss(hparams: SegmentationHyperParameters, recompute: bool = False
               ) -> tuple[nn.Variable, nn.Variable, nn.Variable]:
    """Build the graph of the training loss, the mean over all pixels; ignored ones count as 0.

    Returns
    -------
    image : nn.Variable (batch, 3, height, width)
    label : nn.Variable (batch, 1, height, width)
        Classes; below 0: ignored.
    loss : nn.Variable ()
    """
    size = hparams.image_height, hparams.image_width
    image, label = (nn.Variable((hparams.batch_size, channels, *size)) for channels in (3, 1))
    logits = d3net_segmentation(image, hparams, test=False, recompute=recompute)
    return image, label, F.mean(F.softmax_cross_entropy(logits, label, axis=1))


def require_same_ranks(run: Run) -> None:
    """Raise a UsageError if the updates that are done were of another number of ranks: these count otherwise."""
    ranks = run.state.get("ranks", world().size)
    if ranks != world().size:
        raise UsageError(f"{run.folder}: was trained by {ranks} processes, on which the number of updates depends, and "
                         f"not by {world().size}; start as many (mpirun -n {ranks}), or add --overwrite to start anew")


def load_backbone(name_or_path: str) -> None:
    """Give the backbone, whose graph exists, the values of a file.

    As it was trained for another task, the file may have layers of that one, and may lack those that give features to
    the head here. A note on stderr says so.
    """
    path = pretrained_backbone(name_or_path)
    with nn.parameter_scope(BACKBONE):
        shapes = {name: parameter.shape for name, parameter in nn.get_parameters(grad_only=False).items()}
        load_parameters(path, shapes, optional=lambda name: name not in shapes or name.startswith(TAPS))
    stored = stored_shapes(path)
    if world().rank == 0:
        for names, what in ((stored.keys() - shapes.keys(), "ignored that the backbone does not have"),
                            (shapes.keys() - stored.keys(), "not in it, which begin as if nothing was trained")):
            if names:
                say(f"note: {path}: {len(names)} parameters {what}{first_names(sorted(names))}")


def validation_scores(predictor: Predictor, scenes: Scenes) -> dict[str, float]:
    """Return the scores of the validation images by column of the log; empty if there are none."""
    if not scenes.valid_pairs:
        return {}
    confusion = validate(predictor, scenes)
    return {"valid_miou": confusion.mean_iou(), "valid_pixel_accuracy": confusion.pixel_accuracy()}


def finish_epoch(run: Run, scores: dict[str, float], num_done: int, num_updates: int, learning_rate: float) -> None:
    """Log and save what `num_done` updates of `num_updates` led to."""
    loss = run.means()["loss"]
    run.finish_epoch({"iteration": num_done, "train_loss": loss, **scores, "learning_rate": learning_rate}, PANELS)
    figures = f", validation mIoU {scores['valid_miou']:.2%}, pixels {scores['valid_pixel_accuracy']:.2%}, best mIoU " \
              f"{1 - run.best:.2%}" if scores and run.best is not None else ""
    print(f"iteration {num_done}/{num_updates}: training loss {loss:.4f}{figures}", flush=True)
