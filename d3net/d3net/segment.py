"""Find the classes of every pixel of street scenes with D3Net (arXiv 2011.11844).

    python d3net/segment.py -i street.jpg [more images, folders] [-o segmented] [--config D3Net_S]
    python d3net/segment.py -i synthetic -m RUN    # seconds, after train.py segmentation SYNTHETIC -o RUN

Writes for each image <name>_overlay.png, <name>_labelTrainIds.png (0 to 18) and <name>_color.png to the output folder;
with --page also page.html, to look at them in a browser.
"""
import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np
from tqdm import tqdm

from common.console import cli
from common.console.progress import progress
from common.datasets.cityscapes import CLASSES, SYNTHETIC, SceneFile, find_pairs, read_image
from common.machine.errors import UsageError, UserError
from common.machine.files import make_folder, replacing
from common.machine.lazy_names import lazy_names
from common.machine.output_folders import claimed
from common.pictures.image_files import SUFFIXES, encode_png
from d3net.scenes.flags import SegmenterFlags, add_model_flags
from d3net.scenes.overlay import colour_map, overlay
from d3net.scenes.page import ScenePage

if TYPE_CHECKING:
    from d3net.hyperparameters import SegmentationHyperParameters
    from d3net.scenes.segmenter import Segmenter

__all__ = ["Segmenter", "main"]
__getattr__ = lazy_names({"Segmenter": "d3net.scenes.segmenter"})

OVERLAY, LABELS, COLOURS = "_overlay.png", "_labelTrainIds.png", "_color.png"
PAGE = "page.html"
NAMED_CLASSES = 4    # in the line of an image


@attrs.frozen
class Input:
    """An image to read, and how the names of its results begin, relative to the output folder."""

    source: Path | SceneFile
    name: str

    def outputs(self, folder: Path) -> list[Path]:
        """Paths of overlay, labels and colours."""
        return [folder / f"{self.name}{suffix}" for suffix in (OVERLAY, LABELS, COLOURS)]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__, needs_arguments=True)
    parser.add_argument("files", nargs="*", metavar="IMAGE", help="images, or folders of images")
    parser.add_argument("--inputs", "--test-image-file", "-i", nargs="+", default=[], metavar="IMAGE",
                        help="more of them; 'synthetic' generates scenes")
    parser.add_argument("--output", "-o", default="segmented", metavar="DIR",
                        help="where results go (default: %(default)s)")
    parser.add_argument("--page", action="store_true",
                        help=f"also write {PAGE}: pictures, their classes over them by a slider, and shares of classes")
    add_model_flags(parser)
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    folder = Path(args.output)
    inputs = find_inputs([*args.files, *args.inputs])
    check_outputs(inputs, folder)
    with claimed(folder):    # now, so that an error does not wait for the first image
        segmenter = SegmenterFlags.of_flags(args).make()
        page = ScenePage(class_names(segmenter.hparams), segmenter.hparams.palette) if args.page else None
        num_failed = segment_files(segmenter, inputs, folder, page)
        if page is not None and num_failed < len(inputs):
            print(f"{folder / PAGE}: {page.write(folder / PAGE)}")
    print(f"{len(inputs) - num_failed} of {len(inputs)} images are segmented in {folder}")
    return 1 if num_failed else 0


def find_inputs(names: Sequence[str]) -> list[Input]:
    """List the images in files and folders; in folders also in the folders in them, whose names are kept.

    Earlier results of this command are no inputs. Images of the same name get different ones: `street`, `street-2`.

    Returns
    -------
    list of Input

    Raises
    ------
    UsageError
        No image is named, none of them exists, or a folder holds none.
    """
    if not names:
        raise UsageError("no image is given (see --help)")
    sources = [source for name in names for source in _sources(name)]
    paths = [source for source, _ in sources if isinstance(source, Path)]
    if len(paths) == len(sources) and not any(os.path.isfile(path) for path in paths):    # noqa: PTH113
        if os.path.isdir(names[0]):    # noqa: PTH112 - these functions bear with names that cannot be
            raise UsageError(f"{names[0]}: no image in this folder ({', '.join(SUFFIXES)})")
        raise UsageError(f"{names[0]}: no such image" + (", nor any other of the inputs" if len(names) > 1 else ""))
    return _with_distinct_names(sources)


def _sources(name: str) -> list[tuple[Path | SceneFile, str]]:
    """Return the images of a file, a folder or 'synthetic', each with how the names of its results begin."""
    path = Path(name)
    if name == SYNTHETIC and not path.exists():
        return [(pair.image, pair.name) for pair in find_pairs(SYNTHETIC, "val")]
    if not os.path.isdir(path):    # noqa: PTH112 - which bears with names that cannot be
        return [(path, path.stem)]
    found = [inner for inner in sorted(path.rglob("[!.]*")) if inner.suffix.lower() in SUFFIXES and inner.is_file()
             and not inner.name.endswith((OVERLAY, LABELS, COLOURS))]
    if not found:
        return [(path, path.name)]    # it is no image, and is said to be none in its turn
    return [(inner, inner.relative_to(path).with_suffix("").as_posix()) for inner in found]


def _with_distinct_names(sources: Sequence[tuple[Path | SceneFile, str]]) -> list[Input]:
    wanted, taken, inputs = {name for _, name in sources}, set(), []
    for source, name in sources:
        free, number = name, 1
        while free in taken or (number > 1 and free in wanted):
            number += 1
            free = f"{name}-{number}"
        taken.add(free)
        inputs.append(Input(source, free))
    return inputs


def check_outputs(inputs: Sequence[Input], folder: Path) -> None:
    """Raise a UsageError if a result would take the place of an input, or the folder cannot be one."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: not a folder; choose another --output")
    read = {item.source.resolve() for item in inputs if isinstance(item.source, Path)}
    for path in (path for item in inputs for path in item.outputs(folder)):
        if path.resolve() in read:
            raise UsageError(f"{path}: an input that would be overwritten; choose another --output")


def segment_files(segmenter: "Segmenter", inputs: Sequence[Input], folder: Path, page: ScenePage | None = None) -> int:
    """Segment images one by one. One that cannot be read is named in a line on stderr, and the others go on.

    Those that are done are added to `page`.

    Returns
    -------
    How many failed.
    """
    num_failed = num_done = 0
    try:
        for item in progress(inputs, unit="image"):
            try:
                labels = segment_file(segmenter, item, folder, page)
            except UserError as error:
                num_failed += 1
                tqdm.write(f"error: {error}", sys.stderr)
            else:
                num_done += 1
                tqdm.write(f"{item.source} -> {folder / item.name}_*.png: {describe(labels, segmenter)}", sys.stdout)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {num_done} of {len(inputs)} images are segmented in {folder}") from None
    return num_failed


def segment_file(segmenter: "Segmenter", item: Input, folder: Path, page: ScenePage | None = None) -> np.ndarray:
    """Segment an image and write overlay, labels and colours: all of them or none.

    Returns
    -------
    uint8 (height, width)
        The labels.
    """
    image = read_image(item.source)
    try:
        labels = segmenter.segment(image)
    except UserError as error:
        raise UserError(f"{item.source}: {error}") from error
    palette, paths = segmenter.hparams.palette, item.outputs(folder)
    if paths[0].parent != folder:
        make_folder(paths[0].parent)
    pictures = overlay(image, labels, palette), labels, colour_map(labels, palette)
    with contextlib.ExitStack() as stack:    # no file gets its name before all are written
        for path, pixels in zip(paths, pictures, strict=True):
            stack.enter_context(replacing(path)).write_bytes(encode_png(pixels))
    if page is not None:
        page.add(item.name, image, labels)
    return labels


def class_names(hparams: "SegmentationHyperParameters") -> Sequence[str]:
    """Return the names of the classes, or their numbers if they are not those of Cityscapes."""
    return CLASSES if hparams.num_classes == len(CLASSES) else [str(number) for number in range(hparams.num_classes)]


def describe(labels: np.ndarray, segmenter: "Segmenter") -> str:
    """Say which classes cover most of an image: 'road 41 %, sky 20 %'."""
    classes = class_names(segmenter.hparams)
    shares = np.bincount(labels.ravel(), minlength=len(classes)) / labels.size
    largest = np.argsort(-shares, kind="stable")[:NAMED_CLASSES]
    return ", ".join(f"{classes[number]} {shares[number]:.0%}" for number in largest if shares[number] > 0)


if __name__ == "__main__":
    cli.run(main)
