"""The multichannel Wiener filter of `norbert`, in closed form for two channels, compiled and in double precision."""
import numba
import numpy as np

from common.cpu_kernels import run_parallel

EPS = np.finfo(np.float64).eps
_BINS = 32    # treated together: the frames of so many bins of all sources stay in the cache


def multichannel_wiener(magnitudes, mixture, iterations=1, softmask=False):
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

    Returns
    -------
    complex array (sources, channels, bins, frames)
        complex64 for a complex64 mixture; arithmetic is in double precision either way, as the determinants cancel
        for nearly monophonic audio.

    Raises
    ------
    ValueError
        The shapes do not fit.

    References
    ----------
    Open-Unmix (JOSS 2019, doi 10.21105/joss.01667); `norbert.wiener`.
    """
    if magnitudes.shape[1:] != mixture.shape:
        raise ValueError(f"magnitudes {magnitudes.shape} are not (sources, *{mixture.shape})")
    if mixture.shape[0] > 2:
        return _many_channels(magnitudes, mixture, iterations, softmask)
    # Bins last, as the transform leaves them: loops run along neighbours in memory.
    x = np.ascontiguousarray(mixture.swapaxes(-1, -2))
    v = np.ascontiguousarray(magnitudes.swapaxes(-1, -2))
    y = np.empty(v.shape, x.dtype)
    blocks = -(-x.shape[-1] // _BINS)
    run_parallel(_first_estimates, blocks, y.size, v, x, softmask, y)
    if iterations:
        scale = max(1.0, float(np.abs(x).max(initial=0)) / 10)
        update = _update_stereo if len(x) == 2 else _update_mono
        run_parallel(update, blocks, y.size, x, iterations, scale, y)
    return y.swapaxes(-1, -2)


def residual_model(magnitudes, mixture, alpha=1.0):
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


def _many_channels(magnitudes, mixture, iterations, softmask):
    import norbert  # here alone, as it brings nothing to mono and stereo

    x = mixture.transpose(2, 1, 0).astype(np.complex128)    # (frames, bins, channels); norbert scales it in place
    y = norbert.wiener(magnitudes.transpose(3, 2, 1, 0).astype(np.float64), x, iterations, softmask)
    return y.transpose(3, 2, 1, 0).astype(mixture.dtype)


# Arrays are (channels, frames, bins) or (sources, channels, frames, bins); `start` and `stop` count blocks of bins.

_compile = numba.njit(nogil=True, cache=True, error_model="numpy")


@_compile
def _first_estimates(start, stop, v, x, softmask, y):
    sources, channels, frames, bins = v.shape
    for c in range(channels):
        for t in range(frames):
            for f in range(start * _BINS, min(stop * _BINS, bins)):
                value = np.complex128(x[c, t, f])
                if softmask:
                    total = EPS
                    for j in range(sources):
                        total += v[j, c, t, f]
                    factor = value / total
                else:
                    size = np.sqrt(value.real ** 2 + value.imag ** 2)
                    factor = value / size if size > 0 else np.complex128(1)    # the phase of 0 is 0
                for j in range(sources):
                    y[j, c, t, f] = v[j, c, t, f] * factor


@_compile
def _update_mono(start, stop, x, iterations, scale, y):
    """With one channel R_j is 1, and the inverse norbert's."""
    sources, _, frames, bins = y.shape
    power = np.empty(sources)
    for f in range(start * _BINS, min(stop * _BINS, bins)):
        for _ in range(iterations):
            weight = np.full(sources, EPS)
            covariance = np.zeros(sources)
            for j in range(sources):
                for t in range(frames):
                    covariance[j] += (y[j, 0, t, f].real / scale) ** 2 + (y[j, 0, t, f].imag / scale) ** 2
                weight[j] += covariance[j]
                covariance[j] /= weight[j]
            for t in range(frames):
                total = np.sqrt(EPS)
                for j in range(sources):
                    power[j] = (y[j, 0, t, f].real / scale) ** 2 + (y[j, 0, t, f].imag / scale) ** 2
                    total += power[j] * covariance[j]
                for j in range(sources):
                    y[j, 0, t, f] = power[j] * covariance[j] / (total + EPS) * x[0, t, f]


@_compile
def _update_stereo(start, stop, x, iterations, scale, y):
    for block in range(start, stop):
        first = block * _BINS
        last = min(first + _BINS, x.shape[2])
        for _ in range(iterations):
            model = _spatial_model(y, first, last, scale)
            for t in range(y.shape[2]):
                _filter_frame(t, first, last, x, y, model, scale)


@_compile
def _spatial_model(y, first, last, scale):
    """Covariances of the sources: (sources, 4, bins), of which r00, r11, and real and imaginary part of r01."""
    sources, _, frames, _ = y.shape
    model = np.zeros((sources, 4, last - first))
    for j in range(sources):
        for t in range(frames):
            for f in range(last - first):
                a, b = y[j, 0, t, first + f], y[j, 1, t, first + f]
                ar, ai = np.float64(a.real) / scale, np.float64(a.imag) / scale
                br, bi = np.float64(b.real) / scale, np.float64(b.imag) / scale
                model[j, 0, f] += ar * ar + ai * ai
                model[j, 1, f] += br * br + bi * bi
                model[j, 2, f] += ar * br + ai * bi
                model[j, 3, f] += ai * br - ar * bi
        for f in range(last - first):
            weight = EPS + (model[j, 0, f] + model[j, 1, f]) / 2
            for k in range(4):
                model[j, k, f] /= weight
    return model


@_compile
def _filter_frame(t, first, last, x, y, model, scale):
    """Replace the estimates of frame t; estimates and mixture are thought of as divided by `scale`."""
    sources = len(y)
    power = np.empty((sources, last - first))
    c00, c11 = np.full(last - first, np.sqrt(EPS)), np.full(last - first, np.sqrt(EPS))
    c01r, c01i = np.zeros(last - first), np.zeros(last - first)
    for j in range(sources):
        for f in range(last - first):
            a, b = y[j, 0, t, first + f], y[j, 1, t, first + f]
            ar, ai = np.float64(a.real) / scale, np.float64(a.imag) / scale
            br, bi = np.float64(b.real) / scale, np.float64(b.imag) / scale
            p = (ar * ar + ai * ai + br * br + bi * bi) / 2
            power[j, f] = p
            c00[f] += p * model[j, 0, f]
            c11[f] += p * model[j, 1, f]
            c01r[f] += p * model[j, 2, f]
            c01i[f] += p * model[j, 3, f]
    for f in range(last - first):
        # z = C^-1 x once for all sources.
        x0, x1 = np.complex128(x[0, t, first + f]), np.complex128(x[1, t, first + f])
        c01 = complex(c01r[f], c01i[f])
        det = c00[f] * c11[f] - (c01r[f] * c01r[f] + c01i[f] * c01i[f])
        z0 = (c11[f] * x0 - c01 * x1) / det
        z1 = (c00[f] * x1 - c01.conjugate() * x0) / det
        for j in range(sources):
            r01 = complex(model[j, 2, f], model[j, 3, f])
            y[j, 0, t, first + f] = power[j, f] * (model[j, 0, f] * z0 + r01 * z1)
            y[j, 1, t, first + f] = power[j, f] * (r01.conjugate() * z0 + model[j, 1, f] * z1)
