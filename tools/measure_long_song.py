"""Measure the memory that separating a very long song takes, with small random networks of both papers.

    python tools/measure_long_song.py [--minutes 120] [--limit-mb 2048] [--folder DIR]

Writes a stereo song of noise to a folder that is deleted at the end, separates it by x-umx/separate.py and by
d3net/separate.py, and prints the peak of resident memory and the time of each. Exit status 1 where one of them fails or
takes more than the limit. Two hours need 30 GB on the disk of --folder, and some 40 minutes on two cores.
"""
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import attrs
import nnabla as nn
import numpy as np

from common.audio.files import AudioWriter
from common.console import cli
from common.console.values import number_above_0, positive_int
from common.runs.checkpoint import save_parameters
from d3net.hyperparameters import load_mss, save_hyper_parameters
from d3net.mss_model import D3NetMSS
from x_umx.model import CrossNetOpenUnmix, Sizes

ROOT = Path(__file__).parents[1]
RATE, BLOCK_SECONDS = 44100, 60
# The size of the published spectrograms, but a layer or two wherever a network has any.
FEW_LAYERS = {
    "num_init_features": (3, 2), "num_layer_blocks": ((2, 1, 1), (1, 1, 1)), "dens_k": ((2, 3, 2), (1, 1, 1)),
    "b_n_blocks": ((2, 1, 1), (1, 1, 1)), "comp_rates": ((1.0, 1.0), (1.0, 1.0)), "f_num_init_features": 2,
    "f_num_layer_block": (1, 2, 1), "f_dens_k": (2, 2, 2), "f_n_blocks": (1, 2, 1), "f_comp_rates": (1.0, 1.0),
    "ttl_num_layer_block": 2, "ttl_dens_k": 2}


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--minutes", type=positive_int, default=120, help="length of the song (default: %(default)s)")
    parser.add_argument("--limit-mb", type=number_above_0, default=2048,
                        help="largest peak allowed (default: %(default)s)")
    parser.add_argument("--folder", help="where the files go meanwhile (default: that of temporary files)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        write_song(folder / "song.wav", args.minutes)
        commands = {"x-umx": ["--model", save_xumx(folder / "xumx.h5")],
                    "d3net": ["--model", save_d3net(folder / "vocals.h5"), "--targets", "vocals", "--no-flip",
                              "--patch-overlap", "0"]}
        peaks = [measure(paper, flags, folder, args.minutes) for paper, flags in commands.items()]
    return int(any(peak > args.limit_mb for peak in peaks))


def write_song(path: Path, minutes: int) -> None:
    rng = np.random.default_rng(0)
    frames = RATE * BLOCK_SECONDS
    with AudioWriter(path, RATE, 2, num_frames=minutes * frames * 60 // BLOCK_SECONDS) as writer:
        for _ in range(minutes * 60 // BLOCK_SECONDS):
            writer.write(rng.uniform(-0.3, 0.3, (frames, 2)).astype(np.float32))


def save_xumx(path: Path) -> str:
    nn.clear_parameters()
    network = CrossNetOpenUnmix(Sizes(hidden_size=16))
    network.masks(nn.Variable((2, 1, network.sizes.nb_channels, network.sizes.bins)))
    save_parameters(path)
    return str(path)


def save_d3net(path: Path) -> str:
    nn.clear_parameters()
    hparams = attrs.evolve(load_mss("vocals"), **FEW_LAYERS)
    D3NetMSS(hparams, path.stem)(nn.Variable((1, hparams.frame_multiple, hparams.n_channels, hparams.bins)))
    for name, parameter in nn.get_parameters(grad_only=False).items():
        if name.endswith("/var"):    # of networks that were never trained it is 0
            parameter.d = 1
    save_parameters(path)
    save_hyper_parameters(path.with_suffix(".yaml"), hparams)
    return str(path)


def measure(paper: str, flags: list[str], folder: Path, minutes: int) -> float:
    """Separate the song by a paper's script; returns the peak of resident memory in MB, infinite if it failed."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, ROOT / paper / "separate.py", folder / "song.wav", "-c", "cpu",
                                "--out-dir", folder / paper, *flags])
    _, status, usage = os.wait4(process.pid, 0)    # the usage of this process alone
    process.returncode = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss / 1024    # KB on Linux
    print(f"{paper}: {minutes} min of stereo, peak {peak:.0f} MB, {time.perf_counter() - began:.0f} s, "
          f"exit status {process.returncode}", flush=True)
    return float("inf") if process.returncode else peak


if __name__ == "__main__":
    cli.run(main)
