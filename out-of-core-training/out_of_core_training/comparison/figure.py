"""The paper's figure: speed over the size of the batch, published points and ours."""
from collections.abc import Mapping
from pathlib import Path

from common.pictures.figures import figure_style, legend_below, save_figure
from out_of_core_training.models import NETWORKS
from out_of_core_training.planning.plots import MODE_COLORS

MODES = {"in-core": "baseline", "scheduler": "scheduling", "virtual": "VA"}    # our names -> those of the figure
# Network -> mode -> batch size -> images/s, read off the published figure (arXiv 2010.14109) to about 1 % of its axis.
PUBLISHED = {
    "densenet121": {
        "in-core": {192: 492, 256: 491, 320: 495, 384: 495, 448: 498, 512: 497},
        "scheduler": {192: 452, 256: 463, 320: 475, 384: 478, 448: 483, 512: 482, 576: 484, 640: 480, 704: 483,
                      768: 467},
        "virtual": {192: 398, 256: 443, 320: 456, 384: 473, 448: 469, 512: 476, 576: 473, 640: 469, 704: 472, 768: 455,
                    832: 424, 896: 411, 960: 404, 1024: 402, 1088: 399, 1152: 401}},
    "pix2pixhd": {
        "in-core": {2: 3.12, 4: 3.27},
        "scheduler": {2: 2.80, 4: 3.05, 8: 3.26, 12: 3.36, 16: 3.30},
        "virtual": {2: 2.80, 4: 2.96, 8: 3.27, 12: 3.42, 16: 3.40, 20: 3.41, 24: 3.71, 28: 3.81}},
    "deeplabv3plus": {
        "in-core": {2: 14.0, 4: 16.2, 6: 16.6},
        "scheduler": {2: 4.9, 4: 9.4, 6: 12.2, 8: 13.5, 12: 14.3, 24: 13.2, 32: 12.6},
        "virtual": {2: 4.9, 4: 9.2, 6: 12.1, 8: 12.2, 12: 12.4, 24: 12.6, 32: 12.6, 48: 12.4, 64: 12.6}},
}
_RATIO = 20    # of speeds, above which an axis is logarithmic


@figure_style()
def draw(path: Path, measured: Mapping[str, Mapping[str, Mapping[int, float]]], note: str) -> None:
    """Draw a panel for each network.

    Parameters
    ----------
    path
        Of a PNG file.
    measured
        Network -> mode -> batch size -> images/s.
    note
        Where that was measured; stands above.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(measured), 4.2), layout="constrained")
    for axes, (network, ours) in zip(figure.subplots(1, len(measured), squeeze=False)[0], measured.items(),
                                     strict=True):
        published = PUBLISHED.get(network, {})
        for mode, name in MODES.items():
            for origin, curves, style in (("published", published, ":o"), ("ours", ours, "-s")):
                if curves.get(mode):
                    axes.plot(*zip(*sorted(curves[mode].items()), strict=True), style, color=MODE_COLORS[mode],
                              markersize=3, label=f"{name}, {origin}")
        speeds = [speed for curves in (published, ours) for points in curves.values() for speed in points.values()]
        if speeds and max(speeds) > _RATIO * min(speeds):
            axes.set_yscale("log")
        elif speeds:
            axes.set_ylim(0, 1.15 * max(speeds))
        axes.set(title=NETWORKS[network].title, xlabel="batch size", ylabel="speed [images/s]")
    figure.suptitle(note, fontsize=8)
    legend_below(figure, ncols=len(MODES))
    save_figure(path, figure)
