"""Losses of X-UMX: over all sums of some, but not all, of the sources, of spectrograms and of waveforms.

Both losses are made of inner products, so that the 14 sums of 4 sources need not be formed: the mean over them is a
matrix product over sources.
"""
import itertools

import nnabla as nn
import nnabla.functions as F
import numpy as np

from common.cpu.compiling import compile_fused
from common.cpu.host_function import HostFunction, data_of, grad_of, store_gradient
from common.cpu.parallel import run_parallel
from common.machine.context import wants_native
from common.machine.reshaping import reshape

IGNORED = 200    # samples at either end of the waveforms that the SDR does not see
EPS = 1e-10
_ROWS = 64    # frames that one partial sum holds


def combinations(num_sources: int, combine: bool = True) -> np.ndarray:
    """Return which sources each sum holds, float64 0/1 (sums, sources).

    All proper, non-empty subsets (one of one source); only the sources one by one without `combine`.
    """
    largest = max(1, num_sources - 1) if combine else 1
    rows = [[float(source in subset) for source in range(num_sources)]
            for size in range(1, largest + 1) for subset in itertools.combinations(range(num_sources), size)]
    return np.array(rows)


def mse_combination_loss(mixture: nn.Variable, masks: nn.Variable, target: nn.Variable,
                         combine: bool = True) -> nn.Variable:
    """Mean squared error of magnitudes, averaged over all combinations of the sources.

    Parameters
    ----------
    mixture : nn.Variable (frames, batch, channels, bins)
        Magnitudes; no gradient.
    masks : nn.Variable (frames, batch, sources channels, bins)
        The sources one after the other; the estimate of a source is its mask times the mixture.
    target : nn.Variable, shape of `masks`
        Magnitudes of the sources; no gradient.
    combine : bool
        False: average over the sources one by one, instead.

    Returns
    -------
    nn.Variable ()
        With one source, the mean squared error of UMX.

    Raises
    ------
    ValueError
        The shapes do not fit.

    References
    ----------
    arXiv 2010.04228, section 3.3.
    """
    # Compiled loops look at no bounds.
    if mixture.ndim != 4 or masks.ndim != 4 or not mixture.shape[2] or not masks.shape[2] \
            or masks.shape[2] % mixture.shape[2]:
        raise ValueError(f"masks of shape {masks.shape} for a mixture of shape {mixture.shape}: (frames, batch, "
                         "sources channels, bins) and (frames, batch, channels, bins) are wanted")
    frames, batch, _, bins = mixture.shape
    for name, variable in (("masks", masks), ("target", target)):
        if variable.shape != (frames, batch, masks.shape[2], bins):
            raise ValueError(f"{name} of shape {variable.shape}: {(frames, batch, masks.shape[2], bins)} is wanted")
    if not wants_native():
        return CombinationMSE(combine)(masks, mixture, target)
    frames, batch, channels, bins = mixture.shape
    by_source = (frames, batch, masks.shape[2] // channels, channels, bins)
    error = reshape(masks, by_source) * reshape(mixture, (frames, batch, 1, channels, bins)) \
        - reshape(target, by_source)
    own, mutual = _pair_weights(by_source[2], combine)
    return (own - mutual) * by_source[2] * F.mean(error ** 2) + mutual * F.mean(F.sum(error, axis=2) ** 2)


def _pair_weights(num_sources: int, combine: bool) -> tuple[float, float]:
    """How much the product of the errors of a source with itself, and with another one, counts in the mean.

    The mean over subsets of (sum of errors in it)^2 has each product as often as subsets hold both.
    """
    held = combinations(num_sources, combine)
    counts = held.T @ held / len(held)
    return counts[0, 0], counts[0, -1]


def sdr_combination_loss(mixture: nn.Variable, estimates: nn.Variable, target: nn.Variable,
                         combine: bool = True) -> nn.Variable:
    """Negative weighted SDR of waveforms, averaged over all combinations of the sources; from 0 (perfect) to 2.

    With target y, estimate e, and what they leave of the mixture x, n = x - y and m = x - e:
    1 - a cos(e, y) - (1 - a) cos(m, n), where a = |y|^2 / (|y|^2 + |n|^2). The first and the last 200 samples do not
    count.

    Parameters
    ----------
    mixture : nn.Variable (batch, channels, samples)
        No gradient.
    estimates : nn.Variable (sources, batch, channels, length)
        Mixture and targets are cut to their length.
    target : nn.Variable (batch, sources channels, samples)
        The sources one after the other; no gradient.
    combine : bool
        False: average over the sources one by one, instead.

    Returns
    -------
    nn.Variable ()

    Raises
    ------
    ValueError
        Nothing is left of the waveforms, or the shapes do not fit.

    References
    ----------
    arXiv 2010.04228, section 3.2.
    """
    if estimates.ndim != 4:
        raise ValueError(f"estimates of shape {estimates.shape}: (sources, batch, channels, length) is wanted")
    sources, batch, channels, length = estimates.shape
    for name, variable, rows in (("mixture", mixture, channels), ("target", target, sources * channels)):
        if variable.shape[:2] != (batch, rows) or variable.ndim != 3 or variable.shape[2] < length:
            raise ValueError(f"{name} of shape {variable.shape}: {(batch, rows, length)}, or longer, is wanted")
    if length <= 2 * IGNORED:
        raise ValueError(f"waveforms of {length} samples, of which {2 * IGNORED} do not count")
    if wants_native():
        return _composed_sdr(mixture, estimates, target, combinations(estimates.shape[0], combine))
    return CombinationSDR(combine)(estimates, mixture, target)


def _composed_sdr(mixture: nn.Variable, estimates: nn.Variable, target: nn.Variable, held: np.ndarray) -> nn.Variable:
    """The loss made of nnabla's functions, with all sums formed; `held` is what `combinations` returns."""
    sources, batch, channels, length = estimates.shape
    weights = nn.Variable.from_numpy_array(held[None].astype(np.float32))
    size = length - 2 * IGNORED
    e = reshape(estimates[..., IGNORED:length - IGNORED], (1, sources, batch * channels * size))
    y = reshape(target[..., IGNORED:length - IGNORED], (batch, sources, channels * size))
    y = reshape(F.transpose(y, (1, 0, 2)), e.shape)
    e, y = (reshape(F.batch_matmul(weights, v), (len(held), batch * channels, size)) for v in (e, y))
    x = reshape(mixture[..., IGNORED:length - IGNORED], (1, batch * channels, size))
    n, m = x - y, x - e

    def product(u, v):
        return F.sum(u * v, axis=2)

    yy, nn_ = product(y, y), product(n, n)
    share = yy / (yy + nn_ + EPS)
    first = product(e, y) / ((EPS + product(e, e)) ** 0.5 * (EPS + yy) ** 0.5 + EPS)
    second = product(n, m) / ((EPS + product(m, m)) ** 0.5 * (EPS + nn_) ** 0.5 + EPS)
    return 1 - F.mean(share * first + (1 - share) * second)


class _CombinationLoss(HostFunction):
    """A scalar; its first input gets a gradient."""

    def __init__(self, combine: bool):
        super().__init__()
        self.combine = combine

    def setup_impl(self, inputs, outputs):
        outputs[0].reset_shape((), True)


class CombinationMSE(_CombinationLoss):
    """Inputs masks, mixture, target, as of `mse_combination_loss`."""

    @staticmethod
    def _arrays(inputs, masks):
        """Masks, mixture and target as (rows, sources, channels bins), a row being a frame of an item."""
        mixture = data_of(inputs[1])
        shape = (mixture.shape[0] * mixture.shape[1], masks.shape[2] // mixture.shape[2], -1)
        return masks.reshape(shape), mixture.reshape(shape[0], -1), data_of(inputs[2]).reshape(shape)

    def forward_impl(self, inputs, outputs):
        masks, mixture, target = self._arrays(inputs, data_of(inputs[0]))
        sums = np.zeros((-(-len(mixture) // _ROWS), 2))
        run_parallel(_squared_errors, len(sums), masks.size, masks, mixture, target, sums)
        own, mutual = _pair_weights(masks.shape[1], self.combine)
        single, total = sums.sum(0) / mixture.size
        data_of(outputs[0])[...] = (own - mutual) * single + mutual * total

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        if not propagate_down[0]:
            return
        masks, mixture, target = self._arrays(inputs, data_of(inputs[0]))
        own, mutual = _pair_weights(masks.shape[1], self.combine)
        factor = 2 * float(grad_of(outputs[0])) / mixture.size
        run_parallel(_error_gradients, -(-len(mixture) // _ROWS), masks.size, masks, mixture, target,
                     np.float32(factor * (own - mutual)), np.float32(factor * mutual),
                     grad_of(inputs[0]).reshape(masks.shape), accum[0])


@compile_fused
def _squared_errors(start, stop, masks, mixture, target, sums):
    """Sums, by blocks of rows, of the squared errors of the sources and of the square of their summed error."""
    total = np.empty(mixture.shape[1], np.float32)
    for block in range(start, stop):
        for n in range(block * _ROWS, min((block + 1) * _ROWS, len(mixture))):
            total[:] = 0
            single = both = np.float32(0)
            for s in range(masks.shape[1]):
                for k in range(len(total)):
                    error = masks[n, s, k] * mixture[n, k] - target[n, s, k]
                    total[k] += error
                    single += error * error
            for k in range(len(total)):
                both += total[k] * total[k]
            sums[block, 0] += single
            sums[block, 1] += both


@compile_fused
def _error_gradients(start, stop, masks, mixture, target, own, mutual, gradient, add):
    """Write or add (own error of the source + mutual summed error) mixture."""
    total = np.empty(mixture.shape[1], np.float32)
    for n in range(start * _ROWS, min(stop * _ROWS, len(mixture))):
        total[:] = 0
        for s in range(masks.shape[1]):
            for k in range(len(total)):
                total[k] += masks[n, s, k] * mixture[n, k] - target[n, s, k]
        for s in range(masks.shape[1]):
            for k in range(len(total)):
                error = masks[n, s, k] * mixture[n, k] - target[n, s, k]
                value = (own * error + mutual * total[k]) * mixture[n, k]
                gradient[n, s, k] = gradient[n, s, k] + value if add else value


class CombinationSDR(_CombinationLoss):
    """Inputs estimates, mixture, target, as of `sdr_combination_loss`.

    All that the loss needs are the inner products of targets, estimates and mixture, (2 sources + 1)^2 numbers for each
    item and channel; its gradient is a sum of these signals with as many coefficients.
    """

    @staticmethod
    def _signals(inputs):
        """Targets, estimates and mixture that count, float64 (batch channels, 2 sources + 1, samples)."""
        estimates, mixture, target = (data_of(variable) for variable in inputs)
        sources, batch, channels, length = estimates.shape
        seen = slice(IGNORED, length - IGNORED)
        signals = np.empty((batch, channels, 2 * sources + 1, length - 2 * IGNORED))
        signals[:, :, :sources] = target[..., seen].reshape(batch, sources, channels, -1).swapaxes(1, 2)
        signals[:, :, sources:-1] = estimates[..., seen].transpose(1, 2, 0, 3)
        signals[:, :, -1] = mixture[..., seen]
        return signals.reshape(batch * channels, *signals.shape[2:])

    def forward_impl(self, inputs, outputs):
        signals = self._signals(inputs)
        held = combinations(inputs[0].shape[0], self.combine)
        loss, self.coefficients = _sdr_from_products(signals @ signals.swapaxes(1, 2), held)
        data_of(outputs[0])[...] = loss

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        if not propagate_down[0]:
            return
        gradient = float(grad_of(outputs[0])) * self.coefficients @ self._signals(inputs)
        sources, batch, channels, length = inputs[0].shape
        full = np.zeros(inputs[0].shape, np.float32)
        full[..., IGNORED:length - IGNORED] = gradient.reshape(batch, channels, sources, -1).transpose(2, 0, 1, 3)
        store_gradient(inputs[0], full, accum[0])


def _sdr_from_products(gram: np.ndarray, held: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the loss, and the coefficients (rows, sources, 2 sources + 1) of its gradient to the estimates.

    Parameters
    ----------
    gram : array (rows, 2 sources + 1, 2 sources + 1), float64
        Inner products of targets, estimates and mixture.
    held : array (sums, sources)
        From `combinations`.
    """
    sources = gram.shape[1] // 2
    own, est = slice(0, sources), slice(sources, 2 * sources)

    def products(first, second):
        """Inner products of the sums, (rows, sums)."""
        return np.einsum("cs,rst,ct->rc", held, gram[:, first, second], held)

    yy, ey, ee = products(own, own), products(est, own), products(est, est)
    xy, xe, xx = gram[:, -1, own] @ held.T, gram[:, -1, est] @ held.T, gram[:, -1:, -1]
    nn_, nm, mm = np.maximum(xx - 2 * xy + yy, 0), xx - xe - xy + ey, np.maximum(xx - 2 * xe + ee, 0)
    share = yy / (yy + nn_ + EPS)
    norm_e, norm_m = np.sqrt(EPS + ee), np.sqrt(EPS + mm)
    below_e, below_m = norm_e * np.sqrt(EPS + yy) + EPS, norm_m * np.sqrt(EPS + nn_) + EPS
    loss = 1 - np.mean(share * ey / below_e + (1 - share) * nm / below_m)

    # Derivatives of the loss by e.y, e.e, n.m and m.m of every sum; then the chain rule with n = x - y, m = x - e.
    by_ey, by_nm = -share / below_e / share.size, -(1 - share) / below_m / share.size
    by_ee = -by_ey * ey / below_e * np.sqrt(EPS + yy) / (2 * norm_e)
    by_mm = -by_nm * nm / below_m * np.sqrt(EPS + nn_) / (2 * norm_m)

    def spread(weights):
        return np.einsum("cs,rc,ct->rst", held, weights, held)

    to_mixture = np.einsum("cs,rc->rs", held, -by_nm - 2 * by_mm)
    return loss, np.concatenate([spread(by_ey + by_nm), spread(2 * by_ee + 2 * by_mm), to_mixture[..., None]], axis=2)
