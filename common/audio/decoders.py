"""Where `common.audio.files.AudioReader` gets its samples from: libsndfile, or PyAV for what that cannot seek in.

A source has `sample_rate`, `channels`, `num_streams`, `num_frames`, `estimated_frames` (see `AudioReader`),
`promised_frames` (what a header says, None if it does not), and two methods: `close()` and `blocks_from(frame)`, which
returns a frame at or before `frame` and an iterator over the audio from there on, in blocks (samples, channels) of
float32. A new iterator ends the use of those before.
"""
import contextlib
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import soundfile
from av.stream import Discard

from common.machine.errors import UsageError, UserError

# The first bytes of files in which libsndfile finds every sample. It also opens MP3 and Ogg, but a seek may return
# wrong samples there, and an MP3 file without a table of its length ends early.
_SOUNDFILE_MAGIC = (b"RIFF", b"RF64", b"riff", b"FORM", b"fLaC", b"caff", b".snd")
_STEP = 4096    # frames read at once: an error in a damaged file costs no more than these
_AAC_FRAME = 1024    # frames in a packet
_SEGMENT = 16 * _AAC_FRAME


def open_source(path: Path, stream: int) -> "SampleSource | PacketSource":
    """Open audio stream `stream` of the file at `path` by what it contains, whatever its name.

    Raises
    ------
    UsageError
        There is no such file, or it is a folder.
    UserError
        It cannot be read, nothing can be decoded, or there is no such stream.
    """
    if not path.is_file():
        raise UsageError(f"{path}: " + ("not a file" if path.exists() else "no such file"))
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if magic in _SOUNDFILE_MAGIC and stream == 0:
        with contextlib.suppress(soundfile.LibsndfileError):
            source = SampleSource(path)
            if source.knows_length:
                return source
            source.close()
    return PacketSource(path, stream)


class SampleSource:
    """A file that libsndfile reads, in which the place of every sample can be computed."""

    num_streams = 1

    def __init__(self, path: Path):
        self._path, self._file = path, soundfile.SoundFile(path)
        self.sample_rate, self.channels = self._file.samplerate, self._file.channels
        self.num_frames = self.estimated_frames = self._file.frames
        # Not so in a FLAC file that was written to a pipe, nor in MP3 under the cover of WAV.
        self.knows_length = self.num_frames < 1 << 62 and not self._file.subtype.startswith("MPEG")
        # libsndfile counts what should be there of a FLAC file, but what is there of a WAV file.
        self.promised_frames = round(self.num_frames * _promised_share(path))

    def close(self) -> None:
        self._file.close()

    def blocks_from(self, frame: int) -> tuple[int, Iterator[np.ndarray]]:
        frame = min(frame, self.num_frames)
        return frame, self._blocks(frame)

    def _blocks(self, start: int) -> Iterator[np.ndarray]:
        try:
            self._file.seek(start)
            while len(block := self._file.read(_STEP, dtype="float32", always_2d=True)):
                yield block
        except soundfile.LibsndfileError:    # damaged from here on; after an error nothing is found in a FLAC file
            self._file.close()
            self._file = soundfile.SoundFile(self._path)


def _promised_share(path: Path) -> float:
    """Return the size that the RIFF header of the file at `path` gives, as a multiple of its true size; at least 1."""
    with path.open("rb") as file:
        magic, size, true_size = file.read(4), int.from_bytes(file.read(4), "little"), path.stat().st_size
    # A program that writes to a pipe does not know the size, and puts one that no file has. Others count some bytes of
    # the header twice.
    return size / true_size if magic == b"RIFF" and true_size + 64 < size < 0x7FFFF000 else 1


class PacketSource:
    """An audio stream that PyAV decodes, alone or beside others in a container.

    Notes
    -----
    A decoder of AAC draws noise from a generator that runs through the file, so what it returns depends on where it
    began. AAC-LC in MP4 is therefore decoded in segments of 16 packets, each by a decoder of its own: a sample has one
    value, and finding it costs a segment. Other streams are decoded from their beginning at every `blocks_from`.
    """

    def __init__(self, path: Path, index: int):
        self._path, self._index = path, index
        self._container, self._stream = self._open()
        self.num_streams = len(self._container.streams.audio)
        first = next(_decode(self._container, self._stream), None)
        if first is None:
            raise _undecodable(path)
        self.sample_rate, self.channels = first.sample_rate, first.layout.nb_channels
        self._first_pts = first.pts
        duration = self._container.duration    # microseconds
        self.estimated_frames = duration and round(duration * self.sample_rate / 1_000_000)
        self.num_frames: int | None = None
        self.promised_frames = self._promise()
        self._segmented = self._is_regular(first)
        if self._segmented:
            self.num_frames = self.estimated_frames = self.promised_frames = self._length()
        else:
            self._container.close()

    def close(self) -> None:
        self._container.close()

    def blocks_from(self, frame: int) -> tuple[int, Iterator[np.ndarray]]:
        if self._segmented:
            segment = frame // _SEGMENT
            return segment * _SEGMENT, self._segments_from(segment)
        return 0, self._blocks()

    def _open(self) -> tuple[av.container.InputContainer, av.audio.stream.AudioStream]:
        try:
            container = av.open(f"file:{self._path}", metadata_errors="ignore")
        except av.error.FFmpegError as error:
            raise _undecodable(self._path) from error
        streams = container.streams.audio
        if self._index >= len(streams):
            container.close()
            raise UserError(f"{self._path}: no audio stream {self._index} in it, counted from 0; it has {len(streams)}")
        for stream in container.streams:
            if stream.index != streams[self._index].index:
                stream.discard = Discard.all    # the bytes of the others are not even read
        return container, streams[self._index]

    def _is_regular(self, first: av.AudioFrame) -> bool:
        """Tell whether time stamps count samples, and decoding a packet takes no more than the one before it."""
        stream = self._stream
        return (stream.codec_context.name == "aac" and stream.profile == "LC" and first.samples <= _AAC_FRAME
                and stream.time_base * first.sample_rate == 1 and bool(stream.duration)
                and abs(stream.frames * _AAC_FRAME - stream.duration) <= 4 * _AAC_FRAME)

    def _length(self) -> int:
        """Return how many frames there are without the padding at both ends."""
        duration, end = self._stream.duration, 0
        self._container.seek(self._first_pts + duration, stream=self._stream)
        with contextlib.suppress(av.error.FFmpegError):    # cut off
            packets = [packet for packet in self._container.demux(self._stream) if packet.size]
            end = max((packet.pts + packet.duration for packet in packets), default=0)
        # The duration may have been rounded to milliseconds. Where it is shorter than that, it leaves out padding.
        exact = end - self._first_pts
        return exact if abs(exact - duration) <= self.sample_rate // 1000 else duration

    def _promise(self) -> int | None:
        """Return how many frames the container says there are, padding included; None if it only guesses."""
        name = self._container.format.name
        # An MP3 file that starts with a table knows its length, and the delay after which its audio starts.
        knows = self._stream.start_time if name == "mp3" else name.startswith(("mov", "matroska"))
        return self.estimated_frames if knows else None

    def _blocks(self) -> Iterator[np.ndarray]:
        container, stream = self._open()
        with container:
            for frame in _decode(container, stream):
                if (frame.sample_rate, frame.layout.nb_channels) != (self.sample_rate, self.channels):
                    raise UserError(f"{self._path}: changes its sample rate or channels in the middle; convert it")
                yield _samples(frame)

    def _segments_from(self, segment: int) -> Iterator[np.ndarray]:
        assert self.num_frames is not None
        while segment * _SEGMENT < self.num_frames and (audio := self._segment(segment)) is not None:
            yield audio[:self.num_frames - segment * _SEGMENT]
            segment += 1

    def _segment(self, segment: int) -> np.ndarray | None:
        """Decode `_SEGMENT` frames, silence where packets are damaged; None where the file has come to an end."""
        first_pts = self._first_pts + segment * _SEGMENT
        self._container.seek(first_pts - _AAC_FRAME, stream=self._stream)
        decoder = av.CodecContext.create("aac", "r")
        decoder.extradata = self._stream.codec_context.extradata
        audio, found = np.zeros((_SEGMENT, self.channels), np.float32), False
        # A packet needs the one before it. Where a segment begins must not depend on where the container seeks to.
        for frame in _decode(self._container, self._stream, decoder, first_pts - 2 * _AAC_FRAME, first_pts + _SEGMENT):
            place = frame.pts - first_pts
            if -frame.samples < place < _SEGMENT:
                part = _samples(frame)[max(0, -place):_SEGMENT - place]
                audio[max(0, place):][:len(part)] = part
                found = True
        return audio if found else None


def _undecodable(path: Path) -> UserError:
    return UserError(f"{path}: no audio could be decoded (truncated or not an audio file)")


def _decode(container, stream, decoder=None, after=-1 << 62, until=1 << 62):
    """Yield the frames (av.AudioFrame) of the packets with time stamps between `after` and `until` that can be decoded.

    `decoder` is that of the stream if none is given; it is flushed at the end of the container.
    """
    decoder = decoder or stream.codec_context
    with contextlib.suppress(av.error.FFmpegError):    # the file is cut off
        for packet in container.demux(stream):
            if packet.size and packet.pts <= after:
                continue
            if packet.size and packet.pts >= until:
                return
            frames = []
            with contextlib.suppress(av.error.FFmpegError):    # a damaged packet, or a tag between two songs
                frames = decoder.decode(packet)
            yield from frames


def _samples(frame: av.AudioFrame) -> np.ndarray:
    """Convert an av.AudioFrame to float32 (samples, channels); integers are divided by 2^(bits - 1)."""
    data = frame.to_ndarray()
    data = data.T if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels)
    if data.dtype == np.uint8:
        return (data.astype(np.float32) - 128) / 128
    if data.dtype.kind == "i":
        return data.astype(np.float32) / 2.0 ** (8 * data.dtype.itemsize - 1)
    return data.astype(np.float32, copy=False)
