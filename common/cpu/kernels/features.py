"""Loops over arrays (rows, features), for networks that treat every frame alike, and the recurrent part of an LSTM."""
import numpy as np

from common.cpu.compiling import compile_exact, compile_fused, compile_inline

ROWS = 64    # rows of a block
COLUMNS = 128    # columns of a block of a weight gradient


def num_blocks(rows):
    """Return how many blocks of `ROWS` rows cover `rows` rows."""
    return -(-rows // ROWS)


@compile_exact
def multiply(start, stop, a, b, out, add):
    """Write or add out = a b, by blocks of rows."""
    for block in range(start, stop):
        first, last = block * ROWS, min((block + 1) * ROWS, len(a))
        if add:
            out[first:last] += np.dot(a[first:last], b)
        else:
            np.dot(a[first:last], b, out[first:last])


@compile_exact
def multiply_transposed(start, stop, a, b, out, add):
    """Write or add out = a^T b, by blocks of `COLUMNS` columns of a."""
    for block in range(start, stop):
        first, last = block * COLUMNS, min((block + 1) * COLUMNS, a.shape[1])
        columns = np.empty((last - first, len(a)), np.float32)
        for n in range(len(a)):
            for k in range(last - first):
                columns[k, n] = a[n, first + k]
        if add:
            out[first:last] += np.dot(columns, b)
        else:
            np.dot(columns, b, out[first:last])


@compile_exact
def moments(start, stop, x, sums):
    """Sums of x and of x^2 in double precision, (blocks, 2, features)."""
    for block in range(start, stop):
        sums[block] = 0
        for n in range(block * ROWS, min((block + 1) * ROWS, len(x))):
            for k in range(x.shape[1]):
                value = np.float64(x[n, k])
                sums[block, 0, k] += value
                sums[block, 1, k] += value * value


@compile_fused
def shift_and_scale(start, stop, x, shift, scale, offset, rectify, y):
    """y = (x - shift) scale + offset by feature, and then max(y, 0) if `rectify`."""
    for n in range(start * ROWS, min(stop * ROWS, len(x))):
        for k in range(y.shape[1]):
            value = (x[n, k] - shift[k]) * scale[k] + offset[k]
            y[n, k] = np.float32(0) if rectify & (value < 0) else value


@compile_fused
def products(start, stop, x, y, g, shift, rectify, sums):
    """Sums of g and of g (x - shift), (blocks, 2, features); where `rectify`, only over y > 0."""
    for block in range(start, stop):
        sums[block] = 0
        for n in range(block * ROWS, min((block + 1) * ROWS, len(x))):
            for k in range(y.shape[1]):
                passed = g[n, k] if (not rectify) | (y[n, k] > 0) else np.float32(0)
                sums[block, 0, k] += passed
                sums[block, 1, k] += passed * (x[n, k] - shift[k])


@compile_fused
def combine(start, stop, x, y, g, shift, rectify, from_g, from_x, offset, dx, add):
    """Write or add dx = from_g g + from_x (x - shift) + offset; where `rectify`, g counts only at y > 0."""
    for n in range(start * ROWS, min(stop * ROWS, len(x))):
        for k in range(y.shape[1]):
            passed = g[n, k] if (not rectify) | (y[n, k] > 0) else np.float32(0)
            value = from_g[k] * passed + from_x[k] * (x[n, k] - shift[k]) + offset[k]
            dx[n, k] = dx[n, k] + value if add else value


@compile_inline
def tanh(x):
    """Hyperbolic tangent to 2e-7, in arithmetic that the compiler turns into vector instructions.

    The continued fraction x/(1+ x^2/(3+ x^2/(5+ ...))) of the half argument, and then the formula for the double one.
    """
    half = np.float32(0.5) * min(max(x, np.float32(-9.2)), np.float32(9.2))    # beyond, float32 says +-1
    s = half * half
    above = half * (np.float32(135135) + s * (np.float32(17325) + s * (np.float32(378) + s)))
    below = np.float32(135135) + s * (np.float32(62370) + s * (np.float32(3150) + np.float32(28) * s))
    return (np.float32(2) * above * below) / (below * below + above * above)


@compile_inline
def sigmoid(x):
    """Logistic function, by way of `tanh`."""
    return np.float32(0.5) + np.float32(0.5) * tanh(np.float32(0.5) * x)


@compile_fused
def tanh_forward(start, stop, x, y):
    """y = tanh(x)."""
    for n in range(start * ROWS, min(stop * ROWS, len(x))):
        for k in range(x.shape[1]):
            y[n, k] = tanh(x[n, k])


@compile_fused
def tanh_backward(start, stop, y, g, dx, add):
    """Write or add dx = g (1 - y^2)."""
    for n in range(start * ROWS, min(stop * ROWS, len(y))):
        for k in range(y.shape[1]):
            value = g[n, k] * (np.float32(1) - y[n, k] * y[n, k])
            dx[n, k] = dx[n, k] + value if add else value


# The recurrent part of an LSTM: `start` and `stop` count directions; direction 1 runs through the frames backwards.
# Arrays: gates (directions, frames, batch, 4 hidden), in the order input, forget, cell, output; states
# (frames, batch, directions hidden), of which each direction has its columns.


@compile_fused
def lstm_forward(start, stop, gates, weights, cells, outputs):
    """Run through the frames: `gates` come as inputs' share with bias, and are replaced by the activated gates.

    weights : (directions, 4 hidden, hidden); cells : (directions, frames, batch, hidden)
    """
    _, frames, batch, hidden = cells.shape
    for d in range(start, stop):
        # The batch is a few columns: with the large matrix to the left, BLAS is up to four times faster.
        state = np.zeros((hidden, batch), np.float32)
        cell = np.zeros((batch, hidden), np.float32)
        product = np.zeros((4 * hidden, batch), np.float32)
        own = np.zeros(4 * hidden, np.float32)
        for step in range(frames):
            t = frames - 1 - step if d else step
            if step:
                np.dot(weights[d], state, product)
            for b in range(batch):
                gate = gates[d, t, b]
                for k in range(4 * hidden):
                    own[k] = product[k, b]
                for k in range(hidden):
                    i = sigmoid(gate[k] + own[k])
                    f = sigmoid(gate[hidden + k] + own[hidden + k])
                    g = tanh(gate[2 * hidden + k] + own[2 * hidden + k])
                    o = sigmoid(gate[3 * hidden + k] + own[3 * hidden + k])
                    gate[k], gate[hidden + k], gate[2 * hidden + k], gate[3 * hidden + k] = i, f, g, o
                    c = f * cell[b, k] + i * g
                    cell[b, k] = c
                    cells[d, t, b, k] = c
                    h = o * tanh(c)
                    state[k, b] = h
                    outputs[t, b, d * hidden + k] = h


@compile_fused
def lstm_backward(start, stop, gates, weights, cells, grad_outputs):
    """Run through the frames in reverse: `gates`, as activated, are replaced by gradients before the activation.

    weights : (directions, hidden, 4 hidden)
    """
    _, frames, batch, hidden = cells.shape
    for d in range(start, stop):
        dstate = np.zeros((hidden, batch), np.float32)
        dcell = np.zeros((batch, hidden), np.float32)
        for step in range(frames - 1, -1, -1):
            t = frames - 1 - step if d else step
            before = t + 1 if d else t - 1
            for b in range(batch):
                gate = gates[d, t, b]
                for k in range(hidden):
                    i, f, g, o = gate[k], gate[hidden + k], gate[2 * hidden + k], gate[3 * hidden + k]
                    squashed = tanh(cells[d, t, b, k])
                    dh = grad_outputs[t, b, d * hidden + k] + dstate[k, b]
                    dc = dcell[b, k] + dh * o * (np.float32(1) - squashed * squashed)
                    last = cells[d, before, b, k] if step else np.float32(0)
                    gate[k] = dc * g * i * (np.float32(1) - i)
                    gate[hidden + k] = dc * last * f * (np.float32(1) - f)
                    gate[2 * hidden + k] = dc * i * (np.float32(1) - g * g)
                    gate[3 * hidden + k] = dh * squashed * o * (np.float32(1) - o)
                    dcell[b, k] = dc * f
            if step:
                np.dot(weights[d], gates[d, t].T, dstate)
