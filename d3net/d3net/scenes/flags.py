"""The flags that say how to segment: the same in segment.py and in eval.py segmentation."""
import functools

from common.inference.flags import Computation, add_computing_flags
from d3net.scenes.segmenter import Segmenter
from d3net.weights import PUBLISHED_SEGMENTATION

DEFAULT = "D3Net-L"


def add_model_flags(parser):
    """Add the flags that `segmenter_of` takes."""
    parser.add_argument("--model", "-m", metavar="MODEL",
                        help=f"{', '.join(PUBLISHED_SEGMENTATION)} (fetched on the first use), a weight file, or the "
                             "output folder of train.py (default: the published one of --config, otherwise "
                             f"{DEFAULT})")
    parser.add_argument("--config", "--config-file", "-cfg", metavar="CONFIG",
                        help="hyper-parameters of the network: D3Net_L, D3Net_S or a YAML file (default: those that "
                             "belong to the model)")
    add_computing_flags(parser)


def model_name(args):
    """Return what `--model` names, a str, or the default."""
    of_config = str(args.config).replace("_", "-")
    return args.model or (of_config if of_config in PUBLISHED_SEGMENTATION else DEFAULT)


def segmenter_of(args):
    """Make the `Segmenter` that the flags ask for, and print what it computes on.

    Raises a UsageError or UserError as `Segmenter` and `use_context` do.
    """
    name = model_name(args)
    return Computation.of_flags(args).start(name, functools.partial(Segmenter, name, args.config))
