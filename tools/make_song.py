"""Write a song of the computed band (common.datasets.band) as a WAV file.

    python tools/make_song.py song.wav [--stems DIR] [--seconds 20] [--seed 0]

No network was trained with it: it is of the split `test`. With --stems its true stems are written, too, as
`score_songs.py` reads them.
"""
from collections.abc import Sequence
from pathlib import Path

from common.audio.files import AudioWriter
from common.console import cli
from common.console.values import int_from_0, number_above_0
from common.datasets.band.songs import make_tracks
from common.datasets.multitrack import MIXTURE, Track


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("path", type=Path, metavar="FILE.wav", help="what to write")
    parser.add_argument("--stems", type=Path, metavar="DIR", help="write mixture.wav and the stems there, too")
    parser.add_argument("--seconds", type=number_above_0, default=20, help="length (default: %(default)s)")
    parser.add_argument("--seed", type=int_from_0, default=0, help="another song for each (default: %(default)s)")
    args = parser.parse_args(argv)
    track, = make_tracks("test", num=1, duration=args.seconds, seed=args.seed)
    write(args.path, track, MIXTURE)
    for source in (MIXTURE, *track.sources) if args.stems else ():
        write(args.stems / f"{source}.wav", track, source)
    return 0


def write(path: Path, track: Track, source: str) -> None:
    """Write a source of a track."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with AudioWriter(path, track.sample_rate, 2) as writer:
        writer.write(track.read(source, 0, track.num_frames))


if __name__ == "__main__":
    cli.run(main)
