"""What the header of a recording says of its length, and the same file with a length that is true.

A recorder that is interrupted leaves a length of 0 in the header, a program that writes to a pipe the largest number,
and beyond 4 GB the length of a WAV file begins again at 0: samples follow all the same.
"""
import io
from collections.abc import Callable
from typing import BinaryIO

import attrs

RATES = range(1000, 1_000_001)    # Hz that are believed; a resampler would make 44,100 samples of one at 1 Hz
_PLACEHOLDER = 0x7FFFF000    # bytes; from here on a field of 32 bits is no length, but stands for an unknown one
_SLACK = 64    # bytes; some programs count parts of the header twice, or leave a few bytes behind the samples
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")    # that players append to files of any format
_MAX_CHUNKS = 1000    # before the samples
_PADDING = 1 << 16    # zeros that fill a block of a disk are no samples


@attrs.frozen
class DataLength:
    """How many bytes of samples there should be, and how many there are.

    Attributes
    ----------
    promised
        By the header; None if it does not know.
    present
        From the first sample to the end of what can be samples.
    corrections
        Offset in the file -> bytes that should stand there, where the header is not to be believed.
    """

    promised: int | None
    present: int
    corrections: dict[int, bytes] = attrs.field(factory=dict)

    @property
    def wrong_share(self) -> float | None:
        """What is promised as a share of what is there, if that is not all but 1."""
        if self.promised is None or not self.present or 0 <= self.promised - self.present <= _SLACK:
            return None
        return self.promised / self.present


@attrs.frozen
class _Layout:
    """How a format of chunks writes them."""

    first: int    # offset of the first chunk
    data: bytes    # name of the chunk with the samples
    order: str    # of bytes
    size_bytes: int    # of the field with the length of a chunk
    prefix: int    # bytes of the chunk with the samples that are none
    aligned: bool    # chunks begin at even offsets
    largest: int    # length with which libsndfile still reads what there is


_LAYOUTS = {b"RIFF": _Layout(12, b"data", "little", 4, 0, True, 1 << 32),
            b"RF64": _Layout(12, b"data", "little", 4, 0, True, 1 << 62),
            b"FORM": _Layout(12, b"SSND", "big", 4, 8, True, 1 << 32),
            b"caff": _Layout(8, b"data", "big", 8, 4, False, 0)}


def data_length(stream: BinaryIO) -> DataLength | None:
    """Compare the length in a header with the file.

    Parameters
    ----------
    stream
        An audio file. Its position is lost.

    Returns
    -------
    DataLength or None
        None where the format keeps no length before its samples, or none is found.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    magic = stream.read(4)
    if magic == b".snd":
        return _sun_length(stream, size)
    return _chunk_length(stream, size, magic) if magic in _LAYOUTS else None


def _sun_length(stream: BinaryIO, size: int) -> DataLength:
    """AU has its samples from an offset to the end."""
    offset, promised = (int.from_bytes(stream.read(4), "big") for _ in range(2))
    present = max(0, size - offset)
    if promised == 0xFFFFFFFF:    # this is how the format says that it does not know
        return DataLength(None, present)
    return _judge(stream, offset, promised, present, _PLACEHOLDER, 0, {8: b"\xFF" * 4}, lambda _: False)


def _chunk_length(stream: BinaryIO, size: int, magic: bytes) -> DataLength | None:
    layout = _LAYOUTS[magic]
    chunks = _chunks_to_data(stream, layout)
    if layout.data not in chunks:
        return None
    offset, length = chunks[layout.data]
    begin = offset + 4 + layout.size_bytes
    place, width, unknown = offset + 4, layout.size_bytes, _PLACEHOLDER if layout.size_bytes == 4 else 1 << 62
    if magic == b"RF64" and b"ds64" in chunks:
        place, width, unknown = chunks[b"ds64"][0] + 16, 8, 1 << 62    # behind name, length, and length of the file
        stream.seek(place)
        length = int.from_bytes(stream.read(8), "little")
    true_length = min(size - begin, (1 << 8 * width) - 1)    # the largest number stands for all that follows
    field = true_length.to_bytes(width, layout.order)    # pyright: ignore[reportArgumentType]
    return _judge(stream, begin + layout.prefix, length - layout.prefix, size - begin - layout.prefix,
                  unknown, layout.largest, {place: field}, lambda end: _are_chunks(stream, end, size, layout))


def _chunks_to_data(stream: BinaryIO, layout: _Layout) -> dict[bytes, tuple[int, int]]:
    """Offset and length of the chunks up to the one with the samples, by name; those before damage, if there is any."""
    chunks, offset = {}, layout.first
    while layout.data not in chunks and len(chunks) < _MAX_CHUNKS:
        name, length = _chunk(stream, offset, layout)
        if name is None or name in chunks:
            break
        chunks[name] = offset, length
        offset += 4 + layout.size_bytes + length + (length % 2 if layout.aligned else 0)
    return chunks


def _judge(stream: BinaryIO, begin: int, promised: int, present: int, unknown: int, largest: int,
           corrections: dict[int, bytes], are_chunks: Callable[[int], bool]) -> DataLength:
    """Decide whether `promised` bytes of samples from offset `begin` on can be true.

    Parameters
    ----------
    present
        From there to the end of the file.
    unknown
        From this number on, the promise is none.
    largest
        As of `_Layout`.
    corrections
        To be made if it is not true, as of `DataLength`.
    are_chunks
        Tells whether from an offset on there are chunks instead of samples.
    """
    promise = None if promised >= unknown else max(0, promised)
    promised, present = max(0, promised), max(0, present)
    if promised > present:
        return DataLength(promise, present, corrections if promised >= largest and present else {})
    rest, end = present - promised, begin + promised
    is_junk = rest <= _SLACK or _is_tag_or_padding(stream, end, rest)
    if rest == 0 or are_chunks(end + end % 2) or promised and is_junk:
        return DataLength(promise, promised)
    return DataLength(promise, present, corrections)


def _chunk(stream: BinaryIO, offset: int, layout: _Layout) -> tuple[bytes | None, int]:
    """Name and length of the chunk at `offset`; None where there is no chunk."""
    stream.seek(offset)
    header = stream.read(4 + layout.size_bytes)
    if len(header) < 4 + layout.size_bytes or not all(32 <= byte < 127 for byte in header[:4]):
        return None, 0
    return header[:4], int.from_bytes(header[4:], layout.order)    # pyright: ignore[reportArgumentType]


def _are_chunks(stream: BinaryIO, offset: int, size: int, layout: _Layout) -> bool:
    """Tell whether there are chunks from `offset` to the end of the file, give or take a few bytes."""
    for _ in range(_MAX_CHUNKS):
        name, length = _chunk(stream, offset, layout)
        end = offset + 4 + layout.size_bytes + length
        if name is None or end > size + _SLACK:
            return False
        if end >= size - _SLACK:
            return True
        offset = end + (end % 2 if layout.aligned else 0)
    return False


def _is_tag_or_padding(stream: BinaryIO, offset: int, rest: int) -> bool:
    stream.seek(offset)
    content = stream.read(min(rest, _PADDING))
    return content.startswith(_TAGS) or rest <= _PADDING and not any(content)


class CorrectedFile(io.RawIOBase):
    """A file with other bytes at some places; it has no name, so that nothing is concluded from one.

    Parameters
    ----------
    stream
    corrections
        Offset -> bytes.
    """

    def __init__(self, stream: BinaryIO, corrections: dict[int, bytes]):
        self._stream, self._corrections = stream, corrections
        stream.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()
        super().close()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return self._stream.seek(offset, whence)
        except (OSError, ValueError):    # damaged files lead to places before the beginning
            return -1    # as lseek says it; an exception would be printed by PyAV, and dropped

    def tell(self) -> int:
        return self._stream.tell()

    def readinto(self, buffer: bytearray | memoryview) -> int:    # pyright: ignore[reportIncompatibleMethodOverride]
        start, view = self._stream.tell(), memoryview(buffer).cast("B")
        content = bytearray(self._stream.read(len(view)))
        for offset, correct in self._corrections.items():
            for k, byte in enumerate(correct, offset - start):
                if 0 <= k < len(content):
                    content[k] = byte
        view[:len(content)] = content
        return len(content)
