"""Split music into stems with D3Net (arXiv 2010.01733).

    python d3net/separate.py song.mp3 [more files] [--out-dir stems]
    python d3net/separate.py --inputs song.mp3 --targets vocals --model d3net-mss
    python d3net/separate.py song.mp3 --model d3net-small    # seconds; vocals and drums, by weights of the package

Writes <out-dir>/<name of the song>/{vocals,drums,bass,other}.wav, of the length and sample rate of the song;
with --page also page.html, to listen to them in a browser.
"""
from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.console import cli
from common.machine.lazy_names import lazy_names
from common.separation import commands
from d3net.music.network import NETWORK

if TYPE_CHECKING:
    from d3net.music.separator import Separator

__all__ = ["Separator", "main"]
__getattr__ = lazy_names({"Separator": "d3net.music.separator"})


def main(argv: Sequence[str] | None = None) -> int:
    return commands.separate(NETWORK, __doc__, argv)


if __name__ == "__main__":
    cli.run(main)
