"""Spectrograms of songs, computed block by block: in memory for one block of frames."""
from collections.abc import Callable, Iterator

import numpy as np

from common.audio.spool import Spool
from common.audio.stft import istft, num_frames, stft

BLOCK = 256    # frames


class Spectrogram:
    """The short-time Fourier transform of a song, whose frames are computed when they are asked for.

    Parameters
    ----------
    signal : float32 array (samples, channels)
        Or a spool of such.
    n_fft, hop_length : int
        As for `common.separation.stft`; four hops make a frame, or more.
    """

    def __init__(self, signal: np.ndarray | Spool, n_fft: int, hop_length: int):
        assert n_fft % (2 * hop_length) == 0 and n_fft >= 4 * hop_length, (n_fft, hop_length)
        self._signal = signal
        self.n_fft, self.hop_length = n_fft, hop_length
        self.num_samples, self.num_frames = len(signal), num_frames(len(signal), n_fft, hop_length)

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Return frames from `start` to `stop`, complex64 (channels, bins, stop - start)."""
        first = start * self.hop_length - self.n_fft // 2
        samples = self._samples(first, first + (stop - start - 1) * self.hop_length + self.n_fft)
        return stft(samples.T, self.n_fft, self.hop_length, center=False)

    def _samples(self, start: int, stop: int) -> np.ndarray:
        """Return samples (stop - start, channels) of the signal, which is reflected at its ends, as often as needed."""
        if start >= 0 and stop <= self.num_samples:
            return self._signal[start:stop]
        last = self.num_samples - 1
        index = np.abs((np.arange(start, stop) + last) % max(1, 2 * last) - last)
        return self._signal[index.min():index.max() + 1][index - index.min()]

    def magnitudes(self, start: int, stop: int) -> np.ndarray:
        """Return magnitudes of frames, float32 (stop - start, channels, bins), as networks read them."""
        return np.abs(self.frames(start, stop)).transpose(2, 0, 1)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield pairs (start, stop) of frames that divide the song."""
        for start in range(0, self.num_frames, BLOCK):
            yield start, min(start + BLOCK, self.num_frames)

    def resynthesize(self, spectra: Callable[[int, int], np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        """Turn spectra of the song's frames into signals of its length.

        Parameters
        ----------
        spectra : callable
            `spectra(start, stop)` returns complex64 (..., bins, stop - start); frames where blocks meet are asked for
            twice.

        Yields
        ------
        int
            Where a block of samples begins.
        float32 array (..., samples)
            The block.
        """
        reach = self.n_fft // 2    # of a frame, in samples to both sides of its centre
        neighbours = reach // self.hop_length
        for start, stop in self.blocks():
            first = start * self.hop_length
            last = self.num_samples if stop == self.num_frames else stop * self.hop_length
            low, high = max(0, start - neighbours + 1), min(self.num_frames, stop + neighbours)
            offset = low * self.hop_length - reach    # of what the frames cover
            signals = istft(spectra(low, high), self.hop_length, center=False)
            yield first, signals[..., first - offset:last - offset]
