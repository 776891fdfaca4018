"""The data of the networks: photographs with classes, street scenes, or one random batch over and over."""
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.datasets import cityscapes, imagenet
from common.datasets.batches import ReadBatches
from common.machine.distributed import world
from common.machine.errors import UsageError, UserError
from common.out_of_core import InCore, OutOfCore
from common.pictures import image_files as images
from out_of_core_training.config import Config
from out_of_core_training.models import (
    CITYSCAPES_CLASSES,
    CLASSIFICATION,
    IGNORED,
    NETWORKS,
    SEGMENTATION,
    TRANSLATION,
    TrainingGraph,
)
from out_of_core_training.networks.pix2pixhd import NUM_LABELS

SCALES = (0.5, 2.0)    # of random crops
_IMAGE, _LABEL_IDS, _INSTANCE_IDS = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_instanceIds.png"


class RandomBatches:
    """The same random batch in each step and on all ranks, so that no time goes into data and the loss can fall.

    Parameters
    ----------
    network
        The one to be trained on them.
    steps
        Of an epoch.
    seed
        Fixes the batch.
    """

    def __init__(self, network: TrainingGraph, steps: int, seed: int = 0) -> None:
        rng, self.steps = np.random.default_rng(seed), steps
        draw = {"image": lambda shape: rng.standard_normal(shape, dtype=np.float32),
                "label": lambda shape: rng.integers(0, network.num_classes, shape, dtype=np.int32),
                "edges": lambda shape: (rng.random(shape, dtype=np.float32) < 0.1).astype(np.float32)}
        self.arrays = [draw[variable.name](variable.shape) for variable in network.inputs]

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[np.ndarray]]:
        """Yield the batch `len - start` times."""
        for _ in range(start, self.steps):
            yield self.arrays


class SceneBatches(ReadBatches):
    """Batches of street scenes, read when they are needed, epoch by epoch.

    Parameters
    ----------
    pairs
        Images with their labels.
    read_scene
        `read_scene(pair, size, rng)` returns the arrays of one scene; `rng` is None where nothing is to be random.
    batch_size
        As for `common.datasets.batches.ReadBatches`.
    size
        Height and width, pixels.
    **settings
        Further arguments of `common.datasets.batches.ReadBatches`.
    """

    def __init__(self, pairs: Sequence[cityscapes.Pair], read_scene: Callable, batch_size: int, size: tuple[int, int],
                 **settings: Any) -> None:
        super().__init__(pairs, batch_size, **settings)
        self.read_scene, self.size = read_scene, size

    def read(self, k: int, rng: np.random.Generator | None) -> Sequence[np.ndarray]:
        return self.read_scene(self.dataset[k], self.size, rng)


def segmentation_scene(pair: cityscapes.Pair, size: tuple[int, int], rng: np.random.Generator | None = None
                       ) -> tuple[np.ndarray, np.ndarray]:
    """Read a scene with its classes: scaled by 0.5 to 2, cropped and mirrored at random; otherwise its centre.

    Returns
    -------
    image : float32 (3, *size), RGB, of mean 0 and deviation 1 over ImageNet; 0 where there is no scene
    label : int32 (1, *size)
        0..18, or 255 where nothing counts.
    """
    import cv2

    image, label = cityscapes.read_pair(pair)
    (height, width), scale, mirrored, place = size, 1.0, False, (0.5, 0.5)
    if rng is not None:
        scale, mirrored, place = rng.uniform(*SCALES), rng.random() < 0.5, rng.random(2)
    top, left = (math.floor((scale * have - want) * share)
                 for have, want, share in zip(label.shape, size, place, strict=True))
    # From pixels of the scene to those of the crop, in one pass; pixel 0 lasts from -1/2 to 1/2.
    matrix = np.array([[scale, 0, (scale - 1) / 2 - left], [0, scale, (scale - 1) / 2 - top]])
    if mirrored:
        matrix[0] = [-scale, 0, width - 1 - matrix[0, 2]]
    grey = tuple(255 * imagenet.MEAN[::-1].astype(float))
    image = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=grey)
    label = cv2.warpAffine(label, matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=(IGNORED,))
    image = (image[..., ::-1].astype(np.float32) / 255 - imagenet.MEAN) / imagenet.STD    # RGB
    return np.ascontiguousarray(image.transpose(2, 0, 1)), label[None].astype(np.int32)


def translation_scene(pair: cityscapes.Pair, size: tuple[int, int], rng: np.random.Generator | None = None
                      ) -> list[np.ndarray]:
    """Read a scene for Pix2PixHD, as a whole, resized, and mirrored at random.

    Returns
    -------
    label : int32 (1, *size)
        Number of the class among all 35 of Cityscapes; of generated scenes, among the 19 that count and the rest.
    edges : float32 (1, *size)
        1 at the edges of objects.
    image : float32 (3, *size), RGB, in [-1, 1]
    """
    import cv2

    image, label, instances = _all_classes(pair)
    label, instances = (cv2.resize(array, size[::-1], interpolation=cv2.INTER_NEAREST) for array in (label, instances))
    image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)[..., ::-1]    # RGB
    image = image.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
    arrays = [label[None].astype(np.int32), edges_of(instances)[None], image]
    if rng is not None and rng.random() < 0.5:
        arrays = [array[..., ::-1] for array in arrays]
    return arrays


def _all_classes(pair):
    """Read image uint8 (height, width, 3), BGR, and the numbers of classes and of objects, both (height, width)."""
    if isinstance(pair.image, cityscapes.SceneFile):
        image, label = cityscapes.read_pair(pair)
        label = np.where(label == cityscapes.IGNORE, CITYSCAPES_CLASSES, label).astype(np.uint8)
        return image, label, label.astype(np.int32)
    folder, name = Path(pair.label).parent, Path(pair.image).name.removesuffix(_IMAGE)
    image, label = images.read_image(pair.image), images.read_indices(folder / f"{name}{_LABEL_IDS}")
    path = folder / f"{name}{_INSTANCE_IDS}"
    instances = images.read_indices(path, f"{path}: no such file; Pix2PixHD needs the edges of objects")
    if not image.shape[:2] == label.shape == instances.shape:
        raise UserError(f"{folder / name}{_LABEL_IDS}: does not have the size of its image or of its instances")
    return image, np.minimum(label, NUM_LABELS - 1).astype(np.uint8), instances.astype(np.int32)


def edges_of(instances: np.ndarray) -> np.ndarray:
    """Mark pixels with a neighbour to the left, right, above or below that belongs to another object.

    Parameters
    ----------
    instances
        Number of the object of each pixel, (height, width).

    Returns
    -------
    float32 (height, width), 0 or 1
    """
    edges = np.zeros(instances.shape, np.float32)
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differs = instances[a] != instances[b]
        edges[a][differs] = edges[b][differs] = 1
    return edges


def load_data(cfg: Config) -> tuple[ReadBatches | None, ReadBatches | None, int | None]:
    """Find the data of a run.

    Returns
    -------
    train, valid
        Pix2PixHD has no validation. Both are None for random data, which need the network (`RandomBatches`).
    num_classes
        None: as many as the network has by default.

    Raises
    ------
    UsageError, UserError
        There are no such data, or too few of them, or they are damaged.
    """
    if cfg.data == "random":
        return None, None, None
    if cfg.data_dir is None:
        raise UsageError("no data: name their folder by --data-dir, or say --data random or --data-dir synthetic")
    settings = {"seed": cfg.seed, "drop_last": True, "steps": cfg.steps_per_epoch or None, "world": world()}
    task = NETWORKS[cfg.network].task
    if task == CLASSIFICATION:
        return _pictures(cfg, settings)
    pairs, valid_pairs = (cityscapes.find_pairs(cfg.data_dir, split) for split in cityscapes.SPLITS)
    if task == TRANSLATION:
        return SceneBatches(pairs, translation_scene, cfg.batch_size, cfg.size, **settings), None, None
    return (SceneBatches(pairs, segmentation_scene, cfg.batch_size, cfg.size, **settings),
            SceneBatches(valid_pairs, segmentation_scene, cfg.batch_size, cfg.size), None)


def identities(train: ReadBatches | None, valid: ReadBatches | None) -> dict[str, tuple[int, str]]:
    """What images are called, for `common.runs.training.Run` -> how many there are, and a hash of their names."""
    found = {"training images": train, "validation images": valid}
    return {name: batches.dataset.identity if isinstance(batches.dataset, imagenet.Pictures)
            else cityscapes.identity(batches.dataset) for name, batches in found.items() if batches is not None}


def _pictures(cfg, settings):
    height, width = cfg.size
    if height != width:
        raise UsageError(f"--image-size {height}x{width}: pictures of {cfg.network} are cut square")
    pictures, valid_pictures = (imagenet.load(split, cfg.data_dir) for split in imagenet.SPLITS)
    train = imagenet.ImageBatches(pictures, cfg.batch_size, height, **settings)
    valid = imagenet.ImageBatches(valid_pictures, min(cfg.batch_size, len(valid_pictures)), height)
    return train, valid, len(pictures.class_names)


def padded(arrays: Sequence[np.ndarray], num: int) -> list[np.ndarray]:
    """Fill a batch up to `num` examples by repeating them."""
    return [np.resize(array, (num, *array.shape[1:])) for array in arrays]


def validate(network: TrainingGraph, batches: ReadBatches, memory: InCore | OutOfCore) -> float:
    """Evaluate a network.

    Parameters
    ----------
    network
        Built with `train=False`.
    batches
        All images once.
    memory
        Where its arrays are kept.

    Returns
    -------
    float
        Of classifiers the share of wrong first guesses; of DeepLabv3+ 1 - mIoU over the centres of the scenes, with
        the mean over the classes that occur.
    """
    batch_size, num_classes = network.output.shape[:2]
    confusion = np.zeros((num_classes, num_classes), np.int64)    # true class, guess
    for arrays in batches.epoch(0):
        num = len(arrays[0])
        with memory.validation():
            network.inputs[0].d = padded(arrays, batch_size)[0]
            network.output.forward(clear_buffer=True)
        guess, label = network.output.d[:num].argmax(1).ravel(), arrays[1].ravel()
        counts = label != IGNORED if network.task == SEGMENTATION else np.full(label.shape, True)
        confusion += np.bincount(label[counts] * num_classes + guess[counts], minlength=num_classes ** 2).reshape(
            confusion.shape)
    right, total = np.diag(confusion), confusion.sum()
    if network.task == CLASSIFICATION:
        return 1 - right.sum() / total
    union = confusion.sum(0) + confusion.sum(1) - right
    return 1 - float(np.mean(right[union > 0] / union[union > 0])) if total else math.nan
