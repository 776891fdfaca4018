"""Score a separation model on MUSDB18 with museval (BSS eval v4), beside the published numbers.

    python d3net/eval.py mss --root synthetic --model d3net-small    # half a minute, on generated songs

Writes <out-dir>/<subset>/<track>.json in museval's format, scores.json and scores.csv. A run that was interrupted goes
on where it was; tracks that were scored with the same model and settings are not scored again.
"""
import argparse

from common.separation.commands import add_eval_flags, score_songs
from d3net.music.network import NETWORK


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `evaluate` takes."""
    add_eval_flags(parser, NETWORK)


def evaluate(args: argparse.Namespace) -> int:
    """Score the separator that the flags name, as `common.separation.commands.score_songs`; return the exit status."""
    return score_songs(NETWORK, args)
