"""The flags of the `separate.py` and of the `eval.py` of every paper, and the checks of their values."""
import argparse
import math
from pathlib import Path, PurePosixPath

import attrs

from common.audio.files import FORMATS, check_format
from common.console.values import flag_value, is_number, positive_int, to_number
from common.datasets.musdb18 import SPLITS
from common.machine.errors import UsageError
from common.separation import track_names

# separate.py ----------------------------------------------------------------------------------------------------------

CLIP_MODES = ("rescale", "clamp")


@attrs.frozen(kw_only=True)
class OutputFormat:
    """How stems are written.

    Attributes
    ----------
    ext
        A key of `common.audio.files.FORMATS`.
    encoding
        As of `common.audio.files.AudioWriter`; None: that of the input, as far as the format has it.
    clip_mode
        Where a stem goes beyond full scale, and samples are integers: "rescale" makes all of it softer, "clamp" limits
        its samples.

    Raises
    ------
    UsageError
        There is no such format or mode, or the format cannot hold the encoding.
    """

    ext: str = "wav"
    encoding: str | None = None
    clip_mode: str = CLIP_MODES[0]

    def __attrs_post_init__(self) -> None:
        check_format(self.ext, self.encoding)
        if self.clip_mode not in CLIP_MODES:
            raise UsageError(f"clip mode {self.clip_mode!r}: choose {' or '.join(CLIP_MODES)}")

    @property
    def clips(self) -> bool:
        """Whether full scale is a limit."""
        return self.encoding != "float32"

    @property
    def step(self) -> float | None:
        """Distance of the levels that samples can have; None where they are not integers."""
        return {"int16": 2.0 ** -15, "int24": 2.0 ** -23}.get(self.encoding or "")


@attrs.frozen(kw_only=True)
class StemRequest:
    """What to separate, and what to write.

    Attributes
    ----------
    tracks
        Audio file -> name of the track.
    notes
        Lines to print before work.
    refused
        A line for each input that cannot be separated, such as a folder without audio.
    out_dir
        The folder that all files lie in, temporary ones, too.
    filename
        Template of the files in it, as of `common.separation.track_names.check_template`.
    start
        Where to start in the inputs, in seconds.
    duration
        How many seconds to separate; None: to the end.
    two_stems
        Write this stem and the rest of the mixture instead of all stems.
    output
    mixture_consistency
        Make the stems add up to the mixture; None: where the filter lets them, but for its epsilon, at the rate of the
        networks.
    resume
        Skip inputs whose stems are all there.
    page
        Write a page to listen to the stems and the mixture, too.

    Raises
    ------
    UsageError
        `start` or `duration` is no such time, or `output` no `OutputFormat`.
    """

    tracks: dict[Path, PurePosixPath]
    notes: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    out_dir: str
    filename: str = track_names.DEFAULT
    start: float = 0.0
    duration: float | None = None
    two_stems: str | None = None
    output: OutputFormat = OutputFormat()
    mixture_consistency: bool | None = None
    resume: bool = False
    page: bool = False

    def __attrs_post_init__(self) -> None:
        if not is_number(self.start) or not 0 <= self.start < math.inf:
            raise UsageError(f"start {self.start}: a number of seconds from 0 is wanted")
        if self.duration is not None and not (is_number(self.duration) and 0 < self.duration < math.inf):
            raise UsageError(f"duration {self.duration}: a number of seconds above 0 is wanted, or None: to the end")
        if not isinstance(self.output, OutputFormat):
            raise UsageError(f"output {self.output!r}: an OutputFormat is wanted, as OutputFormat(ext='flac')")


def add_stem_flags(parser: argparse.ArgumentParser, chunk_dur: float | None, overlap: float) -> None:
    """Add the flags of a `StemRequest`, and those of chunks; the script should `parse_intermixed_args`.

    Parameters
    ----------
    parser
    chunk_dur
        Default length of a chunk in seconds; None: that of the input.
    overlap
        Default overlap of chunks, as a fraction of one.
    """
    parser.add_argument("files", nargs="*", metavar="FILE",
                        help="audio files with a mixture (wav, flac, mp3, m4a), or folders of them")
    parser.add_argument("--inputs", "-i", nargs="+", default=[], metavar="FILE", help="more of them")
    parser.add_argument("--out-dir", "--output", "-o", default="stems", metavar="DIR",
                        help="where a folder is made for each input (default: %(default)s)")
    parser.add_argument("--filename", type=_filename, default=track_names.DEFAULT, metavar="TEMPLATE",
                        help="names of the files in it, with {stem} and perhaps {track}, {ext}, and {trackext}, the "
                             "extension of the input (default: %(default)s)")
    parser.add_argument("--start", type=_seconds, default=0.0, metavar="SECONDS",
                        help="where to start in the inputs (default: %(default)s)")
    parser.add_argument("--duration", type=_duration, default=-1.0, metavar="SECONDS",
                        help="how much of the inputs to separate; -1: to the end (default: %(default)s)")
    parser.add_argument("--two-stems", metavar="STEM",
                        help="write STEM and no_STEM, which is all the rest of the mixture, instead of all stems")
    parser.add_argument("--ext", choices=tuple(FORMATS), default="wav", help="format (default: %(default)s)")
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--float32", dest="encoding", action="store_const", const="float32",
                       help="write 32-bit floating point, which never clips (wav)")
    depth.add_argument("--int24", dest="encoding", action="store_const", const="int24",
                       help="write 24 bits (wav, flac)")
    depth.add_argument("--int16", dest="encoding", action="store_const", const="int16",
                       help="write 16 bits (wav, flac; default: the depth of the input, and 16 bits where it has none)")
    parser.add_argument("--clip-mode", choices=CLIP_MODES, default=CLIP_MODES[0],
                        help="where a stem goes beyond full scale: make all of it softer, or limit the samples; no "
                             "matter with --float32 (default: %(default)s)")
    parser.add_argument("--mixture-consistency", action=argparse.BooleanOptionalAction, default=None,
                        help="make the stems add up to the song: what they lack is shared out among them (default: if "
                             "the filter lets them, but for its epsilon, and the song has the rate of the network)")
    parser.add_argument("--list-models", action="store_true", help="list the published models, and do nothing else")
    parser.add_argument("--resume", action="store_true", help="skip inputs whose stems are all there")
    parser.add_argument("--page", action="store_true",
                        help="also write page.html, to listen to the stems in a browser, and the mixture for it")
    parser.add_argument("--chunk-dur", type=_chunk_dur, default=chunk_dur, metavar="SECONDS",
                        help="length of the chunks that are separated one by one (default: "
                             f"{'whole inputs' if chunk_dur is None else '%(default)s'})")
    parser.add_argument("--overlap", type=_overlap, default=overlap, metavar="FRACTION",
                        help="of a chunk that it shares with the next, 0 to 0.5, cross-faded"
                             f"{'; matters with --chunk-dur' if chunk_dur is None else ''} (default: %(default)s)")


_seconds = flag_value("a number of seconds from 0", to_number, lambda value: value >= 0)
_duration = flag_value("a number of seconds above 0, nor -1", to_number, lambda value: value > 0 or value == -1)
_chunk_dur = flag_value("a number of seconds above 0", to_number, lambda value: value > 0)
_filename = flag_value(f"a file name with {{stem}}, of the placeholders {', '.join(track_names.PLACEHOLDERS)} alone",
                       track_names.check_template)
_overlap = flag_value("a fraction from 0 to 0.5", to_number, lambda value: 0 <= value <= 0.5)


def stem_request(args: argparse.Namespace) -> StemRequest:
    """Return what the flags of `add_stem_flags` ask for, after checks that need no separator.

    Raises
    ------
    UsageError
        No input is given, none exists, no stem can be written, or the format cannot hold the encoding.
    """
    output = OutputFormat(ext=args.ext, encoding=args.encoding, clip_mode=args.clip_mode)
    inputs = track_names.find_inputs([Path(name) for name in (*args.files, *args.inputs)], Path(args.out_dir))
    if reason := track_names.why_not_made(Path(args.out_dir)):
        raise UsageError(reason)
    return StemRequest(tracks=inputs.tracks, notes=inputs.notes, refused=inputs.refused, out_dir=args.out_dir,
                       filename=args.filename, start=args.start,
                       duration=None if args.duration == -1 else args.duration, two_stems=args.two_stems, output=output,
                       mixture_consistency=args.mixture_consistency, resume=args.resume, page=args.page)


# eval.py --------------------------------------------------------------------------------------------------------------


def add_scoring_flags(parser: argparse.ArgumentParser, chunk_dur: float, overlap: float, whole_songs: str) -> None:
    """Add the flags that `common.separation.commands.score_songs` takes.

    Parameters
    ----------
    parser
    chunk_dur, overlap
        Defaults: length of a chunk in seconds, 0 for whole songs, and its share that the next has, too.
    whole_songs
        What the help says of whole songs.
    """
    parser.add_argument("--root", required=True, metavar="DIR",
                        help="folder of MUSDB18, or of train/, valid/ and test/ with a folder of stems for each song; "
                             "'synthetic' generates music")
    parser.add_argument("--subset", choices=SPLITS, default="test", help="which songs (default: %(default)s)")
    parser.add_argument("--is-wav", action="store_true", help="read the WAV version of MUSDB18")
    parser.add_argument("--setup-file", metavar="FILE",
                        help="YAML file in the root that lists the validation songs (default: those of musdb)")
    parser.add_argument("--out-dir", "--output", "-o", metavar="DIR",
                        help="where the scores go (default: scores-MODEL)")
    parser.add_argument("--cores", type=positive_int, default=1, metavar="N",
                        help="songs to score at once; each takes a core and, if of four minutes, some 6 GB (default: "
                             "%(default)s)")
    parser.add_argument("--chunk-dur", type=_seconds, default=chunk_dur, metavar="SECONDS",
                        help=f"length of the chunks that are separated one by one; 0: {whole_songs} (default: "
                             "%(default)s)")
    parser.add_argument("--overlap", type=_overlap, default=overlap, metavar="FRACTION",
                        help="of a chunk that it shares with the next, 0 to 0.5, cross-faded (default: %(default)s)")
