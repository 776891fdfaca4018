"""Which audio files the inputs of a command mean, what each is called, and where the files of its stems go."""
import itertools
import os
import string
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import attrs

from common.datasets.musdb18 import AUDIO_SUFFIXES
from common.machine.errors import UsageError, UserError

DEFAULT = "{track}/{stem}.{ext}"
PLACEHOLDERS = ("track", "trackext", "stem", "ext")


@attrs.frozen
class Inputs:
    """What the inputs of a command mean.

    Attributes
    ----------
    tracks
        Audio file -> name of the track, which may have folders in it.
    notes
        Lines to print.
    refused
        A line for each input that cannot be separated.
    """

    tracks: dict[Path, PurePosixPath]
    notes: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


def find_inputs(paths: Sequence[Path], out_dir: Path) -> Inputs:
    """Find the audio files that paths mean, and give each a name of its own.

    A folder means the audio files in it and in its folders, but for `out_dir`, where stems of earlier runs are. A track
    is called like its file, within the folder that was given. Where two would be called alike, both get names with as
    many folders as it takes, or with the extension of the file.

    Raises
    ------
    UsageError
        There are none.
    """
    if not paths:
        raise UsageError("no audio file is given (see --help)")
    if not any(os.path.exists(path) for path in paths):    # noqa: PTH110 - which bears with names that cannot be
        raise UsageError(f"{paths[0]}: no such file" + (", nor any other of the inputs" if len(paths) > 1 else ""))
    found: dict[str, tuple[Path, PurePosixPath]] = {}    # by path, as one may be named twice
    notes, refused = [], []
    for path in paths:
        files, others = _audio_files(path, out_dir)
        if not files:
            refused.append(f"{path}: no audio file in this folder ({', '.join(AUDIO_SUFFIXES)})")
        elif others:
            notes.append(f"{path}: left out what is no audio by its name: {_some(others)}")
        for file, name in files:
            found.setdefault(os.path.abspath(file), (file, name))    # noqa: PTH100 - keeps links apart
    if not found:
        raise UsageError(refused[0])
    tracks = dict(found.values())
    distinct = _distinct(tracks)
    notes.extend(f"{file}: another input is called {tracks[file]}, too; this one is {name}"
                 for file, name in distinct.items() if name != tracks[file])
    return Inputs(distinct, tuple(notes), tuple(refused))


def _audio_files(path: Path, out_dir: Path) -> tuple[list[tuple[Path, PurePosixPath]], list[str]]:
    """Return the file itself, or the audio files in a folder and its folders, with their names; and other files."""
    if not os.path.isdir(path):    # noqa: PTH112 - which bears with names that cannot be
        return [(path, PurePosixPath(path.stem))], []
    stems, audio, others = out_dir.resolve(), [], []
    for file in sorted(path.rglob("[!.]*")):
        if not file.is_file() or stems in file.resolve().parents:
            continue
        if file.suffix.lower() in AUDIO_SUFFIXES:
            audio.append((file, PurePosixPath(file.relative_to(path).with_suffix("").as_posix())))
        else:
            others.append(file.name)
    return audio, others


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _distinct(tracks: dict[Path, PurePosixPath]) -> dict[Path, PurePosixPath]:
    """Return names of which no two are alike: the given ones, longer where they clash."""
    given = list(tracks.values())
    names = {file: name for file, name in tracks.items() if given.count(name) == 1}
    for name in dict.fromkeys(given):
        if given.count(name) > 1:
            files = [file for file in tracks if tracks[file] == name]
            names.update(zip(files, _longer(files, name, set(names.values())), strict=True))
    return {file: names[file] for file in tracks}


def _longer(files: Sequence[Path], name: PurePosixPath, taken: set[PurePosixPath]) -> list[PurePosixPath]:
    """Return names for files that are all called `name`."""
    paths = [PurePosixPath(file.absolute().as_posix().lstrip("/")) for file in files]
    depths = range(len(name.parts), max(len(path.parts) for path in paths) + 1)
    for with_suffix, depth in itertools.product((False, True), depths):
        whole = [PurePosixPath(*path.parts[-depth:]) for path in paths]
        candidates = whole if with_suffix else [path.with_suffix("") for path in whole]
        if len(set(candidates)) == len(files) and not taken & set(candidates):
            return candidates
    raise AssertionError("two files have one path")


def check_template(text: str) -> str:
    """Return a template of file names, if it is one; otherwise raise ValueError."""
    for _, field, spec, conversion in string.Formatter().parse(text):
        if field is not None and (field not in PLACEHOLDERS or spec or conversion):
            raise ValueError(text)
    if "{stem}" not in text or PurePosixPath(text).is_absolute() or text.endswith("/"):
        raise ValueError(text)
    return text


def file_of(template: str, out_dir: str | Path, path: Path, track: PurePosixPath, stem: str, ext: str) -> Path:
    """Return the file of a stem.

    Parameters
    ----------
    template
        As of `check_template`.
    out_dir
    path
        The file of the track.
    track, stem, ext
        What is put in.

    Raises
    ------
    UserError
        The file would lie outside `out_dir`.
    """
    name = template.format(track=track.as_posix(), trackext=path.suffix[1:], stem=stem, ext=ext)
    if PurePosixPath(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{path}: {name} leads out of {out_dir}; rename the file, or choose another --filename")
    return Path(out_dir) / name


def check_distinct(targets: Iterable[tuple[Path, Iterable[Path]]], template: str) -> None:
    """Raise a UsageError if a file would be written for two inputs, or twice for one.

    Parameters
    ----------
    targets
        Input and the files that are written for it.
    template
    """
    taken: dict[str, Path] = {}
    for path, files in targets:
        for file in files:
            key = os.path.normpath(file)
            if key in taken:
                both = f"{taken[key]} and {path}" if taken[key] != path else f"two stems of {path}"
                raise UsageError(f"--filename {template}: {file} would be written for {both}; use "
                                 f"{', '.join(f'{{{name}}}' for name in ('track', 'stem'))} in it")
            taken[key] = path


def why_not_made(folder: Path) -> str | None:
    """Say why a folder cannot be made or written to; None if it can."""
    existing = next(parent for parent in (folder, *folder.parents) if os.path.exists(parent))    # noqa: PTH110
    if existing.is_dir() and os.access(existing, os.W_OK):
        return None
    return f"{existing}: {'not writable' if existing.is_dir() else 'not a folder'}; choose another --out-dir"
