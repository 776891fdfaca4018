"""Texts, and what is written in them: JSON, YAML, comma-separated rows."""
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.machine.errors import UserError
from common.reading.files import REMEDY, decoding, read_bytes

TEXT_LIMIT = 1 << 24    # bytes; what JSON makes of so many takes half a gigabyte
YAML_LIMIT = 1 << 17    # bytes; its parser takes a second for so many


def read_text(path: str | Path, what: str = "a text file", remedy: str = REMEDY, limit: int = TEXT_LIMIT,
              missing: str | None = None) -> str:
    """Read a text file in UTF-8, with or without a byte-order mark; lines end in a newline alone.

    Parameters and errors are those of `common.reading.files.reading`.
    """
    content = read_bytes(path, what, limit, remedy, missing)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not {what} in UTF-8 (byte {error.start}); {remedy}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | Path, what: str = "a JSON file", remedy: str = REMEDY, limit: int = TEXT_LIMIT,
              missing: str | None = None) -> Any:
    """Read a JSON file; parameters and errors are those of `common.reading.files.reading`."""
    return parse_json(read_text(path, what, remedy, limit, missing), path, what, remedy)


def read_json_object(path: str | Path, what: str = "a JSON file", remedy: str = REMEDY, limit: int = TEXT_LIMIT,
                     missing: str | None = None) -> dict[str, Any]:
    """Read a JSON file that holds an object, `{...}`; otherwise as `read_json`."""
    value = read_json(path, what, remedy, limit, missing)
    if not isinstance(value, dict):
        raise UserError(f"{path}: not {what}: it should hold {{...}}, and holds {type(value).__name__}; {remedy}")
    return value


def parse_json(text: str | bytes, name: str | Path, what: str = "a JSON file", remedy: str = REMEDY) -> Any:
    """Parse JSON that stands in something else, of the file `name`."""
    with decoding(name, what, remedy):
        return json.loads(text)


def as_read_back(value: Any) -> Any:
    """Return a JSON-able value as it would come back from a JSON file: lists for tuples, strings for keys."""
    return json.loads(json.dumps(value))


def read_yaml(path: str | Path, what: str = "a YAML file", remedy: str = REMEDY, missing: str | None = None) -> Any:
    """Read a YAML file of plain values, without aliases (`*name`), which can make gigabytes of a few lines.

    Parameters and errors are those of `common.reading.files.reading`.
    """
    text = read_text(path, what, remedy, YAML_LIMIT, missing)
    with decoding(path, what, remedy):
        return _parse_yaml(text, path)


def _parse_yaml(text: str, path: str | Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses aliases."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                event = self.peek_event()
                raise UserError(f"{path}, line {event.start_mark.line + 1}: the alias *{event.anchor[:40]}: refused; "
                                "write the value itself")
            return super().compose_node(parent, index)

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
        if missing_columns := [name for name in columns if name not in header]:
            raise UserError(f"{path}: not {what}: the first line should name {', '.join(columns)}, and lacks "
                            f"{missing_columns[0]!r}; {remedy}")
        rows = []
        for row in reader:
            if row and len(row) != len(header):
                raise UserError(f"{path}, line {reader.line_num}: {len(row)} columns, but {len(header)} in the first "
                                f"line; {remedy}")
            if row:
                rows.append(dict(zip(header, row, strict=True)))
        return rows
