"""Measure what quantization costs in training: time of a step, peak memory; and the throughput of images and processes.

    python benchmark.py [--network resnet20] [--batch-size 32] [--rounds 7] [-c cudnn] [--output FILE.json]
    python benchmark.py --rounds 3             seventy seconds on two cores; by default about two minutes
    python benchmark.py --deployed-only        what it gains in use: latency of exported networks, float and quantized
    python benchmark.py --torch-only --torch-python PYTHON    the float step beside PyTorch's

Everything is compared within one run. Steps of all networks take turns, and a ratio is the median over the rounds, so
that a busy machine slows both sides. "nnabla's functions" are the same networks without the compiled loops and kernels
of common. Memory is that of the process on a CPU, and what it takes of the GPU on one. A GPU takes several steps in a
turn, as in training, where the host does not wait for each.
"""
import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import nnabla as nn
import numpy as np

from common.console import cli
from common.console.values import positive_int
from common.datasets import DATASETS, SYNTHETIC, Dataset, synthetic
from common.datasets.batches import CENTERED, Batches, PadCropFlip
from common.machine.context import fast_gradients, native_functions, on_gpu, use_context
from common.machine.cores import CAN_LIMIT, limit_cores, num_threads
from common.machine.distributed import join_ranks, world
from common.machine.errors import UsageError
from common.machine.files import write_json
from common.machine.launching import find_mpirun, launched_size, start_ranks
from common.machine.memory import peak_megabytes
from common.out_of_core.device import device_memory, synchronize
from common.quantizers import POWER_OF_TWO, UNIFORM, range_quantizer
from common.workbench.benchmarking import add_benchmark_flags, median_ratio, say_left_out, take_turns
from mixed_precision_dnns.clipping import learned_tensors
from mixed_precision_dnns.config import RELU, Config, ImageNetConfig, without_quantizers
from mixed_precision_dnns.deployment.onnx_network import OnnxNetwork
from mixed_precision_dnns.export import consumers, latencies
from mixed_precision_dnns.finished_run import FinishedRun
from mixed_precision_dnns.quantized_network import SMALL_IMAGES, build_network
from mixed_precision_dnns.torch_process import torch_steps
from mixed_precision_dnns.train_resnet import build_loss, clipped_update, make_solver

U3, P3 = range_quantizer(UNIFORM), range_quantizer(POWER_OF_TWO)
QUANTIZERS = {
    "float": {},
    "W uniform": {"w_quantize": U3},
    "W+A uniform": {"w_quantize": U3, "a_quantize": U3 + RELU},
    "W+A power of two": {"w_quantize": P3, "a_quantize": P3 + RELU},
}
_W_AND_A = {"w_quantize": U3, "a_quantize": U3 + RELU, "w_stepsize": 2 ** -6, "a_stepsize": 2 ** -2}    # 4 bits
DEPLOYED = {"ResNet-20, 32 x 32": Config(**_W_AND_A), "ResNet-18, 224 x 224": ImageNetConfig(**_W_AND_A),
            "MobileNetV2, 224 x 224": ImageNetConfig(model="mobilenetv2", **_W_AND_A)}
COMMAND = sys.executable, "-m", "mixed_precision_dnns.benchmark"
STEPS = 7         # that one process takes to tell how fast it is
GPU_STEPS = 15    # that a GPU takes in a turn


@attrs.frozen
class Network:
    """A network that is trained here; `memory_batch` is the number of images that its memory is measured with."""

    title: str
    configuration: Callable[..., Config | ImageNetConfig]
    image_shape: tuple[int, ...]
    num_classes: int
    memory_batch: int


NETWORKS = {"resnet20": Network("ResNet-20", Config, SMALL_IMAGES, 10, 128),
            "resnet18": Network("ResNet-18, 224 x 224", ImageNetConfig, (3, 224, 224), 1000, 64)}


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    where = use_context(args.context, args.device_id)
    network = NETWORKS[args.network]
    if args.peak_memory_of:
        print(peak_memory(network, args.peak_memory_of))
        return
    if args.throughput_on:
        throughput(args.batch_size, args.throughput_on)
        return
    if args.deployed_only:
        show_deployed(results := {"deployed": deployed(args.rounds)})
        if args.output:
            write_json(args.output, results)
        return
    if args.torch_only:
        results = {"network": "resnet20", "batch_size": args.batch_size,
                   "step": beside_torch(args.batch_size, args.rounds, args.torch_python)}
        if results["step"]:
            show_steps(results)
        if args.output:
            write_json(args.output, results)
        return
    print(f"computing on {where}", flush=True)
    flags = "-c", args.context, "-d", args.device_id, "--network", args.network
    results: dict[str, Any] = {
        "network": args.network, "batch_size": args.batch_size,
        "step": step_times(network, args.batch_size, args.rounds),
        "peak_memory_mb": {name: peak_memory_in_new_process(name, *flags) for name in QUANTIZERS}}
    if args.network == "resnet20":
        results |= {"beside_torch": beside_torch(args.batch_size, args.rounds, args.torch_python),
                    "images_per_second": iterator_throughput(args.rounds),
                    "processes": process_throughput(args.batch_size, min(args.rounds, 3))}
    show(results)
    if args.output:
        write_json(args.output, results)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument("--network", choices=tuple(NETWORKS), default="resnet20",
                        help="what is trained (default: %(default)s)")
    parser.add_argument("--batch-size", type=positive_int, default=32,
                        help="images per step (default: %(default)s)")
    add_benchmark_flags(parser, rounds=7)
    parser.add_argument("--deployed-only", action="store_true",
                        help="measure the latency of exported networks alone")
    parser.add_argument("--torch-only", action="store_true",
                        help="measure the float step of ResNet-20 beside PyTorch's alone")
    parser.add_argument("--torch-python", metavar="PYTHON",
                        help="a Python that has PyTorch (default: this one, where it has)")
    parser.add_argument("--peak-memory-of", choices=tuple(QUANTIZERS),
                        help="print the peak memory of one network in MB")
    parser.add_argument("--throughput-on", type=positive_int, metavar="N",
                        help="print the images per second of training the float network on N cores, also under mpirun")
    cli.allow_ranks(parser, lambda args: args.throughput_on is not None)
    args = parser.parse_args(argv)
    _refuse_without_effect(args, parser)
    return args


def _refuse_without_effect(args, parser):
    """Raise a UsageError for flags that would change nothing, or that ask for different things."""
    asked = {"--deployed-only": args.deployed_only, "--torch-only": args.torch_only,
             f"--network {args.network}": args.network != "resnet20"}
    chosen = [flag for flag, is_asked in asked.items() if is_asked]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)} measure different things; choose one")
    unused = {"--deployed-only": ("batch_size", "torch_python"), "--network resnet18": ("torch_python",)}
    for dest in (dest for flag in chosen for dest in unused.get(flag, ())):
        if getattr(args, dest) != parser.get_default(dest):
            raise UsageError(f"--{dest.replace('_', '-')} changes nothing with {chosen[0]}; leave it out")


def make_step(network: Network, quantizers: str, batch_size: int) -> Callable[[], Any]:
    """Build a network in a parameter scope of its own, and return a function that takes a training step."""
    cfg = network.configuration(**QUANTIZERS[quantizers])
    with nn.parameter_scope("network", OrderedDict()):
        graph = build_loss(cfg, build_network(cfg, batch_size, True, network.image_shape, network.num_classes))
        solver, tensors = make_solver(cfg), learned_tensors(cfg)
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, graph.network.image.shape).astype(np.float32)
    label = rng.integers(0, network.num_classes, graph.label.shape)
    return lambda: clipped_update(graph, solver, tensors, cfg, image, label)


def step_times(network: Network, batch_size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of a training step: median over the rounds, and median ratio to the float step of the same round."""
    steps = {name: make_step(network, name, batch_size) for name in QUANTIZERS}
    with native_functions():
        steps |= {f"{name}, nnabla's functions": make_step(network, name, batch_size) for name in QUANTIZERS}
    seconds = take_turns(steps, rounds, GPU_STEPS if on_gpu() else 1)
    return {name: {"seconds": statistics.median(times), "ratio": median_ratio(times, seconds["float"])}
            for name, times in seconds.items()}


def beside_torch(batch_size: int, rounds: int, python: str | None) -> dict[str, dict[str, float]]:
    """Seconds of the float step here and in PyTorch, in turns, and the median ratio to the step by default.

    The result is empty where a GPU computes, and where there is no PyTorch.
    """
    if on_gpu():
        say_left_out("the step beside PyTorch's")
        return {}
    if python is None and importlib.util.find_spec("torch") is None:
        print("the step beside PyTorch's: left out, no PyTorch here; name a Python that has it by --torch-python",
              flush=True)
        return {}
    network, python = NETWORKS["resnet20"], python or sys.executable
    steps = {"float": make_step(network, "float", batch_size)}
    with fast_gradients():
        steps["float, --fast-gradients"] = make_step(network, "float", batch_size)
    with torch_steps(python, batch_size) as theirs:
        seconds = take_turns(steps | theirs, rounds)
    return {name: {"seconds": statistics.median(times), "ratio": median_ratio(times, seconds["float"])}
            for name, times in seconds.items()}


def peak_memory(network: Network, quantizers: str) -> float:
    """Peak memory of this process, or what it has taken of the GPU, in MB after two training steps."""
    before = device_memory()[0] if on_gpu() else 0
    step = make_step(network, quantizers, network.memory_batch)
    step()
    step()
    synchronize()
    return (before - device_memory()[0]) / 2**20 if on_gpu() else peak_megabytes()    # nnabla keeps what it has taken


def peak_memory_in_new_process(name: str, *flags: str) -> float:
    """`peak_memory` of a network in a process that has seen no other."""
    return float(subprocess.run([*COMMAND, "--peak-memory-of", name, *flags], check=True, text=True,
                                capture_output=True).stdout)


def throughput(batch_size: int, num_cores: int) -> None:
    """Print how many images per second all processes together train the float network on, each on `num_cores` cores."""
    if launched_size() == 1:    # mpirun has given each process its cores
        limit_cores(num_cores)
    join_ranks("cpu")
    seconds = take_turns({"step": make_step(NETWORKS["resnet20"], "float", batch_size)}, STEPS)["step"]
    print(world().size * batch_size / statistics.median(seconds))


def process_throughput(batch_size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Images per second of a training on one core and on all, by one process, and by a process on each core.

    The result is empty if there is but one core, no mpirun, or no way to keep a process on some cores (macOS, Windows),
    and where a GPU computes.
    """
    if on_gpu():
        say_left_out("training by one process on each core")
        return {}
    num_cores = num_threads()
    if num_cores < 2 or not find_mpirun() or not CAN_LIMIT:
        return {}
    starts = {"one process on one core": (1, 1), "one process on all cores": (1, num_cores),
              "a process on each core": (num_cores, 1)}
    found = {name: [] for name in starts}
    for _ in range(rounds):
        for name, (ranks, cores) in starts.items():
            worker = *COMMAND, "--batch-size", str(batch_size), "--throughput-on", str(cores), "-c", "cpu"
            done = start_ranks(ranks, worker, "--bind-to", "core")
            done.check_returncode()
            found[name].append(float(done.stdout.split()[-1]))
    first = found["one process on one core"]
    return {name: {"images_per_second": statistics.median(values), "ratio": median_ratio(values, first)}
            for name, values in found.items()}


def iterator_throughput(rounds: int) -> dict[str, float]:
    """Images per second of `Batches` with augmentation, and of a loop over images that does the same in numpy."""
    info = DATASETS[SYNTHETIC]
    dataset = Dataset(*synthetic.read(info, "train", num=12800), info.class_names)
    batches = Batches(dataset, 128, seed=0, augment=PadCropFlip())
    next(batches.epoch(0))    # compiles
    fast, slow = [], []
    for epoch in range(rounds):
        start = time.perf_counter()
        num = sum(len(image) for image, _ in batches.epoch(epoch))
        fast.append(num / (time.perf_counter() - start))
        start = time.perf_counter()
        num = sum(len(image) for image, _ in image_by_image(dataset, 128, np.random.default_rng(epoch), steps=10))
        slow.append(num / (time.perf_counter() - start))
    return {"batches": statistics.median(fast), "image by image": statistics.median(slow),
            "ratio": median_ratio(fast, slow)}


def image_by_image(dataset: Dataset, batch_size: int, rng: np.random.Generator,
                   steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield augmented batches that are put together from single images."""
    order = rng.permutation(len(dataset))
    for step in range(steps):
        index = order[step * batch_size:(step + 1) * batch_size]
        yield np.stack([augmented(dataset.pixels[k], rng) for k in index]), dataset.labels[index, None]


def augmented(image: np.ndarray, rng: np.random.Generator, pad: int = 4) -> np.ndarray:
    """Normalize, pad, crop and flip one image uint8 (channels, height, width)."""
    _, height, width = image.shape
    padded = np.pad(CENTERED[image], ((0, 0), (pad, pad), (pad, pad)))
    y, x = rng.integers(0, 2 * pad + 1, 2)
    crop = padded[:, y:y + height, x:x + width]
    return crop[:, :, ::-1] if rng.random() < 0.5 else crop


def deployed(rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds for one image by each of `export.consumers`, float and quantized, for each network."""
    results = {}
    for name, cfg in DEPLOYED.items():
        shape = SMALL_IMAGES if isinstance(cfg, Config) else (3, 224, 224)
        networks = {}
        for kind, one in (("float", without_quantizers(cfg)), ("quantized", cfg)):
            networks |= deployed_forms(kind, FinishedRun(one, shape, 10))
        image = np.random.default_rng(0).uniform(-1, 1, (1, *shape)).astype(np.float32)
        seconds = latencies({key: network.predict for key, network in networks.items()}, image, rounds)
        results[name] = {key: {"ms": 1000 * seconds[key], **attrs.asdict(network.kernels())}
                         for key, network in networks.items()}
    return results


def deployed_forms(kind: str, run: FinishedRun) -> dict[str, OnnxNetwork]:
    """Export a network with random weights, and open it in each engine that is installed."""
    from mixed_precision_dnns.deployment.quantized_onnx import export_network

    use_context("cpu")
    with nn.parameter_scope("network", OrderedDict()):
        model = export_network(run, 1).model.SerializeToString()
    return {f"{kind}, {name}": OnnxNetwork(model, *settings) for name, settings in consumers().items()}


def show_deployed(results: dict[str, Any]) -> None:
    """Print the latency of exported networks."""
    for name, forms in results["deployed"].items():
        print(f"one image through the exported {name}")
        for form, row in forms.items():
            slow = forms[form.replace("quantized", "float")]["ms"]
            print(f"  {form:37} {row['ms']:7.2f} ms   {slow / row['ms']:5.2f} x faster than float   "
                  f"{row['integer']:.0f} of {row['all']:.0f} convolutions with integers")


def show(results: dict[str, Any]) -> None:
    """Print the numbers as tables."""
    network = NETWORKS[results["network"]]
    show_steps(results)
    if results.get("beside_torch"):
        show_steps(results | {"step": results["beside_torch"]})
    print(f"peak memory of the process, batch {network.memory_batch}")
    memory = results["peak_memory_mb"]
    for name, megabytes in memory.items():
        print(f"  {name:37} {megabytes:5.0f} MB    {megabytes / memory['float']:5.2f} x float")
    if results["network"] == "resnet20":
        show_throughput(results)


def show_steps(results: dict[str, Any]) -> None:
    """Print how long training steps take."""
    batch_size = results["batch_size"]
    print(f"training step of {NETWORKS[results['network']].title}, batch {batch_size}")
    for name, step in results["step"].items():
        print(f"  {name:37} {step['seconds']:8.4f} s   {step['ratio']:5.2f} x float   "
              f"{batch_size / step['seconds']:7.0f} images/s")


def show_throughput(results: dict[str, Any]) -> None:
    """Print how many images are prepared and trained with in a second."""
    images = results["images_per_second"]
    print("augmented images, batch 128")
    print(f"  {'whole batches':37} {images['batches']:7.0f} images/s")
    print(f"  {'image by image':37} {images['image by image']:7.0f} images/s   ratio {images['ratio']:.1f}")
    print(f"training the float network, batch {results['batch_size']} for each process")
    for name, values in results["processes"].items():
        print(f"  {name:37} {values['images_per_second']:7.1f} images/s   ratio {values['ratio']:.2f}")


if __name__ == "__main__":
    cli.run(main)
