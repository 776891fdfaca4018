"""The pictures of the READMEs: small, shown beside the command that draws them, and as that command draws them."""
import importlib.util
import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from common.machine.errors import UsageError
from common.pictures.image_files import read_image

ROOT = Path(__file__).parents[2]
PICTURES = sorted(ROOT.glob("*/figures/*.png"))
MOST_BYTES = 150_000
PIXELS = re.compile(r"!\[[^\]]*\]\(([^)]*)\)|<img src=\"([^\"]*)\"")


@pytest.fixture(scope="module")
def pictures():
    """The module of the command that draws what shows no result."""
    sys.path.insert(0, str(ROOT / "tools"))    # where it finds the drawings
    try:
        spec = importlib.util.spec_from_file_location("pictures", ROOT / "tools" / "pictures.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "tools"))
    return module


def readme_of(picture):
    return (picture.parents[1] / "README.md").read_text(encoding="utf-8")


def shown(path):
    """The files of the pictures of a text."""
    return {(path.parent / (first or second)).resolve() for first, second in PIXELS.findall(path.read_text("utf-8"))}


def commands(text):
    """The commands of a README, each on a line."""
    blocks = "\n".join(re.findall(r"^    (\S.*)$", text, re.MULTILINE))
    return [" ".join(found.split()) for found in re.findall(r"`(python [^`]*)`", text)] + blocks.splitlines()


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted(ROOT.glob("[!.]*/README.md"))],
                         ids=lambda path: path.parent.name)
def test_a_readme_shows_pictures_that_exist(path):
    found = shown(path)
    assert found and all(picture.is_file() for picture in found)


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: "/".join(path.parts[-3::2]))
def test_a_picture_is_small_and_named_with_the_command_that_draws_it(picture, pictures):
    assert picture.stat().st_size < MOST_BYTES
    assert picture in shown(picture.parents[1] / "README.md")
    place = picture.relative_to(ROOT).as_posix()
    names = [name for name, (drawn, _) in pictures.DRAWINGS.items() if drawn == place]
    script = rf"python tools/pictures\.py {names[0]}" if names else (
        rf"python (\S+\.py) .*{re.escape(place)}|python (\S+/{picture.stem}\.py) ")    # it writes one of its own name
    found = [match for command in commands(readme_of(picture)) if (match := re.match(script, command))]
    assert found, f"no command of the README draws {place}"
    assert all((ROOT / name).is_file() for match in found for name in match.groups() if name)


def test_the_front_page_has_the_numbers_of_the_data():
    def values(paper, name):
        return json.loads((ROOT / "results" / f"{paper}.json").read_text(encoding="utf-8"))[name]["values"]

    demo, gain = values("mixed-precision-dnns", "demo"), values("x-umx", "song")["gain"]
    table = values("out-of-core-training", "validate")["table"]
    (swapped, _, _, took, *_), (in_core, _, _, all_took, *_) = (table[f"{row} 720 {plan}"] for row, plan in (
        ("virtual", "8GB,20MiB"), ("in-core", "-")))
    _, right = values("d3net", "scenes")["scores"]["iteration 600"]    # the last
    front = (ROOT / "README.md").read_text(encoding="utf-8").split("## The papers")[0]
    for number in (f"{demo['error']} %", f"{demo['size']} kB", f"{gain['vocals']} dB", f"{gain['bass']} dB",
                   f"{float(swapped) / float(in_core):.0%}", f"{took} GB", f"{all_took} GB",
                   f"{values('d3net', 'scene')['right']} %", f"{right} %"):
        assert number.replace(" ", "") in front.replace(" ", ""), number


def test_the_drawings_are_what_the_command_draws(pictures, tmp_path, capsys):
    pictures.main(["-o", str(tmp_path)])
    assert len(capsys.readouterr().out.splitlines()) == len(pictures.DRAWINGS)
    for place, _ in pictures.DRAWINGS.values():
        committed, drawn = (read_image(path).astype(int) for path in (ROOT / place, tmp_path / Path(place).name))
        assert committed.shape == drawn.shape and np.abs(committed - drawn).mean() < 0.5, f"{place}: tools/pictures.py"


def test_a_drawing_that_does_not_exist_is_one_line(pictures):
    with pytest.raises(UsageError, match="no such picture: nonsense; there are architectures, "):
        pictures.main(["nonsense"])


@pytest.mark.parametrize("name", ["architectures", "cleansing", "multidilated"])
def test_texts_of_a_drawing_stay_in_their_boxes_and_off_each_other(name, pictures):
    figure = pictures.DRAWINGS[name][1]()
    figure.draw_without_rendering()
    axes, = figure.axes
    texts = [(text.get_text(), text.get_window_extent()) for text in axes.texts]
    assert not [(a, b) for (a, first), (b, second) in itertools.combinations(texts, 2) if first.overlaps(second)]
    for text, extent in texts:
        inside = [box.get_window_extent() for box in axes.patches if box.get_window_extent().contains(
            (extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2) and hasattr(box, "get_boxstyle")]
        for box in [*inside, figure.bbox]:
            assert box.x0 <= extent.x0 and extent.x1 <= box.x1 and box.y0 <= extent.y0 and extent.y1 <= box.y1, text
