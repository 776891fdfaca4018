"""What tests look at in a page of HTML without a browser."""
import base64
import hashlib
import html.parser
import json
import os
import re
import urllib.parse
from pathlib import Path
from typing import Any

HOSTILE = 'a<script>alert(1)</script>"\'&amp;\n\u202egnp'    # a name that would write into a page, or turn its text


class Page(html.parser.HTMLParser):
    """A page, taken apart.

    Attributes
    ----------
    tags : list of (str, dict of str to str or None)
        All tags with their attributes.
    texts : dict of str to str
        Tag -> all text directly in such tags.
    data
        The JSON that its script reads, or None.
    """

    def __init__(self, path: str | Path):
        super().__init__()
        self.path, self.tags, self.texts, self._open = Path(path), [], {}, []
        self.source = self.path.read_text(encoding="utf-8")
        self.scripts = [""]    # text of each
        self.feed(self.source)
        blocks = [text for text in self.scripts if text]
        self.data: Any = json.loads(blocks[0]) if self.all("script", type="application/json") else None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        tag = self._open[-1] if self._open else ""
        self.texts[tag] = self.texts.get(tag, "") + data
        if tag == "script":
            self.scripts[-1] += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        """Return the attributes of all tags of this name that have these, `class_` for `class`."""
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [found for name, found in self.tags if name == tag and wanted.items() <= found.items()]

    def assert_whole(self, num_scripts: int) -> None:
        """Check that the page needs no other site, that its policy lets its script run, and that no id is missing."""
        assert not re.search(r"(?:https?:)?//(?!\s)[\w.]+\.\w", re.sub(r"data:[^'\"]*", "", self._markup()))
        ids = [attributes["id"] for _, attributes in self.tags if attributes.get("id")]
        assert len(set(ids)) == len(ids)
        assert len(self.all("script")) == num_scripts
        for script in self.scripts:
            assert set(re.findall(r'getElementById\("([\w-]+)"\)', script)) <= set(ids)
        (policy,) = self.all("meta", **{"http-equiv": "Content-Security-Policy"})
        assert "default-src 'none'" in str(policy["content"])
        if self.scripts[-1]:
            digest = base64.b64encode(hashlib.sha256(self.scripts[-1].encode()).digest()).decode()
            assert f"script-src 'sha256-{digest}'" in str(policy["content"])
        for address in self.addresses():
            assert (self.path.parent / os.fsdecode(urllib.parse.unquote_to_bytes(address))).is_file()

    def addresses(self) -> list[str]:
        """Return the addresses of what is not within the page."""
        found = [attributes.get(name) for _, attributes in self.tags for name in ("src", "href", "poster", "srcset")]
        return [address for address in found if address and not address.startswith("data:")]

    def _markup(self) -> str:
        """The source without comments of scripts, which may begin with two slashes."""
        return re.sub(r"^\s*//.*$", "", self.source, flags=re.MULTILINE)
