"""Train a ResNet on CIFAR-10 that learns its own bit widths (arXiv 1905.11452, section 4.1).

    python train_resnet.py CONFIG --cfg train_resnet_quant_fp.cfg [--output DIR] [--resume]

CONFIG is a section of the .cfg file; DEFAULT is the float network that sections with INIT in their name start from.
"""
import sys

try:
    from common import cli
except ModuleNotFoundError as missing:
    print(f"error: {missing}: run 'make demo' or, with Python 3.10, 'pip install -r requirements.txt' at the top",
          file=sys.stderr)
    sys.exit(2)

from pathlib import Path

import nnabla as nn

from common.checkpoint import load_parameters, parameter_shapes
from common.config import add_config_flags, find_cfg, load_section, overrides_of, to_dict
from common.context import use_context
from common.errors import UsageError
from common.files import write_json
from common.schedules import step_decay
from common.seeding import seed_everything
from common.training import BEST, Run
from mixed_precision_dnns import published_files, summary
from mixed_precision_dnns.config import Config
from mixed_precision_dnns.data import build_network, load_data
from mixed_precision_dnns.network import (
    clip_values,
    evaluate,
    is_quantizer_parameter,
    learned_tensors,
    make_solver,
    train_step,
    within_budget,
)

HERE = Path(__file__).resolve().parent
PANELS = (("error", ("train_error", "valid_error")), ("loss", ("loss", "loss1")), ("weights [kB]", ("weight_kbytes",)),
          ("activations [kB]", ("activation_kbytes",)))
# A float network to start from is trained with these settings of the run that needs it.
PRETRAIN_KEYS = ("num_layers", "shortcut_type", "epochs", "batch_size", "steps_per_epoch", "seed", "dataset",
                 "data_dir", "held_out", "published")


def parse_args(argv):
    parser = cli.parser(__doc__)
    parser.add_argument("experiment", metavar="CONFIG", help="section of the .cfg file")
    parser.add_argument("--cfg", default="train_resnet_quant_fp.cfg", metavar="FILE",
                        help="file of experiments, looked for here and beside the script (default: %(default)s)")
    parser.add_argument("--pretrain", action="store_true",
                        help="first train the network that CONFIG starts from, where its weights are missing")
    cli.add_context_flags(parser)
    cli.add_run_flags(parser)
    add_config_flags(parser, Config)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    cfg_path = find_cfg(args.cfg, HERE)
    cfg = load_section(Config, cfg_path, args.experiment, overrides_of(args, Config))
    folder = Path(args.output or args.experiment)
    print(f"{args.experiment}: computing on {use_context(args.context, args.device_id)}", flush=True)
    if args.pretrain and cfg.weightfile:
        pretrain(cfg, cfg_path, folder, args)
    train(cfg, folder, args.resume, args.overwrite)


def find_weights(weightfile, folder):
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
    hint = (f"'train_resnet.py {beside.parent.name} --output {beside.parent}' makes it, --pretrain does that first"
            if is_result(weightfile) else "check the path")
    raise UsageError(f"{weightfile}: no such weight file, neither here nor beside {folder}; {hint}")


def is_result(weightfile):
    """Whether a weight file is what a run of an experiment leaves, EXPERIMENT/params_best.h5."""
    return len(Path(weightfile).parts) == 2 and Path(weightfile).name == BEST


def pretrain(cfg, cfg_path, folder, args):
    """Train the experiment that `cfg` starts from, beside the output folder, unless its weights are there."""
    target = folder.resolve().parent / cfg.weightfile
    if target.is_file() or Path(cfg.weightfile).is_file() or not is_result(cfg.weightfile):
        return
    given = {key: value for key, value in overrides_of(args, Config).items() if key in PRETRAIN_KEYS}
    before = load_section(Config, cfg_path, target.parent.name, given)
    if before.weightfile:
        pretrain(before, cfg_path, target.parent, args)
    print(f"first {target.parent.name}, which {folder.name} starts from", flush=True)
    train(before, target.parent, resume=True, overwrite=False)


def train(cfg, folder, resume, overwrite):
    """Run the experiment `cfg` in `folder` and print what it has learned."""
    nn.clear_parameters()
    weights = cfg.weightfile and find_weights(cfg.weightfile, folder)
    train_data, valid_data, test_data = load_data(cfg)
    run = Run(folder, to_dict(cfg), resume, overwrite)
    seed_everything(cfg.seed)
    start_from(weights, cfg, train_data)
    train_net = build_network(cfg, train_data, train=True)
    valid_net = build_network(cfg, valid_data, train=False)    # shares the parameters
    solver, tensors = make_solver(cfg), learned_tensors(cfg)
    if not cfg.published:
        clip_values(tensors)    # at its limit a scalar would get no gradient in the first step
    run.attach(solver)

    for epoch in run.epochs(cfg.epochs):
        solver.set_learning_rate(step_decay(cfg.initial_learning_rate, epoch,
                                            drops=(cfg.epochs // 2, cfg.epochs * 3 // 4)))
        for image, label in run.steps(train_data):
            run.record(**train_step(train_net, solver, tensors, cfg, image, label))
            # The published script looks for the best parameters after every step, once a weight budget is met.
            if cfg.published and cfg.target_weight_kbytes > 0 and within_budget(cfg, *valid_net.sizes()):
                run.keep_best(evaluate(valid_net, valid_data))
        finish_epoch(run, cfg, valid_net, evaluate(valid_net, valid_data), solver.learning_rate(), tensors)
    report(run, cfg, valid_net, tensors, valid_data, test_data)


def start_from(weights, cfg, batches):
    """Load the weights to start from, if any; scalars that they lack get their first values."""
    if weights:
        shapes = parameter_shapes(lambda: build_network(cfg, batches, train=True))
        load_parameters(weights, shapes, optional=is_quantizer_parameter)


def finish_epoch(run, cfg, valid_net, valid_error, learning_rate, tensors):
    """Keep the parameters if they are the best within the budgets, log the epoch, and save."""
    weight_kb, activation_kb = valid_net.sizes()
    if within_budget(cfg, weight_kb, activation_kb):
        run.keep_best(valid_error)
    values = run.last if cfg.published else run.means()
    row = {"train_error": values.pop("error"), "valid_error": valid_error, **values, "weight_kbytes": weight_kb,
           "activation_kbytes": activation_kb, "learning_rate": learning_rate}
    run.finish_epoch(row, PANELS, published_files.scalar_values(tensors))
    published_files.write(run.folder, run.rows, run.extras, tensors)
    print(f"epoch {len(run.rows)}/{cfg.epochs}: loss {row['loss']:.4f}, train error {row['train_error']:.2%}, "
          f"validation error {valid_error:.2%}, weights {weight_kb:.1f} kB, activations {activation_kb:.1f} kB",
          flush=True)


def report(run, cfg, network, tensors, valid_data, test_data):
    """Evaluate the best parameters on the test images, and print and save what they have learned."""
    published_files.write(run.folder, run.rows, run.extras, tensors)    # a kill may have come before the last row
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


if __name__ == "__main__":
    cli.run(main)
