"""Export the music networks as ONNX, to separate without nnabla, on any Python that onnxruntime runs on.

    python d3net/export.py mss --model d3net-mss -o d3net-onnx [--precision float32|float16|int8]

Writes TARGET.onnx for each target into the folder, and beside them onnx_separator.py, which needs numpy and onnxruntime
alone and does all of the rest: the transform, patches, swapped sides, and the filter. The networks take any number of
patches; the metadata of the files say what their input is.
"""
import argparse
from pathlib import Path

import nnabla as nn
import numpy as np

from common.datasets.band.songs import make_tracks
from common.inference import exporting
from common.machine.context import native_functions, use_context
from common.machine.errors import UsageError
from common.machine.files import make_folder
from common.machine.output_folders import claimed
from common.machine.threads import NNABLA
from d3net.music.network import DEFAULT
from d3net.music.separator import Separator
from d3net.music.spectrogram import Spectrogram

PATCHES = 65537    # beyond all sizes of networks: by it the axis of patches is known in the graph


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", "-m", default=DEFAULT, help="as for separate.py (default: %(default)s)")
    parser.add_argument("--targets", nargs="+", metavar="NAME", help="as for separate.py")
    parser.add_argument("--output", "-o", metavar="DIR", help="folder to write to (default: MODEL-onnx)")
    exporting.add_precision_flag(parser)


def export(args: argparse.Namespace) -> None:
    folder = Path(args.output or f"{Path(args.model).stem}-onnx")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output {folder}: not a folder; choose another")
    use_context("cpu", "0")
    with claimed(folder):
        write(Separator(args.model, args.targets, engine="nnabla"), make_folder(folder), args.precision)


def write(separator: Separator, folder: Path, precision: str) -> None:
    """Write the networks of a separator as ONNX, and print how far they are from float32."""
    from common.inference import onnx_reduction  # loads onnx
    from d3net.music import onnx_separator

    for target in separator.targets:
        model = onnx_model(separator, target)
        reduced = onnx_reduction.reduce(model, precision)
        path = folder / f"{target}.onnx"
        exporting.write_model(reduced, path, description(separator, target))
        print(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB", flush=True)
        if precision != "float32":
            distance = onnx_reduction.distance(model, reduced, patch_of_a_song(separator, target))
            print(f"{precision}: {target} of a generated song are {distance:.1f} dB from those in float32", flush=True)
    print(f"wrote {exporting.write_companion(onnx_separator, folder)}")


def onnx_model(separator: Separator, target: str):    # noqa: ANN201 - onnx.ModelProto, which is slow to load
    """Return the network of a target as an ONNX model that takes any number of patches."""
    from common.inference import onnx_export, onnx_reduction

    with NNABLA, native_functions(), nn.auto_forward(False):
        magnitude = separator.patches(target, PATCHES)
        estimate = separator.build_estimate(target, magnitude)
        model = onnx_export.export({"magnitude": magnitude}, {"estimate": estimate})
    onnx_reduction.free_axes(model, {PATCHES: "patches"})
    return model


def patch_of_a_song(separator: Separator, target: str) -> np.ndarray:
    """Magnitudes (1, frames, 2, bins) of a song that is computed."""
    hparams = separator.files[target].hparams
    seconds = hparams.test_patch_len * hparams.hop_size / hparams.fs
    track, = make_tracks("test", num=1, duration=seconds, sample_rate=hparams.fs)
    song = Spectrogram(track.read("mixture", 0, track.num_frames), hparams.fft_size, hparams.hop_size)
    return song.magnitudes(0, hparams.test_patch_len)[None]


def description(separator: Separator, target: str) -> dict[str, object]:
    """Return the metadata of the file of a target."""
    hparams = separator.files[target].hparams
    return {
        "target": target, "sample_rate": hparams.fs, "n_fft": hparams.fft_size, "hop_length": hparams.hop_size,
        "patch_length": hparams.test_patch_len, "patch_shift": hparams.out_shift,
        "estimated_bins": hparams.valid_signal_idx,
        "input": f"magnitude, float32 (patches, {hparams.test_patch_len} frames, 2 channels, {hparams.bins} bins): of "
                 "the short-time Fourier transform of the mixture with a periodic Hann window, not scaled, centred by "
                 "reflection",
        "output": f"estimate, float32, of the same shape: magnitudes of {target}; bins from {hparams.valid_signal_idx} "
                  "on are those of the mixture"}
