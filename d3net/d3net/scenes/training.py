"""Train the segmentation network D3Net-S or D3Net-L on Cityscapes (arXiv 2011.11844).

--cfg names the file of experiments; -cfg, as published, or --config-file or --hparams, the hyper-parameters of the
network and its training, which the keys of an experiment and their flags override. -d is --device-id, as in every
script, and not --data-dir.
The output folder gets params_best.h5, the parameters with the highest mean IoU in validation, hparams.yaml,
model_param_*.h5 from time to time, final.h5, log, curves and checkpoint.
"""
import argparse
import functools
import time
from pathlib import Path

import attrs
import nnabla as nn
import nnabla.functions as F
import nnabla.solvers as S

from common.machine.distributed import world
from common.machine.errors import UsageError
from common.machine.files import replacing, write_text
from common.machine.seeding import seed_everything
from common.runs.checkpoint import load_parameters, save_parameters
from common.runs.config import to_dict
from common.runs.experiments import add_experiment_flags, open_experiment
from common.runs.graphs import Graphs
from common.runs.training import Run, train_step
from d3net.config import SegmentationConfig
from d3net.hyperparameters import load_segmentation, save_hyper_parameters
from d3net.scenes.data import Scenes
from d3net.scenes.metrics import ConfusionMatrix
from d3net.segmentation_model import BACKBONE, d3net_segmentation
from d3net.weights import HPARAMS, pretrained_backbone

PANELS = (("loss", ("train_loss",)), ("validation", ("valid_miou", "valid_pixel_accuracy")),
          ("learning rate", ("learning_rate",)))
PUBLISHED_BATCH = 8    # images per update that learning rate and number of updates are meant for
SERIES = ("Training loss", "Learning rate", "Training time per iteration")


def add_arguments(parser):
    add_experiment_flags(parser, SegmentationConfig, "segmentation.cfg", "D3Net_L")
    published = functools.partial(parser.add_argument, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    published("--config-file", "-cfg", dest="hparams")
    published("-p", dest="pretrained")
    published("-r", dest="recompute", action="store_const", const="true")
    published("--output-dir", dest="output")


def start(args):
    """Train as the command line says."""
    if Path(args.cfg).suffix in (".yaml", ".yml"):
        raise UsageError(f"--cfg {args.cfg}: a file of experiments is expected; hyper-parameters go to --config-file "
                         "(-cfg)")
    cfg, memory = open_experiment(args, SegmentationConfig, __package__)
    train(cfg, Path(args.output or args.experiment), memory, args.resume, args.overwrite)


def train(cfg, folder, memory, resume=False, overwrite=False):
    """Train the network of `cfg` in a folder, and keep the parameters with the highest mean IoU in validation.

    `memory` says where the arrays are kept.
    """
    hparams = cfg.resolved(load_segmentation(cfg.hparams))
    factor = world().size * hparams.batch_size / PUBLISHED_BATCH    # the published rule
    steps = max(1, int(hparams.max_iter // factor))
    scenes = Scenes(cfg, hparams, steps)
    if not scenes.valid_pairs:
        print("no validation images: the lowest training loss is the best", flush=True)
    run = Run(folder, to_dict(cfg) | attrs.asdict(hparams), resume, overwrite)
    nn.clear_parameters()
    seed_everything(cfg.seed)
    image, label, loss = build_loss(hparams, cfg.recompute)
    if cfg.pretrained:
        load_backbone(cfg.pretrained)
    solver = S.Momentum(hparams.lr * factor, hparams.momentum)
    solver.set_parameters(nn.get_parameters())
    run.attach(solver)
    memory.attach(solver)
    begin_files(run, hparams)
    predictor = Predictor(hparams)

    for epoch in run.epochs(-(-steps // cfg.epoch_length)):
        for images, labels in run.steps(scenes):
            started = time.perf_counter()
            iteration = epoch * cfg.epoch_length + run.state["step"]
            solver.set_learning_rate(factor * poly_decay(hparams.lr, hparams.min_lr, hparams.power, iteration, steps))
            with memory:
                image.d, label.d = images, labels
                value = train_step(loss, solver, hparams.weight_decay)
            run.record(loss=value)
            log_step(run, cfg.log_interval, iteration, solver.learning_rate(), time.perf_counter() - started)
            if iteration % hparams.save_interval == 0:
                save_parameters(folder / f"model_param_{iteration:08d}.h5", run.parameters)
        finish_epoch(run, steps, predictor, scenes, solver.learning_rate(), memory)
    save_parameters(folder / "final.h5", run.parameters)


def build_loss(hparams, recompute=False):
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


def load_backbone(name_or_path):
    """Give the backbone, which exists, the values of a file."""
    with nn.parameter_scope(BACKBONE):
        shapes = {name: parameter.shape for name, parameter in nn.get_parameters(grad_only=False).items()}
        load_parameters(pretrained_backbone(name_or_path), shapes)


def begin_files(run, hparams):
    """Write the hyper-parameters, and remove what another run left where this one begins."""
    if run.state["epoch"] == run.state["step"] == 0 and world().rank == 0:
        for old in (*run.folder.glob("model_param_*.h5"), run.folder / "final.h5"):
            old.unlink(missing_ok=True)
    with replacing(run.folder / HPARAMS) as temporary:
        save_hyper_parameters(temporary, hparams)


def poly_decay(initial, final, power, iteration, num_iterations):
    """Learning rate that falls from `initial` to `final` with a power of the iterations that are left.

    Examples
    --------
    >>> [round(poly_decay(0.01, 1e-4, 0.9, iteration, 100), 5) for iteration in (0, 50, 99)]
    [0.01, 0.00541, 0.00026]
    """
    return (initial - final) * (1 - iteration / num_iterations) ** power + final


def log_step(run, interval, iteration, learning_rate, seconds):
    """Keep the values of a step, and write the means of every `interval` steps as nnabla's monitors do."""
    pending, rows = run.state.setdefault("pending", []), run.state.setdefault("series", [])
    pending.append((run.last["loss"], learning_rate, seconds))
    if (iteration + 1) % interval == 0:
        rows.append([iteration, *(sum(values) / len(values) for values in zip(*pending, strict=True))])
        pending.clear()
        for column, name in enumerate(SERIES, 1):
            write_text(run.folder / f"{name.replace(' ', '-')}.series.txt",
                       "".join(f"{row[0]} {row[column]:g}\n" for row in rows))


class Predictor:
    """The network with its running statistics; a graph is built once for each size of image.

    Parameters
    ----------
    hparams : SegmentationHyperParameters
    """

    def __init__(self, hparams):
        self.hparams, self.graphs = hparams, Graphs()

    def __call__(self, image):
        """Return the class of each pixel, (height, width), of a standardized image (3, height, width)."""
        x, probabilities = self.graphs.get(image.shape, lambda: self._build(image.shape))
        x.d = image
        probabilities.forward(clear_buffer=True)
        return probabilities.d[0].argmax(axis=0)

    def _build(self, shape):
        x = nn.Variable((1, *shape))
        return x, d3net_segmentation(x, self.hparams)


def validate(predictor, scenes):
    """Compare the predicted classes of the validation images with their labels.

    Returns
    -------
    ConfusionMatrix
    """
    confusion = ConfusionMatrix(predictor.hparams.num_classes)
    for image, label in scenes.validation():
        confusion.add(predictor(image), label)
    confusion.counts[...] = world().sum(confusion.counts)
    return confusion


def finish_epoch(run, steps, predictor, scenes, learning_rate, memory):
    """Validate, keep the parameters if they are the best, log and save."""
    row, best = {"train_loss": run.means()["loss"]}, run.means()["loss"]
    if scenes.valid_pairs:
        with memory.validation():
            confusion = validate(predictor, scenes)
        row |= {"valid_miou": confusion.mean_iou(), "valid_pixel_accuracy": confusion.pixel_accuracy()}
        run.require_finite(**row)
        best = 1 - row["valid_miou"]
    run.keep_best(best)
    iteration = len(run.rows) * scenes.cfg.epoch_length + run.state["step"]
    run.finish_epoch({"iteration": iteration, **row, "learning_rate": learning_rate}, PANELS)
    figures = f", validation mIoU {row['valid_miou']:.2%}, pixels {row['valid_pixel_accuracy']:.2%}, best mIoU " \
              f"{1 - run.best:.2%}" if scenes.valid_pairs else ""
    print(f"iteration {iteration}/{steps}: training loss {row['train_loss']:.4f}{figures}", flush=True)
