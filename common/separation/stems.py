"""What the `separate.py` of every paper shares: its flags, and files with a mixture in, files with stems out."""
import argparse
import contextlib
import itertools
import math
import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from common.errors import UsageError, UserError
from common.monitor import progress
from common.separation.audio import FORMATS, AudioReader, Resampler, check_format
from common.separation.chunks import separate_in_chunks
from common.separation.stem_files import BLOCK, Spool, write_stems

# Flags ----------------------------------------------------------------------------------------------------------------


def add_stem_flags(parser, chunk_dur, overlap):
    """Add the flags that `check_stem_flags` and `separate_files` take; the script should `parse_intermixed_args`.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    chunk_dur : float
        Default length of a chunk in seconds.
    overlap : float
        Default overlap of chunks, as a fraction of one.
    """
    parser.add_argument("files", nargs="*", metavar="FILE", help="audio files with a mixture (wav, flac, mp3, m4a)")
    parser.add_argument("--inputs", "-i", nargs="+", default=[], metavar="FILE", help="more of them")
    parser.add_argument("--out-dir", "-o", default="stems", metavar="DIR",
                        help="where a folder is made for each input (default: %(default)s)")
    parser.add_argument("--start", type=_seconds, default=0.0, metavar="SECONDS",
                        help="where to start in the inputs (default: %(default)s)")
    parser.add_argument("--duration", type=_duration, default=-1.0, metavar="SECONDS",
                        help="how much of the inputs to separate; -1: to the end (default: %(default)s)")
    parser.add_argument("--two-stems", metavar="STEM",
                        help="write STEM and no_STEM, which is all the rest of the mixture, instead of all stems")
    parser.add_argument("--ext", choices=tuple(FORMATS), default="wav", help="format (default: %(default)s)")
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--float32", dest="encoding", action="store_const", const="float32",
                       help="write 32-bit floating point, which never clips, instead of 16 bits (wav)")
    depth.add_argument("--int24", dest="encoding", action="store_const", const="int24",
                       help="write 24 bits instead of 16 (wav, flac)")
    parser.add_argument("--clip-mode", choices=("rescale", "clamp"), default="rescale",
                        help="where a stem goes beyond full scale: make all of it softer, or limit the samples; no "
                             "matter with --float32 (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="skip inputs whose stems are all there")
    parser.add_argument("--chunk-dur", type=_chunk_dur, default=chunk_dur, metavar="SECONDS",
                        help="length of the chunks that are separated one by one (default: %(default)s)")
    parser.add_argument("--overlap", type=_overlap, default=overlap, metavar="FRACTION",
                        help="of a chunk that it shares with the next, 0 to 0.5, cross-faded (default: %(default)s)")


def _number(meaning, accept):
    """Return a converter to float for `type=` of an argument, of values that `accept` is true for."""
    def convert(text):
        with contextlib.suppress(ValueError):
            if math.isfinite(value := float(text)) and accept(value):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {meaning}")
    return convert


_seconds = _number("a number of seconds from 0", lambda value: value >= 0)
_duration = _number("a number of seconds above 0, nor -1", lambda value: value > 0 or value == -1)
_chunk_dur = _number("a number of seconds above 0", lambda value: value > 0)
_overlap = _number("a fraction from 0 to 0.5", lambda value: 0 <= value <= 0.5)


def check_stem_flags(args):
    """Check what the flags ask for before long work, as far as that needs no separator.

    Returns
    -------
    dict of pathlib.Path to pathlib.Path
        For each input, the folder of its stems.

    Raises
    ------
    UsageError
        No input is given or none exists, two would write to the same folder, a folder cannot be made, or the format
        cannot hold the encoding.
    """
    inputs = [Path(name) for name in (*args.files, *args.inputs)]
    if not inputs:
        raise UsageError("no audio file is given (see --help)")
    if not any(path.exists() for path in inputs):
        raise UsageError(f"{inputs[0]}: no such file" + (", nor any other of the inputs" if len(inputs) > 1 else ""))
    folders = {path: Path(args.out_dir) / path.stem for path in inputs}
    folder, count = Counter(Path(args.out_dir) / path.stem for path in inputs).most_common(1)[0]
    if count > 1:
        raise UsageError(f"{folder}: {count} of the inputs would write their stems there; rename them or separate them "
                         "one by one")
    for folder in folders.values():
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            reason = "not writable" if existing.is_dir() else "not a folder"
            raise UsageError(f"{existing}: {reason}; choose another --out-dir")
    check_format(args.ext, args.encoding)
    return folders


# Files ----------------------------------------------------------------------------------------------------------------


def separate_files(separator, args, batch_size=1):
    """Separate the files that the flags name, at their own sample rate, length and number of channels (at most two).

    Memory does not grow with their length; on the disk of `--out-dir`, space for float32 stems is needed beside the
    files that are written. An input that fails does not keep the others from being separated; the errors are printed
    at the end, a line for each.

    Parameters
    ----------
    separator : object
        Has `sample_rate` (Hz), `stems` (tuple of names), and `process`, which maps (batch, chunk, 2) to
        (batch, stems, chunk, 2), both float32.
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
        if mixture:
            blocks = mixture.recording(blocks)
        blocks = separate_stream(separator, blocks, reader.sample_rate, channels, args.chunk_dur, args.overlap,
                                 batch_size, picked)
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


def separate_stream(separator, blocks, rate, channels, chunk_seconds, overlap, batch_size, picked):
    """Separate a signal that comes in blocks, at its own sample rate.

    Parameters
    ----------
    separator
        As for `separate_files`.
    blocks : iterable of numpy.ndarray (n, channels), float32
    rate : int
        Hz.
    channels : int
        1 or 2; a single one is used for both sides.
    chunk_seconds, overlap : float
        Length of a chunk, and the share of it that it has in common with the next.
    batch_size : int
        Chunks that are separated at once.
    picked : sequence of int
        Indices of the stems that are wanted.

    Yields
    ------
    numpy.ndarray (m, stems, channels), float32
        In all at least as many frames as came in.
    """
    chunk_length = max(1, round(chunk_seconds * separator.sample_rate))
    stereo = (np.broadcast_to(block, (len(block), 2)) for block in blocks)
    mixture = _resampled(stereo, rate, separator.sample_rate, 2)
    stems = separate_in_chunks(mixture, separator.process, chunk_length, round(overlap * chunk_length), batch_size)
    stems = (block[:, picked] for block in stems)
    if channels == 1:
        stems = (block.mean(axis=2, keepdims=True) for block in stems)
    # Rounding in both directions may have lost a frame or two at a low rate between.
    silence = np.zeros((math.ceil(separator.sample_rate / rate) + 1, len(picked), channels), np.float32)
    flat = (block.reshape(len(block), -1) for block in itertools.chain(stems, [silence]))
    for block in _resampled(flat, separator.sample_rate, rate, len(picked) * channels):
        yield block.reshape(len(block), len(picked), channels)


def _resampled(blocks, from_rate, to_rate, channels):
    resampler = Resampler(from_rate, to_rate, channels)
    for block in blocks:
        yield resampler(block)
    yield resampler(np.empty((0, channels), np.float32), last=True)
