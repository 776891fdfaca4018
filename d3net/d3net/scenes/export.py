"""Export a segmentation network as ONNX, to segment without nnabla, on any Python that onnxruntime runs on.

    python d3net/export.py segmentation --model D3Net-S -o d3net_s.onnx [--precision float32|float16|int8]

Beside it goes onnx_segmenter.py, which needs numpy and onnxruntime alone and standardizes, and pads small images. The
network takes images of any size from 29 x 29 on; the metadata of the file say what its input is.
"""
import argparse
import json
from pathlib import Path

import nnabla as nn
import numpy as np

from common.inference import exporting
from common.machine.context import native_functions, use_context
from common.machine.threads import NNABLA
from d3net.hyperparameters import SegmentationHyperParameters
from d3net.scenes.flags import add_network_flags, model_of_flags
from d3net.scenes.segmenter import Segmenter
from d3net.scenes.standardization import standardize
from d3net.segment import class_names
from d3net.segmentation_model import SMALLEST

IMAGES, HEIGHT, WIDTH = 65537, 65539, 65543    # beyond all sizes of networks: by them axes are known in the graph
NUM_SCENES = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_network_flags(parser)
    parser.add_argument("--output", "-o", metavar="FILE", help="what to write (default: MODEL.onnx)")
    exporting.add_precision_flag(parser)


def export(args: argparse.Namespace) -> None:
    model = model_of_flags(args)
    target = Path(args.output or f"{Path(model).stem}.onnx")
    exporting.check_target(target)
    use_context("cpu", "0")
    write(Segmenter(model, args.config, engine="nnabla"), target, args.precision)


def write(segmenter: Segmenter, target: Path, precision: str) -> None:
    """Write the network of a segmenter as ONNX, and print how far it is from float32."""
    from common.datasets.synthetic_scenes import make_scene  # loads OpenCV
    from common.inference import onnx_reduction  # loads onnx
    from d3net.scenes import onnx_segmenter

    model = onnx_model(segmenter)
    reduced = onnx_reduction.reduce(model, precision)
    exporting.write_model(reduced, target, description(segmenter.hparams))
    companion = exporting.write_companion(onnx_segmenter, target.parent)
    print(f"wrote {target}, {target.stat().st_size / 1e6:.1f} MB, and {companion}", flush=True)
    if precision != "float32":
        scenes = np.stack([standardize(make_scene("val", index)[0], segmenter.hparams.mean, segmenter.hparams.std)
                           for index in range(NUM_SCENES)])
        one, two = (onnx_reduction.output_of(each, scenes).argmax(1) for each in (model, reduced))
        print(f"{precision}: {np.mean(one == two):.2%} of the pixels of generated scenes have the class that they have "
              "in float32")


def onnx_model(segmenter: Segmenter):    # noqa: ANN201 - onnx.ModelProto, which is slow to load
    """Return the network as an ONNX model that takes images of any number and size."""
    from common.inference import onnx_export, onnx_reduction
    from common.inference.onnx_functions import interpolate_to_variable

    with NNABLA, native_functions(), nn.auto_forward(False):
        image = nn.Variable((IMAGES, 3, HEIGHT, WIDTH))
        model = onnx_export.export({"image": image}, {"probabilities": segmenter.build(image)},
                                   converters={"Interpolate": interpolate_to_variable})
    onnx_reduction.free_axes(model, {IMAGES: "images", HEIGHT: "height", WIDTH: "width"})
    return model


def description(hparams: SegmentationHyperParameters) -> dict[str, str]:
    """Return the metadata of the file; what is no sentence is JSON."""
    values = {"mean": hparams.mean, "std": hparams.std, "smallest": SMALLEST, "classes": class_names(hparams),
              "palette": np.asarray(hparams.palette).astype(np.uint8).tolist()}
    return {key: json.dumps(value) for key, value in values.items()} | {
        "input": f"image, float32 (images, 3 channels, height, width), RGB: (grey levels - mean) / std; height and "
                 f"width are at least {SMALLEST}",
        "output": f"probabilities, float32 (images, {hparams.num_classes} classes, height, width)"}
