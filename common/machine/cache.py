"""The cache folder of this user, for what is downloaded, and for what takes long to make."""
import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from common.machine.errors import UserError
from common.machine.files import write_json

CACHE_VARIABLE = "SONY_PAPERS_CACHE"


def cache_dir() -> Path:
    """Return the cache folder: `$SONY_PAPERS_CACHE`, otherwise `~/.cache/sony-papers`; it may not exist.

    Raises
    ------
    UserError
        The variable is not set, and the user has no home folder.
    """
    try:
        return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/sony-papers").expanduser()
    except RuntimeError as error:
        raise UserError(f"there is no such home folder for the cache; set {CACHE_VARIABLE} to a writable folder"
                        ) from error


def stand_in_for_home() -> None:
    """Give a user without a home folder one in which nothing can be: without any, libraries fail when they load."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = os.devnull


def make_cache_folder(folder: Path) -> None:
    """Make a folder of the cache with its parents.

    Raises
    ------
    UserError
        It cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        accessible = os.access(folder, os.W_OK)
    except OSError:
        accessible = False
    if not accessible:
        raise UserError(f"{folder}: nothing can be stored here; set {CACHE_VARIABLE} to a writable folder")


def remembered(name: str, key: str, make: Callable[[], str]) -> str:
    """Return what `make()` returned when it was last called for `key`, in this process or in an earlier one.

    Where the cache cannot be written to, or was damaged, `make` is called again.

    Parameters
    ----------
    name
        JSON file below the cache folder.
    key
        All that the value depends on.
    """
    try:
        path = cache_dir() / name
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict) and isinstance(values.get(key), str):
            return values[key]
    except (UserError, OSError, ValueError):
        values = {}
    value = make()
    with contextlib.suppress(UserError):    # it is made anew next time
        path = cache_dir() / name
        make_cache_folder(path.parent)
        write_json(path, {**(values if isinstance(values, dict) else {}), key: value})
    return value
