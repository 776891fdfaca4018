"""Draw the spectrograms of a song and of the stems that were separated from it.

    python d3net/plot_stems.py song.wav stems/song [--output stems.png]    # seconds, after separate.py song.wav
"""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.audio.files import AudioReader
from common.console import cli
from common.machine.errors import UsageError
from common.machine.files import new_path
from common.pictures.figures import figure_style, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_FFT, HOP_LENGTH = 4096, 1024    # of the networks
RANGE = 80    # dB below the loudest point of the song
SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("song", metavar="SONG", help="what was separated")
    parser.add_argument("stems", metavar="DIR", help="folder with its stems")
    parser.add_argument("--output", "-o", metavar="FILE",
                        help="picture to write (default: the first of stems.png, stems-2.png, ... that is new)")
    args = parser.parse_args(argv)
    files = [Path(args.song), *find_stems(args.stems)]
    picture = args.output or new_path(Path("stems.png"))
    save_figure(picture, draw({path.stem: read(path) for path in files}))
    print(f"{picture}: {', '.join(path.stem for path in files)}")


def find_stems(folder: str | Path) -> list[Path]:
    """Return the audio files of a folder in the order of their names; raises a UsageError if there are none."""
    folder = Path(folder)
    found = sorted(path for path in folder.glob("[!.]*") if path.suffix in SUFFIXES) if folder.is_dir() else []
    if not found:
        raise UsageError(f"{folder}: no folder with stems; separate.py makes one for each song")
    return found


def read(path: Path) -> tuple[np.ndarray, int]:
    """Read a file as mono: float32 (samples,), and its sample rate."""
    with AudioReader(path) as reader:
        return reader.read().mean(1), reader.sample_rate


@figure_style()
def draw(signals: Mapping[str, tuple[np.ndarray, int]]) -> "Figure":
    """Draw spectrograms one below the other, in dB relative to the loudest point of the first.

    Parameters
    ----------
    signals : dict of str to (array (samples,), int)
        Samples and sample rate in Hz by name.

    Returns
    -------
    matplotlib.figure.Figure
    """
    import librosa
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.7 * len(signals)), layout="constrained")
    panels = figure.subplots(len(signals), squeeze=False, sharex=True)[:, 0]
    loudest = None
    for axes, (name, (samples, sample_rate)) in zip(panels, signals.items(), strict=True):
        magnitude = np.abs(librosa.stft(samples, n_fft=N_FFT, hop_length=HOP_LENGTH, pad_mode="reflect"))
        loudest = loudest or max(float(magnitude.max()), 1e-9)
        level = 20 * np.log10(np.maximum(magnitude / loudest, 10 ** (-RANGE / 20)))
        librosa.display.specshow(level, sr=sample_rate, hop_length=HOP_LENGTH, n_fft=N_FFT, x_axis="time", y_axis="log",
                                 ax=axes, vmin=-RANGE, vmax=0, cmap="magma")
        axes.set(title=name, xlabel="", ylim=(40, sample_rate / 2))
        axes.label_outer()
    panels[-1].set_xlabel("time [s]")
    figure.colorbar(panels[0].collections[0], ax=list(panels), label="level [dB]")
    return figure


if __name__ == "__main__":
    cli.run(main)
