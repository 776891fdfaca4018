"""The flags that say how to separate: the same in separate.py and eval.py."""
from common.inference.flags import Computation, add_computing_flags
from common.machine.errors import UsageError
from x_umx.separator import Separator
from x_umx.weights import PUBLISHED


def add_model_flags(parser):
    """Add the flags that `separator_of` takes."""
    parser.add_argument("--model", metavar="MODEL",
                        help=f"{', '.join(PUBLISHED)} (fetched on the first use), a weight file, or the output folder "
                             "of train.py (default: xumx, or umx with --umx-infer)")
    parser.add_argument("--umx-infer", action="store_true", help="take UMX, and refuse X-UMX")
    parser.add_argument("--targets", nargs="+", metavar="NAME", help="what to separate (default: all that MODEL can)")
    parser.add_argument("--niter", type=int, default=1, metavar="N",
                        help="iterations of the Wiener filter; 0: magnitudes with the phase of the mixture (default: "
                             "%(default)s)")
    parser.add_argument("--softmask", action="store_true",
                        help="start the filter from ratios of the estimates instead of the estimates")
    parser.add_argument("--alpha", type=float, default=1.0, metavar="X",
                        help="exponent of the estimates, with --softmask (default: %(default)s)")
    parser.add_argument("--residual-model", "--residual", dest="residual", action="store_true",
                        help="model what the sources leave of the mixture as one more, 'residual'")
    add_computing_flags(parser)


def model_name(args):
    """Return what `--model` names, a str, or the default."""
    return args.model or ("umx" if args.umx_infer else "xumx")


def separator_of(args, **chunking):
    """Make the `Separator` that the flags ask for, with its `chunk_seconds` and `overlap`; print what it computes on.

    Raises a UsageError or UserError as `Separator` and `use_context` do, and if `--umx-infer` meets weights of X-UMX.
    """
    name = model_name(args)

    def make(**computing):
        separator = Separator(name, args.targets, niter=args.niter, softmask=args.softmask, alpha=args.alpha,
                              residual=args.residual, **computing, **chunking)
        if args.umx_infer and len(separator.files[0].sources) > 1:
            raise UsageError(f"--umx-infer: {name} is X-UMX; leave the flag out, or name weights of UMX")
        return separator

    return Computation.of_flags(args).start(name, make)
