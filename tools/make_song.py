"""Write a song of the computed band (common.datasets.band) as a WAV file.

    python tools/make_song.py song.wav [--seconds 20] [--seed 0]

No network was trained with it: it is of the split `test`.
"""
import argparse
import sys
from pathlib import Path

from common.audio.files import AudioWriter
from common.datasets.band.songs import make_tracks
from common.datasets.multitrack import MIXTURE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, metavar="FILE.wav")
    parser.add_argument("--seconds", type=float, default=20, help="length (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another song for each (default: %(default)s)")
    args = parser.parse_args()
    track, = make_tracks("test", num=1, duration=args.seconds, seed=args.seed)
    args.path.parent.mkdir(parents=True, exist_ok=True)
    with AudioWriter(args.path, track.sample_rate, 2) as writer:
        writer.write(track.read(MIXTURE, 0, track.num_frames))
    return 0


if __name__ == "__main__":
    sys.exit(main())
