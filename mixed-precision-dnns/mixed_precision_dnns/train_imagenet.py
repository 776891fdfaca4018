"""Train ResNet-18 or MobileNetV2 on ImageNet with learned bit widths (arXiv 1905.11452, section 4.2).

    python train_imagenet.py CONFIG --data-dir FOLDER [--output DIR] [--resume]

CONFIG is a section of the .cfg file. FOLDER holds train/<wnid>/*.JPEG and val/; 'synthetic' needs no files.
"""

from common.console import cli
from common.machine.distributed import world
from mixed_precision_dnns import experiment
from mixed_precision_dnns.config import ImageNetConfig
from mixed_precision_dnns.experiment import finish_epoch, learning_rate, prepare, report
from mixed_precision_dnns.network import top_errors, train_step

# A float network to start from is trained with these settings of the run that needs it.
PRETRAIN_KEYS = ("image_size", "epochs", "batch_size", "steps_per_epoch", "seed", "held_out", "data_dir", "val_labels",
                 "per_class", "limit", "workers", "skip_damaged")


def parse_args(argv):
    return experiment.parse_args(argv, __doc__, ImageNetConfig, "train_imagenet.cfg")


def main(argv=None):
    experiment.start(parse_args(argv), ImageNetConfig, __package__, PRETRAIN_KEYS, train)


def train(cfg, folder, memory, resume, overwrite):
    """Run the experiment `cfg` in `folder` and print what it has learned; `memory` says where its arrays are kept."""
    run, data, networks, solver, tensors = prepare(cfg, folder, memory, resume, overwrite, "train_imagenet.py")
    (train_data, valid_data, test_data), (train_net, valid_net) = data, networks
    for epoch in run.epochs(cfg.epochs):
        solver.set_learning_rate(learning_rate(cfg, epoch))
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
