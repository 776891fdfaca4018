"""Texts, and what is written in them: JSON, YAML, comma-separated rows."""
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.machine.errors import UserError
from common.reading.files import REMEDY, decoding, read_bytes

TEXT_LIMIT = 1 << 24    # bytes; what JSON makes of so many takes half a gigabyte
YAML_LIMIT = 1 << 17    # bytes; its parser takes a second for so many
YAML_VALUES = 1 << 17    # that a YAML file may hold, each counted as often as aliases (`*name`) repeat it


def read_text(path: str | Path, what: str = "a text file", remedy: str = REMEDY, limit: int = TEXT_LIMIT,
              missing: str | None = None) -> str:
    """Read a text file in UTF-8, with or without a byte-order mark; lines end in a newline alone.

    Parameters and errors are those of `common.reading.files.reading`.
    """
    content = read_bytes(path, what, limit, remedy, missing)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read as {what} (no UTF-8 at byte {error.start}); {remedy}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | Path, what: str = "a JSON file", remedy: str = REMEDY, limit: int = TEXT_LIMIT,
              missing: str | None = None) -> Any:
    """Read a JSON file; parameters and errors are those of `common.reading.files.reading`."""
    return parse_json(read_text(path, what, remedy, limit, missing), path, what, remedy)


def check_fields(value: Any, fields: Mapping[str, type | tuple[type, ...]], name: str | Path, what: str,
                 remedy: str = REMEDY) -> dict[str, Any]:
    """Return what a JSON or YAML file holds if it is a dict with these fields, and maybe others.

    Parameters
    ----------
    value
        What the file holds, or a part of it.
    fields
        Types that a field may have; `float` takes whole numbers, too, and `int` no truth values.
    name, what, remedy
        As for `common.reading.files.decoding`.

    Raises
    ------
    UserError
        It is no dict, or lacks a field, or has one of another type.
    """
    if not isinstance(value, dict):
        raise UserError(f"{name}: cannot be read as {what} (it holds a {type(value).__name__}, no fields); {remedy}")
    for field, types in fields.items():
        types = types if isinstance(types, tuple) else (types,)
        allowed = (*types, int) if float in types else types
        found = value.get(field)
        if field not in value or type(found) not in allowed:
            has = type(found).__name__ if field in value else "missing"
            raise UserError(f"{name}: cannot be read as {what} ({field!r} is {has}, not "
                            f"{' or '.join(kind.__name__ for kind in types)}); {remedy}")
    return value


def parse_json(text: str | bytes, name: str | Path, what: str = "a JSON file", remedy: str = REMEDY) -> Any:
    """Parse JSON that stands in something else, of the file `name`."""
    with decoding(name, what, remedy):
        return json.loads(text)


def as_read_back(value: Any) -> Any:
    """Return a JSON-able value as it would come back from a JSON file: lists for tuples, strings for keys."""
    return json.loads(json.dumps(value))


def read_yaml(path: str | Path, what: str = "a YAML file", remedy: str = REMEDY, missing: str | None = None) -> Any:
    """Read a YAML file of plain values; aliases, which can make gigabytes of a few lines, are counted.

    Parameters and errors are those of `common.reading.files.reading`.
    """
    text = read_text(path, what, remedy, YAML_LIMIT, missing)
    with decoding(path, what, remedy):
        return _parse_yaml(text, path)


def _parse_yaml(text: str, path: str | Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Counts values, each as often as aliases repeat it, and refuses too many, and what holds itself."""

        def __init__(self, stream: str):
            super().__init__(stream)
            self.sizes: dict[int, int] = {}    # by id of a node that is complete

        def compose_node(self, parent: Any, index: Any) -> Any:
            line, is_alias = self.peek_event().start_mark.line + 1, self.check_event(yaml.AliasEvent)
            node = super().compose_node(parent, index)
            if not is_alias:
                parts = node.value if isinstance(node, yaml.CollectionNode) else []
                self.sizes[id(node)] = 1 + sum(self.sizes[id(part)] for entry in parts
                                               for part in (entry if isinstance(entry, tuple) else (entry,)))
            if self.sizes.get(id(node), YAML_VALUES) >= YAML_VALUES:
                raise UserError(f"{path}, line {line}: an alias repeats more values than {YAML_VALUES}, or itself: "
                                "refused; write the values themselves")
            return node

    try:
        return yaml.load(text, Loader)    # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{error.problem}{line}") from error


def read_rows(path: str | Path, what: str = "a table", columns: Sequence[str] = (), remedy: str = REMEDY,
              limit: int = TEXT_LIMIT, missing: str | None = None) -> list[dict[str, str]]:
    """Read comma-separated rows below a first line that names the columns.

    Parameters
    ----------
    columns
        That there must be at least.

    The other parameters are those of `common.reading.files.reading`.

    Returns
    -------
    list of dict
        Column -> text, by row. Lines without anything are passed over.

    Raises
    ------
    UsageError
        There is no such file.
    UserError
        It cannot be read, a column is missing, or a row is shorter or longer than the first line.
    """
    text = read_text(path, what, remedy, limit, missing)
    with decoding(path, what, remedy):
        reader = csv.reader(io.StringIO(text, newline=""))
        header = next(reader, [])
        if not set(columns) <= set(header):
            raise UserError(f"{path}: cannot be read as {what} (the first line must have the columns "
                            f"'{','.join(columns)}'); {remedy}")
        rows = []
        for row in reader:
            if row and len(row) != len(header):
                raise UserError(f"{path}, line {reader.line_num}: {len(row)} columns, but {len(header)} in the first "
                                f"line; {remedy}")
            if row:
                rows.append(dict(zip(header, row, strict=True)))
        return rows
