"""What the `separate.py` of every paper does: files with a mixture in, files with stems out."""
import contextlib
import itertools
import sys
import time

import numpy as np

from common.audio.files import AudioReader, check_format
from common.audio.spool import BLOCK, Spool
from common.console.progress import progress
from common.machine.errors import UsageError, UserError
from common.separation.flags import check_stem_flags
from common.separation.separator import separate_stream
from common.separation.stem_files import write_stems


def separate_files(separator, args, batch_size=1):
    """Separate the files that the flags name, at their own sample rate, length and number of channels (at most two).

    Memory does not grow with their length; on the disk of `--out-dir`, space for float32 stems, and for what the
    separator lays by, is needed beside the files that are written. An input that fails does not keep the others from
    being separated; the errors are printed at the end, a line for each.

    Parameters
    ----------
    separator : StemSeparator
        Or an object that has `stems` (tuple of names) and what `separate_stream` uses.
    args : argparse.Namespace
        Of the flags of `add_stem_flags`.
    batch_size : int
        Chunks that `process` gets at once.

    Returns
    -------
    int
        Exit status: 0; 1 if an input failed, be it that it does not exist; 2 if nothing was separated, all for wrong
        usage.

    Raises
    ------
    UsageError
        As `check_stem_flags`; there is no such stem; an input would be overwritten.
    """
    folders = check_stem_flags(args)
    names = _output_names(separator.stems, args.two_stems)
    targets = {path: [folder / f"{name}.{args.ext}" for name in names] for path, folder in folders.items()}
    written = {target.resolve() for group in targets.values() for target in group}
    for path in folders:
        if path.resolve() in written:
            raise UsageError(f"{path}: would be overwritten by a stem; choose another --out-dir")
    errors, done = [], 0
    try:
        for path in folders:
            try:
                if args.resume and all(target.exists() for target in targets[path]):
                    print(f"{path}: all stems are in {folders[path]} already", flush=True)
                else:
                    _separate_file(separator, path, targets[path], args, batch_size)
                done += 1
            except UserError as error:
                errors.append((str(error), error.exit_status))    # without the traceback, which holds arrays
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {done} of {len(folders)} inputs were separated") from None
    finally:
        _report(errors, done, len(folders))
    if not errors:
        return 0
    return UserError.exit_status if done else min(status for _, status in errors)


def _output_names(stems, two_stems):
    if two_stems is None:
        return tuple(stems)
    if two_stems not in stems:
        raise UsageError(f"--two-stems {two_stems}: no such stem; choose from {', '.join(stems)}")
    return two_stems, f"no_{two_stems}"


def _report(errors, done, count):
    """Print the errors of single inputs; the last line says what became of the others."""
    rest = ""
    if len(errors) == 1 and done:
        rest = "; the other input was separated" if done == 1 else f"; the other {done} inputs were separated"
    elif done:
        rest = f"; {done} of {count} inputs were separated"
    for index, (message, _) in enumerate(errors, 1):
        print(f"error: {message}{rest if index == len(errors) else ''}", file=sys.stderr, flush=True)


def _separate_file(separator, path, targets, args, batch_size):
    """Separate one file and print what became of it."""
    began = time.perf_counter()
    with AudioReader(path) as reader:
        rate = reader.sample_rate
        _check_input(reader, args)
        start = round(args.start * rate)
        frames = sys.maxsize if args.duration == -1 else max(1, round(args.duration * rate))
        reader.seek(start)
        with _laid_by(separator, reader, frames, args, batch_size) as (stems, mixture):
            frames = reader.position - start
            note = write_stems(targets, stems, mixture, frames, rate, args)
        if reader.truncated:
            print(f"warning: {reader.truncated}", file=sys.stderr, flush=True)
    if note:
        print(f"{path}: {note}", flush=True)
    took = time.perf_counter() - began
    print(f"{path}: wrote {targets[0].parent}/{{{','.join(target.stem for target in targets)}}}.{args.ext}, "
          f"{frames / rate:.1f} s of audio in {took:.1f} s (real-time factor {took * rate / frames:.2g})", flush=True)


def _check_input(reader, args):
    """Check that stems like the input can be written, and say so if they will have fewer channels."""
    try:
        check_format(args.ext, args.encoding, reader.sample_rate, min(reader.channels, 2))
    except UsageError as error:
        raise UsageError(f"{reader.path}: {error}") from error
    if reader.channels > 2:
        print(f"{reader.path}: the first two of its {reader.channels} channels are separated", flush=True)


@contextlib.contextmanager
def _laid_by(separator, reader, frames, args, batch_size):
    """Separate the next `frames` frames of `reader`.

    Yields
    ------
    Spool of (stems, channels)
        The stems asked for, at the rate of the input and with its channels, two at most; a few frames too many.
    Spool of (1, channels) or None
        The mixture, if one stem and the rest of the mixture are asked for.
    """
    channels = min(reader.channels, 2)
    picked = [separator.stems.index(args.two_stems)] if args.two_stems else list(range(len(separator.stems)))
    guess = reader.estimated_frames and max(0, min(frames, reader.estimated_frames - reader.position))
    blocks = _read(reader, frames, channels)
    blocks = itertools.chain([next(blocks)], blocks)    # if there is nothing to separate, make no folder either
    with contextlib.ExitStack() as stack:
        stems = stack.enter_context(Spool(args.out_dir, (len(picked), channels)))
        mixture = stack.enter_context(Spool(args.out_dir, (1, channels))) if args.two_stems else None
        if mixture is not None:
            blocks = mixture.recording(blocks)
        blocks = separate_stream(separator, blocks, reader.sample_rate, channels, picked, args.chunk_dur,
                                 args.overlap, batch_size, args.out_dir)
        with contextlib.closing(_with_bar(blocks, reader.path.name, reader.sample_rate, guess)) as blocks:
            for block in blocks:
                if not np.isfinite(block).all():
                    raise UserError(f"{reader.path}: the separation gave NaN or infinite samples; check the weights")
                stems.append(block)
        yield stems, mixture


def _read(reader, frames, channels):
    """Yield blocks of the next `frames` frames, one at least, without the channels after the first `channels`."""
    begin = reader.position
    while (left := begin + frames - reader.position) > 0 and len(block := reader.read(min(left, BLOCK))):
        yield block[:, :channels]
    if reader.position == begin:
        raise UserError(f"{reader.path}: ends before --start {begin / reader.sample_rate:g}")


def _with_bar(blocks, name, rate, frames):
    """Yield `blocks` under a progress bar in seconds; `frames`, how many there are in all, is None or a guess."""
    whole = f"{frames / rate:.0f} s" if frames else "? s"
    with progress(None, total=frames, unit_scale=1 / rate, desc=name,
                  bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/" + whole + " [{elapsed}<{remaining}]") as bar:
        for block in blocks:
            yield block
            bar.update(min(len(block), frames - bar.n) if frames else len(block))
