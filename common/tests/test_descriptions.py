"""Tags, covers and places of channels: what is written is read again, and audio stays as it was."""
import io
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from common.audio import descriptions
from common.audio.descriptions import NOTHING_KNOWN, Description, describe
from common.audio.files import FORMATS, AudioReader, AudioWriter

TAGS = {"title": "Tïtle 曲", "artist": "A & B", "album": "C", "track": "3/9", "genre": "Pop", "date": "1999"}
SURROUND = ("FL", "FR", "FC", "LFE", "SL", "SR")


def picture(kind, side=64):
    file = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 30)).save(file, kind)
    return file.getvalue()


def noise(frames=20_000, channels=2):
    return (0.1 * np.random.default_rng(0).standard_normal((frames, channels))).astype(np.float32)


def write(path, description, channels=2, **settings):
    with AudioWriter(path, 48000, channels, path.suffix[1:], description=description, **settings) as writer:
        writer.write(noise(channels=channels))
    with AudioReader(path) as reader:
        return reader.read()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", None])
@pytest.mark.parametrize("ext", FORMATS)
def test_what_is_written_is_read(ext, kind, tmp_path):
    plain = write(tmp_path / f"plain.{ext}", NOTHING_KNOWN)
    wanted = Description(TAGS, picture(kind) if kind else None)
    described = write(tmp_path / f"song.{ext}", wanted)
    found = describe(tmp_path / f"song.{ext}", 2)
    assert found.tags == TAGS and found.picture == (None if ext == "ogg" else wanted.picture)
    np.testing.assert_array_equal(described, plain)
    assert describe(tmp_path / f"plain.{ext}", 2).tags == {}
    assert {path.stem for path in tmp_path.iterdir()} == {"plain", "song"}


@pytest.mark.parametrize("places", [SURROUND, ("FL", "FR", "FC", "LFE", "BL", "BR"), ("FL", "FR", "LFE")], ids=str)
@pytest.mark.parametrize("frames", [0, 1 << 40], ids=["WAV", "RF64"])
def test_places_of_channels_in_a_wav_file(places, frames, tmp_path):
    audio = write(tmp_path / "song.wav", Description(TAGS, None, places), len(places), num_frames=frames)
    np.testing.assert_allclose(audio, noise(channels=len(places)), atol=2**-15)
    assert describe(tmp_path / "song.wav", len(places)).places == places


@pytest.mark.parametrize("channels, places", [(6, ("FL", "FR", "FC", "LFE", "BL", "BR")), (10, ())])
def test_where_a_file_says_no_places_they_are_the_usual_ones(channels, places, tmp_path):
    write(tmp_path / "song.wav", NOTHING_KNOWN, channels)
    assert describe(tmp_path / "song.wav", channels).places == places


@pytest.mark.parametrize("ext", FORMATS)
def test_the_file_that_was_brought_to_the_disk_is_the_one_that_appears(ext, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("common.machine.files.os.fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    write(tmp_path / f"song.{ext}", Description(TAGS, picture("PNG")))
    assert synced == [(tmp_path / f"song.{ext}").stat().st_ino]


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_a_wav_file_of_floats_does_not_say_when_it_was_written(channels, tmp_path):
    path = tmp_path / "song.wav"
    audio = write(path, Description({"title": "PEAK" * 100}), channels, encoding="float32")
    np.testing.assert_array_equal(audio, noise(channels=channels))
    start = b"PEAK" + struct.pack("<II", 8 + 8 * channels, 1)    # size of the chunk, version
    assert path.read_bytes().partition(start)[2][:4] == bytes(4)


def test_samples_are_taken_for_no_header(tmp_path):
    path, audio = tmp_path / "a.wav", np.frombuffer(b"PEAK" * 50, np.int16).reshape(-1, 2) / np.float32(1 << 15)
    with AudioWriter(path, 44100, 2, "wav", "int16") as writer:
        writer.write(audio)
    assert path.read_bytes().count(b"PEAK") == 50


@pytest.mark.parametrize("offset", [0, 3, 10, 25, 26])
def test_bytes_are_inserted(offset, tmp_path, monkeypatch):
    monkeypatch.setattr(descriptions, "_BLOCK", 10)
    text = b"abcdefghijklmnopqrstuvwxyz"
    for content in (b"", b"1234", b"0123456789" * 3):
        (tmp_path / "file").write_bytes(text)
        descriptions._insert(tmp_path / "file", offset, content)
        assert (tmp_path / "file").read_bytes() == text[:offset] + content + text[offset:]


def test_tags_of_m4a(tmp_path):
    import av

    with av.open(str(tmp_path / "song.m4a"), "w") as container:
        stream = container.add_stream("aac", 44100)
        container.metadata.update({"title": "T", "artist": "A", "album": "B", "track": "2"})
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert describe(tmp_path / "song.m4a", 2).tags == {"title": "T", "artist": "A", "album": "B", "track": "2"}


def test_hostile_tags_are_cut_to_what_a_file_can_hold(tmp_path):
    write(tmp_path / "bad.flac", Description({"title": "a\x1b[31m\nb" + "x" * 10_000, "artist": " \t"}))
    found = describe(tmp_path / "bad.flac", 2).tags
    assert found == {"title": "a[31mb" + "x" * 494}
    write(tmp_path / "song.wav", Description({key: "é" * 500 for key in TAGS}))
    assert describe(tmp_path / "song.wav", 2).tags == {key: "é" * 500 for key in TAGS}


@pytest.mark.parametrize("content", [b"", b"no music", b"RIFF" + bytes(100), b"fLaC" + bytes(100),
                                     b"ID3\x03" + bytes(99)], ids=str)
def test_what_cannot_be_read_has_no_description(content, tmp_path):
    (tmp_path / "song.wav").write_bytes(content)
    assert describe(tmp_path / "song.wav", 2) == Description(places=("FL", "FR"))
    assert describe(tmp_path / "none.wav", 2) == Description(places=("FL", "FR"))


@pytest.mark.parametrize("ext, encoding, expected", [
    ("wav", "int16", "int16"), ("wav", "int24", "int24"), ("wav", "float32", "float32"), ("flac", "int16", "int16"),
    ("flac", "int24", "int24"), ("mp3", None, None), ("ogg", None, None)])
def test_the_depth_of_a_file(ext, encoding, expected, tmp_path):
    write(tmp_path / f"song.{ext}", NOTHING_KNOWN, encoding=encoding)
    with AudioReader(tmp_path / f"song.{ext}") as reader:
        assert reader.encoding == expected


@pytest.mark.parametrize("codec, layout, expected", [
    ("alac", "s16p", "int16"), ("alac", "s32p", "int24"), ("pcm_s24le", "s32", "int24"), ("aac", "fltp", None)])
def test_the_depth_of_what_ffmpeg_decodes(codec, layout, expected, tmp_path):
    """In a process of its own, as FFmpeg's encoders are no part of the program."""
    path = tmp_path / "song.mov"
    kind = np.dtype("int32" if "32" in layout else "int16" if "16" in layout else "float32")
    script = (f"import av, numpy as np\nwith av.open({str(path)!r}, 'w') as c:\n"
              f"    s = c.add_stream({codec!r}, 44100, layout='stereo', format={layout!r})\n"
              f"    f = av.AudioFrame.from_ndarray(np.zeros({(2, 4096) if layout.endswith('p') else (1, 8192)}, "
              f"np.{kind.name}), {layout!r}, 'stereo')\n    f.sample_rate = 44100\n"
              "    c.mux(s.encode(f)); c.mux(s.encode(None))\n")
    subprocess.run([sys.executable, "-c", script], check=True)
    with AudioReader(path) as reader:
        assert reader.encoding == expected
