"""Score a separation model on MUSDB18 with museval (BSS eval v4), beside the published numbers.

    python x-umx/eval.py --root MUSDB18 [--is-wav] [--model xumx] [--out-dir DIR] [--cores N]

Writes <out-dir>/<subset>/<track>.json in museval's format, scores.json and scores.csv. A run that was interrupted goes
on where it was; tracks that were scored with the same model and settings are not scored again.
"""
import sys

try:
    from common import cli
except ModuleNotFoundError as missing:
    print(f"error: {missing}: run 'make demo' or, with Python 3.10, 'pip install -r requirements.txt' at the top",
          file=sys.stderr)
    sys.exit(2)

import hashlib
from pathlib import Path

from common.datasets.musdb18 import SPLITS, find_tracks
from common.errors import UsageError
from common.separation.evaluation import evaluate_tracks, import_museval
from common.separation.scores import aggregate, format_table, write_scores
from x_umx.separator import CHUNK_SECONDS, OVERLAP
from x_umx.separator_flags import add_model_flags, model_name, separator_of

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
    parser.add_argument("--root", required=True, metavar="DIR",
                        help="folder of MUSDB18, or of train/, valid/ and test/ with a folder of stems for each song; "
                             "'synthetic' generates music")
    parser.add_argument("--subset", choices=SPLITS, default="test", help="which songs (default: %(default)s)")
    parser.add_argument("--is-wav", action="store_true", help="read the WAV version of MUSDB18")
    parser.add_argument("--setup-file", metavar="FILE",
                        help="YAML file in the root that lists the validation songs (default: those of musdb)")
    parser.add_argument("--out-dir", "--output", "-o", metavar="DIR",
                        help="where the scores go (default: scores-MODEL)")
    parser.add_argument("--cores", type=cli.positive_int, default=1, metavar="N",
                        help="songs to score at once; each takes a core and, if of four minutes, some 6 GB (default: "
                             "%(default)s)")
    add_model_flags(parser)
    parser.add_argument("--chunk-dur", type=float, default=CHUNK_SECONDS, metavar="SECONDS",
                        help="length of the chunks that are separated one by one; 0: whole songs, as the published "
                             "code does, in much memory (default: %(default)s)")
    parser.add_argument("--overlap", type=float, default=OVERLAP, metavar="FRACTION",
                        help="of a chunk that it shares with the next, 0 to 0.5, cross-faded (default: %(default)s)")
    args = parser.parse_args(argv)
    if not (0 <= args.chunk_dur < float("inf") and 0 <= args.overlap <= 0.5):
        raise UsageError(f"--chunk-dur {args.chunk_dur}, --overlap {args.overlap}: seconds from 0, and a fraction from "
                         "0 to 0.5, are allowed")
    return args


def main(argv=None):
    args = parse_args(argv)
    import_museval()    # rather now than after the first song
    separator = make_separator(args)
    tracks = find_tracks(args.root, args.subset, args.is_wav, args.setup_file, sample_rate=separator.sample_rate)
    if not tracks:
        raise UsageError(f"--subset {args.subset}: no songs in {args.root}; --setup-file may list them")
    name = model_name(args)
    folder = Path(args.out_dir or f"scores-{Path(name).stem}")
    made_with = settings(separator, args)
    scores, failed = evaluate_tracks(tracks, separator, folder / args.subset, made_with, args.cores)
    write_scores(folder, {"model": name, "subset": args.subset, **made_with}, scores, failed)
    if scores:
        print_scores(scores, name, args.subset)
    print(f"wrote {folder / 'scores.json'} and {folder / 'scores.csv'}")
    return 1 if failed else 0


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
    print(f"\nmedian over frames and {len(scores)} {subset} songs; beside it, published SDR on the 50 test songs of "
          "MUSDB18")
    print(format_table(aggregate(scores), published), flush=True)


if __name__ == "__main__":
    cli.run(main)
