"""Stems brought to a level that their format can hold, and written."""
import contextlib
import math

import numpy as np

from common.audio.files import AudioWriter
from common.audio.spool import writing_to


def write_stems(targets, stems, mixture, frames, rate, args):
    """Write the outputs of one file, and return a line on what was done to their level, or None.

    `targets` are those of the stems in the spool `stems`, and of what remains of the spool `mixture` if there is one.
    """
    clamp = args.clip_mode == "clamp" and args.encoding != "float32"
    gains, note = np.ones((len(targets), 1), np.float32), None
    if args.encoding != "float32":
        peaks, beyond = _levels(_outputs(stems, mixture, frames, clamp))
        names = [target.stem for target in targets]
        if clamp:
            note = _clamp_note(names, beyond)
        else:
            # Two stems are scaled by one factor, so that they still sum to the mixture, softer.
            gains[:, 0] = 1 / np.maximum(1, peaks.max() if mixture is not None else peaks)
            note = _rescale_note(names, gains[:, 0], tied=mixture is not None)
    folder, channels = targets[0].parent, stems.shape[1]
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.ExitStack() as stack:
            writers = [stack.enter_context(AudioWriter(target, rate, channels, args.ext, args.encoding, frames))
                       for target in targets]
            for block in _outputs(stems, mixture, frames, clamp):
                block = np.clip(block, -1, 1) if clamp else block * gains
                for index, writer in enumerate(writers):
                    writer.write(block[:, index])
    except BaseException:
        with contextlib.suppress(OSError):    # other files are in it
            folder.rmdir()
        raise
    return note


def _outputs(stems, mixture, frames, clamp):
    """Yield blocks (n, outputs, channels) of what will be written, before it is scaled or limited."""
    mixtures = mixture.blocks(frames) if mixture is not None else None
    for block in stems.blocks(frames):
        if mixture is not None:    # its rest is all that the stem, as it will be written, leaves of it
            rest = next(mixtures) - (np.clip(block, -1, 1) if clamp else block)
            block = np.concatenate([block, rest], axis=1)
        yield block


def _levels(blocks):
    """Return for each output of `blocks` its peak, and how many samples lie beyond full scale."""
    peaks, beyond = 0, 0
    for block in blocks:
        sizes = [np.abs(output) for output in np.moveaxis(block, 1, 0)]
        peaks = np.maximum(peaks, [size.max() for size in sizes])
        beyond = beyond + np.array([np.count_nonzero(size > 1) for size in sizes])
    return peaks, beyond


def _rescale_note(names, gains, tied):
    if tied and gains[0] < 1:
        return f"{' and '.join(names)} scaled by {20 * math.log10(gains[0]):.2f} dB, both alike, so as not to clip"
    scaled = [f"{name} by {20 * math.log10(gain):.2f} dB" for name, gain in zip(names, gains, strict=True) if gain < 1]
    return f"scaled so as not to clip: {', '.join(scaled)}" if scaled else None


def _clamp_note(names, beyond):
    limited = [f"{count} samples of {name}" for name, count in zip(names, beyond, strict=True) if count]
    return f"limited to full scale: {', '.join(limited)}" if limited else None
