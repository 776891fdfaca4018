"""Files that appear whole or not at all."""
import contextlib
import csv
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from common.machine.errors import UsageError, UserError
from common.machine.launching import launched_rank


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it takes the place of `path`, on failure it vanishes.

    The bytes are on the disk before the name changes, so a kill or a power cut leaves the old file or the new one.
    What ranks of mpirun other than 0 write vanishes, as they would all write the same.

    Raises
    ------
    UserError
        The folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    if launched_rank():
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / path.name
            temporary.touch()
            yield temporary
        return
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --output") from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("r+b") as written:    # Windows syncs only what is open for writing
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def reserve(file: BinaryIO, size: int) -> None:
    """Make a new file `size` bytes long, zeros, and have the disk set them aside.

    Raises
    ------
    OSError
        There is no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    block = bytes(min(size, 1 << 20))
    for start in range(0, size, len(block) or 1):
        file.write(block[:size - start])
    file.flush()


def remove_leftovers(path: str | Path) -> None:
    """Remove what a killed process left of writing `path`; nobody else may be writing it."""
    for leftover in Path(path).parent.glob(f".{Path(path).stem}-*{Path(path).suffix}"):
        leftover.unlink(missing_ok=True)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def link(path: str | Path, target: str | Path) -> None:
    """Make `target` another name of the file `path`, or a copy where the file system knows no such names."""
    if launched_rank():    # `path` may not be there yet
        return
    with replacing(target) as temporary:
        temporary.unlink()
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)


def write_text(path: str | Path, text: str) -> None:
    """Replace the file `path` by `text`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: object) -> None:
    """Replace the file `path` by `value` as indented JSON."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path, missing: str) -> Any:
    """Read a JSON file that a run has left; `missing` says what to do if it is not there.

    Raises
    ------
    UsageError
        There is none.
    UserError
        It is damaged.
    """
    if not path.is_file():
        raise UsageError(missing)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); run the experiment again") from error


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Replace the file `path` by comma-separated `rows` under a `header`."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def make_folder(path: str | Path) -> Path:
    """Make the folder `path` with its parents, check that files can be made in it, and return it.

    Raises
    ------
    UserError
        It cannot be made or written to.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{path}: output folder cannot be written ({error.strerror}); choose another --output"
                        ) from error
    return path


def beside_scripts(package: str, name: str) -> Path:
    """Return the path of a file that lies beside the scripts of a paper.

    Parameters
    ----------
    package
        That of the paper, or a module of it.
    name
        Of a file, or of a folder.

    Returns
    -------
    pathlib.Path
        In the folder around the package in a checkout, in the package itself in a wheel.
    """
    inside = Path(importlib.import_module(package.partition(".")[0]).__path__[0]).resolve()
    return inside / name if (inside / name).exists() else inside.parent / name
