"""Multichannel Wiener filters, in closed form for two channels, compiled and in double precision.

Of `norbert`, as X-UMX and UMX use it: `multichannel_wiener`. Of D3Net, without regularization or iterations, and for
songs that are too long for memory: `SourceModel` and `filter_mixture`, or `filter_estimates` for arrays.
"""
from collections.abc import Sequence

import numpy as np

from common.cpu.compiling import compile_exact
from common.cpu.parallel import run_parallel

EPS = float(np.finfo(np.float64).eps)
SMALLEST_EPS = 2e-16    # with less, determinants of coherent sources could vanish in rounding
_SINGULAR = 1e-10    # determinants below it, D3Net's filter does not divide by
_COHERENT = 1e-12    # nor by those that small beside their terms: the rest is rounding
_BINS = 32    # treated together: the frames of so many bins of all sources stay in the cache


def multichannel_wiener(magnitudes: np.ndarray, mixture: np.ndarray, iterations: int = 1, softmask: bool = False, *,
                        eps: float = EPS, window: int | None = None) -> np.ndarray:
    """Refine estimated magnitudes of sources to complex spectrograms that add up to the mixture.

    Each source is modelled by a power v_j(t, f) and a spatial covariance R_j(f), both taken from the current
    estimates; an iteration replaces these by v_j R_j (sum over k of v_k R_k)^-1 x. R_j comes from all frames given, so
    results depend on the excerpt. Mono and stereo are computed here, more channels by `norbert.wiener`.

    Parameters
    ----------
    magnitudes : array (sources, channels, bins, frames), >= 0
        What the networks estimate.
    mixture : complex array (channels, bins, frames)
    iterations : int, >= 0
        With 0 the first estimates are returned: the magnitudes with the phase of the mixture, or the soft masks.
    softmask : bool
        Start from ratios of magnitudes times the mixture, instead of magnitudes with the phase of the mixture.
    eps : float, from 2e-16
        What is added to divisors, and its root to the diagonal of covariances, where the largest magnitude of a louder
        mixture counts as 10. `norbert` has the default, `openunmix` 1e-10.
    window : int or None
        Filter so many frames at a time, each part by itself, as `openunmix` does with 300; None: all of them.

    Returns
    -------
    complex array (sources, channels, bins, frames)
        complex64 for a complex64 mixture; arithmetic is in double precision either way, as the determinants cancel
        for nearly monophonic audio.

    Raises
    ------
    ValueError
        The shapes do not fit, the magnitudes are not real or the mixture not complex; `iterations` is negative, or
        `eps` or `window` too small.

    References
    ----------
    Open-Unmix (JOSS 2019, doi 10.21105/joss.01667); `norbert.wiener`.
    """
    magnitudes, mixture = _for_loops(magnitudes, "magnitudes"), _for_loops(mixture, "mixture", "c")
    # Compiled loops look at no bounds.
    if mixture.ndim != 3 or not len(mixture):
        raise ValueError(f"a mixture of shape {mixture.shape}: (channels, bins, frames) of 1 channel or more is wanted")
    if magnitudes.shape[1:] != mixture.shape:
        raise ValueError(f"magnitudes {magnitudes.shape} are not (sources, *{mixture.shape})")
    if not isinstance(iterations, (int, np.integer)) or iterations < 0:
        raise ValueError(f"iterations {iterations!r}: a whole number, at least 0, is wanted")
    if not SMALLEST_EPS <= eps < np.inf or window is not None and window < 1:
        raise ValueError(f"eps {eps}, window {window}: they are to be at least {SMALLEST_EPS} and 1")
    if window is not None and window < mixture.shape[-1]:
        parts = [slice(start, start + window) for start in range(0, mixture.shape[-1], window)]
        return np.concatenate([multichannel_wiener(magnitudes[..., part], mixture[..., part], iterations, softmask,
                                                   eps=eps) for part in parts], axis=-1)
    if mixture.shape[0] > 2:
        return _many_channels(magnitudes, mixture, iterations, softmask, eps)
    # Bins last, as the transform leaves them: loops run along neighbours in memory.
    x = np.ascontiguousarray(mixture.swapaxes(-1, -2))
    v = np.ascontiguousarray(magnitudes.swapaxes(-1, -2))
    y = np.empty(v.shape, x.dtype)
    blocks = -(-x.shape[-1] // _BINS)
    run_parallel(_first_estimates, blocks, y.size, v, x, softmask, eps, y)
    if iterations:
        scale = max(1.0, float(np.abs(x).max(initial=0)) / 10)
        update = _update_stereo if len(x) == 2 else _update_mono
        run_parallel(update, blocks, y.size, x, iterations, scale, eps, y)
    return y.swapaxes(-1, -2)


def _for_loops(array: np.ndarray, name: str, kind: str = "f") -> np.ndarray:
    """Return an array of a type that loops are compiled for: that of the array, or one that holds most of it.

    numba knows neither the byte order of other machines, nor half or extended precision.

    Parameters
    ----------
    name
        Of the argument, for errors.
    kind
        `f` for real numbers, `c` for complex ones.

    Raises
    ------
    ValueError
        The array has numbers of the other kind, or none.
    """
    array = np.asarray(array)
    if array.dtype.kind not in ("c" if kind == "c" else "fiub"):
        raise ValueError(f"{name} of {array.dtype}: {'complex' if kind == 'c' else 'real'} numbers are wanted")
    single, double = (np.complex64, np.complex128) if kind == "c" else (np.float32, np.float64)
    fits = array.dtype.kind == kind and array.dtype.itemsize <= np.dtype(single).itemsize
    return array.astype(single if fits else double, copy=False)


def residual_model(magnitudes: np.ndarray, mixture: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    """Scale the sources to fit the mixture and add one that holds what they leave over, as `norbert` does.

    Parameters
    ----------
    magnitudes : array (sources, channels, bins, frames), >= 0
        To the power of `alpha`.
    mixture : complex array (channels, bins, frames)
    alpha : float

    Returns
    -------
    array (sources + 1, channels, bins, frames), float32 for float32 magnitudes
        The gain of a bin is the same for all sources and frames. The residual is max(0, |x|^alpha - sum of the
        sources before that gain).
    """
    power = np.maximum(EPS, np.abs(mixture).astype(np.float64) ** alpha)
    total = magnitudes.sum(0, dtype=np.float64)
    gain = (power * total).sum(-1, keepdims=True) / (EPS + (total ** 2).sum(-1, keepdims=True))
    residual = np.maximum(0, power - total)
    return np.concatenate([magnitudes * gain, residual[None]]).astype(magnitudes.dtype)


def mixture_phase(magnitudes: np.ndarray, mixture: np.ndarray) -> np.ndarray:
    """Give magnitudes (sources, channels, bins, frames) the phase of a mixture (channels, bins, frames).

    Returns
    -------
    complex array (sources, channels, bins, frames)
        Of the type of the mixture; where that is 0, so is the phase.
    """
    return multichannel_wiener(magnitudes, mixture, iterations=0)


class SourceModel:
    """The spatial covariance of one source of stereo music, gathered from blocks of frames.

    R(f) = (sum over t of x x^H) / (sum over t of v), where v(t, f) is the mean power of the two channels of the
    estimate x, plus 1e-10 of its largest value in the song.

    Parameters
    ----------
    bins : int

    References
    ----------
    arXiv 2010.01733 and its published code.
    """

    def __init__(self, bins: int):
        self._sums = np.zeros((1, 4, bins))
        self._frames, self._largest = 0, 0.0

    def add(self, estimate: np.ndarray) -> np.ndarray:
        """Take more frames of the song into account.

        Parameters
        ----------
        estimate : complex array (2, bins, frames)

        Returns
        -------
        float32 array (bins, frames)
            Mean power of the channels, as `filter_mixture` takes it.
        """
        estimate = _for_loops(estimate, "estimate", "c")
        if estimate.ndim != 3 or len(estimate) != 2 or estimate.shape[1] != self._sums.shape[2]:
            raise ValueError(f"an estimate {estimate.shape} is not (2, {self._sums.shape[2]}, frames)")
        y = np.ascontiguousarray(estimate.swapaxes(-1, -2))[None]
        power = np.empty(y.shape[2:], np.float32)
        run_parallel(_add_statistics, -(-y.shape[-1] // _BINS), y.size, y, self._sums, power)
        self._frames += len(power)
        self._largest = max(self._largest, float(power.max(initial=0)))
        return power.swapaxes(-1, -2)

    @property
    def floor(self) -> float:
        """What is added to each v."""
        return 1e-10 * self._largest

    def covariance(self) -> np.ndarray:
        """Return R: float64 (4, bins), of which r00, r11, and real and imaginary part of r01."""
        weight = (self._sums[0, 0] + self._sums[0, 1]) / 2 + self._frames * self.floor + EPS
        return self._sums[0] / weight


def filter_mixture(powers: np.ndarray, models: Sequence[SourceModel], mixture: np.ndarray) -> np.ndarray:
    """Filter frames of a stereo mixture into its sources: v_j R_j (sum over k of v_k R_k)^-1 x.

    Where the sum is singular, as for mono music in two channels, its pseudo-inverse takes the place of the inverse.

    Parameters
    ----------
    powers : float32 array (sources, bins, frames)
        Of `SourceModel.add` for these frames.
    models : sequence of SourceModel
        After all frames of the song were added.
    mixture : complex array (2, bins, frames)

    Returns
    -------
    complex array (sources, 2, bins, frames), of the type of the mixture

    Raises
    ------
    ValueError
        The shapes do not fit.
    """
    powers, mixture = _for_loops(powers, "powers"), _for_loops(mixture, "mixture", "c")
    if mixture.ndim != 3 or len(mixture) != 2 or powers.shape != (len(models), *mixture.shape[1:]):
        raise ValueError(f"powers {powers.shape} of {len(models)} sources do not fit the mixture {mixture.shape}")
    x, v = (np.ascontiguousarray(array.swapaxes(-1, -2)) for array in (mixture, powers))
    y = np.empty((len(models), *x.shape), x.dtype)
    covariances = np.stack([model.covariance() for model in models])
    floors = np.array([model.floor for model in models])
    run_parallel(_filter_by_models, -(-x.shape[-1] // _BINS), y.size, x, v, floors, covariances, y)
    return y.swapaxes(-1, -2)


def filter_estimates(estimates: np.ndarray, mixture: np.ndarray) -> np.ndarray:
    """Filter a stereo mixture as `filter_mixture` does, by estimates of the whole song.

    Parameters
    ----------
    estimates : complex array (sources, 2, bins, frames)
    mixture : complex array (2, bins, frames)

    Returns
    -------
    complex array (sources, 2, bins, frames), of the type of the mixture
    """
    models = [SourceModel(estimates.shape[2]) for _ in estimates]
    powers = np.stack([model.add(estimate) for model, estimate in zip(models, estimates, strict=True)])
    return filter_mixture(powers, models, mixture)


def _many_channels(magnitudes, mixture, iterations, softmask, eps):
    import norbert  # here alone, as it brings nothing to mono and stereo

    x = mixture.transpose(2, 1, 0).astype(np.complex128)    # (frames, bins, channels); norbert scales it in place
    y = norbert.wiener(magnitudes.transpose(3, 2, 1, 0).astype(np.float64), x, iterations, softmask, eps)
    return y.transpose(3, 2, 1, 0).astype(mixture.dtype)


# Arrays are (channels, frames, bins) or (sources, channels, frames, bins); `start` and `stop` count blocks of bins.


@compile_exact
def _first_estimates(start, stop, v, x, softmask, eps, y):
    sources, channels, frames, bins = v.shape
    for c in range(channels):
        for t in range(frames):
            for f in range(start * _BINS, min(stop * _BINS, bins)):
                value = np.complex128(x[c, t, f])
                if softmask:
                    total = eps
                    for j in range(sources):
                        total += v[j, c, t, f]
                    factor = value / total
                else:
                    size = np.sqrt(value.real ** 2 + value.imag ** 2)
                    factor = value / size if size > 0 else np.complex128(1)    # the phase of 0 is 0
                for j in range(sources):
                    y[j, c, t, f] = v[j, c, t, f] * factor


@compile_exact
def _update_mono(start, stop, x, iterations, scale, eps, y):
    """With one channel R_j is 1, and the inverse norbert's."""
    sources, _, frames, bins = y.shape
    power = np.empty(sources)
    for f in range(start * _BINS, min(stop * _BINS, bins)):
        for _ in range(iterations):
            weight = np.full(sources, eps)
            covariance = np.zeros(sources)
            for j in range(sources):
                for t in range(frames):
                    covariance[j] += (y[j, 0, t, f].real / scale) ** 2 + (y[j, 0, t, f].imag / scale) ** 2
                weight[j] += covariance[j]
                covariance[j] /= weight[j]
            for t in range(frames):
                total = np.sqrt(eps)
                for j in range(sources):
                    power[j] = (y[j, 0, t, f].real / scale) ** 2 + (y[j, 0, t, f].imag / scale) ** 2
                    total += power[j] * covariance[j]
                for j in range(sources):
                    y[j, 0, t, f] = power[j] * covariance[j] / (total + eps) * x[0, t, f]


@compile_exact
def _update_stereo(start, stop, x, iterations, scale, eps, y):
    for block in range(start, stop):
        first = block * _BINS
        last = min(first + _BINS, x.shape[2])
        for _ in range(iterations):
            model = _spatial_model(y, first, last, scale, eps)
            for t in range(y.shape[2]):
                _filter_frame(t, first, last, x, y, model, scale, eps)


@compile_exact
def _spatial_model(y, first, last, scale, eps):
    """Covariances of the sources: (sources, 4, bins), of which r00, r11, and real and imaginary part of r01."""
    model = np.zeros((len(y), 4, last - first))
    _add_covariances(y, first, last, scale, model)
    for j in range(len(y)):
        for f in range(last - first):
            weight = eps + (model[j, 0, f] + model[j, 1, f]) / 2
            for k in range(4):
                model[j, k, f] /= weight
    return model


@compile_exact
def _add_covariances(y, first, last, scale, sums):
    """Add the products of the two channels, of the bins from `first` to `last` over all frames; sums as a model."""
    for j in range(len(y)):
        for t in range(y.shape[2]):
            for f in range(last - first):
                a, b = y[j, 0, t, first + f], y[j, 1, t, first + f]
                ar, ai = np.float64(a.real) / scale, np.float64(a.imag) / scale
                br, bi = np.float64(b.real) / scale, np.float64(b.imag) / scale
                sums[j, 0, f] += ar * ar + ai * ai
                sums[j, 1, f] += br * br + bi * bi
                sums[j, 2, f] += ar * br + ai * bi
                sums[j, 3, f] += ai * br - ar * bi


@compile_exact
def _filter_frame(t, first, last, x, y, model, scale, eps):
    """Replace the estimates of frame t; estimates and mixture are thought of as divided by `scale`."""
    power = np.empty((len(y), last - first))
    for j in range(len(y)):
        for f in range(last - first):
            a, b = y[j, 0, t, first + f], y[j, 1, t, first + f]
            ar, ai = np.float64(a.real) / scale, np.float64(a.imag) / scale
            br, bi = np.float64(b.real) / scale, np.float64(b.imag) / scale
            power[j, f] = (ar * ar + ai * ai + br * br + bi * bi) / 2
    c = _sum_of_models(power, model, np.sqrt(eps))
    for f in range(last - first):
        # z = C^-1 x once for all sources.
        x0, x1 = np.complex128(x[0, t, first + f]), np.complex128(x[1, t, first + f])
        c01 = complex(c[2, f], c[3, f])
        det = c[0, f] * c[1, f] - (c[2, f] * c[2, f] + c[3, f] * c[3, f])
        z0 = (c[1, f] * x0 - c01 * x1) / det
        z1 = (c[0, f] * x1 - c01.conjugate() * x0) / det
        for j in range(len(y)):
            r01 = complex(model[j, 2, f], model[j, 3, f])
            y[j, 0, t, first + f] = power[j, f] * (model[j, 0, f] * z0 + r01 * z1)
            y[j, 1, t, first + f] = power[j, f] * (r01.conjugate() * z0 + model[j, 1, f] * z1)


@compile_exact
def _sum_of_models(power, model, diagonal):
    """Covariance of the mixture, plus `diagonal` times the identity: (4, bins) for powers (sources, bins)."""
    c = np.zeros(model.shape[1:])
    c[:2] = diagonal
    for j in range(len(power)):
        for f in range(power.shape[1]):
            for k in range(4):
                c[k, f] += power[j, f] * model[j, k, f]
    return c


@compile_exact
def _add_statistics(start, stop, y, sums, power):
    """Add to the covariances of a source, y being (1, channels, frames, bins), and write its power (frames, bins)."""
    for block in range(start, stop):
        first = block * _BINS
        last = min(first + _BINS, y.shape[3])
        _add_covariances(y, first, last, 1.0, sums[:, :, first:last])
        for t in range(y.shape[2]):
            for f in range(first, last):
                a, b = np.complex128(y[0, 0, t, f]), np.complex128(y[0, 1, t, f])
                power[t, f] = (a.real * a.real + a.imag * a.imag + b.real * b.real + b.imag * b.imag) / 2


@compile_exact
def _filter_by_models(start, stop, x, v, floors, covariances, y):
    for block in range(start, stop):
        first = block * _BINS
        last = min(first + _BINS, x.shape[2])
        model = np.ascontiguousarray(covariances[:, :, first:last])
        power, z = np.empty((len(y), last - first)), np.empty((4, last - first))
        for t in range(x.shape[1]):
            for j in range(len(y)):
                for f in range(last - first):
                    power[j, f] = v[j, t, first + f] + floors[j]
            c = _sum_of_models(power, model, 0.0)
            for f in range(last - first):
                # C^-1 is [[p, -q], [-q*, r]]; written out in real numbers, as complex ones would take twice as long.
                off = c[2, f] * c[2, f] + c[3, f] * c[3, f]
                det = c[0, f] * c[1, f] - off
                if abs(det) >= max(_SINGULAR, _COHERENT * c[0, f] * c[1, f]):
                    p, r, q = c[1, f] / det, c[0, f] / det, 1 / det
                else:
                    size = c[0, f] * c[0, f] + c[1, f] * c[1, f] + 2 * off + EPS
                    p, r, q = c[0, f] / size, c[1, f] / size, -1 / size
                qr, qi = q * c[2, f], q * c[3, f]
                ar, ai = np.float64(x[0, t, first + f].real), np.float64(x[0, t, first + f].imag)
                br, bi = np.float64(x[1, t, first + f].real), np.float64(x[1, t, first + f].imag)
                z[0, f] = p * ar - qr * br + qi * bi
                z[1, f] = p * ai - qr * bi - qi * br
                z[2, f] = r * br - qr * ar - qi * ai
                z[3, f] = r * bi - qr * ai + qi * ar
            for j in range(len(y)):
                for f in range(last - first):
                    a, b, cr, ci = model[j, 0, f], model[j, 1, f], model[j, 2, f], model[j, 3, f]
                    y[j, 0, t, first + f] = power[j, f] * complex(a * z[0, f] + cr * z[2, f] - ci * z[3, f],
                                                                  a * z[1, f] + cr * z[3, f] + ci * z[2, f])
                    y[j, 1, t, first + f] = power[j, f] * complex(b * z[2, f] + cr * z[0, f] + ci * z[1, f],
                                                                  b * z[3, f] + cr * z[1, f] - ci * z[0, f])
