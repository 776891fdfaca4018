"""The cache folder of this user, for what is downloaded, and for what takes long to make."""
import os
from pathlib import Path

from common.machine.errors import UserError

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
        raise UserError(f"there is no home folder to keep downloads in; set {CACHE_VARIABLE} to a writable folder"
                        ) from error


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
        raise UserError(f"{folder}: downloads cannot be stored here; set {CACHE_VARIABLE} to a writable folder")
