"""The images of a report: which are chosen, what is said of them, how large it gets, and what it does in a browser."""
import csv
import os

import attrs
import numpy as np
import pytest
from PIL import Image

from common.pages.document import document
from common.workbench.browser import Browser, find_chromium
from common.workbench.pages import HOSTILE, Page
from data_cleansing.data.images import Images, decode, prepare
from data_cleansing.labels.decisions import CONFLICT, LABEL, Judgement
from data_cleansing.results import html_report, report_images
from data_cleansing.results.report_images import Listed, choose_groups, page_data, pictures

CLASSES = ("cat", HOSTILE, os.fsdecode(b"caf\xe9"))
NUM = 200


def judgement(labels, suspects):
    """Images of `suspects` seem to have wrong labels, in this order; the right one is the next class."""
    num, num_classes = len(labels), len(CLASSES)
    problems = tuple((LABEL,) if row in suspects else () for row in range(num))
    ranks = np.empty(num, np.int64)
    ranks[[*suspects, *(row for row in range(num) if row not in suspects)]] = np.arange(1, num + 1)
    suggested = np.array([(label + (row in suspects)) % num_classes for row, label in enumerate(labels)])
    return Judgement(joint=np.zeros((num_classes, num_classes)), num_wrong=len(suspects), ranks=ranks,
                     suggested=suggested, confidences=np.full(num, 0.5), margins=np.zeros(num), outliers=np.ones(num),
                     duplicates=np.full(num, -1), problems=problems,
                     reasons=tuple(f"looks like {HOSTILE}" if row in suspects else "" for row in range(num)))


def listed(images, found, scores=None, classes=None):
    losses = np.linspace(0, 5, len(images)).astype(np.float32)
    losses[3] = np.inf
    return Listed(name="the trial with seed 7", file="marks_7.csv", images=images, found=found, scores=scores or {},
                  classes=images.labels if classes is None else classes, losses=losses,
                  flipped=np.arange(len(images)) < 2)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    labels = np.arange(NUM) % len(CLASSES)
    paths = [f"train/{k}" for k in range(NUM)]
    paths[11] = f"{HOSTILE},{os.fsdecode(bytes([0xe9]))}.png"
    return Images(rng.integers(0, 256, (NUM, 1, 8, 8), np.uint8), labels, CLASSES, paths)


@pytest.fixture(scope="module")
def data(images):
    scores = {"final": np.linspace(-1, 1, NUM), "every_step": np.linspace(1, -1, NUM)}
    return page_data("run", listed(images, judgement(images.labels, [11, 5, 8]), scores, (images.labels + 1) % 3), 4)


@pytest.fixture(scope="module")
def page(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    return write(path, data)


def write(path, data):
    path.write_text(document("Report", html_report._workplace(data), html_report.__file__, data))
    return path


def test_lists_are_in_their_order_and_no_longer_than_asked_for(images):
    groups = choose_groups({"final": np.arange(NUM)[::-1]}, judgement(images.labels, list(range(100, 0, -1))), 3)
    assert groups == {"to look at": list(range(100, 70, -1)), "worst by final": [199, 198, 197],
                      "best by final": [0, 1, 2]}


def test_what_is_no_label_problem_is_listed_without_a_suggestion(images):
    found = judgement(images.labels, [4])
    found = attrs.evolve(found, problems=tuple((CONFLICT,) for _ in found.problems))
    data = page_data("run", listed(images, found), 1)
    assert len(data["images"]) == 10 and {image["suggested"] for image in data["images"]} == {None}


def test_the_page_is_whole_and_hostile_names_are_data(page, data):
    found = Page(page)
    found.assert_whole(num_scripts=2)
    assert found.data == data and found.data["classes"] == list(CLASSES)
    assert "alert(1)" in found.data["classes"][1] and "<script>alert" not in found.source
    shown = [found.data["names"][1], *(image["shown"] + image["reason"] for image in found.data["images"])]
    assert all(text.isprintable() for text in shown)
    assert {image["row"]: image["loss"] for image in data["images"]}[3] is None    # infinite


def test_small_pictures_are_exact_and_alone(images):
    small, full = pictures(images, 5, 1 << 30)
    assert full is None and small.startswith("data:image/png")


def test_large_pictures_come_from_their_files_as_far_as_there_is_room(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (700, 1400, 3), np.uint8)
    paths = [str(tmp_path / "one.png"), str(tmp_path / "gone.png")]
    Image.fromarray(pixels).save(paths[0])
    large = prepare([decode(paths[0])] * 2, np.array([0, 1]), CLASSES, paths)
    of_file, of_pixels = (pictures(large, row, 1 << 30)[1] for row in range(2))
    assert len(of_file) > 2 * len(of_pixels)
    assert pictures(large, 0, len(of_file))[1] == of_file
    assert pictures(large, 0, len(of_file) - 1)[1] == of_pixels
    assert pictures(large, 0, len(of_pixels) - 1) == (pictures(large, 1, 0)[0], None)


def test_thousands_of_large_pictures_do_not_make_the_page_huge(tmp_path, monkeypatch):
    monkeypatch.setattr(report_images, "FULL_BYTES", 200_000)
    path = tmp_path / "one.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)).save(path)
    image = prepare([decode(path)], np.array([0]), CLASSES, [str(path)], side=100)
    large = image.subset(np.zeros(100, int))
    data = page_data("run", listed(large, judgement(large.labels, list(range(100)))), 10)
    assert 0 < sum(len(image["full"] or "") for image in data["images"]) <= 200_000
    assert len(data["images"]) == 100 and all(image["small"] for image in data["images"])


# In a browser -------------------------------------------------------------------------------------------------------


@pytest.fixture
def browser(tmp_path):
    program = find_chromium()
    if program is None:
        pytest.skip("there is no Chromium")
    with Browser(program, tmp_path) as opened:
        yield opened


def rows_shown(browser):
    return browser.evaluate("[...document.querySelectorAll('.card')].map(card => Number(card.dataset.row))")


def choose(browser, name, value):
    browser.evaluate(f"get('{name}').value = {value!r}; get('{name}').dispatchEvent(new Event('change'))")


def press(browser, row, mark):
    browser.evaluate(f"document.querySelector('[data-row=\"{row}\"] [data-set={mark}]').click()")


def open_until(browser, page, condition, width=1280):
    """Marks are stored by a process of the browser's own: a page that is opened at once may be there before them."""
    for _ in range(100):
        browser.open(page, width)
        if browser.evaluate(condition):
            return
    raise AssertionError(f"never {condition}")


def mark_of(row):
    return f"document.querySelector('[data-row=\"{row}\"]').dataset.mark"


@pytest.mark.parametrize("width", [1280, 390])
def test_images_are_sorted_filtered_enlarged_marked_and_exported(browser, page, images, width):
    browser.open(page, width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert rows_shown(browser) == [11, 5, 8]
    choose(browser, "order", "row")
    assert rows_shown(browser) == [5, 8, 11]
    choose(browser, "group", "worst by every_step")
    choose(browser, "order", "final, lowest first")
    assert rows_shown(browser) == [196, 197, 198, 199]
    choose(browser, "label", "1")
    assert rows_shown(browser) == [row for row in (196, 197, 198, 199) if row % 3 == 1]
    choose(browser, "label", "")
    choose(browser, "predicted", "0")
    assert rows_shown(browser) == [row for row in (196, 197, 198, 199) if row % 3 == 2]
    choose(browser, "predicted", "")
    press(browser, 198, "keep")
    choose(browser, "group", "to look at")
    press(browser, 5, "remove")
    press(browser, 8, "keep")
    press(browser, 8, "keep")    # and not
    press(browser, 11, "relabel")
    browser.evaluate("document.querySelector('[data-row=\"11\"] .enlarge').click()")
    assert browser.evaluate("get('large').open && get('picture').src.startsWith('data:image/png')")
    open_until(browser, page, f"{mark_of(5)} === 'remove'", width)    # marks survive
    choose(browser, "group", "marked")
    assert sorted(rows_shown(browser)) == [5, 11, 198]
    browser.evaluate("get('export').click()")
    with browser.downloaded("marks_7.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [
        ["x:image", "y:label", "datasource_index", "mark", "new_label"],
        ["train/5", CLASSES[2], "5", "remove", ""], [images.paths[11], CLASSES[2], "11", "relabel", CLASSES[0]],
        ["train/198", CLASSES[0], "198", "keep", ""]]
    assert not browser.errors and all(address == page.as_uri() for address in browser.requests)


def test_two_tabs_do_not_lose_marks_of_one_another(browser, page):
    browser.open(page)
    # What a browser does when another tab stores a mark.
    browser.evaluate("localStorage.setItem(STORE, JSON.stringify({5: ['remove', null]}));"
                     "dispatchEvent(new StorageEvent('storage', {key: STORE}))")
    assert browser.evaluate(mark_of(5)) == "remove"
    assert browser.evaluate("get('count').textContent") == "3 images, 1 marked"
    press(browser, 8, "keep")
    open_until(browser, page, f"{mark_of(8)} === 'keep'")
    assert browser.evaluate("marks") == {"5": ["remove", None], "8": ["keep", None]}


def test_a_new_label_is_chosen_among_all_others_and_keys_go_through_the_list(browser, page):
    browser.open(page)
    browser.evaluate("document.querySelector('[data-row=\"5\"] select').focus()")
    select = "document.querySelector('[data-row=\"5\"] select')"
    assert browser.evaluate(f"[...{select}.options].map(option => option.value)") == ["0", "1"]    # its label is 2
    browser.evaluate(f"{select}.value = 1; {select}.dispatchEvent(new Event('change'))")
    assert browser.evaluate("marks[5]") == ["relabel", 1]
    browser.evaluate("document.querySelector('[data-row=\"11\"] .enlarge').click()")
    for key in ("ArrowRight", "k", "ArrowRight", "r", "ArrowRight"):
        browser.evaluate(f"get('large').dispatchEvent(new KeyboardEvent('keydown', {{key: {key!r}}}))")
    assert browser.evaluate("marks") == {"5": ["keep", None], "8": ["remove", None]}


def test_many_images_are_shown_some_at_a_time(browser, images, tmp_path):
    data = page_data("run", listed(images, judgement(images.labels, list(range(150)))), 15)
    browser.open(write(tmp_path / "report.html", data))
    counts = []
    while browser.evaluate("!get('more').hidden"):
        counts.append(len(rows_shown(browser)))
        browser.evaluate("get('more').click()")
    assert [*counts, len(rows_shown(browser))] == [60, 120, 150]
