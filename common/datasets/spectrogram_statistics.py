"""Mean and standard deviation of the magnitude spectrograms of a data set, for each frequency bin."""
import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import attrs
import numpy as np

from common.audio.stft import num_frames, stft
from common.console.progress import progress
from common.datasets.multitrack import MIXTURE, Track
from common.datasets.prefetching import parallel_map
from common.machine.cache import cache_dir
from common.machine.errors import UserError
from common.machine.files import replacing
from common.reading.arrays import read_npz

BLOCK = 1 << 19    # samples read at once
FLOOR = 1e-4    # of the largest standard deviation


def spectrogram_statistics(tracks: Sequence[Track], n_fft: int = 4096, hop_length: int = 1024,
                           workers: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Compute mean and standard deviation over all frames of all tracks.

    The spectrogram is the magnitude of the centred STFT of the real mixture, averaged over the channels. Results are
    kept in the cache folder, as long as names, sizes and times of the files stay as they are; where that cannot be
    written to, they are computed anew each time.

    Parameters
    ----------
    tracks : not empty
    n_fft, hop_length
        In samples; `hop_length` <= `n_fft`.
    workers
        Threads.

    Returns
    -------
    mean, std : float32 (n_fft / 2 + 1,)
        The standard deviation is that of the population; 1 in bins that never change, and at least `FLOOR` of its
        maximum everywhere.
    """
    path = _cache_path(tracks, n_fft, hop_length)
    cached = None if path is None else _load(path, n_fft // 2 + 1)
    if cached is not None:
        return cached
    with parallel_map(workers, "statistics") as run_all:
        parts = run_all(lambda track: track_moments(track, n_fft, hop_length), tracks)
        total = _merge_all(progress(parts, total=len(tracks), desc="statistics"))
    mean, std = total.mean.astype(np.float32), _floored(total).astype(np.float32)
    if path is not None:
        _store(path, mean, std)
    return mean, std


@attrs.frozen(eq=False)
class Moments:
    """Of `count` frames: mean, and sum of the squared differences from it; float64 (bins,)."""

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    def merged(self, other: "Moments") -> "Moments":
        """Moments of both sets of frames together (Chan, Golub and LeVeque, 1979)."""
        count = self.count + other.count
        shift = other.mean - self.mean
        return Moments(count, self.mean + shift * (other.count / count),
                       self.scatter + other.scatter + shift ** 2 * (self.count * other.count / count))


def track_moments(track: Track, n_fft: int, hop_length: int) -> Moments:
    """Moments of the frames of one track, of which a block at a time is in memory."""
    with track.open() as read:
        signal = _reflected(lambda start, num: read(MIXTURE, start, num), track.num_frames, n_fft // 2)
        return _merge_all(map(_moments, _spectrograms(signal, n_fft, hop_length)))


def _reflected(read: Callable[[int, int], np.ndarray], samples: int, margin: int) -> Iterator[np.ndarray]:
    """Yield a signal in blocks (n, 2), with its reflection of `margin` samples at both ends."""
    if samples <= max(BLOCK, margin):
        yield np.pad(read(0, samples), ((margin, margin), (0, 0)), mode="reflect")
        return
    tail = read(0, margin + 1)
    yield tail[:0:-1]
    yield tail
    for start in range(margin + 1, samples, BLOCK):
        block = read(start, min(BLOCK, samples - start))
        yield block
        tail = np.concatenate([tail, block])[-margin - 1:]
    yield tail[-2::-1]


def _spectrograms(blocks: Iterable[np.ndarray], n_fft: int, hop_length: int) -> Iterator[np.ndarray]:
    """Yield the magnitudes, float64 (bins, frames), of a signal that comes in blocks (n, 2) and is padded already."""
    held = np.empty((0, 2), np.float32)
    for block in blocks:
        held = np.concatenate([held, block])
        frames = num_frames(len(held), n_fft, hop_length, center=False)
        if frames:
            spectrum = stft(held.T, n_fft, hop_length, center=False)    # (2, bins, frames)
            yield np.abs(spectrum).mean(axis=0, dtype=np.float64)
            held = held[frames * hop_length:]


def _moments(magnitude: np.ndarray) -> Moments:
    mean = magnitude.mean(axis=1)
    return Moments(magnitude.shape[1], mean, ((magnitude - mean[:, np.newaxis]) ** 2).sum(axis=1))


def _merge_all(parts: Iterable[Moments]) -> Moments:
    return functools.reduce(Moments.merged, parts)


def _floored(total: Moments) -> np.ndarray:
    variance = total.scatter / total.count
    # Rounding alone gives a bin that never changes a variance up to this, the bound of scikit-learn's StandardScaler.
    eps = np.finfo(np.float64).eps
    constant = variance <= total.count * eps * variance + (total.count * total.mean * eps) ** 2
    std = np.where(constant, 1.0, np.sqrt(variance))
    return np.maximum(std, FLOOR * std.max())


def _cache_path(tracks: Sequence[Track], n_fft: int, hop_length: int) -> Path | None:
    """Return where the results are kept; None for a user without home and cache."""
    keys = [[track.name, track.num_frames, _mixture_key(track)] for track in tracks]
    digest = hashlib.sha256(json.dumps([n_fft, hop_length, keys]).encode()).hexdigest()
    try:
        return cache_dir() / "statistics" / f"{digest[:32]}.npz"
    except UserError:
        return None


def _store(path: Path, mean: np.ndarray, std: np.ndarray) -> None:
    with contextlib.suppress(OSError, UserError):    # without a cache, the next run takes its time again
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, mean=mean, std=std)


def _mixture_key(track: Track) -> str | list:
    if MIXTURE in track.stems:
        return track.stems[MIXTURE].key()
    return [track.stems[source].key() for source in track.sources]


def _load(path: Path, bins: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return mean and std from the cache, None if they are not there or damaged."""
    try:
        arrays = read_npz(path, names=("mean", "std"))
    except UserError:
        return None
    mean, std = arrays["mean"], arrays["std"]
    sound = all(array.shape == (bins,) and array.dtype == np.float32 and np.isfinite(array).all()
                for array in (mean, std))
    return (mean, std) if sound else None
