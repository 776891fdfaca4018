"""Train ResNet-18 or MobileNetV2 on ImageNet with learned bit widths (arXiv 1905.11452, section 4.2).

    python train_imagenet.py CONFIG --data-dir FOLDER [--output DIR] [--resume]

CONFIG is a section of the .cfg file. FOLDER holds train/<wnid>/*.JPEG and val/; 'synthetic' needs no files.
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
from mixed_precision_dnns.config import ImageNetConfig
from mixed_precision_dnns.data import build_network, load_data
from mixed_precision_dnns.experiment import find_weights, finish_epoch, pretrain, report, start_from
from mixed_precision_dnns.network import clip_values, learned_tensors, make_solver, top_errors, train_step

HERE = Path(__file__).resolve().parent
# A float network to start from is trained with these settings of the run that needs it.
PRETRAIN_KEYS = ("image_size", "epochs", "batch_size", "steps_per_epoch", "seed", "held_out", "data_dir", "val_labels",
                 "per_class", "limit", "workers", "skip_damaged")


def parse_args(argv):
    parser = cli.parser(__doc__)
    parser.add_argument("experiment", metavar="CONFIG", help="section of the .cfg file")
    parser.add_argument("--cfg", default="train_imagenet.cfg", metavar="FILE",
                        help="file of experiments, looked for here and beside the script (default: %(default)s)")
    parser.add_argument("--pretrain", action="store_true",
                        help="first train the network that CONFIG starts from, where its weights are missing")
    add_out_of_core_flag(parser)
    cli.add_context_flags(parser)
    cli.add_run_flags(parser)
    add_config_flags(parser, ImageNetConfig)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    cfg_path = find_cfg(args.cfg, HERE)
    cfg = load_section(ImageNetConfig, cfg_path, args.experiment, overrides_of(args, ImageNetConfig))
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
        weights = cfg.weightfile and find_weights(cfg.weightfile, folder, "train_imagenet.py")
        train_data, valid_data, test_data = load_data(cfg)
    run = Run(folder, to_dict(cfg), resume, overwrite)
    seed_everything(cfg.seed)
    start_from(weights, cfg, train_data)
    train_net = build_network(cfg, train_data, train=True)
    valid_net = build_network(cfg, valid_data, train=False)    # shares the parameters
    solver, tensors = make_solver(cfg), learned_tensors(cfg)
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
        with memory.validation():
            errors = top_errors(valid_net.predict, valid_data, cfg.tops)
        finish_epoch(run, cfg, valid_net, errors, solver.learning_rate(), tensors)
    if world().rank == 0:
        report(run, cfg, valid_net, valid_data, test_data)
        say_what_was_skipped(train_data, valid_data, test_data)


def say_what_was_skipped(*data):
    """Print how many damaged images were left out, if any."""
    skipped = sorted(str(path) for batches in data for path in batches.skipped)
    if skipped:
        print(f"{len(skipped)} damaged images were left out, the first {skipped[0]}")


if __name__ == "__main__":
    cli.run(main)
