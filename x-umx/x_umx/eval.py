"""Score a separation model on MUSDB18 with museval (BSS eval v4), beside the published numbers.

    python x-umx/eval.py --root MUSDB18 [--is-wav] [--model xumx] [--out-dir DIR] [--cores N]

Writes <out-dir>/<subset>/<track>.json in museval's format, scores.json and scores.csv. A run that was interrupted goes
on where it was; tracks that were scored with the same model and settings are not scored again.
"""
import hashlib

from common.console import cli
from common.separation.flags import add_scoring_flags, check_scoring_flags
from common.separation.scoring import print_medians, score_songs
from x_umx.flags import add_model_flags, model_name, separator_of
from x_umx.separator import CHUNK_SECONDS, OVERLAP

# Median SDR over frames and the 50 test songs of MUSDB18, in dB. UMX: doi 10.21105/joss.01667, and for NNabla umx.md of
# github.com/sony/ai-research-code; X-UMX: arXiv 2010.04228.
PUBLISHED_SDR = {
    "umx": {"UMX paper": {"vocals": 6.32, "drums": 5.73, "bass": 5.23, "other": 4.02},
            "UMX NNabla": {"vocals": 6.41, "drums": 5.58, "bass": 5.30, "other": 4.24}},
    "umxhq": {"UMXHQ paper": {"vocals": 6.25, "drums": 6.04, "bass": 5.07, "other": 4.28},
              "UMXHQ NNabla": {"vocals": 6.30, "drums": 5.78, "bass": 5.21, "other": 4.17}},
    "xumx": {"X-UMX paper": {"vocals": 6.61, "drums": 6.47, "bass": 5.43, "other": 4.64}},
}


def parse_args(argv):
    parser = cli.parser(__doc__)
    add_scoring_flags(parser, add_model_flags, CHUNK_SECONDS, OVERLAP,
                      "whole songs, as the published code does, in much memory")
    args = parser.parse_args(argv)
    check_scoring_flags(args)
    return args


def main(argv=None):
    args = parse_args(argv)
    name = model_name(args)
    return score_songs(args, name, make_separator, settings, lambda scores: print_scores(scores, name, args.subset))


def make_separator(args):
    """Make the separator that the flags ask for."""
    return separator_of(args, chunk_seconds=args.chunk_dur or None, overlap=args.overlap)


def settings(separator, args):
    """Return what determines the estimates, JSON-able."""
    weights = [hashlib.sha256(file.path.read_bytes()).hexdigest() for file in separator.files]
    return {"weights": weights, "stems": separator.stems, "niter": args.niter, "softmask": args.softmask,
            "alpha": args.alpha, "residual": args.residual, "chunk_dur": args.chunk_dur, "overlap": args.overlap,
            "precision": args.precision}


def print_scores(scores, name, subset):
    """Print the table of medians, beside the published ones of the model, or of all if it is one of the user's own."""
    rows = [PUBLISHED_SDR[name]] if name in PUBLISHED_SDR else PUBLISHED_SDR.values()
    published = {label: column for columns in rows for label, column in columns.items()}
    print_medians(scores, subset, published)


if __name__ == "__main__":
    cli.run(main)
