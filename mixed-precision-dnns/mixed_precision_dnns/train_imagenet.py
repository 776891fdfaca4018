"""Train ResNet-18 or MobileNetV2 on ImageNet with learned bit widths (arXiv 1905.11452, section 4.2).

    python train_imagenet.py CONFIG --data-dir FOLDER [--output DIR] [--resume]
    python train_imagenet.py RESNET18 --data-dir synthetic --image-size 32 --batch-size 8 --steps-per-epoch 4 \\
        --epochs 2 --limit 60 -o trial     # half a minute on a CPU

CONFIG is a section of the .cfg file. FOLDER holds train/<wnid>/*.JPEG and val/; 'synthetic' needs no files.
"""
from collections.abc import Sequence

from common.console import cli
from mixed_precision_dnns.command_line import train_from_command_line
from mixed_precision_dnns.config import ImageNetConfig
from mixed_precision_dnns.train_resnet import train


def main(argv: Sequence[str] | None = None) -> None:
    train_from_command_line(argv, __doc__, ImageNetConfig, train)    # the recipe is that for CIFAR-10


if __name__ == "__main__":
    cli.run(main)
