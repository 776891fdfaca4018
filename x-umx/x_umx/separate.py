"""Split music into stems with X-UMX or UMX (arXiv 2010.04228).

    python x-umx/separate.py song.mp3 [more files] [--out-dir stems]
    python x-umx/separate.py song.mp3 --two-stems vocals --model umxhq

Writes <out-dir>/<name of the song>/{bass,drums,vocals,other}.wav, of the length and sample rate of the song.
"""
from common.console import cli
from common.separation.flags import add_stem_flags, check_stem_flags
from common.separation.stems import separate_files
from x_umx.flags import add_model_flags, separator_of
from x_umx.separator import CHUNK_SECONDS, OVERLAP, Separator

__all__ = ["Separator", "main"]


def main(argv=None):
    parser = cli.parser(__doc__)
    add_stem_flags(parser, CHUNK_SECONDS, OVERLAP)
    add_model_flags(parser)
    args = parser.parse_intermixed_args(argv)
    check_stem_flags(args)    # before weights are fetched
    separator = separator_of(args)
    return separate_files(separator, args, separator.batch_size)


if __name__ == "__main__":
    cli.run(main)
