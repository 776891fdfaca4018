"""MUSDB18, MUSDB18-HQ, or a folder of one's own songs: finding the tracks of a split.

Z. Rafii et al., The MUSDB18 corpus for music separation, 2017, doi 10.5281/zenodo.1117372.
"""
import functools
import importlib.util
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from common.console.progress import progress
from common.datasets import synthetic_music
from common.datasets.band import songs as band_songs
from common.datasets.multitrack import MIXTURE, FileStem, Track
from common.datasets.prefetching import parallel_map
from common.machine.errors import UsageError, UserError
from common.reading.texts import read_yaml

SPLITS = ("train", "valid", "test")
SAMPLE_RATE = 44100
SYNTHETIC, BAND = "synthetic", "synthetic-band"
COMPUTED = {SYNTHETIC: synthetic_music.make_tracks, BAND: band_songs.make_tracks}
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus", ".aif", ".aiff", ".wma")
STEM_SUFFIX = ".stem.mp4"
_WORKERS = 4


@attrs.frozen
class Setup:
    """What a setup file of musdb says."""

    validation_tracks: frozenset[str]    # names
    streams: Mapping[str, int]    # source or mixture -> audio stream of a .stem.mp4 file
    file_names: Mapping[str, str]    # file name -> source or mixture


def find_tracks(root: str | Path, split: str, is_wav: bool = False, setup_file: str | Path | None = None,
                sources: Sequence[str] | None = None, sample_rate: int = SAMPLE_RATE) -> list[Track]:
    """Find the tracks of a split, in the order of their names.

    Below `root` there are folders `train`, `test` and perhaps `valid`, with one file `<song>.stem.mp4` for each song,
    as in MUSDB18, or one folder, `<song>/{mixture,bass,drums,...}.wav`, as in MUSDB18-HQ. Files in folders may have any
    format, and their names are those of the sources; where there is no mixture, it is the sum of all. WAV and FLAC are
    much the fastest to read from random places.

    Parameters
    ----------
    root : path, 'synthetic' or 'synthetic-band'
        'synthetic': songs that are computed, by `synthetic_music.make_tracks` with its defaults; 'synthetic-band': by
        `band.songs.make_tracks`, richer by far, in a minute or two.
    split : 'train', 'valid' or 'test'
        Without a folder `valid`, validation tracks are those of `train` that the setup file names.
    is_wav : bool
        Take folders where a split has both kinds.
    setup_file : path, optional
        YAML as `musdb.DB` takes it, relative to `root`. Not given: that of the musdb package, with the usual 14
        validation tracks.
    sources : sequence of str, optional
        Each track must have these; not given, those of the first track.
    sample_rate : int
        Hz; each file must have it.

    Returns
    -------
    list of Track
        Never empty, but for the split 'valid'.

    Raises
    ------
    UsageError
        A folder or the setup file does not exist, or there is no track.
    UserError
        A source is missing in a track, a file has another sample rate or cannot be decoded, the setup file is no such
        file.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: choose from {', '.join(SPLITS)}")
    if str(root) in COMPUTED:
        tracks = list(_computed(str(root), split, sample_rate))
    else:
        try:
            folder = Path(root).expanduser()
        except RuntimeError as error:
            raise UsageError(f"--root {root}: no such user") from error
        tracks = _tracks_in(folder, split, is_wav, setup_file)
    for track in tracks:
        _check_sources(track, sources or tracks[0].sources)
        _check_sample_rate(track, sample_rate)
    return tracks


@functools.lru_cache(maxsize=len(SPLITS))    # one training after another hears the same songs
def _computed(root: str, split: str, sample_rate: int) -> tuple[Track, ...]:
    return tuple(COMPUTED[root](split, sample_rate=sample_rate))


def _tracks_in(root: Path, split: str, is_wav: bool, setup_file: str | Path | None) -> list[Track]:
    if not root.is_dir():
        raise UsageError(f"--root {root}: no such folder")
    setup = _read_setup(root, setup_file)
    paths = _song_paths(root, split, is_wav, setup.validation_tracks)
    with parallel_map(_WORKERS, "musdb18") as run_all:
        found = run_all(lambda path: _open_song(path, setup), paths)
        return list(progress(found, total=len(paths), desc=f"{split} tracks"))


def _song_paths(root: Path, split: str, is_wav: bool, validation_tracks: Collection[str]) -> list[Path]:
    """List the files or folders of the songs, in the order of musdb, which sorts them with their suffix."""
    if (root / "valid").is_dir():
        return _songs_in(root, split, is_wav, may_be_empty=split == "valid")
    if split == "test":
        return _songs_in(root, split, is_wav)
    songs = _songs_in(root, "train", is_wav)
    chosen = [path for path in songs if (_song_name(path) in validation_tracks) == (split == "valid")]
    if not chosen and split == "train":
        raise UsageError(f"--root {root}: no track to train with: all {len(songs)} in 'train' are validation tracks; "
                         "name others in a setup file")
    return chosen


def _songs_in(root: Path, folder: str, is_wav: bool, may_be_empty: bool = False) -> list[Path]:
    visible = sorted((path for path in (root / folder).glob("*") if not path.name.startswith(".")),
                     key=lambda path: path.name)
    files = [path for path in visible if path.name.endswith(STEM_SUFFIX)]
    folders = [path for path in visible if path.is_dir() and any(_audio_files(path))]
    if not files and not folders and not may_be_empty:
        raise UsageError(f"--root {root}: no '{folder}' folder with *{STEM_SUFFIX} files in it, nor with a folder of "
                         f"stems for each song ('{folder}/<song>/vocals.wav', ...) as in the WAV version")
    return folders if folders and (is_wav or not files) else files


def _audio_files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir())
            if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith("."))


def _song_name(path: Path) -> str:
    return path.name.removesuffix(STEM_SUFFIX)


def _open_song(path: Path, setup: Setup) -> Track:
    """Look into the stems of a song, a file or a folder."""
    if not path.is_dir():
        return Track(_song_name(path), {source: FileStem.probe(path, stream)
                                        for source, stream in setup.streams.items()})
    stems = {}
    for file in _audio_files(path):
        source = setup.file_names.get(file.name, file.stem)
        if source in stems:
            raise UserError(f"{file}: stem '{source}' is there already, as {stems[source].path.name}; remove one")
        stems[source] = FileStem.probe(file)
    if not set(stems) - {MIXTURE}:
        raise UserError(f"{path}: a mixture, but no stems; remove the folder or add them")
    return Track(_song_name(path), stems)


def _check_sources(track: Track, sources: Sequence[str]) -> None:
    missing = [source for source in sources if source not in track.sources]
    if missing:
        raise UserError(f"track '{track.name}': no stem '{missing[0]}'; it has {', '.join(track.sources)}; "
                        "add the missing one, or choose other sources")


def _check_sample_rate(track: Track, sample_rate: int) -> None:
    for source, stem in track.stems.items():
        if stem.sample_rate != sample_rate:
            raise UserError(f"{stem.path}: '{source}' has {stem.sample_rate} Hz instead of {sample_rate}; convert such "
                            f"files first, for example: ffmpeg -i IN -ar {sample_rate} OUT")


def _read_setup(root: Path, setup_file: str | Path | None) -> Setup:
    path = _musdb_setup() if setup_file is None else root / setup_file
    try:
        content = read_yaml(path, "a setup file of musdb", missing=f"{path}: no such setup file")
        files = {**content["sources"], MIXTURE: content["mixture"]}
        streams = {source: int(content["stem_ids"][source]) for source in files}
        names = {str(file): source for source, file in files.items()}
        return Setup(frozenset(content["validation_tracks"]), streams, names)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: not a setup file of musdb, which has sources, mixture, stem_ids and validation_tracks"
                        ) from error


def _musdb_setup() -> Path:
    """Find the file in the package without importing that, which needs an ffmpeg program."""
    spec = importlib.util.find_spec("musdb")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the package musdb is missing: pip install -r requirements.txt")
    return Path(spec.submodule_search_locations[0]) / "configs" / "mus.yaml"
