"""The transform of `common.audio.stft` by numpy alone, for files that run without this repository."""
import numpy as np


def stereo(audio: np.ndarray) -> np.ndarray:
    """Return audio as float32 (samples, 2); ValueError if it has another shape, no samples, or some that are no number.

    Integers are refused, too: they would be taken for music thousands of times too loud.
    """
    audio = np.asarray(audio)
    if audio.ndim != 2 or audio.shape[1] != 2 or not len(audio):
        raise ValueError(f"audio of shape {audio.shape}: (samples, 2) is wanted")
    samples = audio.astype(np.float32)
    if audio.dtype.kind != "f" or not np.isfinite(samples).all():
        raise ValueError(f"audio of type {audio.dtype}: finite floating-point samples of full scale 1 are wanted; "
                         "divide integers by the largest that they can be")
    return samples


def hann(n_fft: int) -> np.ndarray:
    """Periodic Hann window."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)


def stft(audio: np.ndarray, n_fft: int, hop_length: int) -> np.ndarray:
    """Transform (samples, channels) to complex64 (frames, channels, bins), with frames centred by reflection."""
    padded = np.pad(audio, [(n_fft // 2, n_fft // 2), (0, 0)], mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft, axis=0)[::hop_length]
    spectrum, window = np.empty((*frames.shape[:2], n_fft // 2 + 1), np.complex64), hann(n_fft)
    for index, frame in enumerate(frames):
        spectrum[index] = np.fft.rfft(frame * window)
    return spectrum


def istft(spectrum: np.ndarray, hop_length: int, length: int) -> np.ndarray:
    """Invert `stft`: complex (frames, channels, bins) to (length, channels)."""
    n_fft = 2 * (spectrum.shape[2] - 1)
    window = hann(n_fft)
    size = n_fft + (len(spectrum) - 1) * hop_length
    signal, weight = np.zeros((size, spectrum.shape[1])), np.zeros((size, 1))
    for index, frame in enumerate(spectrum):
        part = slice(index * hop_length, index * hop_length + n_fft)
        signal[part] += (np.fft.irfft(frame, n_fft) * window).T
        weight[part, 0] += window ** 2
    signal = (signal / np.where(weight > 1e-10, weight, 1))[n_fft // 2:][:length]
    return np.pad(signal, [(0, length - len(signal)), (0, 0)])
