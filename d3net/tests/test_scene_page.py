"""The page of segmented pictures: what is in it, how large it gets, and its sliders in a browser."""
import base64
import io

import numpy as np
import pytest
from PIL import Image

from common.datasets.cityscapes import CLASSES, PALETTE
from common.workbench.browser import Browser, find_chromium
from common.workbench.pages import HOSTILE, Page
from d3net.scenes import page as scene_page
from d3net.scenes.page import ScenePage

pytestmark = pytest.mark.usefixtures("own_folder")


def picture(address):
    return Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))


def test_a_picture_its_classes_and_their_shares():
    image, labels = np.zeros((40, 100, 3), np.uint8), np.zeros((40, 100), np.uint8)
    image[..., 2] = 200    # red
    labels[:, 75:] = 13
    labels[0, 0] = 2
    page = ScenePage(CLASSES, PALETTE)
    page.add("street", image, labels)
    assert page.write("page.html") == "1 of 1 pictures"
    found = Page("page.html")
    found.assert_whole(num_scripts=1)
    assert found.addresses() == []
    photo, classes = (picture(tag["src"]) for tag in found.all("img"))
    assert np.abs(np.asarray(photo, int) - [200, 0, 0]).max() < 4
    np.testing.assert_array_equal(np.asarray(classes.convert("RGB")), np.asarray(PALETTE, np.uint8)[labels])
    assert found.texts["li"].split() == ["road", "car", "building"]
    assert found.texts["b"] == "75.0%25.0%< 0.1%"
    assert [tag["style"] for tag in found.all("span", class_="colour")] == [
        f"background: rgb({red}, {green}, {blue})" for red, green, blue in np.asarray(PALETTE)[[0, 13, 2]].tolist()]


def test_large_pictures_are_scaled_down_without_mixing_classes():
    labels = np.arange(3000 * 10, dtype=np.int64).reshape(10, 3000) % 19
    page = ScenePage(CLASSES, PALETTE)
    page.add("wide", np.zeros((10, 3000, 3), np.uint8), labels.astype(np.uint8))
    page.write("page.html")
    photo, classes = (picture(tag["src"]) for tag in Page("page.html").all("img"))
    assert photo.size == classes.size == (1024, 3)
    assert set(map(tuple, np.asarray(classes.convert("RGB")).reshape(-1, 3).tolist())) <= set(map(tuple, PALETTE))


def test_hostile_names_of_files_and_classes():
    page = ScenePage([HOSTILE, "b"], [(0, 0, 0), (255, 255, 255)])
    page.add(HOSTILE, np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8))
    page.write("page.html")
    found = Page("page.html")
    found.assert_whole(num_scripts=1)
    assert len(found.all("section")) == 1 and "\u202e" not in found.source
    assert "alert(1)" in found.texts["h2"] and "alert(1)" in found.texts["li"]


def test_the_page_is_bounded(monkeypatch):
    monkeypatch.setattr(scene_page, "MOST_PICTURES", 2)
    page = ScenePage(CLASSES, PALETTE)
    for number in range(5):
        page.add(str(number), np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8))
    assert page.write("page.html") == "2 of 5 pictures"
    found = Page("page.html")
    assert found.texts["h2"] == "01" and "2 of 5 pictures" in found.texts["p"]


@pytest.mark.parametrize("width", [1280, 390])
def test_sliders_move_the_classes_in_a_browser(width, tmp_path):
    program = find_chromium()
    if program is None:
        pytest.skip("there is no Chromium")
    page = ScenePage(CLASSES, PALETTE)
    for name in ("one", "two"):
        page.add(name, np.zeros((60, 80, 3), np.uint8), np.full((60, 80), 3, np.uint8))
    page.write("page.html")

    def opacities():
        return browser.evaluate("[...document.querySelectorAll('.classes')].map(one => getComputedStyle(one).opacity)")

    def move(slider, value):
        browser.evaluate(f"{slider}.value = {value}; {slider}.dispatchEvent(new Event('input'))")

    with Browser(program, tmp_path) as browser:
        browser.open("page.html", width)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert opacities() == ["0.5", "0.5"]
        move("scenes[1].slider", 100)
        assert opacities() == ["0.5", "1"]
        move("all", 20)
        assert opacities() == ["0.2", "0.2"]
        assert not browser.errors and browser.requests == [(tmp_path / "page.html").as_uri()]
