"""Separation by networks that export.py wrote, with numpy and onnxruntime alone, on any Python from 3.10 on.

    from onnx_separator import OnnxSeparator
    stems = OnnxSeparator("d3net-mss-onnx").separate(audio)    # (samples, 2) at 44.1 kHz -> {"vocals": array, ...}

It does what `d3net.music.separator.Separator` does by default: the short-time Fourier transform of the whole song, the
networks on overlapping patches of it and of the song with its sides swapped, the multichannel Wiener filter, and back.
The song and its spectrogram are in memory.
"""
from pathlib import Path

import numpy as np
import onnxruntime

from common.audio.numpy_stft import istft, stereo, stft

TARGETS = ("vocals", "drums", "bass", "other")
RESIDUAL = "residual"
EPS = np.finfo(np.float64).eps
SINGULAR, COHERENT = 1e-10, 1e-12    # determinants that the filter does not divide by, absolute and by their terms
FRAMES = 64    # that the filter treats at once, to save memory


class OnnxSeparator:
    """Splits stereo music into stems.

    Parameters
    ----------
    folder : str
        With a file TARGET.onnx for each target. Their metadata say sample rate, transform and patches.
    targets : sequence of str or None
        Which of them to separate; None: all. Less than all four come with the `residual`, the rest of the mixture.

    Attributes
    ----------
    targets, stems : list of str
        What the networks estimate, and what `separate` returns.
    sample_rate : int
        In Hz; audio is to have it.

    Raises
    ------
    FileNotFoundError
        No such networks are in the folder.
    ValueError
        `targets` is a name, not a list.
    """

    def __init__(self, folder: str, targets: list[str] | None = None):
        if isinstance(targets, str):
            raise ValueError(f"targets {targets!r}: a list of names is wanted, as [{targets!r}]")
        names = targets or sorted((path.stem for path in Path(folder).glob("*.onnx")),
                                  key=lambda name: (TARGETS + (name,)).index(name))
        sessions = {name: onnxruntime.InferenceSession(str(Path(folder) / f"{name}.onnx"),
                                                       providers=["CPUExecutionProvider"]) for name in names}
        self._networks = {name: Network(session) for name, session in sessions.items()
                          if "patch_length" in session.get_modelmeta().custom_metadata_map}
        if not self._networks:
            raise FileNotFoundError(f"{folder}: no TARGET.onnx of export.py mss in this folder")
        self.targets = list(self._networks)
        self.stems = self.targets + ([] if set(TARGETS) <= set(self.targets) else [RESIDUAL])
        (self.sample_rate, self.n_fft, self.hop_length), = {
            (network.sample_rate, network.n_fft, network.hop_length) for network in self._networks.values()}

    def separate(self, audio: np.ndarray, flip: bool = True) -> dict[str, np.ndarray]:
        """Split audio (samples, 2) into {stem: float32 array (samples, 2)}; without `flip` in half the time."""
        audio = stereo(audio)
        mixture = stft(audio, self.n_fft, self.hop_length)    # (frames, 2, bins)
        models = self._models(mixture, flip)
        solved = solve(models, mixture)
        return {name: istft(model.filtered(solved), self.hop_length, len(audio)).astype(np.float32)
                for name, model in zip(self.stems, models, strict=True)}

    def _models(self, mixture: np.ndarray, flip: bool) -> list["SourceModel"]:
        """Run the networks; returns what the filter knows of each stem."""
        magnitudes, models = np.abs(mixture), []
        rest = magnitudes.copy()
        for network in self._networks.values():
            estimate = network.estimate(magnitudes, flip)
            models.append(SourceModel(estimate, mixture))
            rest -= estimate
        if RESIDUAL in self.stems:
            np.maximum(rest, 0, out=rest)
            # The highest bins, which networks copy, say nothing of the rest: there it is as strong as the sources that
            # are missing would be, each like a target.
            copied = slice(min(network.estimated_bins for network in self._networks.values()), None)
            missing = max(1, len(TARGETS) - len(self.targets))
            rest[:, :, copied] = np.sqrt(np.float32(missing)) * magnitudes[:, :, copied]
            models.append(SourceModel(rest, mixture))
        return models


class Network:
    """The network of one target, on overlapping patches of frames."""

    def __init__(self, session: onnxruntime.InferenceSession):
        self.session = session
        metadata = session.get_modelmeta().custom_metadata_map
        (self.sample_rate, self.n_fft, self.hop_length, self.patch_length, self.patch_shift, self.estimated_bins) = (
            int(metadata[key]) for key in (
                "sample_rate", "n_fft", "hop_length", "patch_length", "patch_shift", "estimated_bins"))

    def estimate(self, magnitudes: np.ndarray, flip: bool) -> np.ndarray:
        """Average what the network makes of the patches that cover a frame: float32 (frames, 2, bins), both of them."""
        frames, length = len(magnitudes), self.patch_length
        before = length - self.patch_shift    # the first patch begins so many frames before the song
        padded = frames + length - frames % length
        total, count = np.zeros_like(magnitudes), np.zeros((frames, 1, 1), np.float32)
        for start in range(-before, min(padded - before, frames), self.patch_shift):
            inside = slice(max(start, 0), min(start + length, frames))
            patch = np.zeros((1, length, *magnitudes.shape[1:]), np.float32)    # silence outside of the song
            part = slice(inside.start - start, inside.stop - start)
            patch[0, part] = magnitudes[inside]
            total[inside] += self._run(patch, flip)[part]
            count[inside] += 1
        return total / count

    def _run(self, patch: np.ndarray, flip: bool) -> np.ndarray:
        batch = np.concatenate([patch, patch[:, :, ::-1]]) if flip else patch
        estimates = np.asarray(self.session.run(None, {"magnitude": batch})[0])
        return (estimates[0] + estimates[1, :, ::-1]) / 2 if flip else estimates[0]


class SourceModel:
    """What the Wiener filter knows of a source: v(t, f), mean power of its channels, and R(f), its covariance.

    The filter returns v_j R_j C^-1 x with C = sum over k of v_k R_k. 1e-10 of the largest v in the song is added to v.

    Parameters
    ----------
    estimate : float32 (frames, 2, bins)
        Magnitudes.
    mixture : complex64 (frames, 2, bins)
    """

    def __init__(self, estimate: np.ndarray, mixture: np.ndarray):
        self._power = np.empty((len(estimate), estimate.shape[2]), np.float32)
        sums = np.zeros((3, estimate.shape[2]), np.complex128)    # of the covariance: r00, r11, r01
        for part in blocks(len(estimate)):
            size = np.abs(mixture[part]).astype(np.float64)
            phase = np.where(size > 0, mixture[part] / np.where(size > 0, size, 1), 1)    # that of 0 is 0
            left, right = (estimate[part] * phase).swapaxes(0, 1)
            products = np.abs(left) ** 2, np.abs(right) ** 2, left * right.conj()
            self._power[part] = (products[0] + products[1]) / 2
            sums += [product.sum(0) for product in products]
        self._floor = 1e-10 * float(self._power.max())
        weight = (sums[0].real + sums[1].real) / 2 + len(estimate) * self._floor + EPS
        self.covariance = sums[0].real / weight, sums[1].real / weight, sums[2] / weight

    def power(self, part: slice) -> np.ndarray:
        """Return v of frames, float64 (frames, bins)."""
        return self._power[part].astype(np.float64) + self._floor

    def filtered(self, solved: np.ndarray) -> np.ndarray:
        """Return the source, complex64 (frames, 2, bins), for what `solve` returns."""
        out, (r00, r11, r01) = np.empty(solved.shape, np.complex64), self.covariance
        for part in blocks(len(solved)):
            power, (left, right) = self.power(part), solved[part].swapaxes(0, 1)
            out[part, 0] = power * (r00 * left + r01 * right)
            out[part, 1] = power * (r01.conj() * left + r11 * right)
        return out


def solve(models: list[SourceModel], mixture: np.ndarray) -> np.ndarray:
    """Return C^-1 x of the Wiener filter for a mixture x (frames, 2, bins): complex128 of its shape.

    Where C is singular, as for mono music in two channels, its pseudo-inverse takes the place of the inverse.
    """
    solved = np.empty(mixture.shape, np.complex128)
    for part in blocks(len(mixture)):
        left, right = mixture[part].astype(np.complex128).swapaxes(0, 1)
        c00, c11, c01 = (sum(model.power(part) * model.covariance[k] for model in models) for k in range(3))
        off = np.abs(c01) ** 2
        determinant = c00 * c11 - off
        regular = np.abs(determinant) >= np.maximum(SINGULAR, COHERENT * c00 * c11)
        size = np.where(regular, determinant, c00 ** 2 + c11 ** 2 + 2 * off + EPS)
        p, r = np.where(regular, c11, c00) / size, np.where(regular, c00, c11) / size
        q = np.where(regular, 1, -1) * c01 / size
        solved[part, 0], solved[part, 1] = p * left - q * right, r * right - q.conj() * left
    return solved


def blocks(frames: int) -> list[slice]:
    """Divide a number of frames."""
    return [slice(start, start + FRAMES) for start in range(0, frames, FRAMES)]
