"""Score a music network on songs whose stems are known, beside the mixture as the estimate.

    python tools/score_songs.py x-umx xumx-small FOLDER [more folders]

A FOLDER holds mixture.EXT and stems, such as vocals.EXT; `accompaniment` is all but the vocals. Folders whose names are
the same up to a last ' (A)', ' (B)' are parts of one song. Prints, in dB of whole signals, SDR = 10 log10(|s|^2 /
|s - e|^2), and SI-SDR, which does not rise where an estimate is only made softer.
"""
import importlib
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from common.console import cli
from common.console.tables import align
from common.datasets.multitrack import MIXTURE, FileStem
from common.datasets.musdb18 import AUDIO_SUFFIXES
from common.machine.errors import UsageError
from common.separation.separator import StemSeparator

SEPARATORS = {"x-umx": "x_umx.separator", "d3net": "d3net.music.separator"}
ACCOMPANIMENT = "accompaniment"
Song = dict[str, np.ndarray]    # stem -> (samples, 2)


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("paper", choices=tuple(SEPARATORS), help="whose separate.py to score")
    parser.add_argument("model", metavar="MODEL", help="as --model of separate.py")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a mixture and its stems")
    args = parser.parse_args(argv)
    for folder in args.folders:
        if MIXTURE not in files_in(folder):
            raise UsageError(f"{folder}: no {MIXTURE} in it ({MIXTURE}.wav, ...)")
    separator = importlib.import_module(SEPARATORS[args.paper]).Separator(args.model)
    rows = [["song", "stem", "mixture SDR", "SDR", "gain", "mixture SI-SDR", "SI-SDR", "gain"]]
    for name, song, rate in songs_in(args.folders):
        rows += [[name, *row] for row in score(separator, song, rate)]
    print(align(rows))
    return 0


def songs_in(folders: Sequence[Path]) -> Iterator[tuple[str, Song, int]]:
    """Yield name, stems and sample rate of the songs, parts of one joined."""
    def title(folder):
        return re.sub(r" \([A-Z]\)$", "", folder.name)

    for name, parts in itertools.groupby(sorted(folders, key=lambda folder: folder.name), title):
        read = [{stem: read_all(path) for stem, path in files_in(folder).items()} for folder in parts]
        rate = read[0][MIXTURE][1]
        yield name, {stem: np.concatenate([part[stem][0] for part in read]) for stem in read[0]}, rate


def files_in(folder: Path) -> dict[str, Path]:
    """Return the audio files in a folder by their stems."""
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in AUDIO_SUFFIXES}


def read_all(path: Path) -> tuple[np.ndarray, int]:
    """Return all of a file (samples, 2), and its sample rate."""
    stem = FileStem.probe(path)
    with stem.open() as read:
        return read(0, stem.num_frames), stem.sample_rate


def score(separator: StemSeparator, song: Song, rate: int) -> Iterator[list[str]]:
    """Yield the row of each stem that is known and estimated."""
    estimates = separator.separate(song[MIXTURE], rate)
    estimates[ACCOMPANIMENT] = np.sum([audio for stem, audio in estimates.items() if stem != "vocals"], axis=0)
    for stem in song:
        if stem in estimates:
            length = min(len(song[stem]), len(song[MIXTURE]))
            target, mixture, estimate = (x[:length] for x in (song[stem], song[MIXTURE], estimates[stem]))
            pairs = [[measure(target, x) for x in (mixture, estimate)] for measure in (sdr, scaled_sdr)]
            yield [stem, *(f"{x:.2f}" for before, after in pairs for x in (before, after, after - before))]


def sdr(target: np.ndarray, estimate: np.ndarray) -> float:
    """Signal-to-distortion ratio in dB."""
    signal, distortion = (np.sum(x.astype(np.float64) ** 2) for x in (target, target - estimate))
    return float(10 * np.log10(signal / distortion))


def scaled_sdr(target: np.ndarray, estimate: np.ndarray) -> float:
    """SDR in dB of the target times the factor that comes closest to the estimate (SI-SDR, arXiv 1811.02508)."""
    factor = np.vdot(target, estimate) / np.vdot(target, target)
    return sdr(factor * target, estimate)


if __name__ == "__main__":
    cli.run(main)
