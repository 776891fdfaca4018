"""What `separate.py` and `eval.py` know of X-UMX and UMX: published models, flags and defaults."""
import argparse
import sys
from pathlib import Path
from typing import Any

from common.audio.headers import RATES
from common.console.values import flag_value, int_from_0, number_above_0, positive_int, to_integer, to_number
from common.separation.networks import MusicNetwork, PublishedModel, ShippedModel

BASE = "https://nnabla.org/pretrained-models"
# The first of them is the default. SDR of UMX: doi 10.21105/joss.01667, and for NNabla umx.md of
# github.com/sony/ai-research-code; of X-UMX: arXiv 2010.04228.
PUBLISHED = {
    "xumx": PublishedModel(
        url=f"{BASE}/ai-research-code/x-umx/x-umx.h5", megabytes=142,
        sdr={"X-UMX paper": {"vocals": 6.61, "drums": 6.47, "bass": 5.43, "other": 4.64}}),
    "umx": PublishedModel(
        url=f"{BASE}/open-unmix-nnabla/umx.zip", megabytes=142,
        sdr={"UMX paper": {"vocals": 6.32, "drums": 5.73, "bass": 5.23, "other": 4.02},
             "UMX NNabla": {"vocals": 6.41, "drums": 5.58, "bass": 5.30, "other": 4.24}}),
    "umxhq": PublishedModel(
        url=f"{BASE}/open-unmix-nnabla/umxhq.zip", megabytes=142,
        sdr={"UMXHQ paper": {"vocals": 6.25, "drums": 6.04, "bass": 5.07, "other": 4.28},
             "UMXHQ NNabla": {"vocals": 6.30, "drums": 5.78, "bass": 5.21, "other": 4.17}}),
}
DEFAULT, DEFAULT_UMX, *_ = PUBLISHED
SHIPPED = {"xumx-small": ShippedModel(folder=Path(__file__).parent / "shipped" / "xumx-small",
                                      sources=("bass", "drums", "vocals", "other"))}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `x_umx.separator.Separator`."""
    parser.add_argument("--model", metavar="MODEL",
                        help=f"{', '.join(PUBLISHED)} (fetched on the first use), {', '.join(SHIPPED)} (small, "
                             "always there), a weight file, or the output folder of train.py (default: "
                             f"{DEFAULT}, or {DEFAULT_UMX} with --umx-infer)")
    parser.add_argument("--umx-infer", action="store_true", help="take UMX, and refuse X-UMX")
    parser.add_argument("--targets", nargs="+", metavar="NAME", help="what to separate (default: all that MODEL can)")
    parser.add_argument("--niter", type=int_from_0, default=1, metavar="N",
                        help="iterations of the Wiener filter; 0: magnitudes with the phase of the mixture (default: "
                             "%(default)s)")
    parser.add_argument("--softmask", action="store_true",
                        help="start the filter from ratios of the estimates instead of the estimates")
    parser.add_argument("--alpha", type=number_above_0, default=1.0, metavar="X",
                        help="exponent of the estimates, with --softmask (default: %(default)s)")
    parser.add_argument("--wiener-eps", type=_wiener_eps, default=sys.float_info.epsilon, metavar="X",
                        help="what the filter adds to divisors, from 2e-16; that of openunmix is 1e-10 (default: "
                             "%(default)s, as norbert)")
    parser.add_argument("--wiener-window", type=positive_int, metavar="N",
                        help="frames that are filtered at a time; with openunmix 300 (default: those of a chunk)")
    parser.add_argument("--sample-rate", type=_sample_rate, metavar="HZ",
                        help="at which the network works, in place of the rate that it was trained at (default: as "
                             "config.json beside the weights says, otherwise 44100)")
    parser.add_argument("--residual-model", "--residual", dest="residual", action="store_true",
                        help="model what the sources leave of the mixture as one more, 'residual'")


_sample_rate = flag_value(f"a rate from {RATES[0]} to {RATES[-1]} Hz", to_integer, RATES.__contains__)
_wiener_eps = flag_value("a number from 2e-16 to 1", to_number, lambda value: 2e-16 <= value <= 1)


def options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `x_umx.separator.Separator` that the flags stand for."""
    return {"model": args.model or (DEFAULT_UMX if args.umx_infer else DEFAULT), "umx_only": args.umx_infer,
            **{name: vars(args)[name] for name in (
                "targets", "niter", "softmask", "alpha", "residual", "wiener_eps", "wiener_window", "sample_rate")}}


NETWORK = MusicNetwork(
    published=PUBLISHED, shipped=SHIPPED, stand_ins={DEFAULT: "xumx-small"}, separator="x_umx.separator",
    chunk_seconds=16.0, overlap=0.1,
    whole_songs="whole songs, as the published code does, in much memory", add_flags=add_flags, options=options)
