"""A row of the table of formats."""
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs


@attrs.frozen
class Format:
    """One row.

    Attributes
    ----------
    name
    write
        `write(path)` makes a valid file; it may put others beside it.
    read
        `read(path)` reads a file as commands do: UserError is the only error that it may raise.
    suffix
        Of the file, with its dot.
    tokens
        As for `common.workbench.fuzzing.mutant`.
    """

    name: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    suffix: str = ""
    tokens: tuple[bytes, ...] = ()


def inside(name: str, content: bytes, wrap: Callable[[bytes, Path], Any], read: Callable[[Path], Any],
           tokens: tuple[bytes, ...] = (), suffix: str = "") -> Format:
    """Make a row that mutates `content`, and reads the file that `wrap(content, path)` makes of the mutant."""
    def read_wrapped(path: Path) -> Any:
        wrapped = path.with_name(f"wrapped{suffix}")
        wrap(path.read_bytes(), wrapped)
        return read(wrapped)

    return Format(f"{name} inside", lambda path: path.write_bytes(content), read_wrapped, "", tokens)
