"""Pages of HTML: nothing that is written into one ends its tags, its data or its script."""
import base64
import io
import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from common.pages.document import document, escape, table
from common.pages.pictures import figure_uri, indexed_uri, picture_uri
from common.workbench.pages import HOSTILE, Page

NASTY = (HOSTILE, "</script><script>alert(1)</script>", "<!--<script>", "]]>", "\u2028", "\x00", "\udce9",
         "'\" onload=x", "&lt;")


@pytest.fixture
def module(tmp_path):
    """A module with a style and a script beside it."""
    (tmp_path / "one.css").write_text("b { color: red }\n")
    (tmp_path / "one.js").write_text('"use strict";\nconst a = document.getElementById("data").textContent;\n')
    return tmp_path / "one.py"


@pytest.mark.parametrize("text", NASTY)
def test_hostile_text_stays_text_everywhere(text, module, tmp_path):
    body = f"<p title='{escape(text)}' id=\"{escape('x')}\">{escape(text)}</p>" + table((text, "b"), [(text, 1)])
    (tmp_path / "page.html").write_text(document(text, body, module, {text: [text]}))
    page = Page(tmp_path / "page.html")
    page.assert_whole(num_scripts=2)
    assert page.data == {text: [text]}
    assert " ".join(tag for tag, _ in page.tags) == (
        "html head meta meta meta title style body p div table thead tr th th tbody tr td td script script")
    assert page.all("p")[0]["title"] == page.texts["p"] == page.texts["title"]
    assert all(char.isprintable() for char in page.texts["p"])


def test_a_page_without_a_script_allows_none(tmp_path):
    (tmp_path / "page.html").write_text(document("x", "<p>y</p>"))
    page = Page(tmp_path / "page.html")
    page.assert_whole(num_scripts=0)
    assert "script-src" not in page.source


def test_numbers_that_json_does_not_know_are_refused():
    with pytest.raises(ValueError):
        document("x", "", data=[float("nan")])


def test_columns_of_words_are_flush_left():
    text = table(("name_of_it", "number"), [("final", 1), ("loss", "2")])
    assert text.count("class='text'") == 3 and "name of it" in text


def test_pictures_are_what_they_were(tmp_path):
    indices, palette = np.arange(12, dtype=np.uint8).reshape(3, 4), np.arange(36, dtype=np.uint8).reshape(12, 3)

    def read(address):
        kind, content = address.split(";base64,")
        return kind, np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))

    kind, pixels = read(indexed_uri(indices, palette))
    assert kind == "data:image/png"
    np.testing.assert_array_equal(pixels, palette[indices])
    grey = Image.fromarray(np.full((8, 8), 77, np.uint8))
    assert (read(picture_uri(grey))[1] == 77).all()
    kind, pixels = read(picture_uri(grey, exact=False))
    assert kind == "data:image/jpeg" and np.abs(pixels.astype(int) - 77).max() <= 2
    assert read(figure_uri(Figure(figsize=(1, 1))))[0] == "data:image/png"


def test_the_data_are_plain_json():
    page = document("x", "", data={"a": "<&>"})
    block = page.split('id="data">')[1].split("</script>")[0]
    assert "<" not in block and json.loads(block) == {"a": "<&>"}
