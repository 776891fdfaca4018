"""Split music into stems with D3Net (arXiv 2010.01733).

    python d3net/separate.py song.mp3 [more files] [--out-dir stems]
    python d3net/separate.py --inputs song.mp3 --targets vocals --model d3net-mss

Writes <out-dir>/<name of the song>/{vocals,drums,bass,other}.wav, of the length and sample rate of the song.
"""
from common.console import cli
from common.separation.flags import add_stem_flags, check_stem_flags
from common.separation.stems import separate_files
from d3net.music.flags import add_model_flags, separator_of
from d3net.music.separator import OVERLAP, Separator

__all__ = ["Separator", "main"]


def main(argv=None):
    parser = cli.parser(__doc__)
    add_stem_flags(parser, None, OVERLAP)
    add_model_flags(parser)
    args = parser.parse_intermixed_args(argv)
    check_stem_flags(args)    # before weights are fetched
    return separate_files(separator_of(args), args)


if __name__ == "__main__":
    cli.run(main)
