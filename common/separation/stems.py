"""What the `separate.py` of every paper does: files with a mixture in, files with stems out."""
import time
from pathlib import Path

from common.audio.descriptions import describe
from common.audio.files import AudioReader
from common.datasets.multitrack import MIXTURE
from common.machine.errors import UsageError, UserError
from common.machine.streams import say
from common.separation.flags import StemRequest
from common.separation.song import Song, mixture_blocks, separate_song, span, stem_names, stem_targets
from common.separation.stem_files import write_audio
from common.separation.streams import Separating
from common.separation.track_names import check_distinct, file_of, why_not_made

PAGE = "page.html"
Targets = dict[str, Path]    # of the stems, and of MIXTURE and PAGE if there is a page


def separate_files(separator: Separating, request: StemRequest) -> int:
    """Separate files at their own sample rate and length, and with all of their channels.

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
        There is no such stem; two inputs would have one file; no input can be separated.
    """
    targets, refused = _targets(separator, request)
    if not targets:
        raise UsageError(refused[0])
    for note in request.notes:
        print(note, flush=True)
    errors, done, count = [(message, UsageError.exit_status) for message in refused], 0, len(targets) + len(refused)
    try:
        for path, files in targets.items():
            try:
                if request.resume and all(file.exists() for file in files.values()):
                    print(f"{path}: all stems are in {next(iter(files.values())).parent} already", flush=True)
                else:
                    _separate_file(separator, path, files, request)
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


def _targets(separator: Separating, request: StemRequest) -> tuple[dict[Path, Targets], list[str]]:
    """Return the files of each input, and a line for each that cannot be separated."""
    names = stem_names(separator, request)
    if request.page and MIXTURE in names:
        raise UsageError(f"--page: writes the song as '{MIXTURE}', which is the name of a stem")
    targets, refused = {}, list(request.refused)
    inputs = {path.resolve() for path in request.tracks}
    for path, track in request.tracks.items():
        try:
            files = stem_targets((*names, MIXTURE) if request.page else names, request, path, track)
            if request.page:
                files[PAGE] = file_of(request.filename, request.out_dir, path, track, *PAGE.split("."))
        except UserError as error:
            refused.append(str(error))
            continue
        lost = [f"{file}: would be overwritten by a stem; choose another --out-dir" for file in files.values()
                if file.resolve() in inputs]
        unmade = [reason for file in files.values() if (reason := why_not_made(file.parent))]
        if lost or unmade:
            refused.append((lost or unmade)[0])
        else:
            targets[path] = files
    check_distinct(((path, files.values()) for path, files in targets.items()), request.filename)
    return targets, refused


def _report(errors: list[tuple[str, int]], done: int, count: int) -> None:
    """Print the errors of single inputs; the last line says what became of the others."""
    rest = ""
    if len(errors) == 1 and done:
        rest = "; the other input was separated" if done == 1 else f"; the other {done} inputs were separated"
    elif done:
        rest = f"; {done} of {count} inputs were separated"
    for index, (message, _) in enumerate(errors, 1):
        say(f"error: {message}{rest if index == len(errors) else ''}")


def _separate_file(separator: Separating, path: Path, targets: Targets, request: StemRequest) -> None:
    """Separate one file and print what became of it."""
    began = time.perf_counter()
    extra = (MIXTURE, PAGE) if request.page else ()
    stems = {name: file for name, file in targets.items() if name not in extra}
    song = separate_song(separator, path, stems, request)
    if song.damage:
        say(f"warning: {song.damage}")
    for note in song.notes:
        print(f"{path}: {note}", flush=True)
    if request.page:
        _write_page(path, song, stems, targets[MIXTURE], targets[PAGE], request)
    took, rate = time.perf_counter() - began, song.rate
    written = _in_words([file for name, file in targets.items() if name != PAGE])
    print(f"{path}: wrote {written}, {song.frames / rate:.1f} s of audio in {took:.1f} s (real-time factor "
          f"{took * rate / song.frames:.2g})", flush=True)


def _in_words(files: list[Path]) -> str:
    """Name files, those of one folder and with one extension once."""
    first = files[0]
    if any(file.parent != first.parent or file.suffix != first.suffix for file in files):
        return ", ".join(map(str, files))
    return f"{first.parent}/{{{','.join(file.stem for file in files)}}}{first.suffix}"


def _write_page(path: Path, song: Song, stems: Targets, mixture: Path, page: Path, request: StemRequest) -> None:
    """Write the mixture, and a page for it and the stems."""
    from common.separation.listening_page import write_listening_page

    with AudioReader(path) as reader:
        start, limit = span(reader, request)
        reader.seek(start)
        blocks = mixture_blocks(reader, limit, range(reader.channels), song.rate)
        write_audio(mixture, blocks, song.rate, reader.channels, song.output, song.frames,
                    describe(path, reader.channels))
    write_listening_page(page, path.stem, {MIXTURE: mixture, **stems}, MIXTURE, song.frames, song.rate,
                         "; ".join(song.notes) or None)
    print(f"{path}: to listen to, open {page}", flush=True)
