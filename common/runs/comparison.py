"""Whether a run goes on as it was begun."""
from collections.abc import Collection, Mapping
from pathlib import Path

from common.machine.errors import UsageError

_LONGEST = 60    # characters of a value that a message quotes


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
