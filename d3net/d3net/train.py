"""Train D3Net: a network that separates a source of music, or one that segments street scenes.

    python d3net/train.py mss [vocals] --root MUSDB18 [--output DIR] [--resume]
    python d3net/train.py segmentation [D3Net_L] --data-dir CITYSCAPES
    python d3net/train.py mss SYNTHETIC            # minutes, on generated music
    python d3net/train.py segmentation SYNTHETIC --max-iter 25 --epoch-length 25   # half a minute, on generated scenes

The second argument is a section of the task's .cfg file. What each task takes: train.py mss --help.
"""
import argparse
from collections.abc import Sequence

from common.console import cli
from d3net.music import training as train_mss
from d3net.scenes import training as train_segmentation
from d3net.tasks import parse_task

TASKS = {"mss": train_mss, "segmentation": train_segmentation}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return parse_task(__doc__, TASKS, argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    TASKS[args.task].start(args)


if __name__ == "__main__":
    cli.run(main)
