"""Draw a generated street scene, its classes, those that a network finds, and a legend of classes.

    python d3net/plot_scene.py -m RUN [--scene 0]    # seconds, after train.py segmentation SYNTHETIC -o RUN
"""
import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from common.console import cli
from common.console.values import int_from_0
from common.datasets.cityscapes import IGNORE
from common.machine.files import new_path
from common.pictures.figures import figure_style, save_figure
from d3net.scenes.flags import SegmenterFlags, add_model_flags
from d3net.scenes.overlay import colour_map
from d3net.segment import class_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEGEND_COLUMNS = 2


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__, needs_arguments=True)
    parser.add_argument("--scene", type=int_from_0, default=0, metavar="N",
                        help="which of the scenes that no network was trained with (default: %(default)s)")
    parser.add_argument("--output", "-o", metavar="FILE",
                        help="picture to write (default: the first of scene.png, scene-2.png, ... that is new)")
    add_model_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from common.datasets.synthetic_scenes import make_scene

    segmenter = SegmenterFlags.of_flags(args).make()
    image, label = make_scene("val", args.scene)
    found = segmenter.segment(image)
    picture = args.output or new_path(Path("scene.png"))
    save_figure(picture, draw(image, label, found, class_names(segmenter.hparams), segmenter.hparams.palette))
    print(f"{picture}: {share_right(label, found):.1%} of the pixels of scene {args.scene} have the right class")


def share_right(label: np.ndarray, found: np.ndarray) -> float:
    """Return the share of pixels whose class was found, of those that have one."""
    known = label != IGNORE
    return float(np.mean(label[known] == found[known]))


@figure_style()
def draw(image: np.ndarray, label: np.ndarray, found: np.ndarray, names: Sequence[str], palette: ArrayLike) -> "Figure":
    """Draw a scene, its classes and those that were found, each beside the other, and a legend.

    Parameters
    ----------
    image : uint8 (height, width, 3), BGR
    label, found : uint8 (height, width)
    names
        Of the classes.
    palette : (classes, 3), 0..255, RGB
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    panels = figure.subplots(2, 2).ravel()
    titles = "generated scene", "its classes", f"classes found, {share_right(label, found):.1%} of the pixels right"
    for axes, title, pixels in zip(panels, titles, (image, colour_map(label, palette), colour_map(found, palette)),
                                   strict=False):
        axes.imshow(pixels[..., ::-1], interpolation="nearest")
        axes.set_title(title, fontsize=9)
    for axes in panels:
        axes.set_axis_off()
    seen = [number for number in np.union1d(label, found).tolist() if number < len(names)]
    colours = (np.asarray(palette) / 255).tolist()
    handles = [Patch(facecolor=colours[number], edgecolor="black", linewidth=0.4, label=names[number])
               for number in seen]
    if (label == IGNORE).any():
        handles.append(Patch(facecolor="black", label="no class"))
    panels[-1].legend(handles=handles, loc="center", ncols=LEGEND_COLUMNS)
    return figure


if __name__ == "__main__":
    cli.run(main)
