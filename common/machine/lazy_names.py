"""Names of a module that are imported when they are first asked for, so that the help of a command comes at once."""
import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Make the `__getattr__` of a module (PEP 562).

    Parameters
    ----------
    homes
        Name -> module that defines it.

    Examples
    --------
    >>> get = lazy_names({"OrderedDict": "collections"})
    >>> get("OrderedDict").__name__
    'OrderedDict'
    """
    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"no such name: {name!r}")
        return getattr(importlib.import_module(homes[name]), name)
    return get
