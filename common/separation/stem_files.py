"""Stems brought to a level that their format can hold, and written."""
import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from common.audio.files import AudioWriter
from common.audio.spool import Spool, writing_to
from common.separation.flags import OutputFormat


def write_stems(targets: Sequence[Path], stems: Spool, mixture: Spool | None, frames: int, rate: int,
                output: OutputFormat) -> str | None:
    """Write the stems of one song.

    Parameters
    ----------
    targets
        Files of the stems, and one more for the rest of the mixture if that is given.
    stems
        Spool of (stems, channels).
    mixture
        Spool of (1, channels), or None.
    frames
        How many of their frames to write.
    rate
        Hz.
    output

    Returns
    -------
    str or None
        A line on what was done to their level, if anything was.
    """
    clamp = output.clip_mode == "clamp" and output.clips
    gains, note = np.ones((len(targets), 1), np.float32), None
    if output.clips:
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
            writers = [stack.enter_context(AudioWriter(target, rate, channels, output.ext, output.encoding, frames))
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


def write_audio(target: Path, blocks: Iterable[np.ndarray], rate: int, channels: int, output: OutputFormat,
                frames: int) -> None:
    """Write blocks (n, channels) of about `frames` frames as stems are written, limited to full scale."""
    with AudioWriter(target, rate, channels, output.ext, output.encoding, frames) as writer:
        for block in blocks:
            writer.write(block)


def _outputs(stems: Spool, mixture: Spool | None, frames: int, clamp: bool) -> Iterator[np.ndarray]:
    """Yield blocks (n, outputs, channels) of what will be written, before it is scaled or limited."""
    if mixture is None:
        yield from stems.blocks(frames)
        return
    for block, whole in zip(stems.blocks(frames), mixture.blocks(frames), strict=True):
        rest = whole - (np.clip(block, -1, 1) if clamp else block)    # all that the stem, as it will be written, leaves
        yield np.concatenate([block, rest], axis=1)


def _levels(blocks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return for each output of `blocks` its peak, and how many samples lie beyond full scale."""
    peaks, beyond = np.zeros(1), np.zeros(1, int)
    for block in blocks:
        sizes = [np.abs(output) for output in np.moveaxis(block, 1, 0)]
        peaks = np.maximum(peaks, [size.max() for size in sizes])
        beyond = beyond + np.array([np.count_nonzero(size > 1) for size in sizes])
    return peaks, beyond


def _rescale_note(names: Sequence[str], gains: np.ndarray, tied: bool) -> str | None:
    if tied and gains[0] < 1:
        return f"{' and '.join(names)} scaled by {20 * math.log10(gains[0]):.2f} dB, both alike, so as not to clip"
    scaled = [f"{name} by {20 * math.log10(gain):.2f} dB" for name, gain in zip(names, gains, strict=True) if gain < 1]
    return f"scaled so as not to clip: {', '.join(scaled)}" if scaled else None


def _clamp_note(names: Sequence[str], beyond: np.ndarray) -> str | None:
    limited = [f"{count} samples of {name}" for name, count in zip(names, beyond, strict=True) if count]
    return f"limited to full scale: {', '.join(limited)}" if limited else None
