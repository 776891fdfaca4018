"""Export X-UMX or UMX as ONNX, to separate without nnabla, on any Python and any machine that onnxruntime runs on.

    python x-umx/export.py --model xumx -o xumx.onnx [--precision float32|float16|int8]

Beside it goes onnx_separator.py, which needs numpy and onnxruntime alone and does all of the rest: the transform, the
filter, and chunks. The network takes any number of frames; the metadata of the file say what its input is.
"""
from collections.abc import Sequence
from pathlib import Path

import nnabla as nn
import numpy as np

from common.console import cli
from common.inference import exporting
from common.machine.context import native_functions, use_context
from common.machine.errors import UsageError
from common.machine.threads import NNABLA
from x_umx.separation import DEFAULT
from x_umx.separator import Separator

FRAMES = 61, 67, 71, 73, 79, 83, 89    # primes; by one that is no size of the network its axis of frames is known
NOISE = 100    # frames


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", default=DEFAULT, help="as for separate.py (default: %(default)s)")
    parser.add_argument("--targets", nargs="+", metavar="NAME", help="as for separate.py, of UMX alone")
    parser.add_argument("--output", "-o", metavar="FILE", help="what to write (default: MODEL.onnx)")
    exporting.add_precision_flag(parser)
    args = parser.parse_args(argv)
    target = Path(args.output or f"{Path(args.model).stem}.onnx")
    exporting.check_target(target)
    use_context("cpu", "0")
    separator = Separator(args.model, args.targets, engine="nnabla")
    if set(separator.targets) != set(separator.sources):
        raise UsageError("--targets: the sources of X-UMX belong together; leave it out")
    if len(separator.sources) < 2:
        raise UsageError(f"--model {args.model}: one source, which the filter cannot tell from the rest; name the "
                         "folder of all")
    export(separator, target, args.precision)


def export(separator: Separator, target: Path, precision: str) -> None:
    """Write the network of a separator as ONNX, and print how far it is from float32."""
    from common.inference import onnx_reduction  # loads onnx
    from x_umx import onnx_separator

    model = onnx_model(separator)
    reduced = onnx_reduction.reduce(model, precision)
    exporting.write_model(reduced, target, description(separator))
    companion = exporting.write_companion(onnx_separator, target.parent)
    print(f"wrote {target}, {target.stat().st_size / 1e6:.1f} MB, and {companion}")
    if precision != "float32":
        sizes = separator.network.sizes
        shape = NOISE, 1, sizes.nb_channels, sizes.max_bin
        noise = np.abs(np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
        print(f"{precision}: masks of noise are {onnx_reduction.distance(model, reduced, noise):.1f} dB from those in "
              "float32")


def onnx_model(separator: Separator):    # noqa: ANN201 - onnx.ModelProto, which is slow to load
    """Return the network as an ONNX model that takes any number of frames."""
    from common.inference import onnx_export, onnx_reduction

    sizes = separator.network.sizes
    taken = {sizes.bins, sizes.max_bin, sizes.lstm_size, sizes.nb_layers, len(separator.sources)}
    frames = next(number for number in FRAMES if number not in taken)
    with NNABLA, native_functions(), nn.auto_forward(False):
        magnitude = nn.Variable((frames, 1, sizes.nb_channels, sizes.max_bin))
        model = onnx_export.export({"magnitude": magnitude}, {"masks": separator.build_masks(magnitude)})
    onnx_reduction.free_axes(model, {frames: "frames"})
    return model


def description(separator: Separator) -> dict[str, object]:
    """Return the metadata of the file."""
    sizes = separator.network.sizes
    return {
        "sources": ",".join(separator.sources), "sample_rate": separator.sample_rate, "n_fft": sizes.n_fft,
        "hop_length": separator.network.hop_length, "nb_channels": sizes.nb_channels, "max_bin": sizes.max_bin,
        "input": f"magnitude, float32 (frames, 1, {sizes.nb_channels} channels, {sizes.max_bin} bins): of the "
                 "short-time Fourier transform with a periodic Hann window, not scaled, centred by reflection",
        "output": f"masks, float32, to be reshaped to (frames, {len(separator.sources)} sources, "
                  f"{sizes.nb_channels} channels, {sizes.bins} bins)"}


if __name__ == "__main__":
    cli.run(main)
