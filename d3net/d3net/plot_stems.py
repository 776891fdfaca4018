"""Draw the spectrograms of a song and of the stems that were separated from it.

    python d3net/plot_stems.py song.wav stems/song [--output stems.png]    # seconds, after separate.py song.wav
"""
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.console import cli
from common.datasets.multitrack import MIXTURE, FileStem
from common.machine.errors import UsageError
from common.machine.files import new_path
from common.pictures.figures import as_label, figure_style, save_figure
from common.separation.track_levels import Levels, frequency_range, measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANGE = 80    # dB below the loudest point of the song
COLUMNS, ROWS = 300, 64    # of a spectrogram at most, so that a picture stays small
SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
TICKS = {100: "100 Hz", 1000: "1 kHz", 10_000: "10 kHz"}


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("song", metavar="SONG", help="what was separated")
    parser.add_argument("stems", metavar="DIR", help="folder with its stems")
    parser.add_argument("--output", "-o", metavar="FILE",
                        help="picture to write (default: the first of stems.png, stems-2.png, ... that is new)")
    args = parser.parse_args(argv)
    files = [Path(args.song), *find_stems(args.stems)]
    picture = args.output or new_path(Path("stems.png"))
    song = FileStem.probe(files[0])
    levels = {path.stem: measure(path, song.num_frames) for path in files}
    save_figure(picture, draw(levels, song.num_frames / song.sample_rate))
    print(f"{picture}: {', '.join(path.stem for path in files)}")


def find_stems(folder: str | Path) -> list[Path]:
    """Return the audio files of a folder in the order of their names; raises a UsageError if there are none.

    The song itself, which `separate.py --page` also leaves there, is none of its stems.
    """
    folder = Path(folder)
    found = sorted(path for path in folder.glob("[!.]*") if path.suffix in SUFFIXES and path.stem != MIXTURE
                   ) if folder.is_dir() else []
    if not found:
        raise UsageError(f"{folder}: no folder with stems; separate.py makes one for each song")
    return found


@figure_style()
def draw(tracks: Mapping[str, Levels], seconds: float) -> "Figure":
    """Draw spectrograms one below the other, in dB relative to the loudest point of the first.

    Parameters
    ----------
    tracks
        What was measured, by name.
    seconds
        Length of the first.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 0.5 + 0.6 * len(tracks)), layout="constrained")
    panels = figure.subplots(len(tracks), squeeze=False, sharex=True)[:, 0]
    spectrograms = [coarser(levels.spectrogram) for levels in tracks.values()]
    for axes, (name, levels), spectrogram in zip(panels, tracks.items(), spectrograms, strict=True):
        low, high = (math.log10(frequency) for frequency in frequency_range(levels.sample_rate))
        image = axes.imshow(spectrogram - spectrograms[0].max(), cmap="magma", vmin=-RANGE, vmax=0, aspect="auto",
                            origin="lower", extent=(0, seconds, low, high), interpolation="nearest")
        axes.set_yticks([math.log10(tick) for tick in TICKS if low < math.log10(tick) < high],
                        [label for tick, label in TICKS.items() if low < math.log10(tick) < high], fontsize=7)
        axes.set_ylabel(as_label(name), rotation=0, ha="right", va="center", labelpad=4)
        axes.grid(visible=False)
    panels[-1].set_xlabel("time [s]")
    figure.colorbar(image, ax=list(panels), label="level [dB]", fraction=0.05, pad=0.02)
    return figure


def coarser(spectrogram: np.ndarray) -> np.ndarray:
    """Average the power of neighbours, so that not more than (`ROWS`, `COLUMNS`) points are left.

    Parameters
    ----------
    spectrogram : (rows, columns), in dB
    """
    power = 10 ** (spectrogram / 10)
    for axis, most in enumerate((ROWS, COLUMNS)):
        edges = np.arange(0, power.shape[axis], max(1, -(-power.shape[axis] // most)))
        counts = np.diff(np.append(edges, power.shape[axis]))
        power = np.add.reduceat(power, edges, axis) / (counts if axis else counts[:, None])
    return 10 * np.log10(power)


if __name__ == "__main__":
    cli.run(main)
