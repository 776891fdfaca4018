"""Loops over arrays (batch, channels, pixels), for functions that treat every channel apart."""
import numpy as np

from common.cpu.compiling import compile_exact, compile_sums


@compile_exact
def moments(start, stop, x, mean, var):
    """Mean and variance, as E[x^2] - E[x]^2, of the channels from `start` to `stop`.

    In the order and precision of nnabla: a quantizer behind turns a difference in the last bit into a whole level.
    """
    count = np.float32(x.shape[0] * x.shape[2])
    for c in range(start, stop):
        first = second = np.float32(0)
        for n in range(x.shape[0]):
            for i in range(x.shape[2]):
                first += x[n, c, i]
                second += x[n, c, i] * x[n, c, i]
        mean[c] = first / count
        var[c] = max(second / count - mean[c] * mean[c], np.float32(0))


@compile_exact
def normalize(start, stop, x, mean, std, beta, gamma, y):
    """y = (x - mean) gamma / std + beta by channel, rounded as nnabla does; for the samples from `start` to `stop`."""
    for n in range(start, stop):
        for c in range(x.shape[1]):
            for i in range(x.shape[2]):
                y[n, c, i] = (x[n, c, i] - mean[c]) * gamma[c] / std[c] + beta[c]


@compile_sums
def products(start, stop, x, g, mean, sums):
    """Sums of g and of g (x - mean) for each sample from `start` to `stop` and each channel."""
    for n in range(start, stop):
        for c in range(x.shape[1]):
            first = second = np.float32(0)
            for i in range(x.shape[2]):
                first += g[n, c, i]
                second += g[n, c, i] * (x[n, c, i] - mean[c])
            sums[n, c, 0] = first
            sums[n, c, 1] = second


@compile_exact
def combine(start, stop, g, x, from_g, from_x, offset, dx, add):
    """dx = from_g g + from_x x + offset, each factor one number for a channel."""
    for n in range(start, stop):
        for c in range(x.shape[1]):
            for i in range(x.shape[2]):
                v = from_g[c] * g[n, c, i] + from_x[c] * x[n, c, i] + offset[c]
                dx[n, c, i] = dx[n, c, i] + v if add else v
