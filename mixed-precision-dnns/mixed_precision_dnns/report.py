"""List what every layer of a network costs: bits, kB, multiply-accumulates and bit operations for one image.

    python report.py RUN_DIR                    a network that train_resnet.py or train_imagenet.py has trained
    python report.py --published resnet18       # three seconds: with the bit widths of the paper's figure 5
"""
import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nnabla as nn

from common.console import cli
from common.machine.context import use_context
from common.machine.errors import UsageError
from common.machine.files import write_csv
from common.quantizers import UNIFORM, range_quantizer
from common.reading.texts import read_json
from common.runs.training import BEST
from mixed_precision_dnns.config import ImageNetConfig
from mixed_precision_dnns.finished_run import load_finished_run
from mixed_precision_dnns.imagenet_models import MODELS
from mixed_precision_dnns.layer_costs import COLUMNS, cost_table, format_costs, totals, trace_layers
from mixed_precision_dnns.network_size import activation_kbytes, quantized_tensors, weight_kbytes
from mixed_precision_dnns.quantized_network import build_network

PUBLISHED_BITWIDTHS = Path(__file__).resolve().parent / "published_bitwidths.json"
PUBLISHED_ACTIVATION_BITS = 4    # the budget of the largest tensor; bits of single tensors are not published
IMAGENET = (3, 224, 224), 1000    # shape of the images, classes


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__, needs_arguments=True)
    parser.add_argument("run", nargs="?", metavar="RUN_DIR", help="output folder of a training")
    parser.add_argument("--weights", metavar="FILE", help=f"other parameters of that network (default: {BEST} in it)")
    parser.add_argument("--published", choices=tuple(MODELS), help="instead of a run, a network of the paper; its "
                        f"activations count as {PUBLISHED_ACTIVATION_BITS} bits")
    parser.add_argument("--output", "-o", metavar="FILE", help="also write the table as CSV")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if (args.run is None) == (args.published is None):
        raise UsageError("name either a RUN_DIR or a network by --published")
    if args.published and args.weights:
        raise UsageError("--weights is for a RUN_DIR; leave it out beside --published")
    use_context("cpu")
    nn.clear_parameters()
    rows = published_costs(args.published) if args.published else costs_of_run(args.run, args.weights)
    print(format_costs(rows))
    print(f"weights {totals(rows)['kbytes']:.2f} kB = {totals(rows)['kbytes'] / 1024:.2f} MB")
    if args.published:
        print("in float32: weights {:.2f} MB, largest activations {:.2f} MB".format(*float_megabytes(args.published)))
    if args.output:
        write_csv(args.output, COLUMNS, [row.values() for row in rows])


def costs_of_run(folder: str, weights: str | None = None) -> list[dict[str, Any]]:
    """`cost_table` of a trained network."""
    run = load_finished_run(folder, weights)
    run.build(1)
    return cost_table(run.cfg, trace_layers(run.cfg, run.image_shape, run.num_classes))


def published_costs(name: str) -> list[dict[str, Any]]:
    """`cost_table` of a network whose weights have the bits of the paper's figure."""
    cfg = ImageNetConfig(model=name, w_quantize=range_quantizer(UNIFORM), w_bitwidth_max=16)
    build_network(cfg, 1, False, *IMAGENET)
    bits = [layer["bits"] for layer in read_json(PUBLISHED_BITWIDTHS)[name]]
    tensors = [tensor for tensor in quantized_tensors(cfg) if tensor.is_stored]
    for tensor, width in zip(tensors, [*bits, bits[-1]], strict=True):    # the bias of the last layer has its bits
        d, xmax = tensor.scalars.values()
        xmax.d = d.d * (2 ** (width - 1) - 1)
    return cost_table(cfg, trace_layers(cfg, *IMAGENET), PUBLISHED_ACTIVATION_BITS)


def float_megabytes(name: str) -> tuple[float, float]:
    """Return the MB of the weights, and of the largest activations, of a network of the paper in float32."""
    cfg = ImageNetConfig(model=name)
    nn.clear_parameters()
    build_network(cfg, 1, False, *IMAGENET)
    sizes = weight_kbytes(cfg), activation_kbytes(cfg, "max")
    nn.forward_all(sizes)
    weights, activations = (float(size.d) / 1024 for size in sizes)
    return weights, activations


if __name__ == "__main__":
    cli.run(main)
