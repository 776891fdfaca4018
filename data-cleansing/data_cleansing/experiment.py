"""What the scripts share: the command line of an experiment, its stages over all trials, and their summary."""
import argparse
from functools import partial
from pathlib import Path

from common.console import cli
from common.datasets import CIFAR10
from common.machine.context import use_context
from common.machine.distributed import launched_size
from common.machine.errors import UsageError
from common.machine.files import make_folder, write_csv
from common.machine.processes import for_each
from common.runs.config import add_config_flags, find_cfg, load_section, overrides_of, section_names
from data_cleansing.config import FILES, Config, Retraining, Scoring
from data_cleansing.influence import METHODS
from data_cleansing.results import files as results
from data_cleansing.results.detection import precision_at, ranking_area
from data_cleansing.trial import Trial

PRECISION_AT = (10, 50)
DETECTION_HEADER = ("method", "seed", "wrong", "auc", *(f"precision_at_{k}" for k in PRECISION_AT),
                    "precision_at_wrong")
KEPT, SUSPECT = "keep", "look at"


def add_published_flags(parser, *keys):
    """Add the short and underscored spellings of the published scripts for some keys, `dest` of existing flags."""
    spellings = {"n_epochs": ("-e", "--n_epochs"), "n_trials": ("-nt", "--n_trials"), "dataset": ("-ds",),
                 "remove_n_list": ("-r", "--remove_n_list"), "retrain_all": ("-ra", "--retrain_all"),
                 "output": ("--output_dir",), "device_id": ("-di", "--device_id")}
    options = {"remove_n_list": {"nargs": "+"}, "retrain_all": {"action": "store_const", "const": "true"}}
    group = parser.add_argument_group("as the published scripts spell them")
    for key in keys:
        group.add_argument(*spellings[key], dest=key, default=argparse.SUPPRESS,
                           **options.get(key, {"metavar": "X"}), help=f"the same as --{key.replace('_', '-')}")


def add_experiment_flags(parser):
    """Add what names an experiment: a section of the .cfg file, flags that override it, where to go."""
    parser.add_argument("experiment", metavar="CONFIG", nargs="?",
                        help="section of the .cfg file (default: that of --dataset; FILES with only --data-dir)")
    parser.add_argument("--cfg", default="cleansing.cfg", metavar="FILE",
                        help="file of experiments, looked for here and beside the script (default: %(default)s)")
    cli.add_context_flags(parser)
    cli.add_run_flags(parser)
    add_config_flags(parser, Config)
    add_published_flags(parser, "output", "n_epochs", "n_trials", "remove_n_list", "dataset", "retrain_all",
                        "device_id")


def load_experiment(args):
    """Return name and configuration of the experiment on the command line.

    Raises
    ------
    UsageError
        There is no such section, or a value is not allowed; several processes were started by mpirun.
    """
    if launched_size() > 1:    # scores follow the steps of one process
        raise UsageError("trials are trained in one process each; start without mpirun, with --jobs N for N at a time")
    overrides, path = overrides_of(args, Config), find_cfg(args.cfg, __package__)
    name = args.experiment
    if name is None:
        named = overrides.get("dataset", FILES if "data_dir" in overrides else CIFAR10).upper()
        name = named if named in section_names(path) else "DEFAULT"
    return name, load_section(Config, path, name, overrides)


def add_stage_flags(parser, *classes):
    """Add what a later stage takes: the folder of a run, and flags that change what its configuration says."""
    parser.add_argument("run", metavar="RUN_DIR", help="output folder of train.py or cleanse.py")
    cli.add_context_flags(parser)
    for cls in classes:
        add_config_flags(parser, cls)


def stage_changes(args):
    """Return what the flags of `add_stage_flags` change, as keywords of `run_folder.read_config`."""
    return overrides_of(args, Scoring) | overrides_of(args, Retraining)


def run_trials(cfg, folder, args, *stages):
    """Run stages of all trials, as many at a time as the configuration says.

    Parameters
    ----------
    cfg : data_cleansing.config.Config
    folder : path
    args : argparse.Namespace
        With the flags of `common.console.cli.add_context_flags`.
    stages : callable
        Of module level; each is called as `stage(trial)`, in this order.

    Raises
    ------
    UserError
        As the stages do.
    """
    for_each(partial(_run_trial, cfg, folder, args.context, args.device_id, stages),
             {f"seed {seed}": (seed,) for seed in cfg.seeds}, cfg.jobs)


def _run_trial(cfg, folder, context, device_id, stages, seed):
    use_context(context, device_id)    # the process may be new
    trial = Trial(cfg, folder, seed)
    for stage in stages:
        stage(trial)


def scored(folder, seed):
    """Methods that a trial has scores of, in the order of `METHODS`."""
    return tuple(method for method in METHODS if results.influence_path(folder, method, seed).exists())


def detection_rows(folder, trial):
    """How well each method found the labels that were flipped in a trial, in the order of `DETECTION_HEADER`."""
    wrong = int(trial.flipped.sum())
    rows = []
    for method in scored(folder, trial.seed) if wrong else ():
        scores = results.read_influence(results.influence_path(folder, method, trial.seed), len(trial.flipped))
        counts = [min(k, len(scores)) for k in (*PRECISION_AT, wrong)]
        rows.append((method, trial.seed, wrong, ranking_area(scores, trial.flipped),
                     *(precision_at(scores, trial.flipped, k) for k in counts)))
    return rows


def number_to_remove(found, method):
    """Number of images without which the mean validation accuracy is best; the smallest of equals, 0 if none helps.

    The test images must not choose.
    """
    lines = results.curves(found, "val_accuracy")
    points = [(mean, -removed) for name in (results.NONE, results.FOLDERS[method]) if name in lines
              for removed, mean, _ in zip(*lines[name], strict=True)]
    return -max(points, default=(0, 0))[1]


def write_cleaned(folder, trial, method, removed):
    """Write `cleaned/cleaned_<seed>.csv`: all training images in their order, and which to look at."""
    scores = results.read_influence(results.influence_path(folder, method, trial.seed), len(trial.train_images))
    suspects = set(scores.argsort(kind="stable")[:removed].tolist())
    target = make_folder(Path(folder) / "cleaned") / f"cleaned_{trial.seed}.csv"
    images = trial.train_images
    write_csv(target, (*results.INFLUENCE_HEADER, "action"), [
        (results.list_path(path, target.parent), images.list_names[images.labels[row]], float(scores[row]), row,
         SUSPECT if row in suspects else KEPT) for row, path in enumerate(images.paths)])
