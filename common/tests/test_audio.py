"""Audio files in and out, and resampling: no sample lost, moved or made up."""
import contextlib
import resource

import av
import numpy as np
import pytest
import soundfile

from common.audio import files as audio_module
from common.audio.files import FORMATS, AudioReader, AudioWriter, Resampler, check_format, resample
from common.machine.errors import UsageError, UserError

RATE = 44100
SUBTYPES = {"wav": "PCM_16", "flac": "PCM_16", "mp3": "MPEG_LAYER_III", "ogg": "VORBIS"}


def music(frames, channels=2, seed=0, rate=RATE):
    """A chord that swells and fades, and noise, (frames, channels); AAC codes the noise by its power alone."""
    rng, t = np.random.default_rng(seed), np.arange(frames)[:, None] / rate
    pitches = 220 * (1 + seed) * np.arange(1, channels + 1)
    tone = 0.3 * np.sin(2 * np.pi * pitches * t) * (1 + np.sin(5 * t))
    return (tone + 0.05 * rng.standard_normal((frames, channels))).astype(np.float32)


def write_m4a(path, stems, rate=RATE, codec_options=None, **options):
    """Write each of `stems` (samples, channels) as an AAC stream of one MP4 file."""
    layout = {1: "mono", 2: "stereo"}[stems[0].shape[1]]
    with av.open(str(path), "w", format="mp4", options=options) as container:
        streams = [container.add_stream("aac", rate=rate, layout=layout, options=codec_options) for _ in stems]
        packets = []
        for stream, stem in zip(streams, stems, strict=True):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(stem.T), format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, 0
            packets += [*stream.encode(frame), *stream.encode(None)]
        container.mux(sorted(packets, key=lambda packet: packet.dts))


def write(path, signal, rate=RATE):
    if path.suffix == ".m4a":
        write_m4a(path, [signal], rate)
    else:
        soundfile.write(path, signal, rate, subtype=SUBTYPES[path.suffix[1:]])
    return path


def read(path, stream=0):
    with AudioReader(path, stream) as reader:
        return reader.read()


# Reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("ext, error", [("wav", 2**-15), ("flac", 2**-16), ("mp3", 0.2), ("ogg", 0.2), ("m4a", 0.2)])
def test_samples_are_where_they_were_written(tmp_path, ext, error, channels):
    # Lossy formats lose noise, but one sample of shift would change the chord by more than they do.
    signal = music(50_000, channels)
    with AudioReader(write(tmp_path / f"song.{ext}", signal)) as reader:
        result = reader.read()
        assert (reader.sample_rate, reader.channels, reader.num_streams) == (RATE, channels, 1)
        assert reader.num_frames == (None if ext in ("mp3", "ogg") else len(signal))
        assert reader.estimated_frames == len(signal)
        assert reader.damage is None
    assert result.dtype == np.float32 and result.shape == signal.shape
    rms = [np.sqrt(np.mean((np.roll(result, shift, 0) - signal)[1000:-1000] ** 2)) for shift in (-1, 0, 1)]
    assert rms[1] < min(error, rms[0], rms[2])


@pytest.mark.parametrize("ext", ["wav", "flac", "mp3", "ogg", "m4a"])
def test_reading_from_anywhere_gives_the_same_bits(tmp_path, ext):
    path = write(tmp_path / f"song.{ext}", music(100_000))
    whole = read(path)
    rng = np.random.default_rng(1)
    with AudioReader(path) as reader:
        for start in [0, 1, 16383, 16384, 99_999, *rng.integers(0, 90_000, 8), 0]:
            reader.seek(int(start))
            np.testing.assert_array_equal(reader.read(3000), whole[start:start + 3000])
            np.testing.assert_array_equal(reader.read(50), whole[start + 3000:start + 3050])
            assert reader.position == min(start + 3050, 100_000)
        for end in (100_000, 200_000):
            reader.seek(end)
            assert reader.read(10).shape == (0, 2)
        assert reader.damage is None


def test_pages_of_aac_leave_no_seams(tmp_path):
    write_m4a(tmp_path / "song.m4a", [music(200_000)], codec_options={"aac_pns": "0"})    # noise as it is
    with av.open(str(tmp_path / "song.m4a")) as container:
        plain = np.concatenate([frame.to_ndarray().T for frame in container.decode(audio=0)])
    np.testing.assert_array_equal(read(tmp_path / "song.m4a"), plain[:200_000])


def test_streams_of_one_file(tmp_path):
    stems = [music(40_000, seed=seed) for seed in range(5)]
    write_m4a(tmp_path / "song.stem.mp4", stems)
    for index in range(5):
        with AudioReader(tmp_path / "song.stem.mp4", index) as reader:
            assert (reader.num_streams, reader.num_frames) == (5, 40_000)
            result = reader.read()
        distances = [np.mean((result - other) ** 2) for other in stems]
        assert np.argmin(distances) == index
    for path, count in ((tmp_path / "song.stem.mp4", 5), (write(tmp_path / "song.wav", stems[0]), 1)):
        with pytest.raises(UserError, match=f"no audio stream 5 in it, counted from 0; it has {count}$"):
            AudioReader(path, 5)


@pytest.mark.parametrize("subtype, bits", [("PCM_U8", 8), ("PCM_16", 16), ("PCM_24", 24), ("PCM_32", 32)])
def test_integers_are_divided_by_a_power_of_two(tmp_path, subtype, bits):
    steps = np.array([[-2**(bits - 1)], [-2**(bits - 2)], [0], [2**(bits - 8)], [2**(bits - 2)]])
    soundfile.write(tmp_path / "steps.wav", (steps * 2**(32 - bits)).astype(np.int32), 8000, subtype=subtype)
    np.testing.assert_array_equal(read(tmp_path / "steps.wav"), steps / 2**(bits - 1))


@pytest.mark.parametrize("ext, other", [("mp3", "wav"), ("wav", "mp3"), ("m4a", "flac")])
def test_content_decides_not_the_name(tmp_path, ext, other):
    path = write(tmp_path / f"song.{ext}", music(5000))
    assert read(path.rename(tmp_path / f"a:b.{other}")).shape == (5000, 2)


def test_mp3_without_a_table_of_its_length_is_read_to_the_end(tmp_path):
    quiet_then_loud = music(200_000) * np.repeat([0, 1], 100_000)[:, None]    # a bit rate that grows misleads
    content = write(tmp_path / "song.mp3", quiet_then_loud).read_bytes()
    first = content.index(b"\xff\xfb", 4)    # the table lies in a frame of its own
    (tmp_path / "song.mp3").write_bytes(content[first:])
    with AudioReader(tmp_path / "song.mp3") as reader:
        assert 200_000 <= len(reader.read()) < 200_000 + 3 * 1152    # now with the padding of the encoder
        assert reader.damage is None


@pytest.mark.parametrize("ext", ["wav", "flac", "mp3", "m4a"])
def test_a_file_cut_off_gives_what_is_there_and_says_so(tmp_path, ext):
    signal = music(200_000)
    path = tmp_path / f"song.{ext}"
    if ext == "m4a":
        write_m4a(path, [signal], movflags="faststart")    # the table of contents in front
    else:
        write(path, signal)
    whole, content = read(path), path.read_bytes()
    path.write_bytes(content[:len(content) // 2])
    with AudioReader(path) as reader:
        part = reader.read()
        assert 80_000 < len(part) < 120_000
        np.testing.assert_array_equal(part[:75_000], whole[:75_000])
        assert reader.damage.startswith(f"{path}: ends after {len(part) / RATE:.2f} s, but its header promises 4.5")
        assert "\n" not in reader.damage
        reader.seek(150_000)
        assert len(reader.read(10)) == 0
        reader.seek(20_000)
        np.testing.assert_array_equal(reader.read(1000), whole[20_000:21_000])


def test_a_wav_header_of_unknown_size_is_no_truncation(tmp_path):
    path = write(tmp_path / "song.wav", music(1000))
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff" * 4    # what programs write into a pipe
    path.write_bytes(content)
    with AudioReader(path) as reader:
        assert len(reader.read()) == 1000
        assert reader.damage is None


def test_a_flac_file_of_unknown_length_is_read_to_the_end(tmp_path):
    path = write(tmp_path / "song.flac", music(50_000))
    whole, content = read(path), bytearray(path.read_bytes())
    content[21:26] = bytes([content[21] & 0xF0, 0, 0, 0, 0])    # the number of samples, as programs leave it in a pipe
    path.write_bytes(content)
    with AudioReader(path) as reader:
        assert reader.num_frames is None
        np.testing.assert_array_equal(reader.read(), whole)
        assert reader.damage is None
        reader.seek(20_000)
        np.testing.assert_array_equal(reader.read(5000), whole[20_000:25_000])


def test_a_damaged_packet_does_not_shift_the_rest(tmp_path):
    write_m4a(tmp_path / "song.m4a", [music(100_000)])
    whole, content = read(tmp_path / "song.m4a"), bytearray((tmp_path / "song.m4a").read_bytes())
    middle = len(content) // 2
    content[middle:middle + 300] = b"\xff" * 300
    (tmp_path / "song.m4a").write_bytes(content)
    result = read(tmp_path / "song.m4a")
    assert len(result) == len(whole) and not np.array_equal(result, whole)
    np.testing.assert_array_equal(result[:30_000], whole[:30_000])
    np.testing.assert_array_equal(result[-30_000:], whole[-30_000:])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_refused_with_its_place(tmp_path, value):
    signal = music(20_000)
    signal[11_025, 1] = value
    soundfile.write(tmp_path / "song.wav", signal, RATE, subtype="FLOAT")
    with AudioReader(tmp_path / "song.wav") as reader:
        reader.read(11_025)
        with pytest.raises(UserError, match=r"song.wav: NaN or infinite samples, the first at 0.250 s"):
            reader.read(1000)


@pytest.mark.parametrize("name, content, error", [
    ("text.mp3", b"no audio\n" * 1000, "no audio could be decoded"),
    ("zeros.wav", bytes(5000), "no audio could be decoded"),
    ("empty.flac", b"", "no audio could be decoded"),
    ("head.wav", b"RIFF", "no audio could be decoded"),
])
def test_undecodable_files_are_told_in_one_line(tmp_path, name, content, error, capfd):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=error) as caught:
        AudioReader(tmp_path / name)
    assert caught.value.exit_status == 1 and "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")    # the libraries keep quiet


def test_a_file_without_samples_is_refused(tmp_path):
    for ext in ("wav", "mp3"):
        with pytest.raises(UserError, match="not a single sample|no audio could be decoded"):
            AudioReader(write(tmp_path / f"none.{ext}", music(0)))


def test_pictures_and_paths_that_are_no_files(tmp_path):
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5, width=16, height=16, pix_fmt="yuv420p")
        container.mux([*stream.encode(av.VideoFrame(16, 16, "yuv420p")), *stream.encode(None)])
    with pytest.raises(UserError, match="no audio stream 0 in it, counted from 0; it has 0"):
        AudioReader(tmp_path / "film.mp4")
    with pytest.raises(UsageError, match="a folder, not an audio file"):
        AudioReader(tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        AudioReader(tmp_path / "missing.mp3")


# Resampling -----------------------------------------------------------------------------------------------------------

RATES = [(22050, 44100), (44100, 22050), (48000, 44100), (44100, 48000), (8000, 44100), (44100, 8000), (96000, 44100),
         (44100, 96000), (192000, 44100), (44100, 192000)]


@pytest.mark.parametrize("from_rate, to_rate", RATES)
def test_length_is_rounded(from_rate, to_rate):
    for frames in (0, 1, 2, 3, 100, 441, 442, 4410, 4999):
        result = resample(np.ones((frames, 2), np.float32), from_rate, to_rate)
        assert result.dtype == np.float32
        assert result.shape == ((frames * to_rate * 2 + from_rate) // (2 * from_rate), 2)


@pytest.mark.parametrize("from_rate, to_rate", RATES)
def test_an_impulse_stays_in_place(from_rate, to_rate):
    # At a moment that both rates have a sample at; the second channel stays silent.
    place = np.gcd(from_rate, to_rate)
    position, expected = from_rate // place * 50, to_rate // place * 50
    impulse = np.zeros((2 * position, 2), np.float32)
    impulse[position, 0] = 1
    result = resample(impulse, from_rate, to_rate)
    assert result[:, 0].argmax() == expected and not result[:, 1].any()
    reach = min(20, expected)
    around = result[expected - reach:expected + reach + 1, 0]
    np.testing.assert_allclose(around, around[::-1], atol=1e-6)    # symmetric: no fraction of a sample either


@pytest.mark.parametrize("from_rate, to_rate", RATES)
def test_a_sine_keeps_its_phase_and_level(from_rate, to_rate):
    def sine(rate):
        return 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate)[:, None] / rate)

    result = resample(sine(from_rate).astype(np.float32), from_rate, to_rate)
    middle = slice(to_rate // 10, -to_rate // 10)
    assert np.abs(result - sine(to_rate))[middle].max() < 1e-6


def test_blocks_give_the_bits_of_the_whole():
    signal = music(20_000)
    resampler = Resampler(44100, 48000, 2)
    parts = [resampler(signal[start:start + 777]) for start in range(0, len(signal), 777)]
    parts.append(resampler(signal[:0], last=True))
    np.testing.assert_array_equal(np.concatenate(parts), resample(signal, 44100, 48000))


def test_equal_rates_change_nothing():
    np.testing.assert_array_equal(resample(music(1000), RATE, RATE), music(1000))


# Writing --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def no_room_beyond(size):
    """Let files end at `size` bytes, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_with(path, signal, ext, encoding=None, rate=RATE, **kwargs):
    with AudioWriter(path, rate, signal.shape[1], ext, encoding, **kwargs) as writer:
        for start in range(0, len(signal), 7000):
            writer.write(signal[start:start + 7000])
    return path


ENCODINGS = [(ext, encoding) for ext, form in FORMATS.items() for encoding in form.subtypes]


@pytest.mark.parametrize("ext, encoding", ENCODINGS)
@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_written_is_read_again(tmp_path, ext, encoding, channels):
    signal = music(30_000, channels)
    path = write_with(tmp_path / f"song.{ext}", signal, ext, encoding)
    result = read(path)
    assert soundfile.info(path).samplerate == RATE and result.shape == signal.shape
    # Rounded to nearest: half a step at most.
    error = {"int16": 2**-16, "int24": 2**-24, "float32": 0}.get(encoding, 0.2)
    assert np.abs(result - signal).max() <= error
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ext", ["wav", "flac"])
def test_every_16_bit_value_survives(tmp_path, ext):
    values = (np.arange(-2**15, 2**15)[:, None] / 2**15).astype(np.float32)
    np.testing.assert_array_equal(read(write_with(tmp_path / "all", values, ext)), values)


@pytest.mark.parametrize("ext, encoding", [("wav", "int16"), ("wav", "int24"), ("flac", "int16"), ("flac", "int24")])
def test_beyond_full_scale_is_limited(tmp_path, ext, encoding):
    top = {"int16": 2**15, "int24": 2**23}[encoding]
    loud = np.array([[-3], [-1], [1], [1.5]], np.float32)
    np.testing.assert_array_equal(read(write_with(tmp_path / "loud", loud, ext, encoding))[:, 0],
                                  [-1, -1, 1 - 1 / top, 1 - 1 / top])


@pytest.mark.parametrize("ext, encoding, rate, channels, error", [
    ("flac", "float32", RATE, 2, "flac files cannot hold float32 samples; choose wav$"),
    ("mp3", "int24", RATE, 2, "mp3 files cannot hold int24 samples; choose wav or flac"),
    ("mp3", None, 96000, 2, "mp3 files cannot hold audio of 96000 Hz"),
    ("mp3", None, RATE, 3, "mp3 files cannot hold 3 channels"),
    ("ogg", None, 400_000, 2, "ogg files cannot hold audio of 400000 Hz"),
    ("flac", None, RATE, 9, "flac files cannot hold 9 channels"),
])
def test_what_a_format_cannot_hold_is_refused_before_work(tmp_path, ext, encoding, rate, channels, error):
    with pytest.raises(UsageError, match=error):
        AudioWriter(tmp_path / "song", rate, channels, ext, encoding)
    with pytest.raises(UsageError, match=error):
        check_format(ext, encoding, rate, channels)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ext", FORMATS)
def test_the_limits_of_formats_can_be_written(tmp_path, ext):
    form = FORMATS[ext]
    for rate in (form.rates[0], form.rates[-1]):
        path = write_with(tmp_path / f"{rate}", np.zeros((3000, 1), np.float32), ext, rate=rate)
        assert soundfile.info(path).samplerate == rate
    path = write_with(tmp_path / "wide", np.zeros((300, form.max_channels), np.float32), ext)
    assert soundfile.info(path).channels == form.max_channels


def test_large_wav_files_become_rf64(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_module, "_WAV_BYTES", 4000)
    signal = music(1001)
    path = write_with(tmp_path / "large.wav", signal, "wav", num_frames=1001)
    assert path.read_bytes()[:4] == b"RF64"
    assert read(path).shape == (1001, 2)
    assert write_with(tmp_path / "small.wav", signal[:1000], "wav", num_frames=1000).read_bytes()[:4] == b"RIFF"
    with pytest.raises(UserError, match="a WAV file ends at 4 GB"):
        write_with(tmp_path / "unannounced.wav", signal, "wav")
    assert not (tmp_path / "unannounced.wav").exists()


@pytest.mark.parametrize("ext, encoding", ENCODINGS)
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, ext, encoding):
    signal = music(30_000)
    size = write_with(tmp_path / "song", signal, ext, encoding).stat().st_size
    (tmp_path / "song").write_text("old")
    for limit in (0, size // 2, size - 300, size - 1):    # the last bytes are written when the file is closed
        with no_room_beyond(limit), pytest.raises(UserError, match=r"song: could not be written \(File too large\)$"):
            write_with(tmp_path / "song", signal, ext, encoding)
        assert [child.name for child in tmp_path.iterdir()] == ["song"]
        assert (tmp_path / "song").read_text() == "old"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
def test_an_interrupted_file_does_not_appear(tmp_path, interruption):
    with pytest.raises(interruption), AudioWriter(tmp_path / "song.wav", RATE, 2) as writer:
        writer.write(music(1000))
        raise interruption
    assert not list(tmp_path.iterdir())
