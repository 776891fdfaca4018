"""Finding tracks: every layout of files, the validation split of musdb, and errors that say what is wrong."""
import av
import numpy as np
import pytest
import soundfile

from common.datasets import musdb18, synthetic_music
from common.datasets.musdb18 import find_tracks
from common.machine.errors import UsageError, UserError

RATE = 44100
MUSDB_SOURCES = ("bass", "drums", "vocals", "other")
STREAMS = ("mixture", "drums", "bass", "other", "vocals")
VALIDATION_TRACK = "Meaxic - Take A Step"    # one of the 14 of musdb
SETUP = """
mixture: mixture.wav
sources: {bass: bass.wav, drums: drums.wav, vocals: singer.wav, other: other.wav}
stem_ids: {mixture: 0, drums: 1, bass: 2, other: 3, vocals: 4}
validation_tracks: ['B - B']
"""


def tone(number, frames=3000):
    """A sine whose pitch tells the number of its stem, (frames, 2)."""
    wave = 0.5 * np.sin(2 * np.pi * 441 * (number + 1) * np.arange(frames) / RATE)
    return np.repeat(wave[:, np.newaxis], 2, axis=1)


def number_of(audio):
    """Invert `tone`, also after lossy coding."""
    spectrum = np.abs(np.fft.rfft(audio[:, 0], RATE))
    return round(spectrum.argmax() / 441) - 1


def write_folder(folder, sources=MUSDB_SOURCES, suffix=".wav", rate=RATE, frames=3000):
    folder.mkdir(parents=True, exist_ok=True)
    for number, source in enumerate(sources):
        path = folder / f"{source}{suffix}"
        if suffix == ".m4a":
            write_aac(path, [tone(number, frames)])
        else:
            soundfile.write(path, tone(number, frames), rate)


def write_stem_file(path, num_streams=5):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aac(path, [tone(number) for number in range(num_streams)])


def write_aac(path, stems):
    """Write each of `stems` (frames, 2) as a stream of an MP4 file."""
    with av.open(str(path), "w", format="mp4") as container:
        streams = [container.add_stream("aac", rate=RATE, layout="stereo") for _ in stems]
        packets = []
        for stream, stem in zip(streams, stems, strict=True):
            samples = np.ascontiguousarray(stem.T, dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = RATE, 0
            packets += [*stream.encode(frame), *stream.encode(None)]
        container.mux(sorted(packets, key=lambda packet: packet.dts))


def names(root, split, **options):
    return [track.name for track in find_tracks(root, split, **options)]


# Layouts --------------------------------------------------------------------------------------------------------------


def test_stem_files_have_their_sources_in_the_streams_of_musdb(tmp_path):
    write_stem_file(tmp_path / "train" / "A - A.stem.mp4")
    track, = find_tracks(tmp_path, "train")
    assert (track.name, track.num_frames, track.sample_rate) == ("A - A", 3000, RATE)
    assert set(track.sources) == set(MUSDB_SOURCES)
    assert [number_of(track.read(source, 0, 3000)) for source in STREAMS] == [0, 1, 2, 3, 4]


def test_folders_have_their_sources_in_files_of_any_format(tmp_path):
    for number, suffix in enumerate((".wav", ".flac", ".mp3", ".m4a")):
        write_folder(tmp_path / "train" / f"song {number}", ("speech", "noise"), suffix)
    (tmp_path / "train" / "song 0" / "cover.jpg").touch()
    (tmp_path / "train" / ".trash").mkdir()
    tracks = find_tracks(tmp_path, "train", sources=("noise", "speech"))
    assert [track.name for track in tracks] == ["song 0", "song 1", "song 2", "song 3"]
    for track in tracks:
        assert track.num_frames == 3000
        assert [number_of(track.read(source, 0, 3000)) for source in ("speech", "noise")] == [0, 1]


def test_the_flag_decides_where_there_are_both_layouts_and_only_there(tmp_path):
    write_stem_file(tmp_path / "train" / "file.stem.mp4")
    assert names(tmp_path, "train") == names(tmp_path, "train", is_wav=True) == ["file"]
    write_folder(tmp_path / "train" / "folder")
    assert names(tmp_path, "train") == ["file"]
    assert names(tmp_path, "train", is_wav=True) == ["folder"]


def test_tracks_come_in_the_order_of_musdb_which_sorts_them_with_their_suffix(tmp_path):
    for name in ("B", "B b", "A"):
        write_stem_file(tmp_path / "test" / f"{name}.stem.mp4")
    assert names(tmp_path, "test") == ["A", "B b", "B"]


def test_songs_can_be_computed_instead(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for split, num in synthetic_music.NUM.items():
        tracks = find_tracks("synthetic", split, sources=MUSDB_SOURCES, sample_rate=8000)
        assert len(tracks) == num and {track.sample_rate for track in tracks} == {8000}
    assert "no stem 'piano'" in complaint(UserError, "synthetic", "train", sources=("piano",), sample_rate=8000)


# Validation tracks ----------------------------------------------------------------------------------------------------


def test_the_validation_tracks_of_musdb_are_not_trained_with(tmp_path):
    for name in ("A - A", VALIDATION_TRACK):
        write_folder(tmp_path / "train" / name)
    assert names(tmp_path, "train") == ["A - A"]
    assert names(tmp_path, "valid") == [VALIDATION_TRACK]


def test_the_list_of_the_package_has_the_14_tracks_of_the_publications(tmp_path):
    setup = musdb18._read_setup(tmp_path, None)
    assert len(setup.validation_tracks) == 14 and VALIDATION_TRACK in setup.validation_tracks
    assert setup.streams == {source: stream for stream, source in enumerate(STREAMS)}


def test_there_may_be_no_validation_track(tmp_path):
    write_folder(tmp_path / "train" / "A - A")
    assert find_tracks(tmp_path, "valid") == []
    (tmp_path / "valid").mkdir()
    assert find_tracks(tmp_path, "valid") == []


def test_a_folder_of_validation_tracks_comes_before_the_list(tmp_path):
    for name in ("train/A - A", f"train/{VALIDATION_TRACK}", "valid/C - C"):
        write_folder(tmp_path / name)
    assert names(tmp_path, "valid") == ["C - C"]
    assert names(tmp_path, "train") == ["A - A", VALIDATION_TRACK]


def test_a_setup_file_names_validation_tracks_and_files(tmp_path):
    (tmp_path / "mine.yaml").write_text(SETUP)
    for name in ("A - A", "B - B"):
        write_folder(tmp_path / "train" / name, ("mixture", "bass", "drums", "singer", "other"))
    assert names(tmp_path, "train", setup_file="mine.yaml") == ["A - A"]
    track, = find_tracks(tmp_path, "valid", setup_file="mine.yaml")
    assert track.name == "B - B" and set(track.sources) == set(MUSDB_SOURCES)
    assert number_of(track.read("vocals", 0, 3000)) == 3


# Errors ---------------------------------------------------------------------------------------------------------------


def complaint(kind, *args, **options):
    with pytest.raises(kind) as error:
        find_tracks(*args, **options)
    assert error.type is kind and "\n" not in str(error.value)
    return str(error.value)


def test_a_root_without_tracks_is_told_before_work(tmp_path):
    assert "no such folder" in complaint(UsageError, tmp_path / "nowhere", "train")
    for split, folder in (("train", "train"), ("valid", "train"), ("test", "test")):
        message = complaint(UsageError, tmp_path, split)
        assert f"--root {tmp_path}: no '{folder}' folder with *.stem.mp4 files" in message and "WAV" in message
    (tmp_path / "train" / "empty song").mkdir(parents=True)
    assert "no 'train' folder" in complaint(UsageError, tmp_path, "train")
    write_folder(tmp_path / "train" / VALIDATION_TRACK)
    assert "all 1 in 'train' are validation tracks" in complaint(UsageError, tmp_path, "train")


def test_a_missing_stem_is_told_with_its_track(tmp_path):
    write_folder(tmp_path / "train" / "A", ("bass", "drums"))
    write_folder(tmp_path / "train" / "B", ("drums",))
    assert "track 'B': no stem 'bass'" in complaint(UserError, tmp_path, "train")
    assert "track 'A': no stem 'vocals'" in complaint(UserError, tmp_path, "train", sources=("vocals",))
    assert len(find_tracks(tmp_path, "train", sources=("drums",))) == 2
    write_folder(tmp_path / "train" / "C", ("mixture",))
    assert "C: a mixture, but no stems" in complaint(UserError, tmp_path, "train", sources=("drums",))


def test_two_files_for_one_stem_are_refused(tmp_path):
    write_folder(tmp_path / "train" / "A", ("bass",), ".wav")
    write_folder(tmp_path / "train" / "A", ("bass",), ".flac")
    assert "'bass' is there already" in complaint(UserError, tmp_path, "train")


def test_another_sample_rate_is_refused_unless_asked_for(tmp_path):
    write_folder(tmp_path / "train" / "A", rate=48000)
    message = complaint(UserError, tmp_path, "train")
    assert "A/bass.wav" in message and "48000 Hz instead of 44100" in message and "-ar 44100" in message
    assert find_tracks(tmp_path, "train", sample_rate=48000)[0].sample_rate == 48000


def test_a_damaged_file_is_told(tmp_path):
    write_folder(tmp_path / "train" / "A")
    (tmp_path / "train" / "A" / "drums.wav").write_bytes(b"RIFF but no audio")
    assert "drums.wav" in complaint(UserError, tmp_path, "train")


def test_a_file_with_too_few_streams_is_told(tmp_path):
    write_stem_file(tmp_path / "train" / "A.stem.mp4", num_streams=4)
    assert "A.stem.mp4" in complaint(UserError, tmp_path, "train")


@pytest.mark.parametrize("content, words", [
    ("a: [1", "cannot be read as a setup file of musdb"), ("just text", "not a setup file"),
    (SETUP.replace("stem_ids", "ids"), "not a setup file"), (SETUP.replace("['B - B']", ""), "not a setup file")])
def test_a_setup_file_that_is_none_is_told(tmp_path, content, words):
    (tmp_path / "mine.yaml").write_text(content)
    message = complaint(UserError, tmp_path, "train", setup_file="mine.yaml")
    assert message.startswith(f"{tmp_path / 'mine.yaml'}: ") and words in message
    assert "no such setup file" in complaint(UsageError, tmp_path, "train", setup_file="other.yaml")


def test_a_misspelt_split_is_a_bug_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match="choose from train, valid, test"):
        find_tracks(tmp_path, "validation")
