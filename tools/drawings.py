"""The drawings of the READMEs that show no result but how something works; `pictures.py` writes them."""
from typing import TYPE_CHECKING

from common.pictures.diagrams import Diagram
from common.pictures.figures import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, figure_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSTRUMENTS = "bass", "drums", "vocals", "other"
_COLUMN, _GAP = 0.56, 0.04    # inches: width of an instrument's column, and what is left between two


@figure_style()
def architectures() -> "Figure":
    """UMX beside X-UMX: what is averaged where, and over what the losses are taken."""
    d = Diagram(5.2, 5.3)
    width = 4 * _COLUMN + 3 * _GAP
    for left, title, crossed in ((0.05, "UMX: four networks", False), (5.15 - width, "X-UMX: one network", True)):
        middle = left + width / 2
        d.text(middle, 5.12, title, fontsize=10, weight="bold")
        d.box(left, 4.62, width, 0.32, "magnitudes of the mixture", SKY)
        for number, instrument in enumerate(INSTRUMENTS):
            _column(d, left + number * (_COLUMN + _GAP), instrument, crossed)
        if crossed:
            d.box(left, 3.32, width, 0.3, "mean of the four", ORANGE)
            d.box(left, 2.22, width, 0.3, "mean of the four", ORANGE)
        _losses(d, left, width, crossed)
    d.text(2.6, 0.13, "Averages have no parameters: X-UMX has as many as four UMX, 35.5 million.")
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
    d.box(left, 2.68, _COLUMN, 0.44, "LSTM\n+ skip", BLUE)
    d.arrow((middle, 2.68), (middle, 2.52 if crossed else 2.08))
    if crossed:
        d.arrow((middle, 2.22), (middle, 2.08))
    d.box(left, 1.62, _COLUMN, 0.46, "fc 2, 3\nmask", BLUE)
    d.arrow((middle, 1.62), (middle, 1.44))


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
    d = Diagram(5.2, 3.85)
    steps = (
        (0.05, 2.43, "1  Train", "Stochastic gradient descent on\nall images. Keep the order of\n"
         "the batches, and the final\nparameters.", BLUE),
        (2.85, 2.43, "2  Walk back", "From the last step to the first,\nu tells how the validation loss\n"
         "goes with the parameters of\nthat step.", ORANGE),
        (2.85, 0.65, "3  Score", "Each image of a batch by the\nproduct of its gradient and u.\n"
         "Negative: the image is harmful.\nRank all.", PURPLE),
        (0.05, 0.65, "4  Remove", "Leave out the worst images,\ntrain again, and compare with\n"
         "nothing and with as many at\nrandom removed.", GREEN))
    for left, bottom, title, text, colour in steps:
        d.box(left, bottom, 2.3, 1.35, "", colour)
        d.text(left + 0.1, bottom + 1.15, title, ha="left", fontsize=10, weight="bold")
        d.text(left + 0.1, bottom + 0.52, text, ha="left", fontsize=9, linespacing=1.3)
    d.arrow((2.37, 3.1), (2.83, 3.1))
    d.arrow((4.0, 2.41), (4.0, 2.02))
    d.arrow((2.83, 1.32), (2.37, 1.32))
    d.arrow((1.2, 2.02), (1.2, 2.41))
    d.text(2.6, 0.42, "Hara et al. walk along the parameters before every step: 1.9 GB", fontsize=9)
    d.text(2.6, 0.18, "for MNIST. The paper takes the final ones everywhere: 1.2 MB.", fontsize=9)
    return d.figure


_PIXELS, _TARGET = 15, 7    # of a row, and the pixel that is computed
_ACROSS, _UP = 0.117, 0.72    # inches from a pixel to the next, and from a layer to the next
_BOTTOM = 0.83
_SOURCES = "input,\nsees 1 pixel", "layer 1,\nsees 3", "layer 2,\nsees 7", "layer 3"


@figure_style()
def multidilated() -> "Figure":
    """What one pixel of the third layer of a dense block reads, with one dilation and with one for each source."""
    d = Diagram(5.2, 3.6)
    for left, title, dilations in ((0.86, "one dilation for all: gaps", (4, 4, 4)),
                                   (3.13, "D2 block: one for each", (1, 2, 4))):
        d.text(left + _ACROSS * _TARGET, 3.43, title, fontsize=9.5, weight="bold")
        _reading(d, left, dilations)
    for row, source in enumerate(_SOURCES):
        d.text(0.05, _BOTTOM + _UP * row, source, ha="left", fontsize=8)
    d.text(2.6, 0.38, "Filled: read for the black pixel of layer 3.", fontsize=8.5)
    d.text(2.6, 0.16, "Crosses: between these, and seen by none of them.", fontsize=8.5)
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
    marker, size = ("X", 6.5) if missed else ("o", 5.5)
    d.axes.plot(x, y, marker, markersize=size, color=RED if missed else colour or GREY,
                markerfacecolor=RED if missed else colour or "white")
