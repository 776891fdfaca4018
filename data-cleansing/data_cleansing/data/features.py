"""Images with the features that a pretrained network, an ONNX file of the user, makes of them."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from common.inference.forks import check_process, left_alone_by_forks
from common.machine.cores import num_threads
from common.machine.errors import UserError
from common.reading.files import decoding, read_bytes
from data_cleansing.data.images import Images

BATCH = 16    # images that the network takes at once, where its batch is of any size
# Values of pixels that networks take: (factor of values in [0, 1], less this, over that), by channel.
IMAGENET = "imagenet"
VALUES = {IMAGENET: (1, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
          "unit": (1, (0,) * 3, (1,) * 3), "bytes": (255, (0,) * 3, (1,) * 3)}
# Mean square of the length of features. The curvature of the loss of a linear classifier is at most half of it and the
# bias, 1, together: gradient descent is stable up to a learning rate of 0.12.
MEAN_SQUARE = 32.0
_LIMIT = 1 << 31    # bytes, of any ONNX model without weights in other files
_WHAT, _REMEDY = "an ONNX model", "give an ONNX file of a network that takes colour images (batch, 3, height, width)"


@attrs.frozen(eq=False)
class FeatureImages(Images):
    """Images of which a classifier sees features alone; for all else they are pictures.

    Attributes
    ----------
    features : float32 (n, num)
    """

    features: np.ndarray = attrs.field(kw_only=True, repr=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.features.ndim != 2 or len(self.features) != len(self):
            raise ValueError(f"{len(self)} images, but features {self.features.shape}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of what the classifier takes, (num, 1, 1)."""
        return self.features.shape[1], 1, 1

    def subset(self, rows: np.ndarray) -> "FeatureImages":
        """Return the `FeatureImages` of `rows`, int (k,), in that order."""
        paths = [self.paths[row] for row in rows] if self.paths else ()
        return attrs.evolve(self, pixels=self.pixels[rows], labels=self.labels[rows], paths=paths,
                            features=self.features[rows])

    def inputs(self, rows: np.ndarray, seeds: np.ndarray | None = None) -> np.ndarray:
        """Return the features of a batch, float32 (batch, num, 1, 1); there is no augmentation."""
        assert seeds is None, "features are not augmented"
        return self.features[rows][:, :, np.newaxis, np.newaxis]


def with_features(sets: Sequence[Images], model: str | Path, values: str) -> list[FeatureImages]:
    """Add features to sets of images, less the mean of the first set and scaled to a mean square length of it.

    Parameters
    ----------
    sets : sequence of Images
        To train on, and others.
    model : path
        An ONNX file with one input float32 (batch, 3, height, width). Features are its first output, all numbers of an
        image in a row.
    values : str
        What it takes, a key of `VALUES`: pixels as ImageNet networks of torchvision do, from 0 to 1, or from 0 to 255.

    Raises
    ------
    UsageError
        There is no such file.
    UserError
        It is no such network, or takes images of another size.
    """
    session = _open(model)
    arrays = [_compute(session, model, images, VALUES[values]) for images in sets]
    mean = arrays[0].mean(0, dtype=np.float64)
    length = np.sqrt(((arrays[0] - mean) ** 2).sum(1).mean())
    if not 0 < length < np.inf:
        raise UserError(f"{model}: its features of all training images are equal, or not finite")
    scale = np.sqrt(MEAN_SQUARE) / length
    return [FeatureImages(images.pixels, images.labels, images.class_names, images.paths, images.list_names,
                          features=((array - mean) * scale).astype(np.float32))
            for images, array in zip(sets, arrays, strict=True)]


def _open(model):
    import onnxruntime

    check_process("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads()
    options.log_severity_level = 3    # errors only
    content = read_bytes(model, _WHAT, _LIMIT, _REMEDY, missing=f"{model}: no such ONNX file")
    with decoding(model, _WHAT, _REMEDY):
        _check_weights(content)
        session = left_alone_by_forks(onnxruntime.InferenceSession(content, options,
                                                                   providers=["CPUExecutionProvider"]))
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
        takes = ", ".join(f"{one.type} {one.shape}" for one in inputs)
        raise UserError(f"{model}: takes {takes}; {_REMEDY}")
    return session


def _check_weights(content):
    """Raise a ValueError if weights are in other files, which onnxruntime would look for wherever the model says."""
    import onnx

    weights = onnx.load_model_from_string(content).graph.initializer
    if any(one.data_location == onnx.TensorProto.EXTERNAL for one in weights):
        raise ValueError("its weights are in other files; save them in the model")


def _compute(session: Any, model: str | Path, images: Images, values: tuple) -> np.ndarray:
    """Run the network; returns float32 (n, num)."""
    source, (batch, channels, *size) = session.get_inputs()[0], session.get_inputs()[0].shape
    side = images.pixels.shape[2]
    if channels not in (3, None) and not isinstance(channels, str):
        raise UserError(f"{model}: takes {channels} channels; {_REMEDY}")
    if any(isinstance(edge, int) and edge != side for edge in size):
        raise UserError(f"{model}: takes images of {size[0]} x {size[1]} pixels, not {side} x {side}: set side to that")
    num = batch if isinstance(batch, int) else BATCH
    parts = []
    for start in range(0, len(images), num):
        block = _block(images.pixels[start:start + num], values)
        whole = np.concatenate([block, np.repeat(block[:1], num - len(block), 0)]) if isinstance(batch, int) else block
        with decoding(model, _WHAT, _REMEDY):
            parts.append(session.run(None, {source.name: whole})[0][:len(block)].reshape(len(block), -1))
    return np.concatenate(parts).astype(np.float32)


def _block(pixels, values):
    """Prepare uint8, or float32 in [0, 1], (n, 1 or 3, height, width), as float32 (n, 3, height, width)."""
    factor, mean, deviation = (np.reshape(np.float32(value), (-1, 1, 1)) for value in values)
    unit = pixels / np.float32(255) if pixels.dtype == np.uint8 else pixels
    return ((unit * factor - mean) / deviation).astype(np.float32)
