"""Draw the pictures of the READMEs that show how something works; those of results have commands of their own.

    python tools/pictures.py [NAME ...] [--output DIR]    # seconds

Without --output they go where the READMEs show them, and replace what is there.
"""
import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import drawings

from common.console import cli
from common.machine.files import make_folder
from common.pictures.figures import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOP = Path(__file__).resolve().parents[1]
# Name -> where the picture belongs, and the function that draws it.
DRAWINGS: "dict[str, tuple[str, Callable[[], Figure]]]" = {
    "architectures": ("x-umx/figures/architectures.png", drawings.architectures),
    "cleansing": ("data-cleansing/figures/overview.png", drawings.cleansing),
    "multidilated": ("d3net/figures/multidilated.png", drawings.multidilated),
}


def drawing_named(name: str) -> str:
    """Return the name of a drawing."""
    if name not in DRAWINGS:
        raise argparse.ArgumentTypeError(f"no such picture: {name}; there are {', '.join(DRAWINGS)}")
    return name


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("names", nargs="*", type=drawing_named, metavar="NAME",
                        help=f"some of {', '.join(DRAWINGS)} (default: all)")
    parser.add_argument("--output", "-o", type=Path, metavar="DIR",
                        help="where they go (default: into the READMEs' folders)")
    args = parser.parse_args(argv)
    for name in args.names or DRAWINGS:
        place, draw = DRAWINGS[name]
        path = args.output / Path(place).name if args.output else TOP / place
        make_folder(path.parent)
        save_figure(path, draw())
        print(path)
    return 0


if __name__ == "__main__":
    cli.run(main)
