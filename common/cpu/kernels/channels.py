"""Loops over arrays (batch, channels, pixels), for functions that treat every channel apart."""
import numpy as np

from common.cpu.compiling import compile_exact, compile_sums


@compile_exact
def moments(start, stop, x, mean, var):
    """Mean and variance, as E[x^2] - E[x]^2, of the channels of quartets from `start` to `stop`.

    In the order and precision of nnabla: a quantizer behind turns a difference in the last bit into a whole level.
    Every sum waits for its last term to be added; those of the four channels of a quartet wait together.
    """
    count, last = np.float32(x.shape[0] * x.shape[2]), x.shape[1] - 1
    for quartet in range(start, stop):
        a = 4 * quartet
        b, c, d = min(a + 1, last), min(a + 2, last), min(a + 3, last)
        a1 = a2 = b1 = b2 = c1 = c2 = d1 = d2 = np.float32(0)
        for n in range(x.shape[0]):
            xa, xb, xc, xd = x[n, a], x[n, b], x[n, c], x[n, d]
            for i in range(x.shape[2]):
                a1 += xa[i]
                b1 += xb[i]
                c1 += xc[i]
                d1 += xd[i]
                a2 += xa[i] * xa[i]
                b2 += xb[i] * xb[i]
                c2 += xc[i] * xc[i]
                d2 += xd[i] * xd[i]
        _store_moments(d, d1, d2, count, mean, var)
        _store_moments(c, c1, c2, count, mean, var)
        _store_moments(b, b1, b2, count, mean, var)
        _store_moments(a, a1, a2, count, mean, var)


@compile_exact
def _store_moments(c, first, second, count, mean, var):
    mean[c] = first / count
    var[c] = max(second / count - mean[c] * mean[c], np.float32(0))


@compile_exact
def normalize(start, stop, x, mean, std, beta, gamma, rectify, y):
    """y = (x - mean) gamma / std + beta by channel, rounded as nnabla does; for the samples from `start` to `stop`.

    With `rectify` what is not above 0 becomes 0, never -0; NaN stays NaN.
    """
    for n in range(start, stop):
        for c in range(x.shape[1]):
            for i in range(x.shape[2]):
                v = (x[n, c, i] - mean[c]) * gamma[c] / std[c] + beta[c]
                y[n, c, i] = np.float32(0) if rectify and v <= 0 else v


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


@compile_sums
def rectified_products(start, stop, x, y, g, mean, sums):
    """Like `products`, where g counts only where y is above 0."""
    passed = np.empty((1, 1, x.shape[2]), np.float32)
    for n in range(start, stop):
        for c in range(x.shape[1]):
            for i in range(x.shape[2]):
                passed[0, 0, i] = g[n, c, i] if y[n, c, i] > 0 else np.float32(0)
            first = second = np.float32(0)
            for i in range(x.shape[2]):
                first += passed[0, 0, i]
                second += passed[0, 0, i] * (x[n, c, i] - mean[c])
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


@compile_exact
def rectified_combine(start, stop, y, g, x, from_g, from_x, offset, dx, add):
    """Like `combine`, where g counts only where y is above 0."""
    for n in range(start, stop):
        for c in range(x.shape[1]):
            for i in range(x.shape[2]):
                passed = g[n, c, i] if y[n, c, i] > 0 else np.float32(0)
                v = from_g[c] * passed + from_x[c] * x[n, c, i] + offset[c]
                dx[n, c, i] = dx[n, c, i] + v if add else v


@compile_exact
def thin_out(start, stop, x, stride, y):
    """Copy every `stride`-th pixel of both axes of x, (batch, channels, height, width), and zeros to channels above.

    For the samples from `start` to `stop`.
    """
    for n in range(start, stop):
        y[n, x.shape[1]:] = 0
        for c in range(x.shape[1]):
            for iy in range(y.shape[2]):
                for ix in range(y.shape[3]):
                    y[n, c, iy, ix] = x[n, c, iy * stride, ix * stride]


@compile_exact
def spread(start, stop, g, stride, dx, add):
    """Write or add the gradient of the input of `thin_out` for the samples from `start` to `stop`."""
    for n in range(start, stop):
        if not add:
            dx[n] = 0
        for c in range(dx.shape[1]):
            for iy in range(g.shape[2]):
                for ix in range(g.shape[3]):
                    dx[n, c, iy * stride, ix * stride] += g[n, c, iy, ix]
