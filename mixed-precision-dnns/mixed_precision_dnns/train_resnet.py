"""Train a ResNet on CIFAR-10 that learns its own bit widths (arXiv 1905.11452, section 4.1).

    python train_resnet.py CONFIG --cfg train_resnet_quant_fp.cfg [--output DIR] [--resume]

CONFIG is a section of the .cfg file; DEFAULT is the float network that sections with INIT in their name start from.
"""

from common.console import cli
from common.machine.distributed import world
from mixed_precision_dnns import experiment, published_files
from mixed_precision_dnns.config import Config
from mixed_precision_dnns.experiment import finish_epoch, learning_rate, prepare, report
from mixed_precision_dnns.network import evaluate, train_step, within_budget

# A float network to start from is trained with these settings of the run that needs it.
PRETRAIN_KEYS = ("num_layers", "shortcut_type", "epochs", "batch_size", "steps_per_epoch", "seed", "dataset",
                 "data_dir", "held_out", "published")


def parse_args(argv):
    return experiment.parse_args(argv, __doc__, Config, "train_resnet_quant_fp.cfg")


def main(argv=None):
    experiment.start(parse_args(argv), Config, __package__, PRETRAIN_KEYS, train)


def train(cfg, folder, memory, resume, overwrite):
    """Run the experiment `cfg` in `folder` and print what it has learned; `memory` says where its arrays are kept."""
    run, data, networks, solver, tensors = prepare(cfg, folder, memory, resume, overwrite, "train_resnet.py")
    (train_data, valid_data, test_data), (train_net, valid_net) = data, networks
    for epoch in run.epochs(cfg.epochs):
        solver.set_learning_rate(learning_rate(cfg, epoch))
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
