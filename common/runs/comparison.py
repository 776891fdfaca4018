"""Whether a run goes on, and as it was begun."""
import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.machine.errors import UsageError, UserError
from common.machine.files import is_there, make_folder, write_json
from common.reading.texts import as_read_back, check_fields, read_json

FILES = ("pretrained", "weightfile", "features")    # keys that name a file, whose other names and places are as good
_SETTINGS = "settings.json"
_LONGEST = 60    # characters of a value that a message quotes


def holds_a_run(folder: str | Path, how_far: str = "") -> UsageError:
    """Return the error for a folder with a run, of which `how_far` is done, where no flag says what to do with it."""
    return UsageError(f"{folder}: holds a run already{how_far}; add --resume to go on, --overwrite to start anew, or "
                      "choose another --output")


def require_own(path: Path, config: Mapping) -> None:
    """Raise a UsageError if a configuration was written by another script, whose run no flag of this one gives up.

    Versions of a script differ by few keys, scripts share few: so it is another's if less than half are in common. One
    that is damaged may be of this script.

    Parameters
    ----------
    path
        Of the configuration that is there, if there is one.
    config
        The present one.
    """
    try:
        before = read_json(path)
    except UserError:
        return
    if not isinstance(before, dict) or 2 * len(before.keys() & config.keys()) < len(before.keys() | config.keys()):
        raise UsageError(f"{path}: is there already, and of no run of this script; choose another --output")


def require_nothing_of_others(paths: Iterable[Path], config: Path) -> None:
    """Raise a UsageError if files called like those of a run lie where no run is: a new one would take their place.

    Parameters
    ----------
    paths
        Of such files, whether they exist or not.
    config
        Of the configuration that a run would have written.
    """
    if found := [path for path in paths if path.exists()]:
        raise UsageError(f"{found[0]}: is there already, and {config.parent} holds no run with its {config.name}; "
                         "nothing is removed, choose another --output")


def require_same(folder: str | Path, before: Mapping, now: Mapping, may_differ: Collection[str] = (),
                 done: str = "run", later: Mapping | None = None) -> None:
    """Compare the configuration or settings that a folder was made with to present ones.

    Parameters
    ----------
    folder : path
        For the error.
    before, now : dict
        As JSON gives them back.
    may_differ : collection of str
        Keys that are not compared. Those of `FILES` are compared as the files that they name.
    done : str
        What was done with them, for the error.
    later : dict
        What keys mean that `before` may lack, as an earlier version had no such keys. Given, `now` has all keys that
        there are. Not given, a key that is lacking means None.

    Raises
    ------
    UsageError
        They differ; quotes the first value that does.
    """
    before = {**before, **{key: value for key, value in (later or {}).items() if key not in before}}
    compared = [key for key in {**before, **now} if key not in may_differ]
    unknown = [key for key in compared if later is not None and key not in now]
    if unknown:
        raise UsageError(f"{folder}: was {done} by another version, with a key {unknown[0]!r} that is not known here; "
                         "go on with that version, or add --overwrite to start anew")
    different = [key for key in compared if not _is_same(key, before.get(key), now.get(key))]
    if not different:
        return
    key = different[0]
    quoted = f"{key} = {before.get(key)!r}, not {now.get(key)!r}"
    quoted = quoted if len(quoted) - len(key) < 2 * _LONGEST else f"another {key}"
    more = f" (and {len(different) - 1} more differences)" if len(different) > 1 else ""
    raise UsageError(f"{folder}: was {done} with {quoted}{more}; go on with the former configuration, or add "
                     "--overwrite to start anew")


def _is_same(key, before, now):
    if key in FILES and isinstance(before, str) and isinstance(now, str):
        return before == now or os.path.realpath(before) == os.path.realpath(now) or _has_moved(Path(before), Path(now))
    return before == now


def _has_moved(before, now):
    """Whether a file that is no longer there is called like the present one, with its folder."""
    known = before.parts[-2:]    # an earlier version may have kept the name alone
    return not is_there(before) and now.parts[-len(known):] == known


def require_nothing_to_lose(weights: Iterable[Path], folder: str | Path, may_go: bool) -> None:
    """Raise a UsageError if one of some files exists, which to start anew in a folder without a checkpoint removes.

    `may_go` is true where they are known to be of a run that stopped before its first checkpoint.
    """
    found = [path for path in weights if path.exists()]
    if found and not may_go:
        raise UsageError(f"{found[0]}: is there already, and no checkpoint to go on from in {folder}; add --overwrite "
                         "to replace it, or choose another --output")


def require_same_data(folder: str | Path, before: Mapping[str, Sequence], now: Mapping[str, Sequence]) -> None:
    """Raise a UsageError if a run is to go on with other examples: another order would follow, or another loss.

    Parameters
    ----------
    folder : path
        For the error.
    before, now : dict
        What examples are called -> how many there are, and a `fingerprint` of them.
    """
    for name in filter(before.__contains__, now):
        (num_before, _), (num_now, _) = before[name], now[name]
        if before[name] != now[name]:
            change = f"{num_before}, and now there are {num_now}" if num_before != num_now else f"{num_now}, but others"
            raise UsageError(f"{folder}: was trained with other {name} ({change}); go on with the former ones, or add "
                             "--overwrite to start anew")


def fingerprint(*values: object) -> str:
    """Hash arrays, and whatever has a faithful `repr`; returns hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype} {value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


def check_settings(folder: str | Path, values: Mapping[str, object], done: str, may_differ: Collection[str] = (),
                   later: Mapping[str, object] | None = None) -> None:
    """Write the settings that the files of a folder are made with, or compare them with those of before.

    Parameters
    ----------
    values : dict
        JSON-able.
    done : str
        What was done with them, for the error: `trained`.
    may_differ, later
        As for `require_same`.

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
        require_same(folder, before, values, may_differ, done, later and as_read_back(later))


def read_settings(folder: str | Path) -> dict[str, Any] | None:
    """Return the settings that the files of a folder were made with, as `check_settings` wrote them; None without any.

    Raises
    ------
    UserError
        They are damaged.
    """
    path, remedy = Path(folder) / _SETTINGS, "--overwrite starts anew"
    return check_fields(read_json(path, "settings", remedy), {}, path, "settings", remedy) if path.exists() else None
