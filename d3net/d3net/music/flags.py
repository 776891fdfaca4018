"""The flags that say how to separate: the same in separate.py and in eval.py mss."""
import functools

from common.inference.flags import Computation, add_computing_flags
from d3net.music.separator import DEFAULT_MODEL, PATCH_OVERLAPS, Separator


def add_model_flags(parser):
    """Add the flags that `separator_of` takes."""
    parser.add_argument("--model", "--model-dir", "-m", default=DEFAULT_MODEL, metavar="MODEL",
                        help=f"{DEFAULT_MODEL} (fetched on the first use), a folder with TARGET.h5 for each target, as "
                             "train.py leaves it, or one such file (default: %(default)s)")
    parser.add_argument("--targets", nargs="+", metavar="NAME",
                        help="what to separate; less than all four comes with 'residual', the rest of the mixture "
                             "(default: all that MODEL can)")
    parser.add_argument("--no-flip", dest="flip", action="store_false",
                        help="do not average with the estimates for swapped sides: half the time, not as published")
    parser.add_argument("--patch-overlap", type=float, choices=PATCH_OVERLAPS, metavar="FRACTION",
                        help="of a patch, 256 to 384 frames, that it shares with the next, one of "
                             f"{', '.join(map(str, PATCH_OVERLAPS))}; 0 halves the time, not as published (default: "
                             "by the hyper-parameters, 0.5)")
    parser.add_argument("--no-wiener", dest="wiener", action="store_false",
                        help="leave the estimates as they are, with the phase of the mixture")
    add_computing_flags(parser)


def separator_of(args, **chunking):
    """Make the `Separator` that the flags ask for, with its `chunk_seconds` and `overlap`; print what it computes on.

    Raises a UsageError or UserError as `Separator` and `use_context` do.
    """
    return Computation.of_flags(args).start(args.model, functools.partial(
        Separator, args.model, args.targets, flip=args.flip, patch_overlap=args.patch_overlap, wiener=args.wiener,
        **chunking))
