"""Convert weights from and to PyTorch: UMX of open-unmix-pytorch, X-UMX of asteroid.

    python x-umx/convert.py vocals.pth vocals.h5    # seconds
    python x-umx/convert.py x-umx.h5 x-umx.pth

The extension of OUTPUT says in which direction: .h5 for the files of this code; .pth, .pt or .th for those of PyTorch,
which must be installed: pip install torch. What a network computes stays the same.
"""
import argparse
import io
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import nnabla as nn
import numpy as np

from common.console import cli
from common.machine.errors import UsageError, UserError
from common.machine.files import replacing
from common.machine.streams import say
from common.reading.files import open_regular
from common.runs.checkpoint import check_fit, parameter_shapes, save_parameters
from x_umx.asteroid import listed_sources, not_kept
from x_umx.model import CrossNetOpenUnmix
from x_umx.torch_layout import NO_WEIGHT, Sources, from_torch, sizes_of, sources_of, to_torch, torch_shapes
from x_umx.weights import WeightFile, find_weights

OURS, THEIRS = (".h5",), (".pth", ".pt", ".th")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument("input", metavar="INPUT", help="file of weights")
    parser.add_argument("output", metavar="OUTPUT", help="file to write")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    path, target = Path(args.input), Path(args.output)
    if target.suffix not in OURS + THEIRS:
        raise UsageError(f"{target}: the extension of OUTPUT must be one of {', '.join(OURS + THEIRS)}")
    if any({path.suffix, target.suffix} <= set(kind) for kind in (OURS, THEIRS)):
        raise UsageError(f"{path} to {target}: one of them must be {OURS[0]}, the other a file of PyTorch")
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    if not target.parent.is_dir():
        raise UsageError(f"{target}: no such folder")
    torch = import_torch()
    converted = import_weights(torch, path, target) if target.suffix in OURS else export(torch, path, target)
    print(f"{target}: {converted}")


def import_torch() -> Any:
    """Return the module torch; no other script needs it."""
    try:
        import torch  # pyright: ignore[reportMissingImports] - optional
    except ModuleNotFoundError as error:
        raise UsageError("torch is not installed: pip install torch") from error
    if not hasattr(torch.serialization, "safe_globals"):
        raise UsageError(f"torch {torch.__version__} is older than 2.5: pip install --upgrade torch")
    return torch


def import_weights(torch: Any, path: Path, target: Path) -> str:
    """Convert a checkpoint of PyTorch to a file of ours; return what it holds, in words."""
    state, settings = read_torch(torch, path)
    try:
        sources = sources_of(state, listed_sources(settings))
        sizes = sizes_of(state, sources[0])
        left_out = not_kept(settings, sizes)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    shapes = torch_shapes(sizes, sources)
    check_fit(path, {name: value.shape for name, value in state.items()}, shapes,
              optional=lambda name: bool(NO_WEIGHT.fullmatch(name)))
    for name in shapes:
        if not np.isfinite(state[name]).all():
            raise UserError(f"{path}: {name} holds values that are not finite")
    for name, (given, taken) in left_out.items():
        say(f"warning: {path}: {name} = {given:g}, which {target.suffix} files do not hold: it will be taken for "
            f"{taken:g}")
    save_parameters(target, {
        name: nn.Variable.from_numpy_array(value).apply(need_grad=not name.endswith(("bn/mean", "bn/var")))
        for name, value in from_torch(state, sizes, sources).items()})
    return _described(sources)


def read_torch(torch: Any, path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a checkpoint without executing anything in it.

    Returns
    -------
    state : dict of str to float32 array
    settings : dict
        The arguments of asteroid's network, if it is one.

    Raises
    ------
    UserError
        The file is damaged, or holds more than plain values and tensors.
    """
    # asteroid notes the version of torch, which is text of a class of its own.
    text = torch.serialization.safe_globals([torch.torch_version.TorchVersion])
    try:
        with text, open_regular(path) as stream:
            content = torch.load(stream, map_location="cpu", weights_only=True)
        state, settings = content.get("state_dict", content), content.get("model_args", {})
        stored = {name: x for name, x in state.items() if isinstance(name, str) and torch.is_tensor(x)}
        for name, x in stored.items():
            if x.numel() > path.stat().st_size:    # a stride of 0 makes any number of one
                raise UserError(f"{path}: {name} promises {x.numel()} numbers, more than the file has bytes")
        tensors = {name: x.detach().float().numpy() for name, x in stored.items()}
    except (UnpicklingError, RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: no checkpoint of PyTorch, a damaged one, or one that holds objects beside tensors; "
                        "save its state dict alone") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path}: its model_args are no dict, but of type {type(settings).__name__}; save its state "
                        "dict alone")
    return tensors, settings


def export(torch: Any, path: Path, target: Path) -> str:
    """Convert a file of ours to a checkpoint of PyTorch; return what it holds, in words."""
    file, = find_weights(path)
    network, sizes = file.network, file.network.sizes
    sources: Sources = (None,)
    if isinstance(network, CrossNetOpenUnmix):
        sources = file.sources
        if not network.crossing:
            raise UserError(f"{path}: trained without crossing, which asteroid's network cannot do without")
    with nn.parameter_scope("convert", OrderedDict()):
        file.load(parameter_shapes(lambda: network.masks(nn.Variable((1, 1, sizes.nb_channels, sizes.max_bin)))))
        parameters = nn.get_parameters(grad_only=False)
    state = to_torch({name: parameter.d for name, parameter in parameters.items()}, sizes, sources)
    state = {name: torch.from_numpy(np.array(value, order="C")) for name, value in state.items()}
    buffer = io.BytesIO()    # torch fails in strange ways where the disk is full
    torch.save(state if sources == (None,) else _asteroid_checkpoint(torch, state, file), buffer)
    with replacing(target) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    return _described(sources)


def _asteroid_checkpoint(torch: Any, state: dict[str, Any], file: WeightFile) -> dict[str, Any]:
    """What asteroid makes a network of."""
    sizes = file.network.sizes
    window = torch.hann_window(sizes.n_fft)
    return {
        "model_name": "XUMX",
        "model_args": {
            "sources": list(file.sources), "window_length": sizes.n_fft, "in_chan": sizes.n_fft,
            "n_hop": file.network.hop_length, "hidden_size": sizes.hidden_size, "nb_channels": sizes.nb_channels,
            "sample_rate": file.sample_rate, "nb_layers": sizes.nb_layers, "input_mean": None, "input_scale": None,
            "max_bin": sizes.max_bin, "bidirectional": not sizes.unidirectional, "spec_power": 1,
            "return_time_signals": False},
        "state_dict": {**state, "encoder.0.window": window, "decoder.window": window},
    }


def _described(sources: Sources) -> str:
    return "UMX" if sources == (None,) else f"X-UMX for {', '.join(map(str, sources))}"


if __name__ == "__main__":
    cli.run(main)
