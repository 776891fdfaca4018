"""Segmentation by a network that export.py wrote, with numpy and onnxruntime alone, on any Python from 3.10 on.

    from onnx_segmenter import OnnxSegmenter
    labels = OnnxSegmenter("D3Net-S.onnx").segment(image)    # uint8 (height, width, 3), BGR -> uint8 (height, width)

It does what `d3net.scenes.segmenter.Segmenter` does: images smaller than the coarsest scale are padded by their edges,
values are standardized, and every pixel gets its most probable class.
"""
import json

import numpy as np
import onnxruntime


class OnnxSegmenter:
    """Finds the class of every pixel of images of any size.

    Parameters
    ----------
    path : str
        The .onnx file. Its metadata say how images are standardized, and what the classes are.

    Attributes
    ----------
    classes : list of str
        Their names, by number.
    palette : uint8 (classes, 3), RGB
        Their colours.

    Raises
    ------
    ValueError
        The file is of another network.
    """

    def __init__(self, path: str):
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        metadata = self.session.get_modelmeta().custom_metadata_map
        keys = "mean", "std", "smallest", "classes", "palette"
        missing = [key for key in keys if key not in metadata]
        if missing:
            raise ValueError(f"{path}: not a network of d3net/export.py segmentation: its metadata lack "
                             f"{', '.join(missing)}")
        self.mean, self.std, self.smallest, self.classes, palette = (json.loads(metadata[key]) for key in keys)
        self.palette = np.array(palette, np.uint8)

    def segment(self, image: np.ndarray) -> np.ndarray:
        """Find the most probable class of every pixel, uint8 (height, width), of an image as for `probabilities`."""
        return self.probabilities(image).argmax(0).astype(np.uint8)

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """Estimate how probable each class is: float32 (classes, height, width) for uint8 (height, width, 3), BGR."""
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"image of {image.dtype} {image.shape}: uint8 (height, width, 3) is wanted")
        height, width = image.shape[:2]
        missing = [(0, max(0, self.smallest - extent)) for extent in (height, width)]
        padded = np.pad(image, [*missing, (0, 0)], mode="edge")
        x = np.stack([((np.arange(256) - mean) / std).astype(np.float32)[padded[..., 2 - channel]]
                      for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True))])
        probabilities = np.asarray(self.session.run(None, {"image": x[None]})[0])
        return probabilities[0, :, :height, :width]
