"""The formats that commands read from files of others: how a valid file is made, and how it is read.

A row whose name ends in "inside" mutates what lies behind a checksum or a compression, and wraps it anew.
"""
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from fuzz_papers import PAPERS
from fuzz_row import Format, inside

from common.audio.files import AudioReader
from common.datasets import photographs
from common.datasets.cityscapes import read_label
from common.pictures.image_files import read_image
from common.reading import arrays, hdf5, texts

# Files of common.reading ------------------------------------------------------------------------------------------

JSON = json.dumps({"a": [1, 2.5, None, True, "\u00e9"], "b": {"c": "text", "d": []}}).encode()
YAML = b"a: [1, 2.5, null, yes]\nb:\n- {c: text}\n- 2001-02-03\nd: &name 12:30:01\ne: 'x'\n"
CSV = b'x,y,"z, w"\n1,2.5,"a ""b"""\n2,nan,\n3,1e5,"two\nlines"\n'
ARRAYS = {"a": np.arange(30).reshape(5, 6), "b": np.linspace(0, 1, 7, dtype=np.float32), "c": np.array(["x", "yz"])}


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _write_npz(content: bytes, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as members:
        members.writestr("a.npy", content)


def _write_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["scope/W"] = np.arange(12, dtype=np.float32).reshape(3, 4)
        file["scope/b"] = np.zeros(4, np.float32)
        file["scope/W"].attrs["need_grad"] = True
        file.create_dataset("packed", data=np.zeros((100, 10)), compression="gzip", shuffle=True)


def _read_hdf5(path: Path) -> None:
    with hdf5.read_hdf5(path) as file:
        for name in file.datasets:
            file.array(name)


READING = [
    Format("json", lambda path: path.write_bytes(JSON), texts.read_json, ".json",
           (b"[" * 5000, b'{"a":' * 3000, b"1e999", b"NaN", b"\\ud800", b'"', b"\xef\xbb\xbf", b"\0")),
    Format("yaml", lambda path: path.write_bytes(YAML), texts.read_yaml, ".yaml",
           (b"&a ", b"*a ", b"[" * 2000, b"<<: ", b"!!binary ", b"!!python/name:os.system ", b"? ", b"!!float ",
            b"2001-99-99", b"- ", b"|\n", b"\t", b"!!timestamp ", b"!!set ", b"!!omap ", b"---\n", b"%YAML 9\n", b"@")),
    Format("csv", lambda path: path.write_bytes(CSV), texts.read_rows, ".csv", (b'"', b"\0", b",", b"\r", b"," * 999)),
    Format("npy", lambda path: path.write_bytes(_npy(ARRAYS["a"])), arrays.read_npy, ".npy",
           (b"|O", b"(10**12,)", b"'<U0'", b"(" * 99, b"-1", b"True", b"99999999999", b"[('a','<f8')]")),
    Format("npz", lambda path: np.savez_compressed(path, **ARRAYS), arrays.read_npz, ".npz", (b"PK\1\2", b"PK\3\4")),
    inside("npz", _npy(ARRAYS["b"]), _write_npz, arrays.read_npz, (b"|O", b"(10**12,)", b"99999999999")),
    Format("hdf5", _write_hdf5, _read_hdf5, ".h5", (b"OHDR", b"TREE", b"HEAP", b"SNOD", b"GCOL", b"\x89HDF\r\n\x1a\n")),
]

# Audio ------------------------------------------------------------------------------------------------------------

RATE = 44100
LISTS = (b"ffconcat version 1.0\nfile x.wav\n", b"#EXTM3U\n", b"ID3\3\0\0\x7f\x7f\x7f\x7f", b"\xff" * 8, b"\0" * 8)


def _noise() -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.3, 0.3, (RATE // 8, 2)).astype(np.float32)


def _libsndfile(name: str, suffix: str, subtype: str | None = None, tokens: tuple[bytes, ...] = ()) -> Format:
    def write(path: Path) -> None:
        import soundfile

        soundfile.write(path, _noise(), RATE, format=name, subtype=subtype)

    return Format(name.lower(), write, _read_audio, suffix, (*LISTS, *tokens))


def _ffmpeg(container: str, codec: str, suffix: str, tokens: tuple[bytes, ...] = ()) -> Format:
    def write(path: Path) -> None:
        import av

        with av.open(str(path), "w", format=container) as file:
            stream: Any = file.add_stream(codec, rate=RATE, layout="stereo", bit_rate=128_000)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(_noise().T), "fltp", "stereo")
            frame.sample_rate, frame.pts = RATE, 0
            file.mux([*stream.encode(frame), *stream.encode(None)])

    return Format(f"{container} {codec}", write, _read_audio, suffix, (*LISTS, *tokens))


def _read_audio(path: Path) -> None:
    with AudioReader(path) as reader:
        while len(reader.read(1 << 16)):
            pass
        reader.seek(1000)
        reader.read(100)


AUDIO = [
    _libsndfile("WAV", ".wav", None, (b"data\0\0\0\0", b"fmt ", b"LIST", b"ds64")),
    _libsndfile("RF64", ".wav", None, (b"data\0\0\0\0", b"ds64")), _libsndfile("W64", ".w64"),
    _libsndfile("AIFF", ".aiff", None, (b"SSND", b"COMM")), _libsndfile("AU", ".au"),
    _libsndfile("CAF", ".caf", None, (b"data", b"desc", b"pakt")),
    _libsndfile("FLAC", ".flac", None, (b"fLaC", b"OggS")),
    _libsndfile("MP3", ".mp3", None, (b"\xff\xfb\x90", b"Xing", b"TAG")),
    _libsndfile("OGG", ".ogg", "VORBIS", (b"OggS", b"\1vorbis", b"OpusHead")),
    _ffmpeg("ipod", "aac", ".m4a", (b"moov", b"mp4a", b"stsz", b"dref", b"esds", b"url ", b"trak")),
    _ffmpeg("adts", "aac", ".aac"), _ffmpeg("matroska", "aac", ".mka", (b"\x1a\x45\xdf\xa3", b"\x01" + b"\xff" * 7)),
    _ffmpeg("asf", "wmav2", ".wma"), _ffmpeg("ac3", "ac3", ".ac3")]

# Pictures ---------------------------------------------------------------------------------------------------------


def _picture(name: str, suffix: str, mode: str = "RGB", tokens: tuple[bytes, ...] = (), **options: Any) -> Format:
    def write(path: Path) -> None:
        from PIL import Image

        notes = Image.Exif()
        notes[0x0112] = 6
        pixels = np.random.default_rng(0).integers(0, 4, (24, 40, 3), np.uint8) * 80
        Image.fromarray(pixels).convert(mode).save(path, name.split()[0].upper(), exif=notes, **options)

    return Format(name, write, _read_picture, suffix, tokens)


def _read_picture(path: Path) -> None:
    read_image(path)
    photographs.decode(path, 16)


def _label(path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 19, (24, 40), np.uint8)).save(path)


PNG = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"acTL", b"fdAT", b"iCCP", b"zTXt", b"\x7f\xff\xff\xff")
EXIF = (b"Exif\0\0", b"II*\0", b"MM\0*", b"MPF\0", b"\x01\x12", b"\x12\x01")
PICTURES = [
    _picture("png", ".png", tokens=PNG), _picture("png palette", ".png", "P", PNG),
    _picture("jpeg", ".jpg", "RGB", (b"\xff\xd8", b"\xff\xc0", b"\xff\xc4", b"\xff\xda", b"\xff\xee", *EXIF)),
    _picture("tiff", ".tif", "RGB", EXIF), _picture("tiff lzw", ".tif", "L", EXIF, compression="tiff_lzw"),
    _picture("webp", ".webp", "RGB", (b"VP8X", b"VP8L", b"ANIM", b"EXIF"), lossless=True),
    _picture("gif", ".gif", "P", (b"GIF89a", b"\x21\xf9", b"\x2c", b"NETSCAPE")),
    _picture("bmp", ".bmp", "RGB", (b"BM",)),
    _picture("ppm", ".ppm", "RGB", (b"P3", b"P4", b"P5", b"P7", b"65535", b"#")),
    Format("label png", _label, lambda path: read_label(path.rename(path.with_name("a_labelTrainIds.png"))), ".png",
           PNG)]

FORMATS: list[Format] = [*READING, *PAPERS, *AUDIO, *PICTURES]
