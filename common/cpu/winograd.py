"""Convolutions by 3 x 3 kernels on all cores, in half of the products: for networks that are only run."""
import attrs
import numpy as np

from common.cpu.kernels import winograd as kernels
from common.cpu.parallel import run_parallel

_BLOCK = 512    # columns of a tile: what is made of them stays in the second-level cache


@attrs.frozen
class Kernels:
    """Kernels as `convolve` reads them.

    Attributes
    ----------
    u : float32 array (blocks, points, channels, 3, outputs of a block)
    sizes : int array (blocks,)
        Outputs of the blocks; what is beyond them in `u` is 0.
    """

    u: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, w: np.ndarray) -> "Kernels":
        """Prepare kernels (outputs, channels, 3, 3)."""
        outputs, channels = w.shape[:2]
        blocks = -(-outputs // kernels.OUTPUTS)
        edges = np.arange(blocks + 1) * outputs // blocks    # evenly, so that no block has one output alone
        points = np.einsum("pi,ocij->pcjo", kernels.KERNELS, w.astype(np.float64))
        u = np.zeros((blocks, kernels.POINTS, channels, 3, kernels.OUTPUTS), np.float32)
        for block, first, last in zip(u, edges[:-1], edges[1:], strict=True):
            block[..., :last - first] = points[..., first:last]
        return cls(u, np.diff(edges))


def convolve(x: np.ndarray, first: int, scale: np.ndarray, shift: np.ndarray, rectify: bool, w: Kernels,
             bias: np.ndarray, y: np.ndarray, y_first: int, dilation: int, add: bool) -> None:
    """Write or add to channels of y, from `y_first` on, w * relu(scale x + shift) + bias, padded by `dilation`.

    Parameters
    ----------
    x, y : float32 array (channels, height, width)
    first
        Channel of x with which the input begins; it has as many channels as `scale`.
    scale, shift : float32 array (channels,)
    rectify
        Whether there is a relu.
    bias : float32 array (outputs,)
    """
    _, height, width = x.shape
    block = -(-width // -(-width // _BLOCK))
    tiles = kernels.num_tiles(height, width, dilation, block)
    run_parallel(kernels.forward, tiles, height * width * w.u.size // 2, x, first, scale, shift, rectify, w.u, w.sizes,
                 bias, y, y_first, add, dilation, block, *kernels.register_shape())
