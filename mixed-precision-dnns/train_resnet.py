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

from common.config import add_config_flags, find_cfg, load_section, overrides_of, to_dict
from common.distributed import join, world
from common.out_of_core import add_out_of_core_flag, out_of_core
from common.schedules import step_decay
from common.seeding import seed_everything
from common.training import Run
from mixed_precision_dnns import published_files
from mixed_precision_dnns.config import Config
from mixed_precision_dnns.data import build_network, load_data
from mixed_precision_dnns.experiment import find_weights, finish_epoch, pretrain, report, start_from
from mixed_precision_dnns.network import (
    clip_values,
    evaluate,
    learned_tensors,
    make_solver,
    train_step,
    within_budget,
)

HERE = Path(__file__).resolve().parent
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
    add_out_of_core_flag(parser)
    cli.add_context_flags(parser)
    cli.add_run_flags(parser)
    add_config_flags(parser, Config)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    cfg_path = find_cfg(args.cfg, HERE)
    cfg = load_section(Config, cfg_path, args.experiment, overrides_of(args, Config))
    folder = Path(args.output or args.experiment)
    print(f"{args.experiment}: computing on {join(args.context, args.device_id)}", flush=True)
    memory = out_of_core(args)
    if args.pretrain and cfg.weightfile:
        pretrain(cfg, cfg_path, folder, memory, args, PRETRAIN_KEYS, train)
    train(cfg, folder, memory, args.resume, args.overwrite)


def train(cfg, folder, memory, resume, overwrite):
    """Run the experiment `cfg` in `folder` and print what it has learned; `memory` says where its arrays are kept."""
    nn.clear_parameters()
    with world().main_first():
        weights = cfg.weightfile and find_weights(cfg.weightfile, folder, "train_resnet.py")
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
    memory.attach(solver)

    for epoch in run.epochs(cfg.epochs):
        solver.set_learning_rate(step_decay(cfg.initial_learning_rate, epoch,
                                            drops=(cfg.epochs // 2, cfg.epochs * 3 // 4)))
        for image, label in run.steps(train_data):
            with memory:
                values = train_step(train_net, solver, tensors, cfg, image, label)
            run.record(**values)
            # The published script looks for the best parameters after every step, once a weight budget is met.
            if cfg.published and cfg.target_weight_kbytes > 0 and within_budget(cfg, *valid_net.sizes()):
                run.keep_best(evaluate(valid_net, valid_data))
        with memory.validation():
            valid_error = evaluate(valid_net, valid_data)
        finish_epoch(run, cfg, valid_net, [valid_error], solver.learning_rate(), tensors)
        published_files.write(run.folder, run.rows, run.extras, tensors)
    if world().rank == 0:
        published_files.write(run.folder, run.rows, run.extras, tensors)    # a kill may have come before the last row
        report(run, cfg, valid_net, valid_data, test_data)


if __name__ == "__main__":
    cli.run(main)
