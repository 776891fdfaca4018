"""Audio files read and written piece by piece, and resampling that needs no whole signal in memory.

Audio is float32 of shape (samples, channels) everywhere; full scale is 1.
"""
import contextlib
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from common.audio.descriptions import NOTHING_KNOWN, TAGS, Description, complete
from common.machine.errors import UsageError, UserError
from common.machine.files import replacing

_QUALITY = "VHQ"    # errors below what float32 resolves (-145 dB; HQ: -122 dB) for a fifth more time
_WAV_BYTES = (1 << 32) - (1 << 12)    # sizes in a WAV header have 32 bits; 4 KB for everything but samples
_WRITE = 1 << 16    # frames given to libsndfile at once: its Vorbis encoder puts them on the stack


class AudioReader:
    """An audio file, decoded piece by piece; a context manager, for one thread at a time.

    WAV, FLAC, AIFF, AU and CAF are read by libsndfile, as Ogg Vorbis of less than a second, everything else by PyAV;
    the content decides, not the name. Integer samples are divided by 2^(bits - 1). Codes of whole blocks (ADPCM, GSM)
    end where the header says, or with their last block.

    Parameters
    ----------
    path
    stream
        Which of several audio streams, as in the `.stem.mp4` files of MUSDB18 (mixture, drums, bass, other, vocals).

    Attributes
    ----------
    sample_rate : int
        Hz.
    channels, num_streams : int
    num_frames : int or None
        Frames (samples of each channel) in the stream, where the file says so exactly: WAV, FLAC and their like, and
        AAC-LC in MP4, whose padding is left out. None where only decoding tells.
    estimated_frames : int or None
        `num_frames`, or what a header promises, or what the bit rate suggests; for progress bars.
    encoding : str or None
        What holds its samples, as of `AudioWriter`: 'int16', 'int24', or 'float32', which stands for 32-bit integers
        and doubles, too. None where samples are lossy, or have fewer bits.
    position : int
        Frame that the next `read` begins with.
    damage : str or None
        One line, if the file was found to be longer or shorter than its header says, or parts of it could not be
        decoded; known once `read` has come to the end.

    Raises
    ------
    UsageError
        There is no such file, or it is no regular one.
    UserError
        No audio can be decoded, there is no such stream, or not a single sample in it; an impossible sample rate or
        number of channels.
    """

    def __init__(self, path: str | Path, stream: int = 0):
        from common.audio.decoders import open_source  # loads the libraries that decode

        self.path = Path(path)
        self._source = source = open_source(self.path, stream)
        self.sample_rate, self.channels, self.num_streams = source.sample_rate, source.channels, source.num_streams
        self.num_frames, self.estimated_frames = source.num_frames, source.estimated_frames
        self.encoding = source.encoding
        self.damage: str | None = None
        self.seek(0)
        if self.num_frames == 0:
            self.close()
            raise UserError(f"{self.path}: not a single sample in it")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        self._blocks.close()
        self._source.close()

    def seek(self, frame: int) -> None:
        """Let the next `read` begin at `frame`, counted from 0; beyond the end it finds nothing.

        What is read there equals, bit for bit, what reading from the start gives after `frame` frames. This costs
        next to nothing in WAV and FLAC, a third of a second's decoding in AAC-LC in MP4, and decoding from the start
        elsewhere.
        """
        assert frame >= 0, frame
        start, blocks = self._source.blocks_from(frame)
        self._blocks = _skip(blocks, frame - start)
        self._held = np.empty((0, self.channels), np.float32)
        self.position = frame

    def read(self, frames: int = sys.maxsize) -> np.ndarray:
        """Return the next `frames` frames, fewer at the end.

        Returns
        -------
        numpy.ndarray (n, channels), float32, n <= `frames`

        Raises
        ------
        UserError
            A sample is NaN or infinite: says where.
        """
        parts: list[np.ndarray] = [self._held]
        held = len(self._held)
        while held < frames:
            block = next(self._blocks, None)
            if block is None:
                self._note_damage(self.position + held)
                break
            parts.append(block)
            held += len(block)
        joined = np.concatenate(parts)
        audio, self._held = joined[:frames], joined[frames:]
        self._check_finite(audio)
        self.position += len(audio)
        return audio

    def _check_finite(self, audio):
        bad = ~np.isfinite(audio)
        if bad.any():
            second = (self.position + bad.any(axis=1).argmax()) / self.sample_rate
            raise UserError(f"{self.path}: NaN or infinite samples, the first at {second:.3f} s; repair the file")

    def _note_damage(self, end: int) -> None:
        """Note what was found by decoding to the end, frame `end`."""
        num_damaged = len(self._source.damaged_packets)
        found = [self._wrong_length(end), f"{num_damaged} of its packets could not be decoded" if num_damaged else None]
        self.damage = f"{self.path}: {'; '.join(filter(None, found))}" if any(found) else None

    def _wrong_length(self, end: int) -> str | None:
        share = self._source.length and self._source.length.wrong_share
        padding = self.sample_rate // 4 if self._source.promises_padding else 0
        promised = self._source.promised_frames if share is None else end * share
        if promised is None or share is None and end >= promised - padding:
            return None
        found, said = (f"{frames / self.sample_rate:.2f} s" for frames in (end, promised))
        if promised < end:
            return f"goes on to {found}, and its header says {said} (an interrupted recording?); all of it was read"
        return f"ends after {found}, but its header promises {said} (truncated or damaged)"


def _skip(blocks: Iterator[np.ndarray], frames: int) -> Generator[np.ndarray, None, None]:
    """Leave out the first `frames` frames of `blocks`."""
    for block in blocks:
        if frames < len(block):
            yield block[frames:]
        frames = max(0, frames - len(block))


class Resampler:
    """Change the sample rate of a signal (samples, channels) that comes in blocks.

    The delay of the filter is taken out: sample `i` of the output lies at sample `i * from_rate / to_rate` of the
    input, and `n` samples become `floor(n * to_rate / from_rate + 1/2)`. Around the signal there is silence. With equal
    rates, what goes in comes out.
    """

    def __init__(self, from_rate: int, to_rate: int, channels: int):
        self._stream = None
        if from_rate != to_rate:
            import soxr

            self._stream = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality=_QUALITY)

    def __call__(self, block: np.ndarray, last: bool = False) -> np.ndarray:
        """Take a block, possibly empty, and return what is ready; with `last` everything that was held back."""
        block = np.ascontiguousarray(block, np.float32)
        return block if self._stream is None else self._stream.resample_chunk(block, last=last)


def resample(audio: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Change the sample rate of a whole signal (samples, channels); see `Resampler`."""
    return Resampler(from_rate, to_rate, audio.shape[1])(audio, last=True)


@attrs.frozen
class Format:
    """A format of audio files that can be written."""

    name: str    # as libsndfile calls it
    subtypes: dict[str, str]    # encoding -> how libsndfile calls it; the first is the default
    max_channels: int
    rates: range | tuple[int, ...]    # Hz
    options: dict[str, float] = attrs.field(factory=dict)


FORMATS = {
    "wav": Format("WAV", {"int16": "PCM_16", "int24": "PCM_24", "float32": "FLOAT"}, 1024, range(1, 1 << 31)),
    "flac": Format("FLAC", {"int16": "PCM_16", "int24": "PCM_24"}, 8, range(1, 655351)),
    # About 250 kbit/s, the best variable rate: stems get mixed again, which uncovers what was masked.
    "mp3": Format("MP3", {"mp3": "MPEG_LAYER_III"}, 2,
                  (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000), {"compression_level": 0.0}),
    # Quality 8 of 10, for the same reason. Beyond these limits libsndfile crashes.
    "ogg": Format("OGG", {"vorbis": "VORBIS"}, 255, range(1, 200001), {"compression_level": 0.2}),
}


def writable_rate(ext: str, sample_rate: int) -> int:
    """Return the rate in Hz that files of a format can have, and that loses least of audio of another."""
    rates = FORMATS[ext].rates
    return sample_rate if sample_rate in rates else min((rate for rate in rates if rate > sample_rate),
                                                        default=rates[-1])


def kept_encoding(ext: str, encoding: str | None) -> str:
    """Return the encoding of a format that keeps most of samples that were held by another; see `AudioReader`."""
    subtypes = FORMATS[ext].subtypes
    if encoding in subtypes:
        return encoding
    return "int24" if encoding == "float32" and "int24" in subtypes else next(iter(subtypes))


def check_format(ext: str, encoding: str | None = None, sample_rate: int | None = None,
                 channels: int | None = None) -> str:
    """Check that a file of these properties, as far as they are given, can be written.

    Returns
    -------
    str
        `encoding`, or the default of the format.

    Raises
    ------
    UsageError
    """
    if ext not in FORMATS:
        raise UsageError(f"no files of format {ext!r} can be written; choose from {', '.join(FORMATS)}")
    form = FORMATS[ext]
    encoding = encoding or next(iter(form.subtypes))
    if encoding not in form.subtypes:
        able = [name for name, other in FORMATS.items() if encoding in other.subtypes]
        choice = " or ".join(able) if able else f"{' or '.join(form.subtypes)} samples"
        raise UsageError(f"{ext} files cannot hold {encoding} samples; choose {choice}")
    if sample_rate is not None and sample_rate not in form.rates:
        raise UsageError(f"{ext} files cannot hold audio of {sample_rate} Hz; choose wav or flac")
    if channels is not None and channels > form.max_channels:
        raise UsageError(f"{ext} files cannot hold {channels} channels; choose wav")
    return encoding


class AudioWriter:
    """An audio file that is written piece by piece and appears whole or not at all; a context manager.

    Integers are rounded to nearest, and limited where the signal goes beyond full scale.

    Parameters
    ----------
    path
    sample_rate
        Hz.
    channels
    ext
        Format, a key of `FORMATS`.
    encoding
        'int16' (default), 'int24' or 'float32' in WAV; 'int16' (default) or 'int24' in FLAC.
    num_frames
        How many frames will be written: a WAV file that would pass 4 GB becomes RF64.
    description
        Tags, and for more than two channels in a WAV file their places, that the file gets.

    Raises
    ------
    UsageError
        The format cannot hold this; nothing is written.
    UserError
        No room, no permission, or a WAV file that passed 4 GB unannounced; nothing is left behind.
    """

    def __init__(self, path: str | Path, sample_rate: int, channels: int, ext: str = "wav", encoding: str | None = None,
                 num_frames: int = 0, description: Description = NOTHING_KNOWN):
        self.path = Path(path)
        self._encoding = check_format(ext, encoding, sample_rate, channels)
        self._settings: dict[str, Any] = dict(
            FORMATS[ext].options, samplerate=sample_rate, channels=channels, format=FORMATS[ext].name,
            subtype=FORMATS[ext].subtypes[self._encoding])
        self._ext, self._description = ext, description
        if ext == "wav" and channels > 2:
            self._settings["format"] = "WAVEX"    # has room for their places
        self._frames_left = np.inf
        if ext == "wav":
            self._frames_left = _WAV_BYTES // (channels * int(self._encoding[-2:]) // 8)
            if num_frames > self._frames_left:
                self._settings["format"], self._frames_left = "RF64", np.inf

    def __enter__(self):
        self._context = self._opened()
        self._file = self._context.__enter__()
        return self

    def __exit__(self, *exception):
        return self._context.__exit__(*exception)

    def write(self, audio: np.ndarray) -> None:
        """Append `audio` (samples, channels), float32."""
        self._frames_left -= len(audio)
        if self._frames_left < 0:
            raise UserError(f"{self.path}: a WAV file ends at 4 GB; choose flac")
        for start in range(0, len(audio), _WRITE):
            self._file.write(_encode(audio[start:start + _WRITE], self._encoding))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        import soundfile

        with replacing(self.path) as temporary:
            try:
                # Of names that are not UTF-8, soundfile takes the bytes.
                name: Any = temporary if os.name == "nt" else os.fsencode(temporary)
                with soundfile.SoundFile(name, "w", **self._settings) as file:
                    if self._ext != "mp3":    # whose text libsndfile writes in another alphabet
                        for key, value in self._description.tags.items():
                            setattr(file, TAGS[key], value)
                    yield file
            except soundfile.LibsndfileError as error:
                _check_room(temporary)    # says why, where libsndfile only says that
                raise UserError(f"{self.path}: could not be written ({error.error_string})") from error
            # libsndfile says nothing if the last bytes of a compressed file find no room.
            _check_room(temporary)
            complete(temporary, self._ext, self._description)


def _encode(audio: np.ndarray, encoding: str) -> np.ndarray:
    """Convert float32 to the integers of `encoding`, if it has any; libsndfile would round down in WAV files."""
    if encoding == "int16":
        return np.clip(np.rint(audio * 2.0**15), -2**15, 2**15 - 1).astype(np.int16)
    if encoding == "int24":    # in the upper bits
        return np.clip(np.rint(audio * 2.0**23), -2**23, 2**23 - 1).astype(np.int32) << 8
    return audio


def _check_room(path: Path) -> None:
    """Raise the OSError of appending to the file at `path`, if any, and leave the file as it is."""
    with path.open("ab") as file:
        size = file.tell()
        file.write(bytes(1 << 16))
        file.flush()
        file.truncate(size)
