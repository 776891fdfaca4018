"""What the header of a recording says of its length, and the same file with a length that is true.

A recorder that is interrupted leaves a length of 0 in the header, a program that writes to a pipe the largest number,
and beyond 4 GB the length of a WAV file begins again at 0: samples follow all the same.
"""
import io
from collections.abc import Callable
from typing import BinaryIO, Literal

import attrs

RATES = range(1000, 1_000_001)    # Hz that are believed; a resampler would make 44,100 samples of one at 1 Hz
_PLACEHOLDER = 0x7FFFF000    # bytes; from here on a field of 32 bits is no length, but stands for an unknown one
_SLACK = 64    # bytes; some programs count parts of the header twice, or leave a few bytes behind the samples
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")    # that players append to files of any format
_MAX_CHUNKS = 1000    # before the samples
_FAR = 1 << 62    # bytes; no length
_END = 1 << 40    # bytes; beyond the end of all files, and no file system refuses it
_OGG_PAGE = 27 + 255    # bytes of the head of a page
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
    counted
        Frames that the header counts beside the bytes; None where it does not. Codes of whole blocks fill the last one.
    fits
        Whether the header could hold the true length. Otherwise only FFmpeg reads on.
    """

    promised: int | None
    present: int
    corrections: dict[int, bytes] = attrs.field(factory=dict)
    counted: int | None = None
    fits: bool = True

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
    data: bytes    # how the name of the chunk with the samples begins
    order: Literal["big", "little"]    # of bytes
    size_bytes: int    # of the field with the length of a chunk
    prefix: int    # bytes of the chunk with the samples that are none
    alignment: int    # chunks begin at multiples of this
    largest: int    # length with which libsndfile still reads what there is
    name_bytes: int = 4
    counts_head: bool = False    # whether the length of a chunk includes its name and the length itself

    @property
    def head(self) -> int:
        """Bytes before the content of a chunk."""
        return self.name_bytes + self.size_bytes

    def after(self, end: int) -> int:
        """Offset of the chunk behind one that ends at `end`."""
        return -(-end // self.alignment) * self.alignment


_LAYOUTS = {b"RIFF": _Layout(12, b"data", "little", 4, 0, 2, 1 << 32),
            b"RIFX": _Layout(12, b"data", "big", 4, 0, 2, 1 << 32),
            b"RF64": _Layout(12, b"data", "little", 4, 0, 2, _FAR),
            b"FORM": _Layout(12, b"SSND", "big", 4, 8, 2, 1 << 32),
            b"caff": _Layout(8, b"data", "big", 8, 4, 1, 0),
            b"riff": _Layout(40, b"data", "little", 8, 0, 8, _FAR, name_bytes=16, counts_head=True)}    # Wave64
_SUN: dict[bytes, Literal["big", "little"]] = {b".snd": "big", b"dns.": "little"}    # order of bytes in AU


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
    if magic in _SUN:
        return _sun_length(stream, size, _SUN[magic])
    return _chunk_length(stream, size, magic) if magic in _LAYOUTS else None


def _sun_length(stream: BinaryIO, size: int, order: Literal["big", "little"]) -> DataLength:
    """AU has its samples from an offset to the end."""
    offset, promised = (int.from_bytes(stream.read(4), order) for _ in range(2))
    present = max(0, size - offset)
    if promised == 0xFFFFFFFF:    # this is how the format says that it does not know
        return DataLength(None, present)
    return _judge(stream, offset, promised, present, _PLACEHOLDER, 0, {8: b"\xFF" * 4}, lambda _: False)


def _chunk_length(stream: BinaryIO, size: int, magic: bytes) -> DataLength | None:
    layout = _LAYOUTS[magic]
    chunks = _chunks_from(stream, layout.first, layout, layout.data)
    if layout.data not in chunks:
        return None
    offset, length = chunks[layout.data]
    begin = offset + layout.head
    place, width = offset + layout.name_bytes, layout.size_bytes
    unknown = _PLACEHOLDER if width == 4 else _FAR
    if magic == b"RF64" and b"ds64" in chunks:
        place, width, unknown = chunks[b"ds64"][0] + 16, 8, _FAR    # behind name, length, and length of the file
        stream.seek(place)
        length = int.from_bytes(stream.read(8), "little")
    largest = (1 << 8 * width) - 1    # stands for all that follows
    field = min(size - begin + layout.head * layout.counts_head, largest).to_bytes(width, layout.order)
    judged = _judge(stream, begin + layout.prefix, length - layout.prefix, size - begin - layout.prefix, unknown,
                    layout.largest, {place: field}, lambda end: _are_chunks(stream, layout.after(end), size, layout))
    behind = _chunks_from(stream, layout.after(begin + length), layout, b"") if magic == b"caff" else {}
    return attrs.evolve(judged, counted=_counted(stream, {**behind, **chunks}, layout), fits=size - begin < largest)


def _counted(stream: BinaryIO, chunks: dict[bytes, tuple[int, int]], layout: _Layout) -> int | None:
    """Frames by the table of packets of CAF, which begins with their number, or by the chunk `fact` of WAV."""
    for name, skipped, size in ((b"pakt", 8, 8), (b"fact", 0, layout.size_bytes)):
        if name in chunks:
            stream.seek(chunks[name][0] + layout.head + skipped)
            return int.from_bytes(stream.read(size), layout.order)
    return None


def _chunks_from(stream: BinaryIO, offset: int, layout: _Layout, last: bytes) -> dict[bytes, tuple[int, int]]:
    """Offset and length of the chunks from an offset up to the one called `last`, or up to damage, by name."""
    chunks = {}
    while last not in chunks and len(chunks) < _MAX_CHUNKS:
        name, length = _chunk(stream, offset, layout)
        if name is None or name in chunks:
            break
        chunks[name] = offset, length
        offset = layout.after(offset + layout.head + length)
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
    if rest == 0 or are_chunks(end) or promised and is_junk:
        return DataLength(promise, promised)
    return DataLength(promise, present, corrections)


def _chunk(stream: BinaryIO, offset: int, layout: _Layout) -> tuple[bytes | None, int]:
    """First 4 bytes of the name, and length, of the chunk at `offset`; None where there is no chunk."""
    stream.seek(min(offset, _END))
    header = stream.read(layout.head)
    if len(header) < layout.head or not all(32 <= byte < 127 for byte in header[:4]):
        return None, 0
    length = int.from_bytes(header[layout.name_bytes:], layout.order) - layout.head * layout.counts_head
    return header[:4], max(0, length)


def _are_chunks(stream: BinaryIO, offset: int, size: int, layout: _Layout) -> bool:
    """Tell whether there are chunks from `offset` to the end of the file, give or take a few bytes."""
    for _ in range(_MAX_CHUNKS):
        name, length = _chunk(stream, offset, layout)
        end = offset + layout.head + length
        if name is None or end > size + _SLACK:
            return False
        if end >= size - _SLACK:
            return True
        offset = layout.after(end)
    return False


def _is_tag_or_padding(stream: BinaryIO, offset: int, rest: int) -> bool:
    stream.seek(offset)
    content = stream.read(min(rest, _PADDING))
    return content.startswith(_TAGS) or rest <= _PADDING and not any(content)


def has_one_page_of_vorbis(stream: BinaryIO) -> bool:
    """Tell whether an Ogg file has all of its audio, in Vorbis, in one page: less than a second, or much silence.

    FFmpeg does not know where such a page begins, and returns up to a block too much or too little at the end.
    """
    size, offset = stream.seek(0, io.SEEK_END), 0
    for index in range(_MAX_CHUNKS):
        stream.seek(offset)
        page = stream.read(_OGG_PAGE)
        if page[:4] != b"OggS" or len(page) < 28 or index == 0 and b"\x01vorbis" not in page[28:64]:
            return False
        begin = 27 + page[26]
        offset += begin + sum(page[27:begin])
        if int.from_bytes(page[6:14], "little", signed=True) > 0:    # frames up to its end; none in headers
            return bool(page[5] & 4) and offset == size    # the last one of the stream, and of the file
    return False


class CorrectedFile(io.RawIOBase):
    """A file with other bytes at some places; it has no name, so that nothing is concluded from one.

    Parameters
    ----------
    stream
    corrections
        Offset -> bytes.
    """

    def __init__(self, stream: BinaryIO, corrections: dict[int, bytes]):
        self._stream, self.corrections = stream, corrections
        stream.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()
        super().close()

    def fileno(self) -> int:
        """Descriptor of the file as it is."""
        return self._stream.fileno()

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
        for offset, correct in self.corrections.items():
            for k, byte in enumerate(correct, offset - start):
                if 0 <= k < len(content):
                    content[k] = byte
        view[:len(content)] = content
        return len(content)
