"""Stems brought to a level that their format can hold, and written."""
import abc
import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from common.audio.descriptions import NOTHING_KNOWN, Description
from common.audio.files import AudioWriter
from common.audio.spool import writing_to
from common.machine.output_folders import vanishing
from common.separation.flags import OutputFormat
from common.separation.monitor import Report, unobserved


class Blocks(abc.ABC):
    """A signal that can be read from its beginning more than once; `shape` is that of a frame, (stems, channels)."""

    shape: tuple[int, int]

    @abc.abstractmethod
    def blocks(self, frames: int) -> Iterator[np.ndarray]:
        """Yield the first `frames` frames in blocks (n, stems, channels), all of one length but the last."""


def write_stems(targets: Mapping[str, Path], stems: Blocks, mixture: Blocks | None, frames: int, rate: int,
                output: OutputFormat, description: Description = NOTHING_KNOWN,
                report: Report = unobserved) -> str | None:
    """Write the stems of one song.

    Parameters
    ----------
    targets
        Name -> file of the stems, and one more for the rest of the mixture where there is one stem less.
    stems
    mixture
        Of one stem; None if the stems are written as they are. Otherwise they are made to add up to it: what they lack
        is shared out among them. All are scaled by one factor then, and the sum of what is written is the mixture, as
        it would be written alone with that factor: to rounding in float32, and to the last bit in integers unless a
        sample is limited to full scale.
    frames
        How many of their frames to write.
    rate
        Hz.
    output
        With its encoding.
    description
        As for `AudioWriter`.
    report
        Is told what fraction is done.

    Returns
    -------
    str or None
        A line on what was done to their level, if anything was.
    """
    clamp, missing = output.clip_mode == "clamp" and output.clips, len(targets) > stems.shape[0]
    gains, note = np.ones((len(targets), 1), np.float32), None
    if output.clips:
        peaks, beyond = _levels(block for block, _ in _outputs(stems, mixture, frames, clamp, missing))
        if clamp:
            note = _clamp_note(list(targets), beyond)
        else:
            # Stems that add up are scaled by one factor, so that they still do, softer.
            gains[:, 0] = 1 / np.maximum(1, peaks.max() if mixture is not None else peaks)
            note = _rescale_note(list(targets), gains[:, 0], tied=mixture is not None)
    folders = {target.parent: None for target in targets.values()}
    with contextlib.ExitStack() as stack:
        for folder in folders:
            stack.enter_context(vanishing(folder))
            with writing_to(folder):
                folder.mkdir(parents=True, exist_ok=True)
        writers = [stack.enter_context(AudioWriter(target, rate, stems.shape[1], output.ext, output.encoding, frames,
                                                   description)) for target in targets.values()]
        done = 0
        for block, whole in _outputs(stems, mixture, frames, clamp, missing):
            block = np.clip(block, -1, 1) if clamp else block * gains
            if whole is not None and output.step is not None:
                block = _in_steps(block, whole * gains[:1], output.step)
            for index, writer in enumerate(writers):
                writer.write(block[:, index].astype(np.float32, copy=False))
            done += len(block)
            report(done / frames)
    return note


def write_audio(target: Path, blocks: Iterable[np.ndarray], rate: int, channels: int, output: OutputFormat,
                frames: int, description: Description = NOTHING_KNOWN) -> None:
    """Write blocks (n, channels) of about `frames` frames as stems are written, limited to full scale."""
    with AudioWriter(target, rate, channels, output.ext, output.encoding, frames, description) as writer:
        for block in blocks:
            writer.write(block)


def _outputs(stems: Blocks, mixture: Blocks | None, frames: int, clamp: bool,
             missing: bool) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield blocks (n, outputs, channels) of what will be written, before it is scaled or limited, and the mixture.

    With a mixture, the last output is what the others, as they will be written, leave of it. Unless that is `missing`
    among the stems, they get equal shares of what they lack before: the projection on signals that add up.
    """
    if mixture is None:
        yield from ((block, None) for block in stems.blocks(frames))
        return
    for block, whole in zip(stems.blocks(frames), mixture.blocks(frames), strict=True):
        if not missing:
            block = block[:, :-1] + (whole - block.sum(1, keepdims=True)) / block.shape[1]
        rest = whole - (np.clip(block, -1, 1) if clamp else block).sum(1, keepdims=True, dtype=np.float64)
        yield np.concatenate([block, rest], axis=1), whole


def _in_steps(block: np.ndarray, whole: np.ndarray, step: float) -> np.ndarray:
    """Round stems (n, stems, channels) to multiples of `step` so that they add up to the rounded mixture."""
    steps = np.clip(np.rint(block / step), -1 / step, 1 / step - 1)
    steps[:, -1:] = np.rint(whole.astype(np.float64) / step) - steps[:, :-1].sum(1, keepdims=True)
    return steps * step


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
        alike = "both alike" if len(names) == 2 else "all alike"
        return (f"{', '.join(names[:-1])} and {names[-1]} scaled by {20 * math.log10(gains[0]):.2f} dB, {alike}, so as "
                "not to clip")
    scaled = [f"{name} by {20 * math.log10(gain):.2f} dB" for name, gain in zip(names, gains, strict=True) if gain < 1]
    return f"scaled so as not to clip: {', '.join(scaled)}" if scaled else None


def _clamp_note(names: Sequence[str], beyond: np.ndarray) -> str | None:
    limited = [f"{count} samples of {name}" for name, count in zip(names, beyond, strict=True) if count]
    return f"limited to full scale: {', '.join(limited)}" if limited else None
