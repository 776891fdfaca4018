"""Short-time Fourier transform and its inverse: periodic Hann window, no scaling, frames centred by reflection.

The conventions of X-UMX, UMX and D3Net, and of librosa with `pad_mode="reflect"`.
"""
import functools
import math

import numpy as np
import scipy.fft

from common.cpu.parallel import run_parallel

_FRAMES_AT_ONCE = 64    # windowed frames of a signal that are computed together: they stay in the cache


@functools.cache
def window(n_fft: int) -> np.ndarray:
    """Periodic Hann window, float64 (n_fft,), read-only as it is shared."""
    # As scipy.signal computes it, which takes a third of a second to load.
    return _shared(0.5 + 0.5 * np.cos(np.linspace(-np.pi, np.pi, n_fft + 1)[:-1]))


def _shared(array):
    array.flags.writeable = False
    return array


def num_frames(num_samples: int, n_fft: int, hop_length: int, center: bool = True) -> int:
    """Number of frames of `stft`; 0 where a signal that is not centred is shorter than a frame."""
    padded = num_samples + 2 * (n_fft // 2) if center else num_samples
    return max(0, (padded - n_fft) // hop_length + 1)


def stft(x: np.ndarray, n_fft: int = 4096, hop_length: int = 1024, center: bool = True) -> np.ndarray:
    """Transform windowed frames: X[k, t] = sum over n of w[n] x[t hop + n] exp(-2 pi i k n / n_fft).

    Parameters
    ----------
    x : array (..., samples), of real numbers; float32 or float64, others are converted
    n_fft : int
        Length of frames and window, in samples; even.
    hop_length : int
        Distance of frames, in samples; at least 1.
    center : bool
        Reflect `n_fft / 2` samples at both ends first, so that frame t is centred on sample `t hop_length`.

    Returns
    -------
    complex array (..., n_fft / 2 + 1, frames)
        complex64 for float32. Frames lie next to each other in memory, as networks read them.

    Raises
    ------
    ValueError
        There is no sample, or less than a frame where `center` is false; no real numbers; a size that is not allowed.
    """
    x = np.asarray(x)
    if x.dtype.kind not in "fiub" or not x.ndim:
        raise ValueError(f"x of {x.dtype} {x.shape}: real numbers (..., samples) are wanted")
    _check_sizes(n_fft=n_fft, hop_length=hop_length)
    if n_fft % 2:
        raise ValueError(f"n_fft {n_fft}: an even number is wanted")
    x = x.astype(np.result_type(x, np.float32), copy=False)    # integers, too, need a window that is none
    frames = num_frames(x.shape[-1], n_fft, hop_length, center)
    if x.shape[-1] == 0 or frames == 0:
        raise ValueError(f"no frame of {n_fft} samples in {x.shape[-1]} samples")
    if center:
        x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(n_fft // 2, n_fft // 2)], mode="reflect")
    framed = np.lib.stride_tricks.sliding_window_view(x, n_fft, axis=-1)[..., ::hop_length, :]
    out = np.empty((*x.shape[:-1], frames, n_fft // 2 + 1), np.result_type(x.dtype, np.complex64))
    blocks = -(-frames // _FRAMES_AT_ONCE)
    run_parallel(_transform, blocks, out.size, framed, window(n_fft).astype(x.dtype), out)
    return out.swapaxes(-1, -2)


def istft(spectrogram: np.ndarray, hop_length: int = 1024, center: bool = True,
          length: int | None = None) -> np.ndarray:
    """Invert `stft`: windowed inverse transforms, overlap-added, over the overlap-added squared window.

    Parameters
    ----------
    spectrogram : complex array (..., n_fft / 2 + 1, frames)
        Imaginary parts of the lowest and highest bin are ignored.
        Other numbers are converted.
    hop_length : int
        At least 1.
    center : bool
        Whether the spectrogram was made with it: drop the padding at both ends.
    length : int or None
        Number of samples to return. With hops below half a frame, up to `hop_length - 1` more than
        (frames - 1) hop_length can be had, from the second half of the last frame, and so the signal that was
        transformed in full; beyond what the frames cover there are zeros. None: (frames - 1) hop_length if
        centred, otherwise all that the frames cover.

    Returns
    -------
    array (..., length), float32 for complex64

    Raises
    ------
    ValueError
        The spectrogram has no frame, a single bin, or no numbers; a size that is not allowed.
    """
    spectrogram = np.asarray(spectrogram)
    if spectrogram.dtype.kind not in "cfiub" or spectrogram.ndim < 2 or spectrogram.shape[-2] < 2 \
            or not spectrogram.shape[-1]:
        raise ValueError(f"spectrogram of {spectrogram.dtype} {spectrogram.shape}: numbers (..., bins, frames) of 2 "
                         "bins and 1 frame or more are wanted")
    _check_sizes(hop_length=hop_length)
    if length is not None:
        _check_sizes(0, length=length)
    spectrogram = spectrogram.astype(np.result_type(spectrogram, np.complex64), copy=False)
    n_fft, frames = 2 * (spectrogram.shape[-2] - 1), spectrogram.shape[-1]
    real = spectrogram.real.dtype
    spectra = spectrogram.reshape(math.prod(spectrogram.shape[:-2]), *spectrogram.shape[-2:])
    signals = np.zeros((len(spectra), n_fft + (frames - 1) * hop_length), real)
    run_parallel(_invert, len(spectra), spectra.size, spectra, hop_length, window(n_fft).astype(real),
                 window_sum(n_fft, hop_length, frames).astype(real), signals)
    signal = signals.reshape(*spectrogram.shape[:-2], signals.shape[-1])
    margin = n_fft // 2 if center else 0
    wanted = signal.shape[-1] - 2 * margin if length is None else length
    signal = signal[..., margin:margin + wanted]
    missing = wanted - signal.shape[-1]
    return np.pad(signal, [(0, 0)] * (signal.ndim - 1) + [(0, missing)]) if missing > 0 else signal


def _check_sizes(least: int = 1, **sizes: int) -> None:
    """Raise a ValueError for a size, given by its name, that is no whole number or less than `least`."""
    for name, size in sizes.items():
        if not isinstance(size, (int, np.integer)) or size < least:
            raise ValueError(f"{name} {size!r}: a whole number, at least {least}, is wanted")


# On each core; they count blocks of frames, and signals.


def _transform(start, stop, framed, w, out):
    for block in range(start, stop):
        part = np.s_[..., block * _FRAMES_AT_ONCE:(block + 1) * _FRAMES_AT_ONCE, :]
        out[part] = scipy.fft.rfft(framed[part] * w)


def _invert(start, stop, spectra, hop_length, w, weight, signals):
    for signal, spectrum in zip(signals[start:stop], spectra[start:stop], strict=True):
        for first in range(0, spectrum.shape[1], _FRAMES_AT_ONCE):
            waves = np.asarray(scipy.fft.irfft(spectrum[:, first:first + _FRAMES_AT_ONCE].T, len(w)))
            waves *= w
            part = overlap_add(waves, hop_length)
            signal[first * hop_length:first * hop_length + len(part)] += part
        signal /= weight


def overlap_add(frames: np.ndarray, hop_length: int) -> np.ndarray:
    """Add frames at distances of `hop_length`: (..., frames, n) -> (..., (frames - 1) hop_length + n)."""
    *batch, count, size = frames.shape
    pieces = -(-size // hop_length)
    if size % hop_length:
        frames = np.pad(frames, [(0, 0)] * (frames.ndim - 1) + [(0, pieces * hop_length - size)])
    frames = frames.reshape(*batch, count, pieces, hop_length)
    total = np.zeros((*batch, count + pieces - 1, hop_length), frames.dtype)
    for piece in range(pieces):
        total[..., piece:piece + count, :] += frames[..., piece, :]
    return total.reshape(*batch, -1)[..., :(count - 1) * hop_length + size]


@functools.lru_cache(maxsize=8)
def window_sum(n_fft: int, hop_length: int, frames: int) -> np.ndarray:
    """Overlap-added squared window, float64 ((frames - 1) hop_length + n_fft,), read-only; 1 where it vanishes."""
    squared = np.broadcast_to(window(n_fft) ** 2, (frames, n_fft))
    total = overlap_add(squared, hop_length)
    # The outermost samples of signals that are not centred have weight 0: nothing is known of them.
    return _shared(np.where(total > 1e-10, total, 1))
