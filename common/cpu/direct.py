"""Convolution on all cores without BLAS, with sums in the order of the terms, which may be nnabla's to the last bit.

A geometry is (kernel, pad, stride, dilation) in pixels, of both axes.
"""
import numpy as np

from common.cpu.kernels import direct as kernels
from common.cpu.kernels.direct import Geometry
from common.cpu.kernels.products import output_vectors, tile_shape
from common.cpu.kernels.registers import vector_registers
from common.cpu.parallel import run_parallel

_GROUPS = 8    # partial sums of a weight gradient, at most


def convolve(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, y: np.ndarray, geometry: Geometry, add: bool = False,
             in_order: bool = True) -> None:
    """Write or add y = w * x + b.

    Parameters
    ----------
    x, w, b
        (batch, channels, height, width), (outputs, channels, k, k) and (outputs,).
    in_order
        Round after every product and every addition, as nnabla does, instead of once for both.
    """
    (num_outputs, channels), (outputs, lanes) = w.shape[:2], tile_shape()
    blocks, terms = -(-num_outputs // outputs), w[0].size
    factors, bias = np.zeros((blocks * outputs, terms), np.float32), np.zeros(blocks * outputs, np.float32)
    factors[:num_outputs] = w.reshape(num_outputs, terms)
    if b is not None:
        bias[:num_outputs] = b
    factors = np.ascontiguousarray(factors.reshape(blocks, outputs, terms).swapaxes(1, 2))
    tiles = kernels.tiles_of(y.shape, channels, geometry)
    run_parallel(kernels.forward, tiles.number, y.size * terms, x, factors, bias, y, add, tiles.lines, tiles.rows,
                 tiles.offsets, in_order, outputs, lanes, geometry)


def weight_gradient(x: np.ndarray, g: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Gradient of the weights, (outputs, channels k k), for `g` of the output."""
    (_, outputs, *_), lanes = g.shape, vector_registers()[0]
    tiles = kernels.tiles_of(g.shape, x.shape[1], geometry)
    terms = x.shape[1] * geometry[0] ** 2
    dw = np.empty((min(_GROUPS, tiles.number), len(tiles.offsets), -(-outputs // lanes) * lanes), np.float32)
    run_parallel(kernels.backward_weights, len(dw), g.size * terms, x, g, dw, tiles.lines, tiles.rows, tiles.offsets,
                 output_vectors(), lanes, geometry)
    return dw.sum(0)[:terms, :outputs].T
