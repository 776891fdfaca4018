"""Correct nnabla's CUDA extension for GPUs of compute capability 9.0 (H100, H200), in a copy of its library.

    python -m common.console.correct_cuda

The library of nnabla-ext-cuda120 1.39.0 uses masks that leave four lanes of each warp out, and traps on these GPUs in
sums over all axes, batch normalization in test mode and more. This command writes a copy with the right masks into the
cache (466 MB), which `-c cudnn` and `-c auto` then load. The installed package stays as it is; remove the copy to go
back. No GPU is needed to write it.
"""
from collections.abc import Sequence

from common.console.cli import parser, run
from common.machine.cuda_extension import write_corrected_library


def main(argv: Sequence[str] | None = None) -> None:
    parser(__doc__).parse_args(argv)
    print(f"corrected copy: {write_corrected_library()}")


if __name__ == "__main__":
    run(main)
