"""The flags that say how to segment: the same in segment.py and in eval.py segmentation."""
from common import cli
from common.context import use_context
from common.engines import add_engine_flags
from d3net.segmenter import Segmenter
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
    add_engine_flags(parser)
    cli.add_context_flags(parser)


def model_name(args):
    """Return what `--model` names, or the default.

    Returns
    -------
    str
    """
    of_config = str(args.config).replace("_", "-")
    return args.model or (of_config if of_config in PUBLISHED_SEGMENTATION else DEFAULT)


def segmenter_of(args):
    """Make the segmenter that the flags ask for, and print what it computes on.

    Returns
    -------
    Segmenter

    Raises
    ------
    UsageError, UserError
        As `Segmenter` and `use_context`.
    """
    context = use_context(args.context, args.device_id)
    segmenter = Segmenter(model_name(args), args.config, engine=args.engine, precision=args.precision)
    print(f"{model_name(args)}: computing on {context}", flush=True)
    return segmenter
