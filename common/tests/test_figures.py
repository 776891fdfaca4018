"""The style of figures: legends that cover nothing, units on the axis, small files."""
import re
from pathlib import Path

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from common.pictures.figures import COLOURS, figure_style, legend_below, legend_beside, power_of_ten, save_figure

ROOT = Path(__file__).parents[2]
DRAWN_BY_OTHERS = {"common/pictures/diagrams.py"}    # in the style of the function that makes a diagram


def test_every_module_that_makes_a_figure_has_the_style():
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
             for folder in [ROOT / "common", ROOT / "tools", *(path.parent for path in ROOT.glob("[!.]*/README.md"))]
             for path in folder.rglob("*.py") if "tests" not in path.parts}
    makers = {name for name, text in texts.items() if re.search(r"\b(?:Figure|Diagram)\(|pyplot", text)}
    assert len(makers) > 8
    assert {name for name in makers if "figure_style()" not in texts[name]} == DRAWN_BY_OTHERS


def lines(**settings):
    with figure_style():
        figure = Figure(figsize=(4, 3), **settings)
        for axes in figure.subplots(1, 2):
            for number, colour in enumerate(COLOURS):
                axes.plot([0, 1], [number, number], label=f"line {number}", linewidth=4, color=colour)
            axes.set(xlabel="x", ylabel="y")
        if settings:
            legend_below(figure)
        else:
            legend_beside(figure.axes[-1])
    return figure


@pytest.mark.parametrize("settings", [{}, {"layout": "constrained"}], ids=["beside", "below"])
def test_a_legend_covers_no_axes(settings):
    figure = lines(**settings)
    figure.draw_without_rendering()
    legend = figure.axes[-1].get_legend() or figure.legends[0]
    assert len(legend.get_texts()) == len(COLOURS)    # a line of both axes stands there once
    assert not any(legend.get_window_extent().overlaps(axes.bbox.shrunk(0.99, 0.99)) for axes in figure.axes)


def test_a_file_is_small_and_keeps_the_colours(tmp_path):
    save_figure(tmp_path / "lines.png", lines())
    with Image.open(tmp_path / "lines.png") as picture:
        assert picture.mode == "P"
        seen = {colour for _, colour in picture.convert("RGB").getcolors() or ()}
    for colour in COLOURS:
        wanted = [round(255 * part) for part in to_rgb(colour)]
        assert min(max(abs(a - b) for a, b in zip(wanted, other, strict=True)) for other in seen) <= 2


@pytest.mark.parametrize("values, unit, label", [
    ([0.002, -0.005], 1e-3, " [$10^{-3}$]"), ([0.2, 1], 1, ""), ([2e4], 1e4, " [$10^{4}$]"), ([], 1, ""),
    ([0, 0], 1, ""), ([9999], 1, ""), ([0.01], 0.01, " [$10^{-2}$]"), ([0.1], 1, "")])
def test_a_power_of_ten_is_part_of_the_label(values, unit, label):
    found = power_of_ten(values)
    assert found == (pytest.approx(unit), label)
