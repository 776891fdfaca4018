"""Split music into stems with X-UMX or UMX (arXiv 2010.04228).

    python x-umx/separate.py song.mp3 [more files] [--out-dir stems]
    python x-umx/separate.py song.mp3 --two-stems vocals --model umxhq
    python x-umx/separate.py song.mp3 --model xumx-small    # seconds, by weights of the package

Writes <out-dir>/<name of the song>/{bass,drums,vocals,other}.wav, of the length and sample rate of the song;
with --page also page.html, to listen to them in a browser.
"""
from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.console import cli
from common.machine.lazy_names import lazy_names
from common.separation import commands
from x_umx.separation import NETWORK

if TYPE_CHECKING:
    from x_umx.separator import Separator

__all__ = ["Separator", "main"]
__getattr__ = lazy_names({"Separator": "x_umx.separator"})


def main(argv: Sequence[str] | None = None) -> int:
    return commands.separate(NETWORK, __doc__, argv)


if __name__ == "__main__":
    cli.run(main)
