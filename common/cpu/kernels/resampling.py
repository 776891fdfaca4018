"""Compiled loops that copy, halve or double pictures (channels, height, width).

`start` and `stop` count lines of the smaller picture: of one channel (`double`), or of all.
"""
import numpy as np

from common.cpu.compiling import compile_fused


@compile_fused
def copy(start, stop, x, scale, shift, rectify, y):
    """y = scale x + shift, rectified with `rectify`."""
    for line in range(start, stop):
        c, i = line // x.shape[1], line % x.shape[1]
        source, target, s, t = x[c, i], y[c, i], scale[c], shift[c]
        if rectify:
            for j in range(len(target)):
                target[j] = max(source[j] * s + t, np.float32(0))
        else:
            for j in range(len(target)):
                target[j] = source[j] * s + t


@compile_fused
def halve(start, stop, x, scale, shift, rectify, y):
    """Mean of 2 x 2 pixels of scale x + shift, which is rectified before with `rectify`."""
    for line in range(start, stop):
        c, i = line // y.shape[1], line % y.shape[1]
        a, b, target = x[c, 2 * i], x[c, 2 * i + 1], y[c, i]
        s, t = scale[c], shift[c]
        for j in range(len(target)):
            p, q, u, v = a[2 * j] * s + t, a[2 * j + 1] * s + t, b[2 * j] * s + t, b[2 * j + 1] * s + t
            if rectify:
                zero = np.float32(0)
                p, q, u, v = max(p, zero), max(q, zero), max(u, zero), max(v, zero)
            target[j] = (p + q + u + v) / np.float32(4)


@compile_fused
def _add_scaled(target, source, factor):
    for j in range(len(target)):
        target[j] += source[j] * factor


@compile_fused
def _interleave(target, even, odd):
    for j in range(len(even)):
        target[2 * j] = even[j]
        target[2 * j + 1] = odd[j]


@compile_fused
def double(start, stop, x, w, bias, y):
    """Transposed convolution by 2 x 2 kernels w (channels, outputs, 2, 2) with stride 2."""
    even, odd = np.empty(x.shape[2], np.float32), np.empty(x.shape[2], np.float32)
    for line in range(start, stop):
        for o in range(w.shape[1]):
            for i in range(2):
                even[:] = bias[o]
                odd[:] = bias[o]
                for c in range(len(x)):
                    _add_scaled(even, x[c, line], w[c, o, i, 0])
                    _add_scaled(odd, x[c, line], w[c, o, i, 1])
                _interleave(y[o, 2 * line + i], even, odd)
