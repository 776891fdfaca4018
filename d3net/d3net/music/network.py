"""What `separate.py` and `eval.py mss` know of D3Net: the published model, flags and defaults."""
import argparse
from pathlib import Path
from typing import Any

from common.separation.networks import MusicNetwork, PublishedModel, ShippedModel

PATCH_OVERLAPS = (0.0, 0.5, 0.75)
# SDR: arXiv 2010.01733, and the README of the published NNabla weights.
PUBLISHED = {
    "d3net-mss": PublishedModel(
        url="https://nnabla.org/pretrained-models/ai-research-code/d3net/mss/d3net-mss.zip",
        megabytes=45,
        sdr={"D3Net paper": {"vocals": 7.24, "drums": 7.01, "bass": 5.25, "other": 4.53},
             "D3Net NNabla": {"vocals": 7.14, "drums": 6.85, "bass": 5.32, "other": 4.82}}),
}
DEFAULT, *_ = PUBLISHED
SHIPPED = {"d3net-small": ShippedModel(folder=Path(__file__).parents[1] / "shipped" / "d3net-small",
                                       sources=("vocals", "drums"))}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `d3net.music.separator.Separator`."""
    parser.add_argument("--model", "--model-dir", "-m", metavar="MODEL",
                        help=f"{DEFAULT} (fetched on the first use), {', '.join(SHIPPED)} (small, always there), a "
                             "folder with TARGET.h5 for each target, as train.py leaves it, or one such file (default: "
                             f"{DEFAULT})")
    parser.add_argument("--targets", nargs="+", metavar="NAME",
                        help="what to separate; fewer than all four come with 'residual', the rest of the mixture "
                             "(default: all that MODEL can)")
    parser.add_argument("--no-flip", dest="flip", action="store_false",
                        help="do not average with the estimates for swapped sides: half the time, not as published")
    parser.add_argument("--patch-overlap", type=float, choices=PATCH_OVERLAPS, metavar="FRACTION",
                        help="of a patch, 256 to 384 frames, that it shares with the next, one of "
                             f"{', '.join(map(str, PATCH_OVERLAPS))}; 0 halves the time, not as published (default: "
                             "by the hyper-parameters, 0.5)")
    parser.add_argument("--no-wiener", dest="wiener", action="store_false",
                        help="leave the estimates as they are, with the phase of the mixture")


def options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `d3net.music.separator.Separator` that the flags stand for."""
    return {"model": args.model or DEFAULT,
            **{name: vars(args)[name] for name in ("targets", "flip", "patch_overlap", "wiener")}}


NETWORK = MusicNetwork(
    published=PUBLISHED, shipped=SHIPPED, stand_ins={DEFAULT: "d3net-small"},
    separator="d3net.music.separator", chunk_seconds=None, overlap=0.03,
    whole_songs="whole songs, as the published code does", add_flags=add_flags, options=options)
