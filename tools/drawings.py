"""The drawings of the READMEs that show no result but how something works; `pictures.py` writes them."""
from typing import TYPE_CHECKING

from common.pictures.diagrams import Diagram
from common.pictures.figures import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, figure_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSTRUMENTS = "bass", "drums", "vocals", "other"
_COLUMN, _GAP = 0.66, 0.06    # inches: width of an instrument's column, and what is left between two


@figure_style()
def architectures() -> "Figure":
    """UMX beside X-UMX: what is averaged where, and over what the losses are taken."""
    d = Diagram(6.2, 5.3)
    width = 4 * _COLUMN + 3 * _GAP
    for left, title, crossed in ((0.08, "UMX: four networks", False), (6.12 - width, "X-UMX: one network", True)):
        middle = left + width / 2
        d.text(middle, 5.12, title, fontsize=10, weight="bold")
        d.box(left, 4.62, width, 0.32, "magnitudes of the mixture", SKY)
        for number, instrument in enumerate(INSTRUMENTS):
            _column(d, left + number * (_COLUMN + _GAP), instrument, crossed)
        if crossed:
            d.box(left, 3.32, width, 0.3, "mean of the four", ORANGE)
            d.box(left, 2.32, width, 0.3, "mean of the four", ORANGE)
        _losses(d, left, width, crossed)
    d.text(0.1, 0.13, "Averages have no parameters: X-UMX has as many as four UMX, 35.5 million.", ha="left")
    return d.figure


def _column(d, left, instrument, crossed):
    """Draw the layers of one instrument; a skip puts what the LSTM gets beside what it gives."""
    middle = left + _COLUMN / 2
    d.arrow((middle, 4.62), (middle, 4.48))
    d.text(middle, 4.4, instrument, fontsize=8)
    d.box(left, 3.82, _COLUMN, 0.46, "fc 1\ntanh", BLUE)
    d.arrow((middle, 3.82), (middle, 3.62 if crossed else 3.12))
    if crossed:
        d.arrow((middle, 3.32), (middle, 3.12))
    d.box(left, 2.8, _COLUMN, 0.32, "LSTM, skip", BLUE, fontsize=7.5)
    d.arrow((middle, 2.8), (middle, 2.62 if crossed else 2.12))
    if crossed:
        d.arrow((middle, 2.32), (middle, 2.12))
    d.box(left, 1.66, _COLUMN, 0.46, "fc 2, fc 3\nmask", BLUE, fontsize=7.5)
    d.arrow((middle, 1.66), (middle, 1.44))


def _losses(d, left, width, crossed):
    if crossed:
        d.box(left, 0.36, width, 1.08, "squared error of spectrograms\n+ 10 × SDR loss of waveforms,\n"
              "each over all 14 sums of\none, two or three instruments", GREEN)
        return
    for number in range(len(INSTRUMENTS)):
        d.box(left + number * (_COLUMN + _GAP), 0.36, _COLUMN, 1.08, "squared\nerror of\nits own\nspectro-\ngram",
              GREEN, fontsize=7.5)


@figure_style()
def cleansing() -> "Figure":
    """The four steps of data cleansing, and what is stored."""
    d = Diagram(6.2, 3.35)
    steps = (
        (0.08, 2.18, "1  Train", "Stochastic gradient descent on all\nimages. Keep the order of the\n"
         "batches, and the final parameters.", BLUE),
        (3.42, 2.18, "2  Walk back", "From the last step to the first, u tells\nhow the validation loss goes with\n"
         "the parameters of that step.", ORANGE),
        (3.42, 0.68, "3  Score", "Each image of a batch by the product\nof its gradient and u. Negative:\n"
         "the image is harmful. Rank all.", PURPLE),
        (0.08, 0.68, "4  Remove", "Leave out the worst images, train\nagain, and compare with nothing\n"
         "and with as many at random removed.", GREEN))
    for left, bottom, title, text, colour in steps:
        d.box(left, bottom, 2.7, 1.1, "", colour)
        d.text(left + 0.12, bottom + 0.9, title, ha="left", fontsize=10, weight="bold")
        d.text(left + 0.12, bottom + 0.4, text, ha="left", fontsize=8.5, linespacing=1.3)
    d.arrow((2.82, 2.73), (3.38, 2.73))
    d.arrow((4.77, 2.14), (4.77, 1.82))
    d.arrow((3.38, 1.23), (2.82, 1.23))
    d.arrow((1.43, 1.82), (1.43, 2.14))
    d.text(3.1, 0.4, "Hara et al. walk along the parameters before every step: 1.9 GB for MNIST.", fontsize=8.5)
    d.text(3.1, 0.18, "The paper takes the final ones everywhere: 1.2 MB.", fontsize=8.5)
    return d.figure


_PIXELS, _TARGET = 17, 8    # of a row, and the pixel that is computed
_ACROSS, _UP = 0.14, 0.72    # inches from a pixel to the next, and from a layer to the next
_BOTTOM = 0.68
_SOURCES = "input,\nsees 1 pixel", "layer 1,\nsees 3", "layer 2,\nsees 7", "layer 3"


@figure_style()
def multidilated() -> "Figure":
    """What one pixel of the third layer of a dense block reads, with one dilation and with one for each source."""
    d = Diagram(6.2, 3.45)
    for left, title, dilations in ((0.9, "one dilation for all: gaps", (4, 4, 4)),
                                   (3.62, "D2 block: one for each source", (1, 2, 4))):
        d.text(left + _ACROSS * _TARGET, 3.28, title, fontsize=9.5, weight="bold")
        _reading(d, left, dilations)
    for row, source in enumerate(_SOURCES):
        d.text(0.05, _BOTTOM + _UP * row, source, ha="left", fontsize=8)
    d.text(0.9, 0.2, "Filled: read for the black pixel of layer 3. Crosses: between these, and seen by none of them.",
           ha="left", fontsize=8)
    return d.figure


def _reading(d, left, dilations):
    """Draw the pixels of all sources, and those that one pixel of the last layer reads."""
    target = left + _ACROSS * _TARGET, _BOTTOM + _UP * len(dilations)
    for row, (dilation, colour) in enumerate(zip(dilations, (BLUE, ORANGE, GREEN), strict=True)):
        height, read = _BOTTOM + _UP * row, [_TARGET + step * dilation for step in (-1, 0, 1)]
        sees = 2 ** row - 1    # to either side: how far a pixel of this source sees
        for pixel in range(_PIXELS):
            missed = read[0] < pixel < read[2] and min(abs(pixel - other) for other in read) > sees
            _pixel(d, left + _ACROSS * pixel, height, colour if pixel in read else None, missed)
        for pixel in read:
            d.axes.plot((left + _ACROSS * pixel, target[0]), (height, target[1]), color=colour, linewidth=1, zorder=0)
        d.text(left + _ACROSS * _PIXELS, height, f"×{dilation}", ha="left", fontsize=8)
    for pixel in range(_PIXELS):
        _pixel(d, left + _ACROSS * pixel, target[1], BLACK if pixel == _TARGET else None, False)


def _pixel(d, x, y, colour, missed):
    marker, size = ("X", 7) if missed else ("o", 6)
    d.axes.plot(x, y, marker, markersize=size, color=RED if missed else colour or GREY,
                markerfacecolor=RED if missed else colour or "white")
