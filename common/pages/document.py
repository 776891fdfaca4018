"""A page of HTML in one file: its frame, its text, and the data that its script reads.

A page asks nothing of other sites, and its policy (Content-Security-Policy) keeps it from doing so: it shows pictures
that are written within, plays audio that lies beside it, and runs the one script that it was written with.
"""
import base64
import hashlib
import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.machine.errors import printable

_POLICY = ("default-src 'none'; img-src data:; media-src 'self' file:; style-src 'unsafe-inline'; {scripts}"
           "base-uri 'none'; form-action 'none'")


def escape(text: object) -> str:
    r"""Return text for a page, between tags or in an attribute in quotes.

    What is not seen, or turns the text around it, is shown as an escape, and so are bytes that are not UTF-8.

    Examples
    --------
    >>> escape('<b title="\u202e">')
    '&lt;b title=&quot;\\u202e&quot;&gt;'
    """
    return html.escape(printable(str(text)), quote=True)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table; a column whose first cell begins with a letter is one of words, and flush left."""
    words = ["class='text'" if str(cell)[:1].isalpha() else "" for cell in rows[0]]
    head = _cells("th", [name.replace("_", " ") for name in header], words)
    body = "".join(f"<tr>{_cells('td', row, words)}</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _cells(tag: str, values: Iterable[object], classes: Sequence[str]) -> str:
    return "".join(f"<{tag} {kind}>{escape(value)}</{tag}>" if kind else f"<{tag}>{escape(value)}</{tag}>"
                   for value, kind in zip(values, classes, strict=True))


def document(title: str, body: str, module: str | Path | None = None, data: object = None) -> str:
    """Return a whole page.

    Parameters
    ----------
    title
    body
        HTML.
    module
        `__file__` of a module: the files beside it that end in `.css` and `.js` are the page's own style and script.
    data
        JSON-able; the script reads it from the element `data`.
    """
    style = beside(__file__, ".css") + (beside(module, ".css") if module else "")
    script = beside(module, ".js") if module else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = _POLICY.format(scripts=f"script-src 'sha256-{digest}'; " if script else "")
    block = "" if data is None else f'<script type="application/json" id="data">{_json(data)}</script>\n'
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
            f"<style>\n{style}</style>\n</head>\n<body>\n{body}\n{block}"
            f"{f'<script>{script}</script>{chr(10)}' if script else ''}</body>\n</html>\n")


def beside(module: str | Path, suffix: str) -> str:
    """Return the text of the file beside a module that has its name and another suffix."""
    return Path(module).with_suffix(suffix).read_text(encoding="utf-8")


def _json(data: object) -> str:
    """Return JSON that no text in it can end, whatever the parser of HTML looks for."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
