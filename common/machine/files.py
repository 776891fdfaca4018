"""Files that appear whole or not at all."""
import contextlib
import csv
import functools
import importlib
import itertools
import json
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from common.machine.errors import UserError
from common.machine.launching import launched_rank
from common.machine.locks import share_lock, try_lock

_REMOVED = ".removed-"    # how names of folders begin that are being removed
TMPDIR_REMEDY = "set TMPDIR to a folder on another disk"
UNFINISHED = ".unfinished-"    # how names of files begin that are being written: hidden, and of no format


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it takes the place of `path`, on failure it vanishes.

    The bytes are on the disk before the name changes, so a kill or a power cut leaves the old file or the new one.
    Until then the name is one that no reader takes for a product, and tells no format: writers must not ask it for one.
    What a killed process has left of that kind is removed when the next one writes to the folder first.
    What ranks of mpirun other than 0 write vanishes, as they would all write the same.

    Raises
    ------
    UserError
        The folder cannot be written to, or the disk is full; `path` is a folder, a pipe or a device.
    """
    path = Path(path)
    if launched_rank():
        with temporary_folder() as folder:
            temporary = folder / UNFINISHED
            temporary.touch()
            yield temporary
        return
    handle, temporary = _new_file_for(path)
    closing = contextlib.ExitStack()
    closing.callback(os.close, handle)
    try:
        yield temporary
        os.fsync(handle)
        if sys.platform == "win32":
            closing.close()    # what is open cannot be renamed there
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror or error})") from error
    finally:
        closing.close()
        temporary.unlink(missing_ok=True)


def writable_file(path: str | Path) -> Path:
    """Return the path of a file that is to be written when the work is done, or raise the error of `replacing` now."""
    path = Path(path)
    handle, temporary = _new_file_for(path)
    os.close(handle)
    temporary.unlink()
    return path


def _new_file_for(path):
    """Make a file beside `path` that can take its place; returns its descriptor and its path."""
    try:
        if path.exists() and not path.is_file():    # root could put a file in the place of /dev/null
            raise UserError(f"{path}: a folder, a pipe or a device, and no file can take its place; choose another "
                            "--output")
        _remove_leftovers_once(path.parent.absolute())
        return _new_file(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --output") from error


def _new_file(folder):
    """Make a file that nobody takes for a leftover as long as it is open; returns its descriptor and its path."""
    while True:
        path = folder / _unfinished_name()
        # With the permissions that the umask leaves: to ask for that is to change it, for all threads.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        share_lock(handle)
        if os.fstat(handle).st_nlink:
            return handle, path
        os.close(handle)    # another process has removed it before it was locked


def _unfinished_name():
    return f"{UNFINISHED}{uuid.uuid4().hex}"


def remove_leftovers(folder: str | Path) -> None:
    """Remove what killed processes have left of files that they were writing in a folder; a missing one has none.

    Those that are being written stay, and those that may be: on a file system without locks, and those of others.
    """
    for path in Path(folder).glob(f"{UNFINISHED}*"):
        with contextlib.suppress(OSError):
            _remove_unless_open(path)


_remove_leftovers_once = functools.cache(remove_leftovers)


def _remove_unless_open(path):
    handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        if sys.platform != "win32" and try_lock(handle):
            path.unlink()
    finally:
        os.close(handle)
    if sys.platform == "win32":    # which removes nothing that is open
        path.unlink(missing_ok=True)


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


def temporary_place() -> str:
    """Return the system's folder for temporary files, which TMPDIR names.

    Raises
    ------
    UserError
        No such folder can be written to.
    """
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UserError(f"{error.strerror}; {TMPDIR_REMEDY}") from error


@contextlib.contextmanager
def temporary_folder(room: int = 0) -> Iterator[Path]:
    """Yield a new folder for temporary files, which vanishes with all that is in it.

    Parameters
    ----------
    room
        Bytes that there is to be room for: libraries in C say of a full disk what they like.

    Raises
    ------
    UserError
        There is no such room, or no folder can be made.
    """
    place = temporary_place()
    with contextlib.ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=place)))
            with tempfile.TemporaryFile(dir=folder) as file:
                reserve(file, max(1, room))    # none is of no length
        except OSError as error:
            raise UserError(f"{place}: temporary files cannot be written ({error.strerror}); {TMPDIR_REMEDY}"
                            ) from error
        yield folder


def link(path: str | Path, target: str | Path) -> None:
    """Make `target` another name of the file `path`, or a copy where the file system knows no such names."""
    if launched_rank():    # `path` may not be there yet
        return
    temporary = Path(target).with_name(_unfinished_name())
    try:
        os.link(path, temporary)
        temporary.replace(target)
    except OSError:
        with replacing(target) as copy:
            shutil.copyfile(path, copy)
    finally:
        temporary.unlink(missing_ok=True)    # it stays where both were names of one file already


def write_text(path: str | Path, text: str) -> None:
    """Replace the file `path` by `text`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")    # names of files need not be UTF-8


def write_json(path: str | Path, value: object) -> None:
    """Replace the file `path` by `value` as indented JSON."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Replace the file `path` by comma-separated `rows` under a `header`."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8",
                                                           errors="surrogateescape") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it, or a link to one; a kill leaves it as it was, or none of that name.

    What a killed process has left under another name is removed with the next folder beside it.
    """
    path.rename(path.with_name(f"{_REMOVED}{uuid.uuid4().hex}"))
    for removed in path.parent.glob(f"{_REMOVED}*"):
        if removed.is_symlink():
            removed.unlink()    # what it leads to is not ours
        else:
            shutil.rmtree(removed)


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


def is_there(path: str | Path) -> bool:
    """Whether there is a file or a folder; of a text that can be no path, there is none."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def new_path(path: Path) -> Path:
    """Return `path`, or where it exists the first of NAME-2, NAME-3, ... with its extension that does not.

    Examples
    --------
    >>> str(new_path(Path("/no/such/plan.png")))
    '/no/such/plan.png'
    """
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain([path], numbered) if not (each.exists() or each.is_symlink()))


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
