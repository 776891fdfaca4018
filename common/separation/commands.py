"""What `separate.py` and `eval.py` do with the music network of each paper."""
import argparse
from collections.abc import Sequence
from pathlib import Path

from common.console import cli
from common.machine.errors import UsageError
from common.machine.output_folders import claimed
from common.separation.flags import add_scoring_flags, add_stem_flags, stem_request
from common.separation.networks import MusicNetwork


def separate(network: MusicNetwork, doc: str | None, argv: Sequence[str] | None = None) -> int:
    """Separate the files that the command line names.

    Parameters
    ----------
    network
    doc
        Docstring of the command.
    argv
        Arguments; those of the process if not given.

    Returns
    -------
    int
        Exit status, as of `common.separation.stems.separate_files`.

    Raises
    ------
    UsageError, UserError
        As `stem_request`, `MusicNetwork.separator_of_flags`, `separate_files` and `claimed`.
    """
    parser = cli.parser(doc, needs_arguments=True)
    add_stem_flags(parser, network.chunk_seconds, network.overlap)
    network.add_separator_flags(parser)
    args = parser.parse_intermixed_args(argv)
    if args.list_models:
        print(network.models_table())
        return 0
    request = stem_request(args)    # before weights are fetched
    from common.separation.stems import separate_files

    args.model = network.model_at_hand(args)
    with claimed(request.out_dir):
        return separate_files(network.separator_of_flags(args), request)


def add_eval_flags(parser: argparse.ArgumentParser, network: MusicNetwork) -> None:
    """Add the flags of `score_songs`."""
    add_scoring_flags(parser, network.chunk_seconds or 0.0, network.overlap, network.whole_songs)
    network.add_separator_flags(parser)


def score_songs(network: MusicNetwork, args: argparse.Namespace) -> int:
    """Separate and score the songs that the flags name, print the table, and write the scores.

    Returns
    -------
    int
        Exit status: 1 if a song could not be scored.

    Raises
    ------
    UsageError, UserError
        As `find_tracks`, `MusicNetwork.separator_of_flags`, `evaluate_tracks` and `claimed`; there are no songs.
    """
    from common.separation.bss_eval import import_museval

    import_museval()    # rather now than after the first song
    model = network.options(args)["model"]
    with claimed(args.out_dir or f"scores-{Path(model).stem}") as folder:
        return _score_model(network, model, args, folder)


def _score_model(network: MusicNetwork, model: str, args: argparse.Namespace, folder: Path) -> int:
    from common.datasets.musdb18 import find_tracks
    from common.separation.bss_eval import evaluate_tracks
    from common.separation.score_tables import print_medians, write_scores

    separator = network.separator_of_flags(args)
    tracks = find_tracks(args.root, args.subset, args.is_wav, args.setup_file, sample_rate=separator.sample_rate)
    if not tracks:
        raise UsageError(f"--subset {args.subset}: no songs in {args.root}; --setup-file may list them")
    made_with = separator.settings()
    scores, failed = evaluate_tracks(tracks, separator, folder / args.subset, made_with, args.cores)
    write_scores(folder, {"model": model, "subset": args.subset, **made_with}, scores, failed)
    if scores:
        print_medians(scores, args.subset, network.published_sdr(model))
    print(f"wrote {folder / 'scores.json'} and {folder / 'scores.csv'}")
    return 1 if failed else 0
