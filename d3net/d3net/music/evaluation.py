"""Score a separation model on MUSDB18 with museval (BSS eval v4), beside the published numbers.

Writes <out-dir>/<subset>/<track>.json in museval's format, scores.json and scores.csv. A run that was interrupted goes
on where it was; tracks that were scored with the same model and settings are not scored again.
"""
import hashlib
from pathlib import Path

import attrs

from common.separation.flags import add_scoring_flags, check_scoring_flags
from common.separation.scoring import print_medians, score_songs
from d3net.music.flags import add_model_flags, separator_of
from d3net.music.separator import OVERLAP

# Median SDR over frames and the 50 test songs of MUSDB18, in dB: arXiv 2010.01733, and the README of the published
# NNabla weights.
PUBLISHED_SDR = {"D3Net paper": {"vocals": 7.24, "drums": 7.01, "bass": 5.25, "other": 4.53},
                 "D3Net NNabla": {"vocals": 7.14, "drums": 6.85, "bass": 5.32, "other": 4.82}}


def add_arguments(parser):
    """Add the flags that `evaluate` takes."""
    add_scoring_flags(parser, add_model_flags, 0.0, OVERLAP, "whole songs, as the published code does")


def evaluate(args):
    """Score the separator that the flags name, as `common.separation.scoring.score_songs`; return the exit status."""
    check_scoring_flags(args)
    return score_songs(args, args.model, make_separator, settings,
                       lambda scores: print_medians(scores, args.subset, PUBLISHED_SDR))


def make_separator(args):
    """Make the separator that the flags ask for."""
    return separator_of(args, chunk_seconds=args.chunk_dur or None, overlap=args.overlap)


def settings(separator, args):
    """Return what determines the estimates, JSON-able."""
    networks = {target: {"sha256": hashlib.sha256(Path(file.path).read_bytes()).hexdigest(),
                         "hparams": attrs.asdict(file.hparams)} for target, file in separator.files.items()}
    return {"networks": networks, "stems": separator.stems, "flip": args.flip, "patch_overlap": args.patch_overlap,
            "wiener": args.wiener, "chunk_dur": args.chunk_dur, "overlap": args.overlap, "precision": args.precision}
