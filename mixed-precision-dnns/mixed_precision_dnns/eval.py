"""Measure a trained network: error, size in kB and mean bits, as its training printed them.

    python eval.py RUN_DIR [--weights FILE] [--data-dir DIR] [--engine onnxruntime | openvino]
    python eval.py runs/demo    # ten seconds, after demo.py

RUN_DIR is what train_resnet.py or train_imagenet.py wrote: its config.json says which network and data, params_best.h5
holds the weights. With an engine other than nnabla, the model that export.py has written there is measured instead.
"""
import argparse
from collections.abc import Sequence
from pathlib import Path

import attrs

from common.console import cli
from common.inference.engines import check_engine, is_installed
from common.inference.flags import add_computing_flags
from common.machine.context import on_gpu, use_context
from common.machine.errors import UserError
from common.runs.checkpoint import load_parameters, parameter_shapes
from common.runs.training import BEST
from mixed_precision_dnns.config import Experiment
from mixed_precision_dnns.data import build_network_for, load_data, require_classes, shape_of_images
from mixed_precision_dnns.deployment.onnx_network import OnnxNetwork
from mixed_precision_dnns.evaluation import evaluate_run, format_result, top_errors
from mixed_precision_dnns.finished_run import find_parameters, read_config
from mixed_precision_dnns.tensor_table import format_table, tensor_table

EXPORTED = Path("export") / "network.onnx"


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument("run", metavar="RUN_DIR", help="output folder of train_resnet.py or train_imagenet.py")
    parser.add_argument("--weights", metavar="FILE",
                        help=f"parameters or a checkpoint of this network for nnabla (default: {BEST} in RUN_DIR), or "
                             f"an exported model for another engine (default: {EXPORTED} in it)")
    parser.add_argument("--data-dir", metavar="DIR", help="folder with the data set (default: the one of the training)")
    add_computing_flags(parser, engine="nnabla")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    folder = Path(args.run)
    cfg = read_config(folder)
    if args.data_dir:
        cfg = attrs.evolve(cfg, data_dir=args.data_dir)
    engine = args.engine if args.engine != "auto" else fastest_engine(folder, args)
    check_engine(engine, args.precision)
    if engine != "nnabla":
        evaluate_exported(args.weights or folder / EXPORTED, cfg, engine, args.precision)
        return
    print(f"{folder}: computing on {use_context(args.context, args.device_id)}", flush=True)
    _, valid_data, test_data = load_data(cfg)
    shapes = parameter_shapes(lambda: build_network_for(cfg, valid_data, train=False))
    load_parameters(find_parameters(folder, args.weights), shapes)
    network = build_network_for(cfg, valid_data, train=False)
    result = evaluate_run(network, cfg, valid_data, test_data)
    print(format_table(tensor_table(cfg)))
    print(format_result(result))


def fastest_engine(folder: Path, args: argparse.Namespace) -> str:
    """Engine of --engine auto: nnabla on a GPU, where nothing is exported, and for --weights that are no ONNX model.

    Otherwise openvino if it is installed.
    """
    use_context(args.context, args.device_id)
    if args.weights is None:
        wants_nnabla = on_gpu() or not (folder / EXPORTED).exists()
    else:
        wants_nnabla = not args.weights.endswith(".onnx")    # which no other engine reads
    if wants_nnabla:
        return "nnabla"
    return "openvino" if is_installed("openvino") else "onnxruntime"


def evaluate_exported(path: str | Path, cfg: Experiment, engine: str, precision: str) -> None:
    """Print the errors and the size of an exported model."""
    exported = OnnxNetwork(path, engine, precision)
    if exported.shape[1:] != shape_of_images(cfg):
        raise UserError(f"{path}: takes images of shape {exported.shape[1:]}, those here have {shape_of_images(cfg)}; "
                        "export this run")
    print(f"{path}: computing in {engine}, {precision}", flush=True)
    _, valid_data, test_data = load_data(cfg)
    require_classes(test_data, exported.num_classes)
    errors = {name: top_errors(exported.predict, batches, cfg.tops)
              for name, batches in (("test", test_data), ("validation", valid_data))}
    texts = (f"{name} error {', '.join(f'top {k} {e:.2%}' for k, e in zip(cfg.tops, values, strict=True))}"
             for name, values in errors.items())
    print(f"{'; '.join(texts)}; file {Path(path).stat().st_size / 1024:.2f} kB")


if __name__ == "__main__":
    cli.run(main)
