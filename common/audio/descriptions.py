"""What a file of audio says of it beside the samples: tags, a picture, and the places of its channels.

Tags are text; libsndfile writes them into WAV, FLAC and Ogg files. What it cannot write is added here: the picture, all
of an MP3 file, and the places of channels in a WAV file.
"""
import os
from collections.abc import Mapping
from pathlib import Path

import attrs

from common.machine.errors import UserError

# Key, as FFmpeg has it -> as soundfile calls it, and the frame of ID3.
TAGS = {"title": "title", "artist": "artist", "album": "album", "track": "tracknumber", "genre": "genre",
        "date": "date"}
_FRAMES = {"title": b"TIT2", "artist": b"TPE1", "album": b"TALB", "track": b"TRCK", "genre": b"TCON", "date": b"TYER"}
_LONGEST = 500    # characters of a tag
_LARGEST = (1 << 24) - 1000    # bytes of a picture: a block of FLAC has a length of 24 bits
_BLOCK = 1 << 20    # bytes moved at once
_PICTURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n": "image/png"}    # first bytes
# In the order of the bits in a WAV file, which is that of the channels.
PLACES = ("FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR", "TC", "TFL", "TFC", "TFR", "TBL", "TBC",
          "TBR")
# What players take for the places of so many channels if nothing says them.
_USUAL = {1: ("FC",), 2: ("FL", "FR"), 3: ("FL", "FR", "FC"), 4: ("FL", "FR", "BL", "BR"),
          5: ("FL", "FR", "FC", "BL", "BR"), 6: ("FL", "FR", "FC", "LFE", "BL", "BR"),
          7: ("FL", "FR", "FC", "LFE", "BC", "SL", "SR"), 8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR")}


@attrs.frozen
class Description:
    """What a file says of its audio.

    Attributes
    ----------
    tags
        Some of the keys of `TAGS`.
    picture
        A JPEG or PNG file: the cover.
    places
        Of the channels, as FFmpeg calls them; empty where nobody knows.
    """

    tags: Mapping[str, str] = attrs.field(factory=dict)
    picture: bytes | None = None
    places: tuple[str, ...] = ()


NOTHING_KNOWN = Description()


def describe(path: str | Path, channels: int) -> Description:
    """Read the description of a file of audio; what cannot be read is left out.

    Parameters
    ----------
    path
        A file that `common.audio.files.AudioReader` can read.
    channels
        How many it has.
    """
    from common.audio.decoders import open_container
    from common.reading.files import decoding, open_regular

    path, usual = Path(path), _USUAL.get(channels, ())
    try:
        with (open_regular(path, "an audio file") as file, decoding(path, "an audio file", "copy it again"),
              open_container(file) as container):
            stream = container.streams.audio[0]
            tags = {key.lower(): value for key, value in {**stream.metadata, **container.metadata}.items()}
            places = tuple(channel.name for channel in stream.layout.channels)
            known = len(places) == channels and set(places) <= set(PLACES)
            return Description(_clean(tags), _picture(container), places if known else usual)
    except UserError:
        return Description(places=usual)


def _clean(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that are known, without what a file cannot hold."""
    texts = {key: "".join(c for c in tags.get(key, "") if c.isprintable()).strip()[:_LONGEST] for key in TAGS}
    return {key: text for key, text in texts.items() if text}


def _picture(container) -> bytes | None:
    """Return the first picture in a container that is a JPEG or PNG file of a size that all formats can hold."""
    for stream in container.streams.video:
        packet = next(container.demux(stream), None)    # a picture is one packet
        content = bytes(packet) if packet is not None and packet.size <= _LARGEST else b""
        if _mime(content):
            return content
    return None


def _mime(picture: bytes) -> str | None:
    return next((mime for start, mime in _PICTURES.items() if picture.startswith(start)), None)


# What libsndfile does not write ---------------------------------------------------------------------------------------


def complete(path: Path, ext: str, description: Description) -> None:
    """Add to a file that libsndfile wrote what it did not write of a description, and take out when it did."""
    if ext == "mp3" and (description.tags or description.picture):
        _insert(path, 0, _id3(description))
    elif ext == "flac" and description.picture:
        _add_flac_picture(path, description.picture)
    elif ext == "wav":
        _set_places(path, description.places)
        _forget_time(path)
        if description.picture:
            _append_chunk(path, b"id3 ", _id3(description))


def _insert(path: Path, offset: int, content: bytes) -> None:
    """Insert bytes into a file, which stays the same one: another would be neither locked nor known to be on the disk.
    """
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end > offset:    # from the end on, nothing is written over that was not moved before
            start = max(offset, end - _BLOCK)
            file.seek(start)
            moved = file.read(end - start)
            file.seek(start + len(content))
            file.write(moved)
            end = start
        file.seek(offset)
        file.write(content)


def _id3(description: Description) -> bytes:
    """Write a tag of ID3v2.3."""
    frames = [_frame(_FRAMES[key], b"\x01" + text.encode("utf-16")) for key, text in description.tags.items()]
    if description.picture:
        mime = str(_mime(description.picture)).encode()
        frames.append(_frame(b"APIC", b"\x00" + mime + b"\x00\x03\x00" + description.picture))    # 3: front cover
    content = b"".join(frames)
    size = bytes(len(content) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\x00\x00" + size + content


def _frame(name: bytes, content: bytes) -> bytes:
    return name + len(content).to_bytes(4, "big") + b"\x00\x00" + content


def _add_flac_picture(path: Path, picture: bytes) -> None:
    """Insert a block behind the first one, which is the only one that has a place."""
    mime = str(_mime(picture)).encode()
    content = b"".join([(3).to_bytes(4, "big"), len(mime).to_bytes(4, "big"), mime, bytes(20),    # sizes: not known
                        len(picture).to_bytes(4, "big"), picture])
    with path.open("rb") as file:
        file.seek(4)
        first = file.read(4)
    assert not first[0] & 0x80, "libsndfile writes a block of comments behind the first"
    _insert(path, 8 + int.from_bytes(first[1:], "big"), b"\x06" + len(content).to_bytes(3, "big") + content)


def _set_places(path: Path, places: tuple[str, ...]) -> None:
    """Write the places of channels into the header of a WAV file that has room for them."""
    mask = sum(1 << PLACES.index(place) for place in places)
    with path.open("r+b") as file:
        header = file.read(1 << 10)
        start = header.find(b"fmt ") + 8
        if header[start:start + 2] == b"\xfe\xff" and mask.bit_count() == int.from_bytes(header[start + 2:start + 4],
                                                                                         "little"):
            file.seek(start + 20)
            file.write(mask.to_bytes(4, "little"))


def _forget_time(path: Path) -> None:
    """Take the time out of the header of a WAV file, where libsndfile writes it beside the peak of floats.

    The same samples are the same file then.
    """
    with path.open("r+b") as file:
        start, name = 12, b"LIST"
        while name not in (b"", b"PEAK", b"data"):
            file.seek(start)
            name, size = file.read(4), int.from_bytes(file.read(4), "little")
            start += 8 + size + size % 2
        if name == b"PEAK":
            file.seek(4, os.SEEK_CUR)    # its version
            file.write(bytes(4))


def _append_chunk(path: Path, name: bytes, content: bytes) -> None:
    """Append a chunk to a WAV file, unless its size would need more than 32 bits."""
    with path.open("r+b") as file:
        if file.read(4) != b"RIFF" or file.seek(0, os.SEEK_END) + len(content) + 9 >= 1 << 32:
            return
        file.write(bytes(file.tell() % 2) + name + len(content).to_bytes(4, "little") + content
                   + bytes(len(content) % 2))
        size = file.tell() - 8
        file.seek(4)
        file.write(size.to_bytes(4, "little"))
