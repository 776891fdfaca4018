"""Turn a trained network into a small file, and into an ONNX model that runs elsewhere.

    python export.py RUN_DIR [--output DIR] [--images 1000]
    python export.py runs/demo    # ten seconds, after demo.py

Writes, into RUN_DIR/export unless --output names a folder, weights.mpdnn (every weight with the bits that it has
learned; `mixed_precision_dnns.deployment.packed` describes and reads it), network.onnx, and export.json with what is
printed: sizes, and for onnxruntime and openvino, each with the settings that it has by default, how many convolutions
it computes with integers, its latency, and how far its answers are from those of nnabla.
"""
import argparse
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import nnabla as nn
import numpy as np

from common.console import cli
from common.console.tables import align
from common.console.values import int_from_0, positive_int
from common.inference.engines import is_installed
from common.machine.context import use_context
from common.machine.errors import UserError
from common.machine.files import replacing, write_json
from common.machine.output_folders import claimed
from common.runs.training import BEST
from mixed_precision_dnns import data
from mixed_precision_dnns.config import QuantizationConfig, without_quantizers
from mixed_precision_dnns.deployment import packed
from mixed_precision_dnns.deployment.onnx_network import OnnxNetwork, openvino_default_precision
from mixed_precision_dnns.evaluation import ranks_of_labels
from mixed_precision_dnns.finished_run import FinishedRun, load_finished_run
from mixed_precision_dnns.tensor_table import tensor_table

Predict = Callable[[np.ndarray], np.ndarray]    # images (n, channels, height, width) to logits (n, classes)

FOLDER, PACKED, ONNX = "export", "weights.mpdnn", "network.onnx"
ROUNDS = 15    # of the timing, in which the networks take turns
COMPARED_BATCH = 25    # images that nnabla takes at once where answers are compared
PAUSE = 0.02    # seconds in which the threads of one engine stop to wait actively, before another one is timed
APART = 1e-3    # of the largest logit: further apart, an activation has been rounded to another level


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument("run", metavar="RUN_DIR", help="output folder of train_resnet.py or train_imagenet.py")
    parser.add_argument("--weights", metavar="FILE", help=f"other parameters of that network (default: {BEST} in it)")
    parser.add_argument("--output", "-o", metavar="DIR", help=f"where the files go (default: {FOLDER} in RUN_DIR)")
    parser.add_argument("--batch-size", type=positive_int, default=1,
                        help="images that the ONNX model takes at once (default: %(default)s)")
    parser.add_argument("--images", type=int_from_0, default=1000, metavar="N",
                        help="compare the answers on so many images, 0: do not (default: %(default)s)")
    parser.add_argument("--data-dir", metavar="DIR", help="folder with the data set (default: the one of the training)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    use_context("cpu")
    nn.clear_parameters()
    run = load_finished_run(args.run, args.weights)
    if args.data_dir:
        run = attrs.evolve(run, cfg=attrs.evolve(run.cfg, data_dir=args.data_dir))
    images = take(data.all_images(run.cfg, run.num_classes), args.images) if args.images else None
    with claimed(args.output or Path(args.run) / FOLDER) as folder:
        export(run, args, images, folder)


def export(run: FinishedRun, args: argparse.Namespace, images: tuple[np.ndarray, np.ndarray] | None,
           folder: Path) -> None:
    """Write the files of a run, compare their answers on the images, and print what that gives."""
    # Here, as it imports onnx, which --help does not need.
    from mixed_precision_dnns.deployment.quantized_onnx import export_network, integer_share

    network = run.build(COMPARED_BATCH)
    refuse_infinite_ranges(run.cfg, args.run)
    network.predict(np.zeros(network.image.shape, np.float32))    # computes the quantized weights
    sizes = packed.save(folder / PACKED, run)
    exported = export_network(run, args.batch_size)
    with replacing(folder / ONNX) as temporary:
        temporary.write_bytes(exported.model.SerializeToString())
    networks = {name: OnnxNetwork(folder / ONNX, *settings) for name, settings in consumers().items()}
    result = {"packed": {**attrs.asdict(sizes), "file": (folder / PACKED).stat().st_size},
              "integer_share": integer_share(exported.model), "inexact_borders": exported.inexact,
              "wide_layers": exported.wide,
              "kernels": {name: attrs.asdict(network.kernels()) for name, network in networks.items()},
              "networks": measure(run, args.batch_size, networks, (folder / ONNX).stat().st_size)}
    if images:
        result["agreement"] = compare(network.predict, networks, *images)
    write_json(folder / "export.json", result)
    show(result, folder)


def consumers() -> dict[str, tuple[str, str | None]]:
    """Engines that are installed, by what they are called here, with the precision that is asked for, if any.

    All have their default settings. openvino's computes what is float in bfloat16 on CPUs that have it; there it is
    judged with float32, too.
    """
    found: dict[str, tuple[str, str | None]] = {"onnxruntime": ("onnxruntime", None)}
    if is_installed("openvino"):
        found["openvino"] = "openvino", None
        if openvino_default_precision() != "float32":
            found["openvino, float32"] = "openvino", "float32"
    return found


def refuse_infinite_ranges(cfg: QuantizationConfig, run: str) -> None:
    """Raise a UserError if a quantizer's largest level is beyond float32, as the bits of P2 can drive it."""
    for row in tensor_table(cfg):
        if row["range"] is not None and not np.isfinite(row["range"]):
            raise UserError(f"{run}: {row['kind']} of {row['tensor']}: the largest level, {row['step_size']:g} times a "
                            f"power of two with {row['bits']} bits, is not finite; the run has diverged, lower its "
                            "learning rate")


def take(batches: Iterable[tuple[np.ndarray, ...]], num: int) -> tuple[np.ndarray, np.ndarray]:
    """First `num` images and labels of some batches, as two arrays; fewer where there are no more."""
    images, labels, taken = [], [], 0
    for image, label in batches:
        images.append(image)
        labels.append(label)
        taken += len(image)
        if taken >= num:
            break
    return np.concatenate(images)[:num], np.concatenate(labels)[:num]


def measure(run: FinishedRun, batch_size: int, exported: Mapping[str, OnnxNetwork],
            size: int) -> dict[str, dict[str, float]]:
    """Size in bytes and seconds for `batch_size` images, of the float and the quantized network, before and after.

    `exported` are the exported network by the names of `consumers`, `size` is that of its file.
    """
    from mixed_precision_dnns.deployment.quantized_onnx import export_network

    plain = attrs.evolve(run, cfg=without_quantizers(run.cfg))
    with nn.parameter_scope("float", OrderedDict()):
        network = plain.build(batch_size)
        model = export_network(plain, batch_size).model.SerializeToString()
        plain_size = sum(4 * p.size for name, p in nn.get_parameters(grad_only=False).items()
                         if not name.endswith("Asize"))
    networks = {"float, nnabla": (network.predict, plain_size)}
    for name, settings in consumers().items():
        networks[f"float, {name}"] = OnnxNetwork(model, *settings).predict, len(model)
        networks[f"quantized, {name}"] = exported[name].predict, size
    shape = next(iter(exported.values())).shape
    image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    times = latencies({name: predict for name, (predict, _) in networks.items()}, image, ROUNDS)
    return {name: {"bytes": size, "seconds": times[name]} for name, (_, size) in networks.items()}


def latencies(networks: Mapping[str, Predict], image: np.ndarray, rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each network, over rounds in which all take turns."""
    seconds = {name: [] for name in networks}
    for number in range(rounds + 1):
        for name, predict in networks.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            predict(image)
            if number:    # the first round allocates memory
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def compare(predict: Predict, exported: Mapping[str, OnnxNetwork], images: np.ndarray,
            labels: np.ndarray) -> dict[str, dict[str, Any]]:
    """Compare the answers of a network with those of each exported one.

    `predict` takes up to `COMPARED_BATCH` images; `labels` are int32 (n, 1). The result is `agreement` of each.
    """
    expected = np.concatenate([predict(images[k:k + COMPARED_BATCH]).copy()
                               for k in range(0, len(images), COMPARED_BATCH)])
    return {name: agreement(expected, network.predict(images), labels) for name, network in exported.items()}


def agreement(expected: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Compare logits float32 (images, classes) of two networks; `labels` are int32 (images, 1).

    Returns
    -------
    dict
        Number of `images`; those with the `same_bits`, and with the same best class (`same_top1`); `max_error` and
        `median_error` of logits, as shares of the largest logit if that is not 0; number of images `apart` by more than
        `APART`; errors of both.
    """
    largest = np.abs(expected).max()
    distance = np.abs(logits - expected).max(1) / (largest or 1)    # (images,)
    errors = [float(np.mean(ranks_of_labels(answers, labels[:, 0]) > 0)) for answers in (expected, logits)]
    return {"images": len(expected), "same_bits": int((distance == 0).sum()),
            "same_top1": int((expected.argmax(1) == logits.argmax(1)).sum()),
            "max_error": float(distance.max()), "median_error": float(np.median(distance)),
            "apart": int((distance > APART).sum()), "error": errors[0], "error_exported": errors[1]}


def show(result: dict[str, Any], folder: Path) -> None:
    """Print sizes, latency and agreement."""
    part = result["packed"]
    print(f"{folder / PACKED}: {part['file']} bytes, of which weights {part['weights']} (reported: "
          f"{part['reported'] / 1024:.2f} kB = {part['reported']:.2f} bytes) and header {part['header']}")
    print(f"{folder / ONNX}: {result['integer_share']:.1%} of the constants are integers of 4 or 8 bits; "
          f"{result['inexact_borders']} borders of levels are off by a unit of the accumulator or more")
    if result["wide_layers"]:
        print(f"{result['wide_layers']} layers may have sums of two products beyond 16 bits: x86 CPUs without VNNI "
              "give other answers then, except onnxruntime with session.x64quantprecision = 1")
    print(align([("network", "size [kB]", "latency [ms]"), ("quantized, packed", f"{part['file'] / 1024:.1f}", "-"),
                 *((name, f"{row['bytes'] / 1024:.1f}", f"{1000 * row['seconds']:.2f}")
                   for name, row in result["networks"].items())]))
    for name, kernels in result["kernels"].items():
        print(f"{name}: {kernels['integer']} of {kernels['all']} convolutions with integers")
        if "agreement" in result:
            print("  on {images} images: {same_bits} with the same logits bit by bit, {same_top1} with the same best "
                  "class; logits differ by {max_error:.1e} of the largest one at most, {median_error:.1e} in the "
                  "median ({apart} images by more than 1e-3, where an activation was rounded the other way); error "
                  "{error:.2%}, exported {error_exported:.2%}".format(**result["agreement"][name]))


if __name__ == "__main__":
    cli.run(main)
