"""A canvas for generated scenes: shapes with a class, a colour and a texture, of which image and label are made."""
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike

# Material -> grey levels of fine noise, which includes the camera's, coarse noise, brick joints and bars.
PLAIN, ASPHALT, LEAVES, BRICK, BARS, CLOUDS = range(6)
TEXTURES = np.array([(5, 2, 0, 0), (10, 3, 0, 0), (15, 26, 0, 0), (7, 3, -34, 0), (5, 0, 0, -55), (4, 9, 0, 0)],
                    np.float32)

Point = tuple[float, float]    # x, y


class Canvas:
    """Shapes painted one over the other. Each pixel keeps the number of its shape until all are coloured at the end.

    Coordinates are in picture heights, from the top left: x in 0..`aspect`, y in 0..1.
    """

    def __init__(self, height: int, width: int):
        self.height, self.aspect = height, width / height
        self.index = np.zeros((height, width), np.int32)
        self._labels, self._colours, self._materials = [], [], []

    def add(self, label: int, colour: ArrayLike, material: int = PLAIN) -> int:
        """Return the number of something new, with a colour RGB."""
        self._labels.append(label)
        self._colours.append(colour)
        self._materials.append(material)
        return len(self._labels) - 1

    def polygon(self, number: int, points: Sequence[Point]) -> None:
        cv2.fillPoly(self.index, [self._pixels(points)], (number,))

    def box(self, number: int, left: float, top: float, right: float, bottom: float) -> None:
        # At least a pixel, or far poles would come and go with the size of the picture.
        first, last = self._pixels([(left, top), (right, bottom)]).tolist()
        cv2.rectangle(self.index, first, last, (number,), -1)

    def ellipse(self, number: int, x: float, y: float, half_width: float, half_height: float,
                thickness: int = -1) -> None:
        centre, axes = self._pixels([(x, y), (half_width, half_height)]).tolist()
        cv2.ellipse(self.index, centre, axes, 0, 0, 360, (number,), thickness)

    def _pixels(self, points: Sequence[Point]) -> np.ndarray:
        return np.rint(np.clip(np.asarray(points), -8, 8) * self.height).astype(np.int32)

    def label(self) -> np.ndarray:
        return np.array(self._labels, np.uint8)[self.index]

    def render(self, rng: np.random.Generator) -> np.ndarray:
        """Colour what is painted, with textures, light and noise, uint8 (height, width, 3), BGR."""
        height, width = self.index.shape
        size = height, width
        colours = np.array(self._colours, np.float32)[:, ::-1]    # (things, 3), BGR
        amounts = TEXTURES[self._materials]    # (things, 4)
        patterns = (rng.standard_normal(size, np.float32), _coarse_noise(rng, size, height // 32 + 2),
                    *_joints_and_bars(*size))
        shade = sum(np.take(amount, self.index) * pattern for pattern, amount in zip(patterns, amounts.T, strict=True))
        light = rng.uniform(0.75, 1.1) * (1 + 0.12 * _coarse_noise(rng, size, 3))
        image = (colours[self.index] + shade[..., None]) * (light[..., None] * rng.uniform(0.94, 1.06, 3)
                                                            ).astype(np.float32)
        return np.clip(image, 0, 255).astype(np.uint8)


def _coarse_noise(rng: np.random.Generator, size: tuple[int, int], points: int) -> np.ndarray:
    """Smooth noise of unit variance at its `points` knots from top to bottom, float32 of `size`."""
    height, width = size
    knots = rng.standard_normal((points, max(2, round(points * width / height))), np.float32)
    return cv2.resize(knots, (width, height), interpolation=cv2.INTER_CUBIC)


def _joints_and_bars(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Patterns of 0 and 1: joints between bricks, and upright bars, float32 (height, width) each."""
    y, x = np.arange(height)[:, None], np.arange(width)
    rows = max(4, height // 40)
    shifted = x + (y // rows % 2) * rows    # every other row by half a brick
    joints = (y % rows == 0) | (shifted % (2 * rows) == 0)
    bars = np.broadcast_to(x % rows < rows / 2, (height, width))
    return joints.astype(np.float32), bars.astype(np.float32)
