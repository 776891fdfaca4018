"""Score a segmentation model on Cityscapes, or on data of its layout: mean intersection over union.

    python d3net/eval.py segmentation --data-dir synthetic --model RUN    # after train.py segmentation SYNTHETIC -o RUN

A file keeps the counts of each image, so that a run that was interrupted goes on where it was.
"""
import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from tqdm import tqdm

from common.console.progress import progress
from common.console.tables import align
from common.console.values import positive_int
from common.datasets.cityscapes import CLASSES, SPLITS, Pair, SceneFile, find_pairs, read_pair
from common.machine.errors import UsageError, UserError
from common.machine.files import make_folder, write_json
from common.machine.output_folders import claimed
from common.reading.files import decoding, sha256_of
from common.reading.texts import as_read_back, check_fields, read_json
from d3net.hyperparameters import SegmentationHyperParameters, load_segmentation
from d3net.scenes.flags import SegmenterFlags, add_model_flags
from d3net.scenes.metrics import ConfusionMatrix
from d3net.scenes.published import PUBLISHED

if TYPE_CHECKING:
    from d3net.scenes.segmenter import Segmenter

NETWORK_KEYS = ("num_init_features", "num_layers", "n_blocks", "dens_k", "block_comp", "intermediate_out_ch",
                "trans_comp_factor", "dense_n_out_layer_block", "dilation", "num_classes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `evaluate` takes."""
    parser.add_argument("--data-dir", required=True, metavar="DIR",
                        help="folder of Cityscapes, with leftImg8bit and gtFine in it; 'synthetic' generates scenes")
    parser.add_argument("--split", choices=SPLITS, default="val", help="which images (default: %(default)s)")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only the first N images")
    parser.add_argument("--output", "-o", "--out-dir", metavar="DIR",
                        help="where the scores go (default: scores-MODEL)")
    add_model_flags(parser)


def evaluate(args: argparse.Namespace) -> int:
    """Score what the flags of `add_arguments` name, as `score_model` does; return the exit status."""
    flags = SegmenterFlags.of_flags(args)
    with claimed(args.output or f"scores-{Path(flags.model).stem}") as folder:
        return score_model(flags, args.data_dir, args.split, args.limit, folder)


def score_model(flags: SegmenterFlags, data_dir: str, split: str, limit: int | None, folder: Path) -> int:
    """Score a model, print the table, and write `scores.json`.

    Images are taken whole, in one scale. One that cannot be scored is named in a line on stderr, and left out.

    Parameters
    ----------
    data_dir, split
        As for `common.datasets.cityscapes.find_pairs`.
    limit
        Only the first so many images; None: all.
    folder
        Of the scores.

    Returns
    -------
    Exit status: 1 if an image could not be scored.

    Raises
    ------
    UsageError, UserError
        As `find_pairs` and `SegmenterFlags.make`; the model has other classes; the folder cannot be written to.
    """
    pairs = find_pairs(data_dir, split)[:limit]
    segmenter = flags.make()
    num_classes = segmenter.hparams.num_classes
    if num_classes != len(CLASSES):
        raise UsageError(f"{flags.model}: tells {num_classes} classes, and Cityscapes has {len(CLASSES)}")
    made_with = settings(segmenter)
    matrix, failed = score_images(pairs, segmenter, folder / split, made_with)
    path, num_scored = folder / "scores.json", len(pairs) - len(failed)
    write_json(path, {"model": flags.model, "data_dir": data_dir, "split": split, "images": num_scored,
                      "made_with": made_with, "failed": failed, **summary(matrix)})
    if num_scored:
        print(f"\n{num_scored} images of '{split}'")
        print(format_table(matrix, published_miou(segmenter.hparams)), flush=True)
    print(f"wrote {path}")
    return 1 if failed else 0


def settings(segmenter: "Segmenter") -> dict[str, Any]:
    """Return what determines the predictions, JSON-able."""
    hparams = attrs.asdict(segmenter.hparams)
    return {"weights": sha256_of(segmenter.file.path),
            "hparams": {key: hparams[key] for key in (*NETWORK_KEYS, "mean", "std")}, "precision": segmenter.precision}


def score_images(pairs: Sequence[Pair], segmenter: "Segmenter", folder: Path, made_with: dict[str, Any]
                 ) -> tuple[ConfusionMatrix, list[str]]:
    """Compare predictions with labels. `<name>.json` keeps the counts of each image, and is used if it is there.

    Parameters
    ----------
    segmenter
        Only its `segment(image)` is used.
    folder
        A file in it is used if it was made of the same image and label and with the same `made_with`.
    made_with
        What determines the predictions: weights and settings, JSON-able.

    Returns
    -------
    matrix
        Of all images together.
    failed
        Names of the images without scores.
    """
    total, failed, num_found = ConfusionMatrix(len(CLASSES)), [], 0
    try:
        with progress(pairs, unit="image") as bar:
            for pair in bar:
                try:
                    counts, found = _counts(pair, segmenter, folder / f"{pair.name}.json", made_with)
                except UserError as error:
                    failed.append(pair.name)
                    tqdm.write(f"error: {error}", sys.stderr)
                    continue
                total.counts[...] += counts
                num_found += found
                bar.set_postfix_str(f"mIoU {total.mean_iou():.1%}")
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; run again to go on with the images that are left") from None
    if num_found:
        print(f"{num_found} of {len(pairs)} images were scored in {folder} already")
    return total, failed


def _counts(pair: Pair, segmenter: "Segmenter", path: Path, made_with: dict[str, Any]) -> tuple[np.ndarray, bool]:
    """Return the confusion matrix of an image, and whether it was in its file already."""
    origin = as_read_back({**made_with, "image": _key(pair.image), "label": _key(pair.label)})
    if (counts := _stored_counts(path, origin)) is not None:
        return counts, True
    image, label = read_pair(pair)
    counts = ConfusionMatrix(len(CLASSES)).add(segmenter.segment(image), label).counts
    make_folder(path.parent)
    write_json(path, {"made_with": origin, "confusion": counts.tolist()})
    return counts, False


def _stored_counts(path: Path, origin: dict[str, Any]) -> np.ndarray | None:
    """Return the confusion matrix in a file; None if there is no file, or one that holds something else."""
    what = "counts of an image"
    try:
        stored = check_fields(read_json(path, what), {"made_with": dict, "confusion": list}, path, what)
        with decoding(path, what):
            counts = np.array(stored["confusion"], np.int64).reshape(len(CLASSES), len(CLASSES))
    except UserError:
        return None
    return counts if stored["made_with"] == origin else None


def _key(source: Path | SceneFile) -> str | list:
    """Return something JSON-able that changes with the content of an image or label."""
    if isinstance(source, SceneFile):
        return str(source)
    try:
        status = Path(source).stat()
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror})") from error
    return [str(Path(source).resolve()), status.st_size, status.st_mtime_ns]


def published_miou(hparams: SegmentationHyperParameters) -> Mapping[str, float]:
    """Return the published scores of a network, whose number -> percent; empty if no such network is published."""
    def network(hparams: SegmentationHyperParameters) -> list:
        return [getattr(hparams, key) for key in NETWORK_KEYS]
    return next((model.miou for model in PUBLISHED.values()
                 if network(load_segmentation(model.name)) == network(hparams)), {})


def summary(matrix: ConfusionMatrix) -> dict[str, Any]:
    """Return the scores, as shares of 1, JSON-able; None for a class that does not occur."""
    rows = zip(CLASSES, matrix.iou(), matrix.class_accuracy(), matrix.counts.sum(1), strict=True)
    return {"mean_iou": _or_none(matrix.mean_iou()), "pixel_accuracy": _or_none(matrix.pixel_accuracy()),
            "mean_class_accuracy": _or_none(matrix.mean_class_accuracy()),
            "classes": {name: {"iou": _or_none(iou), "accuracy": _or_none(accuracy), "pixels": int(pixels)}
                        for name, iou, accuracy, pixels in rows},
            "confusion": matrix.counts.tolist()}


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def format_table(matrix: ConfusionMatrix, published: Mapping[str, float]) -> str:
    """Lay out the scores in percent; `published` are mean intersections over union."""
    shares = matrix.counts.sum(1) / max(1, matrix.counts.sum())
    lines = [["%", "IoU", "accuracy", "pixels", *published]]
    lines += [[name, *map(_percent, row), *("" for _ in published)]
              for name, *row in zip(CLASSES, matrix.iou(), matrix.class_accuracy(), shares, strict=True)]
    lines.append(["mean", _percent(matrix.mean_iou()), _percent(matrix.mean_class_accuracy()), "",
                  *(f"{number:.1f}" for number in published.values())])
    table = [align(lines), f"pixel accuracy {_percent(matrix.pixel_accuracy())} %"]
    absent = [name for name, iou in zip(CLASSES, matrix.iou(), strict=True) if np.isnan(iou)]
    if absent:
        table.append(f"not in the mean, because they occur neither in the labels nor in the predictions: "
                     f"{', '.join(absent)}")
    if published:
        table.append("published: mean IoU on the 500 validation images of Cityscapes")
    return "\n".join(table)


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.1f}"
