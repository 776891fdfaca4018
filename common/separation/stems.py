"""What the `separate.py` of every paper does: files with a mixture in, files with stems out."""
import contextlib
import itertools
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import numpy as np

from common.audio.files import AudioReader, check_format
from common.audio.spool import BLOCK, Spool
from common.console.progress import progress
from common.datasets.multitrack import MIXTURE
from common.machine.errors import UsageError, UserError
from common.separation.flags import OutputFormat, StemRequest
from common.separation.separator import StemSeparator, separate_stream
from common.separation.stem_files import write_audio, write_stems

PAGE = "page.html"    # beside the stems


def separate_files(separator: StemSeparator, request: StemRequest) -> int:
    """Separate files at their own sample rate and length, and with their number of channels (at most two).

    Memory does not grow with their length. The disk of `request.out_dir` needs space for the files that are written,
    and for temporary ones: float32 stems, and those of the separator. An input that fails does not keep the others from
    being separated; the errors are printed at the end, a line for each.

    Returns
    -------
    int
        Exit status: 0; 1 if an input failed, be it that it does not exist; 2 if nothing was separated, all for wrong
        usage.

    Raises
    ------
    UsageError
        There is no such stem; all that could be done is to overwrite an input.
    """
    names = _output_names(separator.stems, request)
    targets = {path: [folder / f"{name}.{request.output.ext}" for name in names]
               for path, folder in request.folders.items()}
    inputs = {path.resolve() for path in targets}
    refused = list(request.refused)
    for path, group in list(targets.items()):
        if lost := [target for target in group if target.resolve() in inputs]:
            refused.append(f"{lost[0]}: would be overwritten by a stem; choose another --out-dir")
            del targets[path]
    if not targets:
        raise UsageError(refused[0])
    folders = {path: request.folders[path] for path in targets}
    errors, done, count = [(message, UsageError.exit_status) for message in refused], 0, len(folders) + len(refused)
    try:
        for path in folders:
            try:
                if request.resume and all(target.exists() for target in _results(targets[path], request)):
                    print(f"{path}: all stems are in {folders[path]} already", flush=True)
                else:
                    _separate_file(separator, path, targets[path], request)
                done += 1
            except UserError as error:
                errors.append((str(error), error.exit_status))    # without the traceback, which holds arrays
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {done} of {count} inputs were separated") from None
    finally:
        _report(errors, done, count)
    if not errors:
        return 0
    return UserError.exit_status if done else min(status for _, status in errors)


def _output_names(stems: tuple[str, ...], request: StemRequest) -> tuple[str, ...]:
    """Return the names of the audio files of an input: of the stems, and of the mixture if there is a page."""
    names, chosen = stems, request.two_stems
    if chosen is not None:
        if chosen not in stems:
            raise UsageError(f"--two-stems {chosen}: no such stem; choose from {', '.join(stems)}")
        names = chosen, f"no_{chosen}"
    if not request.page:
        return names
    if MIXTURE in names:
        raise UsageError(f"--page: writes the song as '{MIXTURE}', which is the name of a stem")
    return *names, MIXTURE


def _results(targets: list[Path], request: StemRequest) -> list[Path]:
    """Return all files of an input."""
    return [*targets, targets[0].with_name(PAGE)] if request.page else targets


def _report(errors: list[tuple[str, int]], done: int, count: int) -> None:
    """Print the errors of single inputs; the last line says what became of the others."""
    rest = ""
    if len(errors) == 1 and done:
        rest = "; the other input was separated" if done == 1 else f"; the other {done} inputs were separated"
    elif done:
        rest = f"; {done} of {count} inputs were separated"
    for index, (message, _) in enumerate(errors, 1):
        print(f"error: {message}{rest if index == len(errors) else ''}", file=sys.stderr, flush=True)


def _separate_file(separator: StemSeparator, path: Path, targets: list[Path], request: StemRequest) -> None:
    """Separate one file and print what became of it."""
    began = time.perf_counter()
    with AudioReader(path) as reader:
        rate = reader.sample_rate
        _check_input(reader, request.output)
        start = round(request.start * rate)
        frames = sys.maxsize if request.duration is None else max(1, round(request.duration * rate))
        reader.seek(start)
        with _separated_to_disk(separator, reader, frames, request) as (stems, mixture):
            frames = reader.position - start
            stem_targets = targets[:-1] if request.page else targets
            note = write_stems(stem_targets, stems, mixture, frames, rate, request.output)
        if reader.damage:
            print(f"warning: {reader.damage}", file=sys.stderr, flush=True)
        if note:
            print(f"{path}: {note}", flush=True)
        if request.page:
            reader.seek(start)
            _write_page(reader, targets, frames, request.output, note)
    took = time.perf_counter() - began
    print(f"{path}: wrote {targets[0].parent}/{{{','.join(target.stem for target in targets)}}}.{request.output.ext}, "
          f"{frames / rate:.1f} s of audio in {took:.1f} s (real-time factor {took * rate / frames:.2g})", flush=True)


def _write_page(reader: AudioReader, targets: list[Path], frames: int, output: OutputFormat, note: str | None) -> None:
    """Write the next `frames` frames of the mixture to the last of `targets`, and a page for all of them."""
    from common.separation.listening_page import write_listening_page

    rate, channels, page = reader.sample_rate, min(reader.channels, 2), targets[0].with_name(PAGE)
    write_audio(targets[-1], _read(reader, frames, channels), rate, channels, output, frames)
    tracks = {target.stem: target for target in (targets[-1], *targets[:-1])}    # the mixture first
    write_listening_page(page, reader.path.stem, tracks, MIXTURE, frames, rate, note)
    print(f"{reader.path}: to listen to, open {page}", flush=True)


def _check_input(reader: AudioReader, output: OutputFormat) -> None:
    """Check that stems like the input can be written, and say so if they will have fewer channels."""
    try:
        check_format(output.ext, output.encoding, reader.sample_rate, min(reader.channels, 2))
    except UsageError as error:
        raise UsageError(f"{reader.path}: {error}") from error
    if reader.channels > 2:
        print(f"{reader.path}: the first two of its {reader.channels} channels are separated", flush=True)


@contextlib.contextmanager
def _separated_to_disk(separator: StemSeparator, reader: AudioReader, frames: int,
                       request: StemRequest) -> Iterator[tuple[Spool, Spool | None]]:
    """Separate the next `frames` frames of `reader`.

    Yields
    ------
    Spool of (stems, channels)
        The stems asked for, at the rate of the input and with its channels, two at most; a few frames too many.
    Spool of (1, channels) or None
        The mixture, if one stem and the rest of the mixture are asked for.
    """
    channels = min(reader.channels, 2)
    names = (request.two_stems,) if request.two_stems else separator.stems
    guess = reader.estimated_frames and max(0, min(frames, reader.estimated_frames - reader.position))
    blocks = _read(reader, frames, channels)
    blocks = itertools.chain([next(blocks)], blocks)    # if there is nothing to separate, make no folder either
    with contextlib.ExitStack() as stack:
        stems = stack.enter_context(Spool(request.out_dir, (len(names), channels)))
        mixture = stack.enter_context(Spool(request.out_dir, (1, channels))) if request.two_stems else None
        if mixture is not None:
            blocks = mixture.recording(blocks)
        estimates = separate_stream(separator, blocks, reader.sample_rate, channels, names, request.out_dir)
        with contextlib.closing(_with_bar(estimates, reader.path.name, reader.sample_rate, guess)) as estimates:
            for block in estimates:
                if not np.isfinite(block).all():
                    raise UserError(f"{reader.path}: the separation gave NaN or infinite samples; check the weights")
                stems.append(block)
        yield stems, mixture


def _read(reader: AudioReader, frames: int, channels: int) -> Iterator[np.ndarray]:
    """Yield blocks of the next `frames` frames, one at least, without the channels after the first `channels`."""
    start = reader.position
    while (left := start + frames - reader.position) > 0 and len(block := reader.read(min(left, BLOCK))):
        yield block[:, :channels]
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
