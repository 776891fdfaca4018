"""What the page to listen to says of a track: loudness, peak, and a spectrogram of bounded size."""
import math
from pathlib import Path

import attrs
import numpy as np

from common.audio.files import AudioReader
from common.audio.loudness import LoudnessMeter
from common.audio.spool import BLOCK
from common.audio.stft import stft

ROWS, COLUMNS = 128, 900    # of a spectrogram
LOWEST, HIGHEST = 30.0, 20_000.0    # Hz, of its frequencies at most
FLOOR = -120.0    # dB, for silence
_WINDOW_SECONDS = 0.08


@attrs.frozen(eq=False)
class Levels:
    """What was measured of a track.

    Attributes
    ----------
    loudness : float or None
        In LUFS, as `common.audio.loudness.LoudnessMeter.integrated` returns it.
    peak : float
        In dB of full scale; -inf for silence.
    spectrogram : float32 (ROWS, columns)
        In dB, 0 for a sine of full scale; the first row is the lowest frequency.
    sample_rate : int
        Hz.
    """

    loudness: float | None
    peak: float
    spectrogram: np.ndarray
    sample_rate: int


def measure(path: str | Path, frames: int) -> Levels:
    """Measure an audio file, block by block.

    Parameters
    ----------
    path
    frames
        About how many it has; the spectrogram is as long.

    Raises
    ------
    UsageError, UserError
        As `AudioReader`.
    """
    with AudioReader(path) as reader:
        meter = LoudnessMeter(reader.sample_rate, reader.channels)
        spectrogram = BoundedSpectrogram(reader.sample_rate, frames)
        while len(block := reader.read(BLOCK)):
            meter.add(block)
            spectrogram.add(block)
        peak = 20 * math.log10(meter.peak) if meter.peak else -math.inf
        return Levels(meter.integrated(), peak, spectrogram.decibels(), reader.sample_rate)


def frequency_range(sample_rate: int) -> tuple[float, float]:
    """Return the lowest and the highest frequency of a spectrogram, in Hz."""
    return LOWEST, min(HIGHEST, sample_rate / 2)


class BoundedSpectrogram:
    """A spectrogram of a signal of any length, in `COLUMNS` columns at most.

    Rows are bands of equal width on a logarithmic scale. Each shows the strongest of its bins, of the mean power of the
    channels and of the frames in a column.

    Parameters
    ----------
    sample_rate
        Hz.
    frames
        Samples of a channel; those after them belong to the last column.
    """

    def __init__(self, sample_rate: int, frames: int):
        self._n_fft = 2 ** math.ceil(math.log2(_WINDOW_SECONDS * sample_rate))
        self._hop = max(1, min(frames // COLUMNS, self._n_fft // 2))
        self._num = max(1, -(-frames // self._hop))    # transforms
        self._first, self._last = _bands(sample_rate, self._n_fft)
        self._power = np.zeros((min(COLUMNS, self._num), ROWS))
        self._counts = np.zeros(len(self._power), int)
        self._held: np.ndarray | None = None    # the samples from the next transform on
        self._done = 0    # transforms

    def add(self, block: np.ndarray) -> None:
        """Take more of the signal into account, float (n, channels)."""
        if self._held is None:    # the first transform is centred on the first sample
            self._held = np.zeros((self._n_fft // 2, block.shape[1]), np.float32)
        self._held = np.concatenate([self._held, block.astype(np.float32)])
        self._transform()

    def decibels(self) -> np.ndarray:
        """Return the spectrogram of all so far, float32 (ROWS, columns), of `FLOOR` at least."""
        if self._held is not None:    # silence follows, until the last transform is done
            missing = max(0, (self._num - self._done - 1) * self._hop + self._n_fft - len(self._held))
            self._held = np.pad(self._held, [(0, missing), (0, 0)])
            self._transform()
        power = self._power.T / np.maximum(1, self._counts)
        return (10 * np.log10(np.maximum(power, 10 ** (FLOOR / 10)))).astype(np.float32)

    def _transform(self):
        held = self._held
        assert held is not None
        if len(held) < self._n_fft:
            return
        transforms = stft(held.T, self._n_fft, self._hop, center=False)    # (channels, bins, transforms)
        num = transforms.shape[2]
        self._held = held[num * self._hop:]
        # The window sums to n_fft / 2. Squares may be beyond float32.
        power = np.square(np.abs(transforms), dtype=np.float64).mean(0) * (4 / self._n_fft) ** 2
        bands = [power[first:last].max(0) for first, last in zip(self._first, self._last, strict=True)]
        columns = np.minimum((self._done + np.arange(num)) * len(self._counts) // self._num, len(self._counts) - 1)
        np.add.at(self._power, columns, np.stack(bands, axis=1))
        np.add.at(self._counts, columns, 1)
        self._done += num


def _bands(sample_rate: int, n_fft: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first bin of each row, and the one after its last; a row that holds none takes the nearest."""
    low, high = frequency_range(sample_rate)
    edges = low * (high / low) ** (np.arange(2 * ROWS + 1) / (2 * ROWS)) * n_fft / sample_rate    # in bins, and centres
    first, last = np.ceil(edges[:-2:2]).astype(int), np.ceil(edges[2::2]).astype(int)
    nearest = np.minimum(np.rint(edges[1::2]).astype(int), n_fft // 2)
    is_empty = first >= last
    return np.where(is_empty, nearest, first), np.where(is_empty, nearest + 1, last)
