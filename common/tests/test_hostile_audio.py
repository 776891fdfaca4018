"""Audio files with headers that are wrong, and files that only pretend to be audio."""
import io
import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from common.audio.files import AudioReader
from common.audio.headers import CorrectedFile, data_length
from common.machine.errors import UsageError, UserError

RATE, FRAMES = 8000, 500
CHUNK = b"LIST" + struct.pack("<I", 30) + b"INFOISFT" + struct.pack("<I", 18) + b"someone's software"


def samples(frames=FRAMES):
    return np.random.default_rng(1).integers(-2**15, 2**15, (frames, 1)).astype(np.int16)


ORDERS = {"RIFX": ("WAV", "BIG"), "AU little": ("AU", "LITTLE")}    # formats with another order of bytes


def file_of(form, frames=FRAMES, subtype="PCM_16"):
    """A file of 16-bit samples, as libsndfile writes it."""
    buffer = io.BytesIO()
    name, order = ORDERS.get(form, (form, "FILE"))
    audio = samples(frames) / 2**15 if subtype == "FLOAT" else samples(frames)
    soundfile.write(buffer, audio, RATE, format=name, subtype=subtype, endian=order)
    return bytearray(buffer.getvalue())


# Where a format keeps the length of its samples, as struct calls the field, and what more than samples it counts.
FIELDS = {
    "WAV": (lambda content: content.index(b"data") + 4, "<I", 0), "RF64": (lambda _: 28, "<Q", 0),
    "W64": (lambda content: content.index(b"data\xf3") + 16, "<Q", 24),
    "AIFF": (lambda content: content.index(b"SSND") + 4, ">I", 8), "AU": (lambda _: 8, ">I", 0),
    "RIFX": (lambda content: content.index(b"data") + 4, ">I", 0), "AU little": (lambda _: 8, "<I", 0),
    "CAF": (lambda content: content.index(b"data") + 4, ">Q", 4)}


def with_length(form, length):
    """A file whose header says another number of bytes of samples."""
    content = file_of(form)
    place, field, more = FIELDS[form]
    at, largest = place(content), (1 << 8 * struct.calcsize(field)) - 1
    content[at:at + struct.calcsize(field)] = struct.pack(field, min(length + more, largest))
    return content


def read(content, path="song"):
    """Samples as they were written, and what is said of the file."""
    Path(path).write_bytes(content)
    with AudioReader(path) as reader:
        audio = reader.read()
        reader.seek(100)
        np.testing.assert_array_equal(reader.read(), audio[100:])
        return np.rint(audio * 2**15).astype(np.int16), reader.damage


def refused(content, error=UserError, path="song"):
    Path(path).write_bytes(content)
    with pytest.raises(error) as caught:
        AudioReader(path)
    assert str(caught.value).startswith(f"{path}: ") and str(caught.value).isprintable()
    return str(caught.value)


pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.mark.parametrize("length", [0, 2, 100, 2 * FRAMES - 70])
@pytest.mark.parametrize("form", sorted(FIELDS))
def test_a_length_that_is_too_small_is_not_believed(form, length):
    audio, damage = read(with_length(form, length))
    np.testing.assert_array_equal(audio, samples())
    assert f"goes on to 0.06 s, and its header says {length / 2 / RATE:.2f} s" in damage


@pytest.mark.parametrize("form", sorted(FIELDS))
def test_the_largest_number_stands_for_an_unknown_length(form):
    audio, damage = read(with_length(form, 1 << 64))
    np.testing.assert_array_equal(audio, samples())
    assert damage is None


@pytest.mark.parametrize("form", sorted(FIELDS))
def test_a_length_that_is_too_large_is_a_file_that_was_cut_off(form):
    audio, damage = read(with_length(form, 4 * FRAMES))
    np.testing.assert_array_equal(audio, samples())
    assert "ends after 0.06 s, but its header promises 0.12 s" in damage


@pytest.mark.parametrize("cut", [1, 50, 400, 401])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("form", sorted(FIELDS))
def test_a_file_that_was_cut_off_is_read_up_to_the_cut(form, subtype, cut):
    content = file_of(form, subtype=subtype)
    width = {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}[subtype]
    audio, damage = read(content[:-cut])
    np.testing.assert_array_equal(audio, samples()[:FRAMES + -cut // width])    # they stand at the end
    assert "truncated or damaged" in damage if cut > 64 else damage is None


@pytest.mark.parametrize("form", sorted(FIELDS))
def test_a_length_that_is_true_is_not_complained_of(form):
    audio, damage = read(file_of(form))
    np.testing.assert_array_equal(audio, samples())
    assert damage is None


@pytest.mark.parametrize("behind", [CHUNK, CHUNK + CHUNK, CHUNK[:20], b"TAG" + bytes(range(125)), b"ID3\3" + bytes(500),
                                    bytes(4096), b"\r\n"], ids=lambda behind: repr(behind[:4]))
def test_what_follows_the_samples_is_no_sample(behind):
    audio, damage = read(file_of("WAV") + behind)
    np.testing.assert_array_equal(audio, samples())
    assert damage is None


@pytest.mark.parametrize("behind", [b"", CHUNK])
def test_an_empty_file_is_empty(behind):
    content = file_of("WAV", 0)
    content[content.index(b"data") + 4:] = bytes(4) + behind
    assert "not a single sample" in refused(content)


def test_silence_of_an_interrupted_recording_is_read():
    content = with_length("WAV", 0)
    content[-2 * FRAMES:] = bytes(2 * FRAMES)
    assert len(read(content)[0]) == FRAMES


def test_a_wav_file_beyond_4_gb_is_corrected_to_its_end():
    content = with_length("WAV", 1000 + 2 * FRAMES)
    size = (1 << 32) + len(content) + 1000    # so that the length began again at 0
    with Path("song").open("wb") as file:
        file.write(content)
        file.truncate(size)    # a hole in the file: no disk is filled
    with Path("song").open("rb") as file:
        length = data_length(file)
    assert length is not None and list(length.corrections.values()) == [b"\xFF" * 4]
    with AudioReader("song") as reader:
        assert (reader.estimated_frames or 0) > 1 << 31
        assert len(reader.read(10_000)) == 10_000


def test_corrections_across_the_border_of_two_reads():
    plain = bytes(range(100))
    for size in range(1, 12):
        stream = CorrectedFile(io.BytesIO(plain), {5: b"abcd", 98: b"yz"})
        parts = [part for part in iter(lambda stream=stream, size=size: stream.read(size), b"")]
        assert b"".join(parts) == plain[:5] + b"abcd" + plain[9:98] + b"yz"


# Impossible headers ---------------------------------------------------------------------------------------------------


def wav(channels=1, rate=44100, bits=16, kind=1):
    """A WAV file whose header says what libraries would not write."""
    data = samples().tobytes()
    form = struct.pack("<IHHIIHH", 16, kind, channels, rate, rate * 2 & 0xFFFFFFFF, 2, bits)
    size, whole = (struct.pack("<I", length) for length in (len(data), len(data) + 36))
    return b"RIFF" + whole + b"WAVEfmt " + form + b"data" + size + data


@pytest.mark.parametrize("header", [
    {"channels": 0}, {"channels": 256}, {"channels": 1024}, {"channels": 65535}, {"rate": 0}, {"rate": 1},
    {"rate": 999}, {"rate": 1_000_001}, {"rate": 10**9}, {"rate": 0xFFFFFFFF}, {"bits": 0}, {"bits": 33},
    {"bits": 65535}, {"kind": 0}, {"kind": 0xFFFF}], ids=str)
def test_an_impossible_header_is_one_line(header):
    refused(wav(**header))


@pytest.mark.parametrize("header", [{"rate": 1000}, {"rate": 1_000_000}, {"channels": 255}])
def test_the_limits_themselves_can_be_read(header):
    Path("song").write_bytes(wav(**header))
    with AudioReader("song") as reader:
        assert len(reader.read()) == FRAMES // header.get("channels", 1)


# What only pretends to be audio ---------------------------------------------------------------------------------------

LISTS = {
    "ffconcat": "ffconcat version 1.0\nfile ok.wav\n", "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nok.wav\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
            '<Representation><BaseURL>ok.wav</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "reference": "[Reference]\nRef1=ok.wav\n", "lavfi": "sine=frequency=1000", "realtext": "<window>a</window>",
    "ffmetadata": ";FFMETADATA1\ntitle=x\n", "webvtt": "WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n"}


@pytest.mark.parametrize("name", ["song.mp3", "song.wav", "song.m3u8", "song.ffconcat", "song.sdp", "img%03d.png"])
@pytest.mark.parametrize("kind", sorted(LISTS))
def test_a_list_of_other_files_is_not_followed(kind, name):
    soundfile.write("ok.wav", samples(), RATE)
    refused(LISTS[kind].encode(), path=name)


@pytest.mark.parametrize("name", [
    "concat:ok.wav|ok.wav", "subfile,,start,0,end,0,,:ok.wav", "data:audio/wav;base64,UklGRg==", "file:ok.wav",
    "pipe:0", "crypto:ok.wav", "http://127.0.0.1:9/x.wav", "-", "ok.wav\n", "lavfi:sine", "x" * 5000, "nul\0l"])
def test_a_name_is_nothing_but_a_name(name):
    soundfile.write("ok.wav", samples(), RATE)
    with pytest.raises(UserError):
        AudioReader(name)


def test_names_that_look_like_protocols_or_are_not_utf8_are_read():
    for name in ("concat:a|b", "data:x", os.fsdecode(b"caf\xe9.wav"), "%03d.wav"):
        for content in (file_of("WAV"), mp4()):
            Path(name).write_bytes(content)
            with AudioReader(name) as reader:
                assert len(reader.read())


def mp4():
    """Seconds of noise as AAC."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        noise = np.random.default_rng(0).uniform(-0.3, 0.3, (1, 50_000)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(noise, "fltp", "mono")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return bytearray(buffer.getvalue())


def test_a_stream_that_no_decoder_is_known_for_is_one_line():
    content = mp4()
    for name in (b"mp4a", b"esds"):    # the codec and its settings
        at = content.index(name)
        content[at:at + 4] = b"zzzz"
    with av.open(io.BytesIO(content)) as container:
        assert container.streams.audio[0].codec_context is None
    refused(content)


def test_damaged_packets_are_counted_and_the_others_read():
    content = mp4()
    whole, _ = read(content)
    start = content.index(b"mdat")
    for at in range(start + 2000, start + 3000):
        content[at] = 0xFF
    audio, damage = read(content)
    assert len(audio) == len(whole) and "packets could not be decoded" in damage
    same = (audio == whole).all(axis=1)
    assert 0.3 < same.mean() < 1 and same[:1024].all()


def test_pipes_and_devices_are_refused():
    os.mkfifo("pipe")
    for path, kind in (("pipe", "a pipe"), ("/dev/zero", "a device"), (".", "a folder")):
        with pytest.raises(UsageError, match=kind):
            AudioReader(path)
    Path("loop").symlink_to("loop")
    with pytest.raises(UserError):
        AudioReader("loop")


FORWARD = [("WAV", "GSM610"), ("AIFF", "GSM610"), ("AIFF", "DWVW_16"), ("AIFF", "DWVW_24"), ("WAV", "NMS_ADPCM_32"),
           ("WAV", "G721_32"), ("AU", "G723_40")]


@pytest.mark.parametrize("form, subtype", FORWARD)
def test_sound_that_libsndfile_cannot_seek_in_is_read(form, subtype):
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(1603) / 8000)).astype(np.float32)
    soundfile.write("phone", tone, 8000, format=form, subtype=subtype)
    with AudioReader("phone") as reader:
        read = reader.read()[:, 0]
        reader.seek(1000)
        np.testing.assert_array_equal(reader.read(100)[:, 0], read[1000:1100])
        assert reader.num_frames == len(read) and reader.damage is None
    assert len(read) == (1680 if form == "AU" else 1603)    # whole blocks of 120, which nothing counts
    assert np.corrcoef(read[320:1280], tone[320:1280])[0, 1] > 0.9


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("frames", [1, 1000, 5001])
def test_what_fills_the_last_block_is_left_out(frames, channels):
    tone = np.sin(np.arange(frames) / 20)[:, None] * np.ones(channels)
    soundfile.write("song", tone / 2, RATE, format="WAV", subtype="MS_ADPCM")
    with AudioReader("song") as reader:
        assert reader.num_frames == frames == len(reader.read())


def test_a_count_of_frames_that_cannot_be_true_is_not_believed():
    soundfile.write("song", np.zeros((4000, 2)), RATE, format="WAV", subtype="IMA_ADPCM")    # it counts half of them
    with AudioReader("song") as reader:
        assert reader.num_frames == len(reader.read()) >= 4000


def caf_of_alac(frames, unknown):
    """A CAF file with a table of packets, and its samples; its header need not know their number of bytes."""
    audio = samples(frames)
    soundfile.write("song", audio, RATE, format="CAF", subtype="ALAC_16")
    content = bytearray(Path("song").read_bytes())
    at = content.index(b"data") + 4
    assert content.index(b"pakt") < at
    if unknown:
        content[at:at + 8] = b"\xFF" * 8
    return content, audio


@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("frames", [3000, 50_000])
def test_alac_of_unknown_length_is_read_to_its_end(frames, unknown):
    content, written = caf_of_alac(frames, unknown)
    audio, damage = read(content)
    np.testing.assert_array_equal(audio, written)
    assert damage is None


@pytest.mark.parametrize("cut", [10, 200, 50_000])
@pytest.mark.parametrize("unknown", [False, True])
def test_alac_that_was_cut_off_says_so(unknown, cut):
    content, written = caf_of_alac(50_000, unknown)
    audio, damage = read(content[:-cut])
    np.testing.assert_array_equal(audio, written[:len(audio)])
    assert len(audio) >= 50_000 * (1 - cut / len(content)) - 4096 and "truncated or damaged" in damage


@pytest.mark.parametrize("frames", [1, 127, 128, 1000, 4096, 10_000, 20_000])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_short_vorbis_has_the_length_that_its_last_page_says(frames, rate):
    audio = np.random.default_rng(0).uniform(-0.1, 0.1, (frames, 1))
    soundfile.write("song", audio, rate, format="OGG", subtype="VORBIS")
    with AudioReader("song") as reader:
        read = reader.read()
        assert len(read) == frames and reader.damage is None
        reader.seek(100)
        np.testing.assert_array_equal(reader.read(), read[100:])
    np.testing.assert_allclose(read, soundfile.read("song", always_2d=True)[0], atol=1e-5)
