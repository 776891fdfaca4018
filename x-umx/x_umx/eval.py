"""Score a separation model on MUSDB18 with museval (BSS eval v4), beside the published numbers.

    python x-umx/eval.py --root MUSDB18 [--is-wav] [--model xumx] [--out-dir DIR] [--cores N]
    python x-umx/eval.py --root synthetic --model xumx-small    # half a minute, on generated songs

Writes <out-dir>/<subset>/<track>.json in museval's format, scores.json and scores.csv. A run that was interrupted goes
on where it was; tracks that were scored with the same model and settings are not scored again.
"""
import argparse
from collections.abc import Sequence

from common.console import cli
from common.separation.commands import add_eval_flags, score_songs
from x_umx.separation import NETWORK


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    add_eval_flags(parser, NETWORK)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    return score_songs(NETWORK, parse_args(argv))


if __name__ == "__main__":
    cli.run(main)
