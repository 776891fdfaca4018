"""Score D3Net with the metrics of the field, beside the published numbers.

    python d3net/eval.py mss --root MUSDB18 [--is-wav] [--model d3net-mss] [--out-dir DIR] [--cores N]
    python d3net/eval.py segmentation --data-dir CITYSCAPES [--model D3Net-L] [--output DIR]
    python d3net/eval.py segmentation --data-dir synthetic --model RUN    # seconds; RUN is of the section SYNTHETIC

More flags: python d3net/eval.py mss --help
"""
import argparse
from collections.abc import Sequence

from common.console import cli
from d3net.music import evaluation as eval_mss
from d3net.scenes import evaluation as eval_segmentation
from d3net.tasks import parse_task

TASKS = {"mss": eval_mss, "segmentation": eval_segmentation}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return parse_task(__doc__, TASKS, argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return TASKS[args.task].evaluate(args)


if __name__ == "__main__":
    cli.run(main)
