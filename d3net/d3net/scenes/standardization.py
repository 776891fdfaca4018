"""The values of an image as the network takes them."""
from collections.abc import Sequence

import numpy as np

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)    # RGB


def standardize(image: np.ndarray, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> np.ndarray:
    """Bring an image to what the network takes.

    Parameters
    ----------
    image : uint8 (height, width, 3), BGR
    mean, std : 3 floats, RGB
        In grey levels.

    Returns
    -------
    float32 (3, height, width), RGB
        (image - mean) / std.
    """
    out = np.empty((3, *image.shape[:2]), np.float32)
    for channel, (centre, spread) in enumerate(zip(mean, std, strict=True)):
        values = ((np.arange(256) - centre) / spread).astype(np.float32)
        np.take(values, image[..., 2 - channel], out=out[channel], mode="clip")    # the other modes go over a copy
    return out
