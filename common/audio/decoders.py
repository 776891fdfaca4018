"""Where `common.audio.files.AudioReader` gets its samples from: libsndfile, or PyAV for what that cannot seek in.

A source has `sample_rate`, `channels`, `num_streams`, `num_frames`, `estimated_frames` (see `AudioReader`), `length`
(what a header says of the bytes, or None), `promised_frames` (what it says of the frames, or None), `promises_padding`
(whether padding may be among these), `encoding` (see `AudioReader`), `damaged_packets` (offsets of those that could not
be decoded so far), and two methods: `close()` and `blocks_from(frame)`, which returns a frame at or before `frame` and
an iterator over the audio from there on, in blocks (samples, channels) of float32. A new iterator ends the use of those
before.
"""
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import soundfile
from av.stream import Discard

from common.audio.headers import RATES, CorrectedFile, DataLength, data_length, has_one_page_of_vorbis
from common.machine.errors import UserError
from common.reading.files import decoding, open_regular

# The first bytes of files in which libsndfile finds every sample. It also opens MP3 and Ogg, but a seek may return
# wrong samples there, and an MP3 file without a table of its length ends early. Short Ogg files it reads forward.
_SOUNDFILE_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"fLaC", b"caff", b".snd", b"dns.")
# All that FFmpeg may open: containers that hold their audio themselves (no lists of other files, scripts, devices,
# sequences of pictures), and decoders of audio. `none` is no protocol: it opens no second file.
_CONTAINERS = ("aac", "ac3", "aiff", "amr", "ape", "asf", "au", "avi", "caf", "dsf", "dts", "eac3", "flac", "flv",
               "matroska", "mov", "mp3", "mpc", "mpc8", "mpeg", "mpegts", "ogg", "tta", "w64", "wav", "wv")
_CODECS = frozenset((
    "aac", "aac_latm", "ac3", "adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms", "alac", "amrnb", "amrwb", "ape", "dca",
    "dsd_lsbf", "dsd_lsbf_planar", "dsd_msbf", "dsd_msbf_planar", "eac3", "flac", "gsm", "gsm_ms", "mp1", "mp1float",
    "mp2", "mp2float", "mp3", "mp3float", "mpc7", "mpc8", "opus", "speex", "tta", "vorbis", "wavpack", "wmalossless",
    "wmapro", "wmav1", "wmav2", *(name for name in av.codecs_available if name.startswith("pcm_"))))
_OPTIONS = {"format_whitelist": ",".join(_CONTAINERS), "codec_whitelist": ",".join(sorted(_CODECS)),
            "protocol_whitelist": "none"}
MOST_CHANNELS = 255    # as many as Vorbis can hold
_LOSSLESS = ("alac", "ape", "flac", "tta", "wavpack", "wmalossless")
_ENCODINGS = {"s16": "int16", "s32": "int24", "flt": "float32", "dbl": "float32"}    # of decoded samples
_SUBTYPES = {"PCM_16": "int16", "PCM_24": "int24", "PCM_32": "float32", "FLOAT": "float32", "DOUBLE": "float32"}
_KIND, _REMEDY = "an audio file", "copy or convert it again"
_STEP = 4096    # frames read at once: an error in a damaged file costs no more than these
_BLOCK = 1 << 13    # frames; what fills the last block of codes such as ADPCM is shorter
_AAC_FRAME = 1024    # frames in a packet
_SEGMENT = 16 * _AAC_FRAME


def open_source(path: Path, stream: int) -> "SampleSource | PacketSource":
    """Open audio stream `stream` of the file at `path` by what it contains, whatever its name.

    Raises
    ------
    UsageError
        There is no such file, or it is no regular one.
    UserError
        It cannot be read, nothing can be decoded, there is no such stream, or it has an impossible sample rate or
        number of channels.
    """
    with open_regular(path, _KIND) as opened:
        file = os.fdopen(os.dup(opened.fileno()), "rb", buffering=0)    # libsndfile and we move in it by turns
    try:
        with decoding(path, _KIND, _REMEDY):
            source = _source_of(path, file, stream)
        _check_source(path, source)
    except BaseException:
        file.close()
        raise
    return source


def open_container(stream: BinaryIO | CorrectedFile) -> av.container.InputContainer:
    """Open a file with FFmpeg, which opens no other one. It raises av.error.FFmpegError where it finds no audio."""
    return av.open(stream, metadata_errors="ignore", container_options=_OPTIONS)


def _source_of(path: Path, file: BinaryIO, stream: int) -> "SampleSource | PacketSource":
    magic = file.read(4)
    length = data_length(file)
    corrected = CorrectedFile(file, length.corrections if length else {})
    short = magic == b"OggS" and has_one_page_of_vorbis(file)
    # Where a correction does not fit into the header, FFmpeg alone reads on.
    placed = magic in _SOUNDFILE_MAGIC and (length is None or length.fits or not length.corrections)
    if stream == 0 and (placed or short):
        with contextlib.suppress(soundfile.LibsndfileError):
            source = SampleSource(corrected, length, seeks=not short)
            if source.knows_length:
                return source
            source.close_decoder()
    return PacketSource(path, stream, corrected, length)


def _check_source(path: Path, source: "SampleSource | PacketSource") -> None:
    if source.sample_rate not in RATES:
        raise UserError(f"{path}: a sample rate of {source.sample_rate} Hz; from {RATES[0]} to {RATES[-1]} Hz can be "
                        "read")
    if not 1 <= source.channels <= MOST_CHANNELS:
        raise UserError(f"{path}: {source.channels} channels; from 1 to {MOST_CHANNELS} can be read")


class _ForwardFile(soundfile.SoundFile):
    """A file that is only read forward: soundfile would move to where it is after every read."""

    def seekable(self) -> bool:
        return False


class SampleSource:
    """A file that libsndfile reads.

    The place of a sample is computed. Where libsndfile only goes forward (DWVW, GSM, G.72x), or stays silent after a
    seek, the file is read from its beginning at every `blocks_from`.
    """

    num_streams = 1
    promises_padding = False
    damaged_packets = frozenset()    # libsndfile ends at the first one

    def __init__(self, file: CorrectedFile, length: DataLength | None, seeks: bool = True):
        self._bytes, self.length, self._seeks = file, length, seeks
        self._file = self._open()
        self._seeks = seeks and self._can_seek()
        self.sample_rate, self.channels = self._file.samplerate, self._file.channels
        self.encoding = _SUBTYPES.get(self._file.subtype)
        counted, frames, subtype = length.counted if length else None, self._file.frames, self._file.subtype
        # Not so in a FLAC file that was written to a pipe, in MP3 under the cover of WAV, in ALAC without all of the
        # table of its packets.
        self.knows_length = frames < 1 << 62 and not subtype.startswith("MPEG") and (
            frames == counted or not subtype.startswith("ALAC"))
        self.num_frames = self.estimated_frames = self._count(counted)
        self.promised_frames = self.num_frames    # of a FLAC file; of others libsndfile counts what is there

    def _open(self) -> soundfile.SoundFile:
        self._bytes.seek(0)    # to libsndfile, a file begins where it is
        file: Any = self._bytes if self._bytes.corrections else self._bytes.fileno()
        return soundfile.SoundFile(file, closefd=False) if self._seeks else _ForwardFile(file, closefd=False)

    def _can_seek(self) -> bool:
        try:
            self._file.seek(min(1, self._file.frames))
        except soundfile.LibsndfileError:
            return False
        return True

    def _count(self, counted: int | None) -> int:
        """Frames without what fills the last block, if the header counts them."""
        frames = self._file.frames
        filling = frames - (counted or frames)
        # libsndfile itself counts those of all channels as one when it writes IMA ADPCM.
        believed = self.encoding is None and filling and frames != (counted or 0) * self.channels
        return frames - filling if believed and 0 < filling < _BLOCK else frames

    def close(self) -> None:
        self.close_decoder()
        self._bytes.close()

    def close_decoder(self) -> None:
        """Leave the file open for another decoder."""
        self._file.close()

    def blocks_from(self, frame: int) -> tuple[int, Iterator[np.ndarray]]:
        frame = min(frame, self.num_frames) if self._seeks else 0
        return frame, self._blocks(frame)

    def _blocks(self, start: int) -> Iterator[np.ndarray]:
        try:
            if self._seeks:
                self._file.seek(start)
            else:
                self._reopen()
            left = self.num_frames - start
            while left and len(block := self._file.read(min(_STEP, left), dtype="float32", always_2d=True)):
                left -= len(block)
                yield block
        except soundfile.LibsndfileError:    # damaged from here on; after an error nothing is found in a FLAC file
            self._reopen()

    def _reopen(self):
        self._file.close()
        self._file = self._open()


class PacketSource:
    """An audio stream that PyAV decodes, alone or beside others in a container.

    Notes
    -----
    A decoder of AAC draws noise from a generator that runs through the file, so what it returns depends on where it
    began. AAC-LC in MP4 is therefore decoded in segments of 16 packets, each by a decoder of its own: a sample has one
    value, and finding it costs a segment. Other streams are decoded from their beginning at every `blocks_from`.
    """

    def __init__(self, path: Path, index: int, file: CorrectedFile, length: DataLength | None):
        self._path, self._index, self._bytes, self.length = path, index, file, length
        self.damaged_packets: set[int] = set()    # offsets in the file
        self._container, self._stream = self._open()
        self.num_streams = len(self._container.streams.audio)
        first = next(self._decode(self._container, self._stream), None)
        if first is None:
            raise _undecodable(path)
        self.sample_rate, self.channels = first.sample_rate, first.layout.nb_channels
        codec = self._stream.codec_context.name
        keeps_samples = codec in _LOSSLESS or codec.startswith("pcm_")
        self.encoding = _ENCODINGS.get(first.format.name.removesuffix("p")) if keeps_samples else None
        self._first_pts = first.pts or 0
        duration = self._container.duration    # microseconds
        self.estimated_frames = round(duration * self.sample_rate / 1_000_000) if duration and duration > 0 else None
        self.num_frames: int | None = None
        counted = self.length.counted if self.length and codec == "alac" else None
        self.promised_frames = counted or self._promise()
        self._segmented = self._is_regular(first)
        self.promises_padding = not (counted or self._segmented)
        if self._segmented:
            self.num_frames = self.estimated_frames = self.promised_frames = self._length()
        else:
            self._container.close()

    def close(self) -> None:
        self._container.close()
        self._bytes.close()

    def blocks_from(self, frame: int) -> tuple[int, Iterator[np.ndarray]]:
        if self._segmented:
            segment = frame // _SEGMENT
            return segment * _SEGMENT, self._segments_from(segment)
        return 0, self._blocks()

    def _open(self) -> tuple[av.container.InputContainer, av.audio.stream.AudioStream]:
        self._bytes.seek(0)
        try:
            container = open_container(self._bytes)
        except av.error.FFmpegError as error:
            raise _undecodable(self._path) from error
        streams = container.streams.audio
        if self._index >= len(streams):
            raise UserError(f"{self._path}: no audio stream {self._index} in it, counted from 0; it has {len(streams)}")
        # A stream that FFmpeg has no decoder for is without a context. To decode it ends the process.
        if (context := streams[self._index].codec_context) is None or context.name not in _CODECS:
            raise _undecodable(self._path)
        for stream in container.streams:
            if stream.index != streams[self._index].index:
                stream.discard = Discard.all    # the bytes of the others are not even read
        return container, streams[self._index]

    def _is_regular(self, first: av.AudioFrame) -> bool:
        """Tell whether time stamps count samples, and decoding a packet takes no more than the one before it."""
        stream = self._stream
        return (first.pts is not None and stream.codec_context.name == "aac" and stream.profile == "LC"
                and first.samples <= _AAC_FRAME and stream.time_base * first.sample_rate == 1 and bool(stream.duration)
                and abs(stream.frames * _AAC_FRAME - stream.duration) <= 4 * _AAC_FRAME)

    def _length(self) -> int:
        """Return how many frames there are without the padding at both ends."""
        duration, end = self._stream.duration, 0
        self._container.seek(self._first_pts + duration, stream=self._stream)
        with contextlib.suppress(av.error.FFmpegError):    # cut off
            packets = [packet for packet in self._container.demux(self._stream) if packet.size]
            end = max((packet.pts + (packet.duration or 0) for packet in packets if packet.pts is not None), default=0)
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
        with decoding(self._path, _KIND, _REMEDY):
            container, stream = self._open()
            for frame in self._decode(container, stream):
                if (frame.sample_rate, frame.layout.nb_channels) != (self.sample_rate, self.channels):
                    raise UserError(f"{self._path}: changes its sample rate or channels in the middle; convert it")
                yield _samples(frame)

    def _segments_from(self, segment: int) -> Iterator[np.ndarray]:
        assert self.num_frames is not None
        with decoding(self._path, _KIND, _REMEDY):
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
        for frame in self._decode(self._container, self._stream, decoder, first_pts - 2 * _AAC_FRAME,
                                  first_pts + _SEGMENT):
            place = -_SEGMENT if frame.pts is None else frame.pts - first_pts
            if -frame.samples < place < _SEGMENT:
                part = _samples(frame)[max(0, -place):_SEGMENT - place]
                audio[max(0, place):][:len(part)] = part
                found = True
        return audio if found else None

    def _decode(self, container: av.container.InputContainer, stream: av.audio.stream.AudioStream,
                decoder: av.CodecContext | None = None, after: int = -1 << 62, until: int = 1 << 62
                ) -> Iterator[av.AudioFrame]:
        """Yield the frames of the packets with time stamps between `after` and `until` that can be decoded.

        `decoder` is that of the stream if none is given; it is flushed at the end of the container.
        """
        decoder = decoder or stream.codec_context
        with contextlib.suppress(av.error.FFmpegError):    # the file is cut off
            for packet in container.demux(stream):
                if packet.size and packet.pts is not None and packet.pts <= after:
                    continue
                if packet.size and packet.pts is not None and packet.pts >= until:
                    return
                yield from self._frames(decoder, packet)

    def _frames(self, decoder: av.CodecContext, packet: av.Packet) -> list[av.AudioFrame]:
        try:
            return decoder.decode(packet)
        except (av.error.FFmpegError, ValueError):    # damaged, or a tag between two songs
            self.damaged_packets.add(packet.pos or 0)
            return []


def _undecodable(path: Path) -> UserError:
    return UserError(f"{path}: no audio could be decoded (truncated or not an audio file)")


def _samples(frame: av.AudioFrame) -> np.ndarray:
    """Convert an av.AudioFrame to float32 (samples, channels); integers are divided by 2^(bits - 1)."""
    data = frame.to_ndarray()
    data = data.T if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels)
    if data.dtype == np.uint8:
        return (data.astype(np.float32) - 128) / 128
    if data.dtype.kind == "i":
        return data.astype(np.float32) / 2.0 ** (8 * data.dtype.itemsize - 1)
    return data.astype(np.float32, copy=False)
