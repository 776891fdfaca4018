"""What training scripts do around their loop: how a run starts, and what it leaves after an epoch and at its end."""
from pathlib import Path

import nnabla as nn

from common.console import cli
from common.machine.distributed import world
from common.machine.errors import UsageError
from common.machine.files import write_json
from common.machine.seeding import seed_everything
from common.runs.checkpoint import load_parameters, parameter_shapes
from common.runs.config import find_cfg, load_section, overrides_of, to_dict
from common.runs.experiments import add_experiment_flags, open_experiment
from common.runs.schedules import step_decay
from common.runs.training import BEST, Run
from mixed_precision_dnns import summary
from mixed_precision_dnns.data import build_network, load_data
from mixed_precision_dnns.network import (
    clip_values,
    is_quantizer_parameter,
    learned_tensors,
    make_solver,
    within_budget,
)
from mixed_precision_dnns.published_files import scalar_values

PANELS = (("error", ("train_error", "valid_error", "valid_top5_error")), ("loss", ("loss", "loss1")),
          ("weights [kB]", ("weight_kbytes",)), ("activations [kB]", ("activation_kbytes",)))


def parse_args(argv, description, cls, cfg):
    """Parse the flags of an experiment (`common.runs.experiments`) and `--pretrain`."""
    parser = cli.parser(description)
    add_experiment_flags(parser, cls, cfg)
    parser.add_argument("--pretrain", action="store_true",
                        help="first train the network that CONFIG starts from, where its weights are missing")
    return parser.parse_args(argv)


def start(args, cls, package, keys, train):
    """Train as the command line says.

    Parameters
    ----------
    args : argparse.Namespace
        Of `parse_args`.
    cls : attrs class
    package : str
        As for `common.runs.experiments.open_experiment`.
    keys : sequence of str
        What of the command line is for the network to start from, too.
    train : callable
        `train(cfg, folder, memory, resume, overwrite)`.
    """
    cfg, memory = open_experiment(args, cls, package)
    folder = Path(args.output or args.experiment)
    if args.pretrain and cfg.weightfile:
        _pretrain(cfg, find_cfg(args.cfg, package), folder, memory, overrides_of(args, cls), keys, train)
    train(cfg, folder, memory, args.resume, args.overwrite)


def find_weights(weightfile, folder, script):
    """Path of the weights to start from: those of a run beside the output folder, or else as given.

    Raises
    ------
    UsageError
        There are none.
    """
    beside = folder.resolve().parent / weightfile
    for path in (beside, Path(weightfile)):
        if path.is_file():
            return path
    hint = (f"'{script} {beside.parent.name} --output {beside.parent}' makes it, --pretrain does that first"
            if _is_result(weightfile) else "check the path")
    raise UsageError(f"{weightfile}: no such weight file, neither here nor beside {folder}; {hint}")


def _is_result(weightfile):
    """Whether a weight file is what a run of an experiment leaves, EXPERIMENT/params_best.h5."""
    return len(Path(weightfile).parts) == 2 and Path(weightfile).name == BEST


def _pretrain(cfg, cfg_path, folder, memory, overrides, keys, train):
    """Train the experiment that `cfg` starts from, beside the output folder, unless its weights are there."""
    target = folder.resolve().parent / cfg.weightfile
    if target.is_file() or Path(cfg.weightfile).is_file() or not _is_result(cfg.weightfile):
        return
    given = {key: value for key, value in overrides.items() if key in keys}
    before = load_section(type(cfg), cfg_path, target.parent.name, given)
    if before.weightfile:
        _pretrain(before, cfg_path, target.parent, memory, overrides, keys, train)
    print(f"first {target.parent.name}, which {folder.name} starts from", flush=True)
    train(before, target.parent, memory, resume=True, overwrite=False)


def prepare(cfg, folder, memory, resume, overwrite, script):
    """Load data, build the networks, and start or resume the run.

    Parameters
    ----------
    cfg : mixed_precision_dnns.config.QuantizationConfig
    folder : pathlib.Path
    memory : common.out_of_core.OutOfCore or InCore
    resume, overwrite : bool
    script : str
        Name of the train script, for messages.

    Returns
    -------
    run : Run
    data : (train, valid, test) of Batches
    networks : (train, valid) of Network
        On the same parameters.
    solver : nnabla solver
    tensors : list of QuantizedTensor
        Those that are learned.

    Raises
    ------
    UsageError, UserError
        As `find_weights`, `load_data` and `Run`; weights that do not fit.
    """
    nn.clear_parameters()
    with world().main_first():
        weights = cfg.weightfile and find_weights(cfg.weightfile, folder, script)
        data = train_data, valid_data, _ = load_data(cfg)
    run = Run(folder, to_dict(cfg), resume, overwrite)
    seed_everything(cfg.seed)
    _start_from(weights, cfg, train_data)
    networks = build_network(cfg, train_data, train=True), build_network(cfg, valid_data, train=False)
    solver, tensors = make_solver(cfg), learned_tensors(cfg)
    if not cfg.published:
        clip_values(tensors)    # at its limit a scalar would get no gradient in the first step
    run.attach(solver)
    memory.attach(solver)
    return run, data, networks, solver, tensors


def _start_from(weights, cfg, batches):
    """Load the weights to start from, if any; scalars that they lack get their first values."""
    if weights:
        shapes = parameter_shapes(lambda: build_network(cfg, batches, train=True))
        load_parameters(weights, shapes, optional=is_quantizer_parameter)


def learning_rate(cfg, epoch):
    """Of an epoch, from 0: a tenth of the first after half of the epochs, and a tenth of that after three quarters."""
    return step_decay(cfg.initial_learning_rate, epoch, drops=(cfg.epochs // 2, cfg.epochs * 3 // 4))


def finish_epoch(run, cfg, network, errors, learning_rate, tensors):
    """Keep the parameters if they are the best within the budgets, log the epoch, and save.

    Parameters
    ----------
    run : common.runs.training.Run
    cfg : mixed_precision_dnns.config.QuantizationConfig
    network : Network
    errors : sequence of float
        Of the images that the best parameters are chosen by, for each of `cfg.tops`.
    learning_rate : float
        Of the epoch.
    tensors : list of QuantizedTensor
        From `learned_tensors`.
    """
    weight_kb, activation_kb = network.sizes()
    if within_budget(cfg, weight_kb, activation_kb):
        run.keep_best(errors[0])
    values = run.last if cfg.published else run.means()
    further = list(zip(cfg.tops[1:], errors[1:], strict=True))
    row = {"train_error": values.pop("error"), "valid_error": errors[0],
           **{f"valid_top{k}_error": error for k, error in further}, **values,
           "weight_kbytes": weight_kb, "activation_kbytes": activation_kb, "learning_rate": learning_rate}
    run.finish_epoch(row, PANELS, scalar_values(tensors))
    shown = f"{errors[0]:.2%}" + "".join(f", top {k} {error:.2%}" for k, error in further)
    print(f"epoch {len(run.rows)}/{cfg.epochs}: loss {row['loss']:.4f}, train error {row['train_error']:.2%}, "
          f"validation error {shown}, weights {weight_kb:.1f} kB, activations {activation_kb:.1f} kB", flush=True)


def report(run, cfg, network, valid_data, test_data):
    """Evaluate the best parameters on the test images, and print and save what they have learned; for rank 0 alone."""
    if run.best is None:
        print(f"no epoch met the budget, so there is no {BEST}: train for longer, or raise the budget or the factors "
              f"initial_cost_lambda2 and initial_cost_lambda3 (the last state is in {run.checkpoint})")
        return
    load_parameters(run.folder / BEST, {name: p.shape for name, p in run.parameters.items()})
    result = summary.evaluate_run(network, cfg, valid_data, test_data)
    rows = summary.layer_table(cfg)
    summary.write_table(run.folder, rows)
    write_json(run.folder / "result.json", result)
    print(summary.format_table(rows))
    print(summary.format_result(result))
