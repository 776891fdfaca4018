"""Measure a trained network: error, size in kB and mean bits, as its training printed them.

    python eval.py RUN_DIR [--weights FILE] [--data-dir DIR]

RUN_DIR is what train_resnet.py wrote: its config.json says which network and data, params_best.h5 holds the weights.
"""
import sys

try:
    from common import cli
except ModuleNotFoundError as missing:
    print(f"error: {missing}: run 'make demo' or, with Python 3.10, 'pip install -r requirements.txt' at the top",
          file=sys.stderr)
    sys.exit(2)

import json
from pathlib import Path

import attrs

from common.checkpoint import load_parameters, parameter_shapes
from common.config import from_dict
from common.context import use_context
from common.errors import UsageError, UserError
from common.training import BEST
from mixed_precision_dnns import summary
from mixed_precision_dnns.config import Config
from mixed_precision_dnns.data import build_network, load_data


def parse_args(argv):
    parser = cli.parser(__doc__)
    parser.add_argument("run", metavar="RUN_DIR", help="output folder of train_resnet.py")
    parser.add_argument("--weights", metavar="FILE",
                        help=f"parameters or a checkpoint of this network (default: {BEST} in RUN_DIR)")
    parser.add_argument("--data-dir", metavar="DIR", help="folder with the data set (default: the one of the training)")
    cli.add_context_flags(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    folder = Path(args.run)
    cfg = read_config(folder)
    if args.data_dir:
        cfg = attrs.evolve(cfg, data_dir=args.data_dir)
    print(f"{folder}: computing on {use_context(args.context, args.device_id)}", flush=True)
    _, valid_data, test_data = load_data(cfg)
    shapes = parameter_shapes(lambda: build_network(cfg, valid_data, train=False))
    load_parameters(args.weights or folder / BEST, shapes)
    network = build_network(cfg, valid_data, train=False)
    result = summary.evaluate_run(network, cfg, valid_data, test_data)
    print(summary.format_table(summary.layer_table(cfg)))
    print(summary.format_result(result))


def read_config(folder):
    """Read the configuration that a run was made with.

    Raises
    ------
    UsageError
        `folder` holds no run.
    UserError
        Its config.json is damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UsageError(f"{folder}: no config.json there; name the output folder of train_resnet.py")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); run the experiment again") from error
    return from_dict(Config, values, path)


if __name__ == "__main__":
    cli.run(main)
