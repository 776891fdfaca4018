"""Score a segmentation model on Cityscapes, or on data of its layout: mean intersection over union.

For each image a file of counts is kept, so that a run that was interrupted goes on where it was.
"""
import hashlib
import json
import sys
from pathlib import Path

import attrs
import numpy as np
from tqdm import tqdm

from common.console.progress import progress
from common.console.tables import align
from common.console.values import positive_int
from common.datasets.cityscapes import CLASSES, SPLITS, SceneFile, find_pairs, read_pair
from common.machine.errors import UsageError, UserError
from common.machine.files import make_folder, remove_leftovers, write_json
from d3net.hyperparameters import load_segmentation
from d3net.scenes.flags import add_model_flags, model_name, segmenter_of
from d3net.scenes.metrics import ConfusionMatrix

# Mean intersection over union in percent on the 500 validation images of Cityscapes, by the published configuration:
# arXiv 2011.11844, and the README of the published NNabla weights.
PUBLISHED_MIOU = {"D3Net_S": {"paper": 79.5, "NNabla": 79.9}, "D3Net_L": {"paper": 80.6, "NNabla": 81.0}}
NETWORK_KEYS = ("num_init_features", "num_layers", "n_blocks", "dens_k", "block_comp", "intermediate_out_ch",
                "trans_comp_factor", "dense_n_out_layer_block", "dilation", "num_classes")


def add_arguments(parser):
    """Add the flags that `evaluate` takes."""
    parser.add_argument("--data-dir", required=True, metavar="DIR",
                        help="folder of Cityscapes, with leftImg8bit and gtFine in it; 'synthetic' generates scenes")
    parser.add_argument("--split", choices=SPLITS, default="val", help="which images (default: %(default)s)")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only the first N images")
    parser.add_argument("--output", "-o", "--out-dir", metavar="DIR",
                        help="where the scores go (default: scores-MODEL)")
    add_model_flags(parser)


def evaluate(args):
    """Score the model that the flags name, print the table, and write `scores.json`.

    Images are taken whole, in one scale. One that cannot be scored is said in a line on stderr, and left out.

    Parameters
    ----------
    args : argparse.Namespace
        Of the flags of `add_arguments`.

    Returns
    -------
    int
        Exit status: 1 if an image could not be scored.

    Raises
    ------
    UsageError, UserError
        As `find_pairs`, `segmenter_of`; the model has other classes; the output folder cannot be written to.
    """
    pairs = find_pairs(args.data_dir, args.split)[:args.limit]
    segmenter = segmenter_of(args)
    name, classes = model_name(args), segmenter.hparams.num_classes
    if classes != len(CLASSES):
        raise UsageError(f"{name}: tells {classes} classes, and Cityscapes has {len(CLASSES)}")
    folder = make_folder(args.output or f"scores-{Path(name).stem}")
    made_with = settings(segmenter)
    matrix, failed = score_images(pairs, segmenter, folder / args.split, made_with)
    path = folder / "scores.json"
    about = {"model": name, "data_dir": str(args.data_dir), "split": args.split, "images": len(pairs) - len(failed)}
    write_json(path, {**about, "made_with": made_with, "failed": failed, **summary(matrix)})
    if len(failed) < len(pairs):
        print(f"\n{about['images']} images of '{args.split}'")
        print(format_table(matrix, published_miou(segmenter.hparams)), flush=True)
    print(f"wrote {path}")
    return 1 if failed else 0


def settings(segmenter):
    """Return what determines the labels, JSON-able."""
    hparams = attrs.asdict(segmenter.hparams)
    return {"weights": hashlib.sha256(Path(segmenter.file.path).read_bytes()).hexdigest(),
            "hparams": {key: hparams[key] for key in (*NETWORK_KEYS, "mean", "std")}, "precision": segmenter.precision}


def score_images(pairs, segmenter, folder, made_with):
    """Compare the labels of images with the truth; write `<name>.json` for each, and take those that are there.

    Parameters
    ----------
    pairs : sequence of common.datasets.cityscapes.Pair
    segmenter : object
        Has `segment(image)`, as `d3net.scenes.segmenter.Segmenter`.
    folder : path
        A file in it is taken as it is if it was made of the same image and label and with the same `made_with`.
    made_with : dict
        What determines the labels: weights and settings, JSON-able.

    Returns
    -------
    matrix : ConfusionMatrix
        Of all images together.
    failed : list of str
        Names of the images without scores.
    """
    folder, total, failed, found = Path(folder), ConfusionMatrix(len(CLASSES)), [], 0
    try:
        with progress(pairs, unit="image") as bar:
            for pair in bar:
                try:
                    counts, was_there = _counts(pair, segmenter, folder / f"{pair.name}.json", made_with)
                except UserError as error:
                    failed.append(pair.name)
                    tqdm.write(f"error: {error}", sys.stderr)
                    continue
                total.counts[...] += counts
                found += was_there
                bar.set_postfix_str(f"mIoU {total.mean_iou():.1%}")
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; run again to go on with the images that are left") from None
    if found:
        print(f"{found} of {len(pairs)} images were scored in {folder} already")
    return total, failed


def _counts(pair, segmenter, path, made_with):
    """Confusion matrix of an image, and whether it was there already."""
    origin = json.loads(json.dumps({**made_with, "image": _key(pair.image), "label": _key(pair.label)}))
    try:
        stored = json.loads(path.read_text())
        if stored["made_with"] == origin:
            return np.array(stored["confusion"], np.int64).reshape(len(CLASSES), len(CLASSES)), True
    except (OSError, ValueError, KeyError, TypeError):    # no file, or one of somebody else
        pass
    image, label = read_pair(pair)
    counts = ConfusionMatrix(len(CLASSES)).add(segmenter.segment(image), label).counts
    make_folder(path.parent)
    remove_leftovers(path)
    write_json(path, {"made_with": origin, "confusion": counts.tolist()})
    return counts, False


def _key(source):
    """Something JSON-able that changes with the content of an image or label."""
    if isinstance(source, SceneFile):
        return str(source)
    try:
        status = Path(source).stat()
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror})") from error
    return [str(Path(source).resolve()), status.st_size, status.st_mtime_ns]


def published_miou(hparams):
    """Return {label: percent} published for a network of these hyper-parameters; empty if it is one of one's own."""
    def network(hparams):
        return [getattr(hparams, key) for key in NETWORK_KEYS]
    return next((numbers for name, numbers in PUBLISHED_MIOU.items()
                 if network(load_segmentation(name)) == network(hparams)), {})


def summary(matrix):
    """Return the scores, as shares of 1, JSON-able; None for a class that does not occur."""
    rows = zip(CLASSES, matrix.iou(), matrix.class_accuracy(), matrix.counts.sum(1), strict=True)
    return {"mean_iou": _or_none(matrix.mean_iou()), "pixel_accuracy": _or_none(matrix.pixel_accuracy()),
            "mean_class_accuracy": _or_none(matrix.mean_class_accuracy()),
            "classes": {name: {"iou": _or_none(iou), "accuracy": _or_none(accuracy), "pixels": int(pixels)}
                        for name, iou, accuracy, pixels in rows},
            "confusion": matrix.counts.tolist()}


def _or_none(value):
    return None if np.isnan(value) else float(value)


def format_table(matrix, published):
    """Lay out the scores in percent.

    Parameters
    ----------
    matrix : ConfusionMatrix
    published : dict of str to float
        Label -> mean intersection over union in percent.

    Returns
    -------
    str
    """
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


def _percent(value):
    return "-" if np.isnan(value) else f"{100 * value:.1f}"
