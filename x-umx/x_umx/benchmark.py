"""Measure separation and training at the published size against what nnabla and norbert offer on a CPU.

    python x-umx/benchmark.py [--duration 30] [--rounds 3] [--only lstm step] [-c cudnn] [--output FILE.json]

Parameters are random: they do not change the time. Both sides of a ratio take turns within one run, and a ratio is the
median over the rounds, so that a busy machine slows both. "nnabla's functions" are the graphs of the published code.
Six minutes on two idle cores, half of them nnabla's. On a GPU only our side is measured, by itself.
"""
import argparse
import functools
import importlib.util
import statistics
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import nnabla as nn
import nnabla.solvers as S
import numpy as np

from common.audio.stft import stft
from common.console import cli
from common.console.values import positive_int
from common.inference.engines import compile_network
from common.layers.composed_lstm import composed_lstm, run_frames
from common.layers.recurrent import lstm
from common.machine.context import native_functions, on_gpu, use_context
from common.machine.files import temporary_folder
from common.runs.checkpoint import save_parameters
from common.runs.steps import update_parameters
from common.separation.training import Losses
from common.separation.wiener import multichannel_wiener
from common.workbench.benchmarking import (
    Numbers,
    add_benchmark_flags,
    compare,
    decaying_noise,
    measure_all,
    say_left_out,
    separate_long_file,
    take_turns,
)
from x_umx.config import Config
from x_umx.model import SAMPLE_RATE, CrossNetOpenUnmix
from x_umx.network import build_graph
from x_umx.separator import Separator

LSTM_SHAPE = (129, 8, 512)    # frames, batch, features: 3 s
TRAIN_BATCH, TRAIN_SECONDS = 2, 1.5
LONG_MINUTES = 10


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--duration", type=positive_int, default=30,
                        help="seconds of music to separate (default: %(default)s)")
    add_benchmark_flags(parser, rounds=3, parts=PARTS)
    args = parser.parse_args(argv)
    print(f"computing on {use_context(args.context, args.device_id)}", flush=True)
    measure_all({part: functools.partial(PARTS[part], args) for part in args.only}, args.output, cpu_only=["wiener"])


def separation(seconds: int, rounds: int) -> dict[str, dict[str, float]]:
    """Separate audio in memory to stems in memory, with each engine that is installed; the process stands ready."""
    audio, rows = decaying_noise(seconds, SAMPLE_RATE), {}
    with temporary_folder() as folder:
        weights = random_weights(folder)
        for engine in ("onnxruntime", "openvino", "nnabla"):
            if engine != "nnabla" and importlib.util.find_spec(engine) is None:
                continue
            if engine != "nnabla" and on_gpu():
                say_left_out(engine)
                continue
            separator, name = Separator(weights, engine=engine), f"{seconds} s, {engine}"
            times = take_turns({name: functools.partial(separator.separate, audio, SAMPLE_RATE)}, rounds)[name]
            rows[name] = {"s": statistics.median(times), "real-time factor": statistics.median(times) / seconds}
    return rows


def random_weights(folder: Path) -> Path:
    """Write the weights of an untrained X-UMX of the published size, and return their path."""
    with nn.parameter_scope("benchmark", OrderedDict()):
        CrossNetOpenUnmix().masks(nn.Variable((1, 1, 2, 1487)))
        save_parameters(folder / "x-umx.h5", nn.get_parameters(grad_only=False))
    return folder / "x-umx.h5"


def long_file(*flags: str) -> dict[str, dict[str, float]]:
    """Separate a file of 10 minutes with separate.py, and measure time and peak (host) memory of that process."""
    with temporary_folder() as folder:
        return {f"separate.py, {LONG_MINUTES} minutes":
                separate_long_file("x_umx", random_weights(folder), LONG_MINUTES, SAMPLE_RATE, flags)}


def wiener(rounds: int) -> dict[str, dict[str, float]]:
    """The Wiener filter of 6 s and four sources."""
    import norbert

    mixture = stft(decaying_noise(6, SAMPLE_RATE).T)    # (2, bins, frames)
    shares = np.random.default_rng(1).random((4, *mixture.shape), np.float32)
    magnitudes = shares * np.abs(mixture)
    v, x = magnitudes.transpose(3, 2, 1, 0).astype(np.float64), mixture.transpose(2, 1, 0).astype(np.complex128)
    return compare({"ours": lambda: multichannel_wiener(magnitudes, mixture),
                    "norbert.wiener": lambda: norbert.wiener(v, x.copy(), 1, False)}, rounds, "norbert.wiener")


def lstm_times(rounds: int) -> dict[str, dict[str, float]]:
    """Three bidirectional layers of 256: inference by the exported network, and a step of training."""
    def build(x):
        return lstm(x, 256, 3)

    if on_gpu():
        return lstm_times_on_gpu(rounds)
    with nn.parameter_scope("benchmark", OrderedDict()):
        exported = compile_network(build, [LSTM_SHAPE], "onnxruntime")
        functions: dict[str, Callable[[], object]] = {"inference, exported": lambda: exported(noise)}
        noise = np.random.default_rng(0).standard_normal(LSTM_SHAPE).astype(np.float32)
        x = nn.Variable.from_numpy_array(noise, need_grad=True)
        inference, training = lstm(x, 256, 3), lstm(x, 256, 3, train=True)
        with native_functions():
            slow_inference, slow_training = lstm(x, 256, 3), lstm(x, 256, 3, train=True)
        functions["inference, compiled function"] = inference.forward
        torch = torch_lstm(noise)
        if torch:
            functions["inference, PyTorch"] = torch["inference"]
        functions["inference, F.lstm"] = slow_inference.forward
        rows = compare(functions, rounds, "inference, F.lstm")
        functions = {"training, compiled function": lambda: forward_backward(training)}
        if torch:
            functions["training, PyTorch"] = torch["training"]
        functions["training, F.lstm"] = lambda: forward_backward(slow_training)
        return rows | compare(functions, rounds, "training, F.lstm")


def lstm_times_on_gpu(rounds: int) -> dict[str, dict[str, float]]:
    """The same by the layer that the GPU has: cuDNN's, or kernels of this repository; against nnabla's functions."""
    say_left_out("exported network, PyTorch, F.lstm of the CPU")
    with nn.parameter_scope("benchmark", OrderedDict()):
        x = nn.Variable.from_numpy_array(np.random.default_rng(0).standard_normal(LSTM_SHAPE), need_grad=True)
        inference, training = lstm(x, 256, 3), lstm(x, 256, 3, train=True)
        named = nn.get_parameters()
        composed = composed_lstm(x, named["lstm/weight_l0"], named["lstm/bias"], named["lstm/weight"], 0.0, run_frames)
        return compare({"inference": inference.forward, "inference, nnabla's functions": composed.forward}, rounds,
                       "inference, nnabla's functions") | compare({
                           "training": lambda: forward_backward(training),
                           "training, nnabla's functions": lambda: forward_backward(composed)}, rounds,
                           "training, nnabla's functions")


def forward_backward(y: nn.Variable) -> None:
    y.forward()
    y.backward()


def torch_lstm(noise: np.ndarray) -> dict[str, Callable[[], None]] | None:
    """The same network in PyTorch, if that is installed: {"inference": function, "training": function}."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch  # pyright: ignore[reportMissingImports] - optional

    network = torch.nn.LSTM(512, 256, 3, bidirectional=True)
    x = torch.from_numpy(noise).requires_grad_()

    def inference():
        with torch.no_grad():
            network(x)

    return {"inference": inference, "training": lambda: network(x)[0].sum().backward()}


def step_times(rounds: int) -> dict[str, dict[str, float]]:
    """A training step of X-UMX, against the same with nnabla's own LSTM, STFT and the rest."""
    rng = np.random.default_rng(0)
    targets = 0.1 * rng.standard_normal((TRAIN_BATCH, 4, 2, round(TRAIN_SECONDS * SAMPLE_RATE))).astype(np.float32)
    with nn.parameter_scope("benchmark", OrderedDict()):
        ours, name = step_function(targets), f"batch {TRAIN_BATCH} of {TRAIN_SECONDS} s"
        if on_gpu():    # nnabla's functions are ours there
            return compare({f"{name}, ours": ours}, rounds, f"{name}, ours")
        with native_functions():
            published = step_function(targets)
        return compare({f"{name}, ours": ours, f"{name}, nnabla's functions": published}, rounds,
                       f"{name}, nnabla's functions")


def step_function(targets: np.ndarray) -> Callable[[], None]:
    """Build the graph of a step on the parameters of the current scope, and return a function that takes it."""
    cfg = Config()
    loss = Losses(functools.partial(build_graph, cfg, True))(targets.sum(1), targets)
    solver = S.Adam(cfg.lr)
    solver.set_parameters(nn.get_parameters())
    return lambda: update_parameters(loss, solver, cfg.weight_decay)


PARTS: dict[str, Callable[[argparse.Namespace], Numbers]] = {
    "separate": lambda args: separation(args.duration, args.rounds),
    "memory": lambda args: long_file("-c", args.context, "-d", args.device_id),
    "wiener": lambda args: wiener(args.rounds),
    "lstm": lambda args: lstm_times(args.rounds),
    "step": lambda args: step_times(args.rounds),
}


if __name__ == "__main__":
    cli.run(main)
