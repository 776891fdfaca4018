"""Score a separation model on MUSDB18 with museval (BSS eval v4), beside the published numbers.

Writes <out-dir>/<subset>/<track>.json in museval's format, scores.json and scores.csv. A run that was interrupted goes
on where it was; tracks that were scored with the same model and settings are not scored again.
"""
import hashlib
from pathlib import Path

import attrs

from common import cli
from common.datasets.musdb18 import SPLITS, find_tracks
from common.errors import UsageError
from common.separation.evaluation import evaluate_tracks, import_museval
from common.separation.scores import aggregate, format_table, write_scores
from d3net.separator import OVERLAP
from d3net.separator_flags import add_model_flags, separator_of

# Median SDR over frames and the 50 test songs of MUSDB18, in dB: arXiv 2010.01733, and the README of the published
# NNabla weights.
PUBLISHED_SDR = {"D3Net paper": {"vocals": 7.24, "drums": 7.01, "bass": 5.25, "other": 4.53},
                 "D3Net NNabla": {"vocals": 7.14, "drums": 6.85, "bass": 5.32, "other": 4.82}}


def add_arguments(parser):
    """Add the flags that `evaluate` takes."""
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
    parser.add_argument("--chunk-dur", type=float, default=0.0, metavar="SECONDS",
                        help="length of the chunks that are separated one by one; 0: whole songs, as the published "
                             "code does (default: %(default)s)")
    parser.add_argument("--overlap", type=float, default=OVERLAP, metavar="FRACTION",
                        help="of a chunk that it shares with the next, 0 to 0.5, cross-faded (default: %(default)s)")


def evaluate(args):
    """Separate and score the songs that the flags name, print the table, and write the scores.

    Parameters
    ----------
    args : argparse.Namespace
        Of the flags of `add_arguments`.

    Returns
    -------
    int
        Exit status: 1 if a song could not be scored.

    Raises
    ------
    UsageError, UserError
        As `find_tracks`, `separator_of` and `evaluate_tracks`; there are no songs; a flag has a value that is not
        allowed.
    """
    if not (0 <= args.chunk_dur < float("inf") and 0 <= args.overlap <= 0.5):
        raise UsageError(f"--chunk-dur {args.chunk_dur}, --overlap {args.overlap}: seconds from 0, and a fraction from "
                         "0 to 0.5, are allowed")
    import_museval()    # rather now than after the first song
    separator = make_separator(args)
    tracks = find_tracks(args.root, args.subset, args.is_wav, args.setup_file, sample_rate=separator.sample_rate)
    if not tracks:
        raise UsageError(f"--subset {args.subset}: no songs in {args.root}; --setup-file may list them")
    folder = Path(args.out_dir or f"scores-{Path(args.model).stem}")
    made_with = settings(separator, args)
    scores, failed = evaluate_tracks(tracks, separator, folder / args.subset, made_with, args.cores)
    write_scores(folder, {"model": args.model, "subset": args.subset, **made_with}, scores, failed)
    if scores:
        print(f"\nmedian over frames and {len(scores)} {args.subset} songs; beside it, published SDR on the 50 test "
              "songs of MUSDB18")
        print(format_table(aggregate(scores), PUBLISHED_SDR), flush=True)
    print(f"wrote {folder / 'scores.json'} and {folder / 'scores.csv'}")
    return 1 if failed else 0


def make_separator(args):
    """Make the separator that the flags ask for."""
    return separator_of(args, chunk_seconds=args.chunk_dur or None, overlap=args.overlap)


def settings(separator, args):
    """Return what determines the estimates, JSON-able."""
    networks = {target: {"sha256": hashlib.sha256(Path(file.path).read_bytes()).hexdigest(),
                         "hparams": attrs.asdict(file.hparams)} for target, file in separator.files.items()}
    return {"networks": networks, "stems": separator.stems, "flip": args.flip, "patch_overlap": args.patch_overlap,
            "wiener": args.wiener, "chunk_dur": args.chunk_dur, "overlap": args.overlap, "precision": args.precision}
