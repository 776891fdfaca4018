"""Measure inference at the published sizes, and a training step, against what nnabla offers on a CPU.

    python d3net/benchmark.py [--duration 30] [--rounds 3] [--only separation] [-c cudnn] [--output FILE.json]

Parts are the networks for `vocals` and, D3Net-S, for a `scene`, on each engine; the `wiener` filter; a `step` of
training of D3Net-S; `separation` into four stems, as published and with flags that trade exactness for time, and the
same by `openvino`; and the `memory` that a long file takes, by small networks.

Parameters are random: they do not change the time. Both sides of a ratio take turns within one run, and a ratio is the
median over the rounds, so that a busy machine slows both. "nnabla's functions" are the graphs of the published code.
A quarter of an hour on two idle cores. On a GPU, nnabla's functions are ours, and are measured by themselves.
"""
import argparse
import functools
import importlib.util
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nnabla as nn
import nnabla.functions as F
import nnabla.solvers as S
import numpy as np

from common.audio.stft import stft
from common.console import cli
from common.console.values import positive_int
from common.inference.engines import REQUIREMENTS, compile_network
from common.machine.context import native_functions, on_gpu, use_context
from common.machine.errors import UsageError
from common.machine.files import temporary_folder
from common.runs.checkpoint import save_parameters
from common.separation.wiener import filter_estimates
from common.workbench.benchmarking import (
    Numbers,
    add_benchmark_flags,
    compare,
    decaying_noise,
    measure_all,
    say_left_out,
    separate_long_file,
)
from d3net.hyperparameters import FOLDER, load_mss, load_segmentation
from d3net.mss_model import TARGETS, D3NetMSS
from d3net.music.separator import Separator
from d3net.segmentation_model import d3net_segmentation

PATCH = (1, 256, 2, 2049)
IMAGE = (1, 3, 512, 1024)
STEP_IMAGES = (2, 3, 64, 128)
SAMPLE_RATE = 44100
LONG_MINUTES = 10
# Hyper-parameters of the networks by target: as published, and next to nothing.
PUBLISHED = {target: target for target in TARGETS}
TINY = {target: "tiny_bass" if target == "bass" else "tiny" for target in TARGETS}
# Arguments of `Separator`: as published, with flags that trade exactness for time, and on another engine.
OURS: dict[str, dict[str, Any]] = {"": {}, ", --patch-overlap 0 --no-flip": {"patch_overlap": 0.0, "flip": False}}
OPENVINO: dict[str, dict[str, Any]] = {
    f", --engine openvino{flag}": {"engine": "openvino", **further}
    for flag, further in {"": {}, " --precision bf16": {"precision": "bf16"}}.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--duration", type=positive_int, default=30,
                        help="seconds of music to separate (default: %(default)s)")
    add_benchmark_flags(parser, rounds=3, parts=PARTS)
    args = parser.parse_args(argv)
    print(f"computing on {use_context(args.context, args.device_id)}", flush=True)
    measure_all({part: functools.partial(PARTS[part], args) for part in args.only}, args.output,
                cpu_only=["wiener", "openvino"])


def music_network() -> D3NetMSS:
    return D3NetMSS(load_mss("vocals"), "vocals")


def street_network(image: nn.Variable) -> nn.Variable:
    return d3net_segmentation(image, load_segmentation("D3Net_S"))


def engines(what: str, build: Callable[[nn.Variable], nn.Variable], shape: tuple[int, ...], rounds: int, *further: str
            ) -> dict[str, Any]:
    """Run a network on each engine that is installed, on those named, and as nnabla's graph; `what` begins a row."""
    x = np.random.default_rng(0).random(shape, np.float32)
    published_name = f"{what}, nnabla's functions"
    with nn.parameter_scope("benchmark", OrderedDict()):
        with native_functions():
            published = compile_network(build, [shape], "nnabla")
        functions = {published_name: lambda: published(x)}
        if on_gpu():
            say_left_out(", ".join(("onnxruntime", "openvino", *further)))
            return compare(functions, rounds, published_name)
        for engine in ("nnabla", "onnxruntime", "openvino", *further):
            if engine not in REQUIREMENTS or importlib.util.find_spec(engine) is not None:
                network = compile_network(build, [shape], engine)
                functions[f"{what}, {engine}"] = lambda network=network: network(x)
        return compare(functions, rounds, published_name)


def wiener(rounds: int) -> dict[str, Any]:
    """The multichannel filter of 4 sources, against one that inverts a matrix for every bin of every frame."""
    mixture = stft(decaying_noise(30, SAMPLE_RATE).T, 4096, 1024)    # (2, bins, frames)
    shares = np.random.default_rng(1).random((4, *mixture.shape), np.float32)
    estimates = shares * mixture
    return compare({"30 s, ours": lambda: filter_estimates(estimates, mixture),
                    "30 s, matrix by matrix": lambda: matrix_filter(estimates, mixture)}, rounds,
                   "30 s, matrix by matrix")


def matrix_filter(estimates: np.ndarray, mixture: np.ndarray) -> np.ndarray:
    """The filter of the published code: arrays of matrices (frames, bins, 2, 2) in double precision."""
    y = estimates.transpose(0, 3, 2, 1).astype(np.complex128)    # (sources, frames, bins, channels)
    x = mixture.transpose(2, 1, 0).astype(np.complex128)
    v = (np.abs(y) ** 2).mean(-1)
    v += 1e-10 * v.max((1, 2), keepdims=True)
    outer = y[..., :, None] * y[..., None, :].conj()
    covariance = outer.sum(1) / (v.sum(1) + np.finfo(np.float64).eps)[..., None, None]    # (sources, bins, 2, 2)
    total = (v[..., None, None] * covariance[:, None]).sum(0)
    weighted = np.linalg.inv(total) @ x[..., None]
    return (v[..., None, None] * (covariance[:, None] @ weighted))[..., 0]


def training_step(rounds: int) -> dict[str, Any]:
    """Forward and backward pass and update of the segmentation network, with our convolution and with nnabla's."""
    name = "{0} images of {2} x {3}".format(*STEP_IMAGES)
    published_name = f"{name}, nnabla's functions"
    with nn.parameter_scope("benchmark", OrderedDict()):
        ours = step_function()
        if on_gpu():
            return compare({f"{name}, ours": ours}, rounds, f"{name}, ours")
        with native_functions():
            published = step_function()
        return compare({f"{name}, ours": ours, published_name: published}, rounds, published_name)


def step_function() -> Callable[[], None]:
    rng = np.random.default_rng(0)
    image = nn.Variable.from_numpy_array(rng.standard_normal(STEP_IMAGES).astype(np.float32))
    label = nn.Variable.from_numpy_array(rng.integers(0, 19, (STEP_IMAGES[0], 1, *STEP_IMAGES[2:])))
    logits = d3net_segmentation(image, load_segmentation("D3Net_S"), test=False)
    loss = F.mean(F.softmax_cross_entropy(logits, label, axis=1))
    solver = S.Momentum(0.01)
    solver.set_parameters(nn.get_parameters())

    def step():
        loss.forward(clear_no_need_grad=True)
        solver.zero_grad()
        loss.backward(clear_buffer=True)
        solver.update()
    return step


def separation(seconds: int, variants: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Separate audio in memory into four stems, with the arguments of `Separator` that each variant has."""
    audio, rows = decaying_noise(seconds, SAMPLE_RATE), {}
    with temporary_folder() as folder:
        weights = random_weights(folder, PUBLISHED)
        for flags, options in variants.items():
            start = time.perf_counter()
            try:
                Separator(weights, **options).separate(audio, SAMPLE_RATE)
            except UsageError as error:    # openvino is not installed, or this CPU lacks bf16
                print(f"{flags}: left out: {error}", flush=True)
                continue
            duration = time.perf_counter() - start
            rows[f"{seconds} s{flags}"] = {"s": duration, "real-time factor": duration / seconds}
    return rows


def long_file(*flags: str) -> dict[str, Any]:
    """Separate a long file with separate.py and small networks, and measure time and peak memory of that process.

    The full networks need 40 minutes for it and, each, some 600 MB while they run; the small ones next to nothing.
    """
    with temporary_folder() as folder:
        random_weights(folder, TINY)
        return {f"separate.py, {LONG_MINUTES} minutes, small networks":
                separate_long_file("d3net", folder, LONG_MINUTES, SAMPLE_RATE, flags)}


def random_weights(folder: Path, configurations: Mapping[str, str]) -> Path:
    """Write untrained networks, of a configuration for each target, and return the folder."""
    for target, name in configurations.items():
        hparams = load_mss(name)
        with nn.parameter_scope("benchmark", OrderedDict()):
            D3NetMSS(hparams, target)(nn.Variable((1, hparams.frame_multiple, *PATCH[2:])))
            save_parameters(folder / f"{target}.h5", nn.get_parameters(grad_only=False))
        shutil.copy(FOLDER / "mss" / f"{name}.yaml", folder / f"{target}.yaml")
    return folder


PARTS: dict[str, Callable[[argparse.Namespace], Numbers]] = {
    "vocals": lambda args: engines(f"{PATCH[1]} frames", music_network(), PATCH, args.rounds, "winograd"),
    "scene": lambda args: engines("{2} x {3}".format(*IMAGE), street_network, IMAGE, args.rounds),
    "wiener": lambda args: wiener(args.rounds),
    "step": lambda args: training_step(args.rounds),
    "separation": lambda args: separation(args.duration, OURS),
    "openvino": lambda args: separation(args.duration, OPENVINO),
    "memory": lambda args: long_file("-c", args.context, "-d", args.device_id),
}


if __name__ == "__main__":
    cli.run(main)
