"""Spectrograms inside of nnabla graphs, with gradients: FFTs on a CPU, where nnabla multiplies by the whole matrix of
cosines and sines that it builds anew at every call; nnabla's functions on a GPU.
"""
import functools

import nnabla as nn
import nnabla.functions as F
import numpy as np
import scipy.fft

from common.audio.stft import istft, num_frames, overlap_add, stft, window, window_sum
from common.cpu.host_function import HostFunction, data_of, grad_of, store_gradient
from common.machine.context import on_gpu, wants_native
from common.machine.cores import num_threads
from common.machine.reshaping import reshape


def spectrum(x: nn.Variable, n_fft: int, hop_length: int,
             center: bool = True) -> tuple[nn.Variable, nn.Variable, nn.Variable]:
    """Transform waveforms as `common.separation.stft` does.

    Parameters
    ----------
    x : nn.Variable (batch, channels, samples)
    n_fft, hop_length : int
    center : bool

    Returns
    -------
    tuple of nn.Variable
        Real part, imaginary part and magnitude, each (frames, batch, channels, bins). On a GPU the magnitude of 0 has
        no gradient; here it is 0.

    Raises
    ------
    ValueError
        There is less than a frame, or another number of axes.
    """
    if x.ndim != 3:
        raise ValueError(f"x of shape {x.shape}: (batch, channels, samples) is wanted")
    if num_frames(x.shape[2], n_fft, hop_length, center) == 0:
        raise ValueError(f"no frame of {n_fft} samples in {x.shape[2]} samples")
    if not wants_native():
        return Spectrum(n_fft, hop_length, center)(x)
    batch, channels, samples = x.shape
    parts = F.stft(reshape(x, (batch * channels, samples)), n_fft, hop_length, n_fft, "hanning", center, "reflect")
    real, imag = (F.transpose(reshape(part, (batch, channels, *part.shape[1:])), (3, 0, 1, 2)) for part in parts)
    return real, imag, (real ** 2 + imag ** 2) ** 0.5


def masked_inverse(masks: nn.Variable, real: nn.Variable, imag: nn.Variable, hop_length: int) -> nn.Variable:
    """Apply the masks of several sources to a centred spectrum, and transform back.

    A mask times the mixture has the magnitude that the network estimates and the phase of the mixture.

    Parameters
    ----------
    masks : nn.Variable (frames, batch, sources channels, bins)
        Sources one after the other.
    real, imag : nn.Variable (frames, batch, channels, bins)
        They get no gradient.
    hop_length : int

    Returns
    -------
    nn.Variable (sources, batch, channels, (frames - 1) hop_length)
    """
    if not wants_native():
        return MaskedInverse(hop_length)(masks, real, imag)
    if on_gpu():
        return inverse_by_product(masks, real, imag, hop_length)
    frames, batch, channels, bins = real.shape
    sources = masks.shape[2] // channels
    by_source = F.transpose(reshape(masks, (frames, batch, sources, channels, bins)), (2, 1, 3, 4, 0))
    parts = (by_source * reshape(F.transpose(part, (1, 2, 3, 0)), (1, batch, channels, bins, frames))
             for part in (real, imag))
    flat = (reshape(part, (sources * batch * channels, bins, frames)) for part in parts)
    n_fft = 2 * (bins - 1)
    waveforms = F.istft(*flat, n_fft, hop_length, n_fft, "hanning", True, "constant")
    return reshape(waveforms, (sources, batch, channels, waveforms.shape[1]))


def inverse_by_product(masks: nn.Variable, real: nn.Variable, imag: nn.Variable, hop_length: int) -> nn.Variable:
    """What `masked_inverse` returns, by a matrix product and an overlapped sum of its parts.

    nnabla's own inverse is a transposed convolution with filters of a whole window, for which cuDNN 9 took 0.28 s of a
    step of 0.30 s on an H100. The window has to be a multiple of `hop_length`, as for nnabla.
    """
    frames, batch, channels, bins = real.shape
    sources, n_fft = masks.shape[2] // channels, 2 * (bins - 1)
    masks = reshape(masks, (frames, batch, sources, channels, bins))
    spectra = F.concatenate(*(masks * reshape(part, (frames, batch, 1, channels, bins)) for part in (real, imag)))
    matrix = nn.Variable.from_numpy_array(synthesis_matrix(n_fft))
    parts = n_fft // hop_length
    windows = reshape(F.affine(spectra, matrix, base_axis=4), (frames, -1, parts, hop_length))
    total = sum(F.pad(reshape(windows[:, :, p], (frames, -1, hop_length)), (p, parts - 1 - p, 0, 0, 0, 0))
                for p in range(parts))
    waveforms = reshape(F.transpose(total, (1, 0, 2)), (batch, sources, channels, -1))
    inner = slice(n_fft // 2, -(n_fft // 2))
    scale = nn.Variable.from_numpy_array(1 / window_sum(n_fft, hop_length, frames)[inner])
    return F.transpose(waveforms[..., inner], (1, 0, 2, 3)) * reshape(scale, (1, 1, 1, -1))


@functools.lru_cache(maxsize=2)
def synthesis_matrix(n_fft: int) -> np.ndarray:
    """float32 (2 bins, n_fft): from real parts, then imaginary parts, of a frame to its windowed samples."""
    samples, bins = np.arange(n_fft), np.arange(n_fft // 2 + 1)
    turns = 2 * np.pi / n_fft * (bins[:, None] * samples % n_fft)
    doubled = np.where(bins % (n_fft // 2) == 0, 1, 2)[:, None] / n_fft    # bins that stand for their conjugates, too
    both = np.concatenate([np.cos(turns), -np.sin(turns)]) * np.tile(doubled, (2, 1))
    return (both * window(n_fft)).astype(np.float32)


class Spectrum(HostFunction):
    """Real part, imaginary part and magnitude (frames, batch, channels, bins) of x (batch, channels, samples)."""

    def __init__(self, n_fft: int, hop_length: int, center: bool):
        super().__init__()
        self.n_fft, self.hop_length, self.center = n_fft, hop_length, center

    def min_outputs(self):
        return 3

    def setup_impl(self, inputs, outputs):
        batch, channels, samples = inputs[0].shape
        frames = num_frames(samples, self.n_fft, self.hop_length, self.center)
        for output in outputs:
            output.reset_shape((frames, batch, channels, self.n_fft // 2 + 1), True)

    def grad_depends_output_data(self, i, o):
        return True

    def grad_depends_input_data(self, i, j):
        return False

    def forward_impl(self, inputs, outputs):
        x = stft(data_of(inputs[0]), self.n_fft, self.hop_length, self.center).transpose(3, 0, 1, 2)
        for output, part in zip(outputs, (x.real, x.imag, np.abs(x)), strict=True):
            np.copyto(data_of(output), part)

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        if not propagate_down[0]:
            return
        real, imag, magnitude = (data_of(output) for output in outputs)
        to_real, to_imag, to_magnitude = (grad_of(output) for output in outputs)
        share = to_magnitude / np.where(magnitude > 0, magnitude, 1)
        g = (to_real + share * real) + 1j * (to_imag + share * imag)    # (frames, batch, channels, bins)
        g[..., 1:-1] /= 2    # irfft counts the inner bins twice
        frames = scipy.fft.irfft(g.transpose(1, 2, 0, 3), self.n_fft, workers=num_threads())
        frames *= (self.n_fft * window(self.n_fft)).astype(np.float32)
        dx = overlap_add(frames, self.hop_length)
        if self.center:
            dx = self._fold(dx, inputs[0].shape[-1])
        dx = np.pad(dx, [(0, 0), (0, 0), (0, inputs[0].shape[-1] - dx.shape[-1])])
        store_gradient(inputs[0], dx, accum[0])

    def _fold(self, dx, samples):
        """Add the gradients of the reflected samples to those that they were copied from."""
        index = np.pad(np.arange(samples), self.n_fft // 2, mode="reflect")[:dx.shape[-1]]
        folded = np.zeros((samples, *dx.shape[:-1]), dx.dtype)
        np.add.at(folded, index, np.moveaxis(dx, -1, 0))
        return np.moveaxis(folded, 0, -1)


class MaskedInverse(HostFunction):
    """Waveforms (sources, batch, channels, samples); inputs masks, real and imaginary part; gradients to the masks."""

    def __init__(self, hop_length: int):
        super().__init__()
        self.hop_length = hop_length

    def setup_impl(self, inputs, outputs):
        (_, _, stacked, _), (frames, batch, channels, _) = inputs[0].shape, inputs[1].shape
        outputs[0].reset_shape((stacked // channels, batch, channels, (frames - 1) * self.hop_length), True)

    def grad_depends_input_data(self, i, j):
        return j > 0

    def _views(self, inputs, masks):
        """Masks as (sources, batch, channels, frames, bins), spectrum as (batch, channels, frames, bins)."""
        real, imag = (data_of(variable).transpose(1, 2, 0, 3) for variable in inputs[1:])
        frames, batch, stacked, bins = masks.shape
        channels = real.shape[1]
        return masks.reshape(frames, batch, stacked // channels, channels, bins).transpose(2, 1, 3, 0, 4), real, imag

    def forward_impl(self, inputs, outputs):
        masks, real, imag = self._views(inputs, data_of(inputs[0]))
        mixture = real + 1j * imag
        for mask, y in zip(masks, data_of(outputs[0]), strict=True):    # one source at a time: complex spectra are big
            y[...] = istft((mask * mixture).swapaxes(-1, -2), self.hop_length)

    def backward_impl(self, inputs, outputs, propagate_down, accum):
        if not propagate_down[0]:
            return
        gradients, real, imag = self._views(inputs, grad_of(inputs[0]))
        frames, n_fft = real.shape[2], 2 * (real.shape[3] - 1)
        weights = window_sum(n_fft, self.hop_length, frames)
        w = (window(n_fft) / n_fft).astype(np.float32)
        for to_mask, g in zip(gradients, grad_of(outputs[0]), strict=True):
            padded = np.pad(g, [(0, 0), (0, 0), (n_fft // 2, n_fft // 2)]) / weights.astype(np.float32)
            framed = np.lib.stride_tricks.sliding_window_view(padded, n_fft, axis=-1)[..., ::self.hop_length, :]
            spectra = np.asarray(scipy.fft.rfft(framed * w, workers=num_threads()))
            spectra[..., 1:-1] *= 2    # irfft counts the inner bins twice
            value = real * spectra.real + imag * spectra.imag
            to_mask[...] = to_mask + value if accum[0] else value
