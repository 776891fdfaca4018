"""What the `eval.py` of every paper does: a data set of songs separated and scored, beside the published numbers."""
from pathlib import Path

from common.datasets.musdb18 import find_tracks
from common.machine.errors import UsageError
from common.separation.evaluation import evaluate_tracks, import_museval
from common.separation.scores import aggregate, format_table, write_scores


def score_songs(args, model, make_separator, settings, print_scores):
    """Separate and score the songs that the flags name, print the table, and write the scores.

    Parameters
    ----------
    args : argparse.Namespace
        Of the flags of `common.separation.flags.add_scoring_flags`.
    model : str
        Its name, for the folder and the file of scores.
    make_separator : callable
        Makes of `args` what `evaluate_tracks` takes, with a `sample_rate`.
    settings : callable
        Makes of the separator and `args` the JSON-able dict of what determines the estimates.
    print_scores : callable
        Is given the scores, of `evaluate_tracks`, of those songs that have some.

    Returns
    -------
    int
        Exit status: 1 if a song could not be scored.

    Raises
    ------
    UsageError, UserError
        As `find_tracks`, `make_separator` and `evaluate_tracks`; there are no songs.
    """
    import_museval()    # rather now than after the first song
    separator = make_separator(args)
    tracks = find_tracks(args.root, args.subset, args.is_wav, args.setup_file, sample_rate=separator.sample_rate)
    if not tracks:
        raise UsageError(f"--subset {args.subset}: no songs in {args.root}; --setup-file may list them")
    folder = Path(args.out_dir or f"scores-{Path(model).stem}")
    made_with = settings(separator, args)
    scores, failed = evaluate_tracks(tracks, separator, folder / args.subset, made_with, args.cores)
    write_scores(folder, {"model": model, "subset": args.subset, **made_with}, scores, failed)
    if scores:
        print_scores(scores)
    print(f"wrote {folder / 'scores.json'} and {folder / 'scores.csv'}")
    return 1 if failed else 0


def print_medians(scores, subset, published):
    """Print the table of medians over frames and songs, beside published numbers.

    Parameters
    ----------
    scores : dict
        Of `evaluate_tracks`.
    subset : str
    published : dict of str to dict of str to float
        Label -> target -> dB.
    """
    print(f"\nmedian over frames and {len(scores)} {subset} songs; beside it, published SDR on the 50 test songs of "
          "MUSDB18")
    print(format_table(aggregate(scores), published), flush=True)
