"""One song: a file with a mixture in, files with stems out."""
import contextlib
import itertools
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import attrs
import numpy as np

from common.audio.descriptions import describe
from common.audio.files import AudioReader, check_format, kept_encoding, writable_rate
from common.audio.spool import BLOCK, Spool
from common.console.progress import progress
from common.machine.errors import UsageError, UserError
from common.separation.flags import OutputFormat, StemRequest
from common.separation.monitor import Report, part, unobserved
from common.separation.stem_files import Blocks, write_stems
from common.separation.streams import Separating, resampled, separate_stream
from common.separation.track_names import file_of

_WRITTEN_SHARE = 0.02    # of the time, for the files


@attrs.frozen(kw_only=True)
class Song:
    """What became of a song.

    Attributes
    ----------
    frames, rate
        Length of the stems, and their rate in Hz.
    output
        How they were written.
    notes
        Lines on what is not as in the song.
    damage
        As of `AudioReader`.
    """

    frames: int
    rate: int
    output: OutputFormat
    notes: tuple[str, ...]
    damage: str | None


def stem_names(separator: Separating, request: StemRequest) -> tuple[str, ...]:
    """Return the names of the stems that are asked for.

    Raises
    ------
    UsageError
        There is no such stem, or the stems cannot add up to the mixture.
    """
    chosen, stems = request.two_stems, separator.stems
    if chosen is None and request.mixture_consistency and not separator.complete:
        raise UsageError(f"--mixture-consistency: {', '.join(stems)} are not all of the mixture; leave --targets out")
    if chosen is None:
        return stems
    if chosen not in stems:
        raise UsageError(f"--two-stems {chosen}: no such stem; choose from {', '.join(stems)}")
    return chosen, f"no_{chosen}"


def stem_targets(names: Iterable[str], request: StemRequest, path: Path, track: PurePosixPath) -> dict[str, Path]:
    """Return the file of each stem of a track.

    Raises
    ------
    UserError
        As `file_of`.
    """
    return {name: file_of(request.filename, request.out_dir, path, track, name, request.output.ext) for name in names}


def separate_song(separator: Separating, path: Path, targets: Mapping[str, Path], request: StemRequest,
                  report: Report = unobserved) -> Song:
    """Separate a file and write its stems, with its tags, places of channels, depth and rate where the format has them.

    Two channels that are left and right of each other are separated together, others by themselves.

    Parameters
    ----------
    separator
    path
    targets
        As of `stem_targets`.
    request
    report
        Is told what fraction is done.

    Raises
    ------
    UsageError, UserError
        As `AudioReader` and `AudioWriter`; estimates that are not finite.
    """
    with AudioReader(path) as reader:
        description, start, limit = describe(path, reader.channels), *span(reader, request)
        rate, output = writable_rate(request.output.ext, reader.sample_rate), _output_like(reader, request.output)
        groups = channel_groups(description.places, reader.channels)
        keep_mixture = request.two_stems is not None or _is_consistent(separator, request, reader.sample_rate)
        with contextlib.ExitStack() as stack:
            parts = []
            for number, group in enumerate(groups):
                reader.seek(start)
                done = [share * (1 - _WRITTEN_SHARE) / len(groups) for share in (number, number + 1)]
                parts.append(stack.enter_context(_separated_to_disk(
                    separator, reader, limit, group, rate, keep_mixture, request, part(report, *done))))
            frames = _length(reader.position - start, reader.sample_rate, rate)
            stems, mixtures = zip(*parts, strict=True)
            level = write_stems(targets, _Joined(stems, groups), _Joined(mixtures, groups) if keep_mixture else None,
                                frames, rate, output, description, part(report, 1 - _WRITTEN_SHARE, 1.0))
        notes = [_rate_note(reader.sample_rate, rate, output), _channel_note(groups, description.places), level]
        return Song(frames=frames, rate=rate, output=output, notes=tuple(filter(None, notes)), damage=reader.damage)


def span(reader: AudioReader, request: StemRequest) -> tuple[int, int]:
    """Return the first frame that is asked for, and how many at most."""
    rate = reader.sample_rate
    return (round(request.start * rate),
            sys.maxsize if request.duration is None else max(1, round(request.duration * rate)))


def mixture_blocks(reader: AudioReader, frames: int, channels: Sequence[int], rate: int) -> Iterator[np.ndarray]:
    """Yield blocks of the next `frames` frames, one at least, of some channels, at a rate in Hz."""
    blocks = (block[:, channels] for block in _read(reader, frames))
    return blocks if rate == reader.sample_rate else resampled(blocks, reader.sample_rate, rate, len(channels))


def channel_groups(places: Sequence[str], channels: int) -> list[tuple[int, ...]]:
    """Divide channels into those that are separated together: left and right of one another, and single ones.

    Examples
    --------
    >>> channel_groups(("FL", "FR", "FC", "LFE", "SL", "SR"), 6)
    [(0, 1), (2,), (3,), (4, 5)]
    >>> channel_groups((), 3)    # where nobody knows, they are pairs in their order
    [(0, 1), (2,)]
    """
    if channels <= 2 or len(places) != channels:
        return [tuple(range(first, min(first + 2, channels))) for first in range(0, channels, 2)]
    groups, taken = [], set()
    for index, place in enumerate(places):
        if index not in taken:
            other = place.replace("L", "R")
            both = "L" in place and place != "LFE" and other in places
            groups.append((index, places.index(other)) if both else (index,))
            taken.update(groups[-1])
    return groups


def _is_consistent(separator: Separating, request: StemRequest, rate: int) -> bool:
    """Tell whether stems are to add up to the mixture; by default where they do already, all but for rounding."""
    if request.mixture_consistency is None:
        return separator.adds_up and rate == separator.sample_rate
    return request.mixture_consistency


def _output_like(reader: AudioReader, output: OutputFormat) -> OutputFormat:
    """Return the format with the depth of the input, if none is asked for, after a check that it can hold its channels.
    """
    output = attrs.evolve(output, encoding=output.encoding or kept_encoding(output.ext, reader.encoding))
    try:
        check_format(output.ext, output.encoding, channels=reader.channels)
    except UsageError as error:
        raise UsageError(f"{reader.path}: {error}") from error
    return output


def _length(frames: int, from_rate: int, to_rate: int) -> int:
    """Return how many frames a resampler makes of so many."""
    return (2 * frames * to_rate + from_rate) // (2 * from_rate)


def _rate_note(from_rate: int, to_rate: int, output: OutputFormat) -> str | None:
    return None if from_rate == to_rate else (f"resampled from {from_rate} Hz to {to_rate} Hz, as {output.ext} files "
                                              "cannot hold more" if to_rate < from_rate else
                                              f"resampled from {from_rate} Hz to {to_rate} Hz for {output.ext}")


def _channel_note(groups: Sequence[tuple[int, ...]], places: Sequence[str]) -> str | None:
    if len(groups) == 1:
        return None
    names = places or [str(number) for number in range(1, 1 + sum(map(len, groups)))]
    return f"channels were separated as {', '.join('+'.join(names[index] for index in group) for group in groups)}"


class _Joined(Blocks):
    """Spools of groups of channels as one signal with all channels in their order."""

    def __init__(self, spools: Sequence[Spool], groups: Sequence[tuple[int, ...]]):
        self._spools, self._order = spools, np.argsort(list(itertools.chain(*groups)))
        self.shape = spools[0].shape[0], len(self._order)

    def blocks(self, frames: int) -> Iterator[np.ndarray]:
        for parts in zip(*(spool.blocks(frames) for spool in self._spools), strict=True):
            yield parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)[:, :, self._order]


@contextlib.contextmanager
def _separated_to_disk(separator: Separating, reader: AudioReader, frames: int, group: tuple[int, ...], rate: int,
                       keep_mixture: bool, request: StemRequest,
                       report: Report) -> Iterator[tuple[Spool, Spool | None]]:
    """Separate some channels of the next `frames` frames of `reader`, at a rate in Hz.

    Yields
    ------
    Spool of (stems, channels)
        The stems asked for; a few frames too many.
    Spool of (1, channels) or None
        The mixture, with `keep_mixture`.
    """
    channels = len(group)
    names = (request.two_stems,) if request.two_stems else separator.stems
    guess = reader.estimated_frames and max(0, min(frames, reader.estimated_frames - reader.position))
    guess = guess and _length(guess, reader.sample_rate, rate)
    blocks = mixture_blocks(reader, frames, group, rate)
    blocks = itertools.chain([next(blocks)], blocks)    # if there is nothing to separate, make no folder either
    with contextlib.ExitStack() as stack:
        stems = stack.enter_context(Spool(request.out_dir, (len(names), channels)))
        mixture = stack.enter_context(Spool(request.out_dir, (1, channels))) if keep_mixture else None
        if mixture is not None:
            blocks = mixture.recording(blocks)
        estimates = separate_stream(separator, blocks, rate, channels, names, request.out_dir, guess, report)
        with contextlib.closing(_with_bar(estimates, reader.path.name, rate, guess)) as estimates:
            for block in estimates:
                if not np.isfinite(block).all():
                    raise UserError(f"{reader.path}: the separation gave NaN or infinite samples; check the weights")
                stems.append(block)
        yield stems, mixture


def _read(reader: AudioReader, frames: int) -> Iterator[np.ndarray]:
    """Yield blocks of the next `frames` frames, one at least."""
    start = reader.position
    while (left := start + frames - reader.position) > 0 and len(block := reader.read(min(left, BLOCK))):
        yield block
    if reader.position == start:
        raise UserError(f"{reader.path}: ends before --start {start / reader.sample_rate:g}")


def _with_bar(blocks: Iterable[np.ndarray], name: str, rate: int,
              frames: int | None) -> Generator[np.ndarray, None, None]:
    """Yield `blocks` under a progress bar in seconds; `frames`, how many there are in all, is None or a guess."""
    whole = f"{frames / rate:.0f} s" if frames else "? s"
    with progress(None, total=frames, unit_scale=1 / rate, desc=name,
                  bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/" + whole + " [{elapsed}<{remaining}]") as bar:
        for block in blocks:
            yield block
            bar.update(min(len(block), frames - bar.n) if frames else len(block))
