"""Whether a run goes on, and as it was begun."""
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from common.machine.errors import UsageError
from common.machine.files import make_folder, write_json
from common.reading.texts import as_read_back, check_fields, read_json

_SETTINGS = "settings.json"
_LONGEST = 60    # characters of a value that a message quotes


def holds_a_run(folder: str | Path, how_far: str = "") -> UsageError:
    """Return the error for a folder with a run, of which `how_far` is done, where no flag says what to do with it."""
    return UsageError(f"{folder}: holds a run already{how_far}; add --resume to go on, --overwrite to start anew, or "
                      "choose another --output")


def require_same(folder: str | Path, before: Mapping, now: Mapping, may_differ: Collection[str] = (),
                 done: str = "run") -> None:
    """Compare the configuration or settings that a folder was made with to present ones.

    Parameters
    ----------
    folder : path
        For the error.
    before, now : dict
        As JSON gives them back.
    may_differ : collection of str
        Keys that are not compared.
    done : str
        What was done with them, for the error.

    Raises
    ------
    UsageError
        They differ; quotes the first value that does.
    """
    different = [key for key in {**before, **now} if key not in may_differ and before.get(key) != now.get(key)]
    if not different:
        return
    key = different[0]
    quoted = f"{key} = {before.get(key)!r}, not {now.get(key)!r}"
    quoted = quoted if len(quoted) - len(key) < 2 * _LONGEST else f"another {key}"
    more = f" (and {len(different) - 1} more differences)" if len(different) > 1 else ""
    raise UsageError(f"{folder}: was {done} with {quoted}{more}; go on with the former configuration, or add "
                     "--overwrite to start anew")


def check_settings(folder: str | Path, values: Mapping[str, object], done: str) -> None:
    """Write the settings that the files of a folder are made with, or compare them with those of before.

    Parameters
    ----------
    values : dict
        JSON-able.
    done : str
        What was done with them, for the error: `trained`.

    Raises
    ------
    UsageError
        The files there were made with other settings.
    UserError
        The settings are damaged.
    """
    values = as_read_back(values)
    before = read_settings(make_folder(folder))
    if before is None:
        write_json(Path(folder) / _SETTINGS, values)
    else:
        require_same(folder, before, values, done=done)


def read_settings(folder: str | Path) -> dict[str, Any] | None:
    """Return the settings that the files of a folder were made with, as `check_settings` wrote them; None without any.

    Raises
    ------
    UserError
        They are damaged.
    """
    path, remedy = Path(folder) / _SETTINGS, "--overwrite starts anew"
    return check_fields(read_json(path, "settings", remedy), {}, path, "settings", remedy) if path.exists() else None
