"""Separation with X-UMX or UMX: spectrogram, masks, Wiener filter, and back."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nnabla as nn
import nnabla.functions as F
import numpy as np

from common.audio.headers import RATES
from common.audio.stft import istft, num_frames, stft
from common.inference.engines import compile_network
from common.machine.errors import UsageError
from common.reading.files import sha256_of
from common.runs.checkpoint import parameter_shapes
from common.runs.graphs import Graphs
from common.separation.separator import StemSeparator
from common.separation.streams import chunk_length
from common.separation.wiener import EPS, SMALLEST_EPS, multichannel_wiener, residual_model
from x_umx.separation import DEFAULT, NETWORK
from x_umx.weights import find_weights

KEPT = 2    # compiled networks, of the usual shape and an odd one; each holds the weights
RESIDUAL, ACCOMPANIMENT = "residual", "accompaniment"


class Separator(StemSeparator):
    """Splits music into stems.

        stems = Separator("xumx").separate(audio, sample_rate)    # {"vocals": array, ...}

    Parameters
    ----------
    model
        See `x_umx.weights.find_weights`.
    targets
        Sources to return, by name; None: all. A single one comes with its `accompaniment`, which is all the rest.
    niter
        Iterations of the Wiener filter; 0: the magnitudes of the network with the phase of the mixture.
    softmask
        Start the filter from ratios of the estimates instead of the estimates.
    alpha
        Exponent of the estimates for `softmask`.
    residual
        Model what the sources leave of the mixture as one more, called `residual`.
    wiener_eps, wiener_window
        `eps` and `window`, in frames, of `multichannel_wiener`. With 1e-10 and 300, and `chunk_seconds` None, the stems
        of several targets are those of `openunmix` 1.3.0, but for its residual.
    sample_rate
        Rate in Hz at which the network works; None: the one that it was trained at, as far as `find_weights` knows.
    umx_only
        Refuse weights of X-UMX.
    chunk_seconds, overlap, engine, precision
        See `StemSeparator`. The published code separates songs in one piece.

    Raises
    ------
    UsageError, UserError
        As `find_weights`; a value that is not allowed.
    """

    batch_size = 2

    def __init__(self, model: str | Path = DEFAULT, targets: Sequence[str] | None = None, *, niter: int = 1,
                 softmask: bool = False, alpha: float = 1.0, residual: bool = False, umx_only: bool = False,
                 wiener_eps: float = EPS, wiener_window: int | None = None, sample_rate: int | None = None,
                 chunk_seconds: float | None = NETWORK.chunk_seconds, overlap: float = NETWORK.overlap,
                 engine: str = "auto", precision: str = "float32"):
        if not isinstance(niter, (int, np.integer)) or niter < 0 or not 0 < alpha < np.inf:
            raise UsageError(f"niter {niter}, alpha {alpha}: niter is to be a whole number, at least 0, alpha a number "
                             "above 0")
        if not SMALLEST_EPS <= wiener_eps < np.inf or wiener_window is not None and wiener_window < 1:
            raise UsageError(f"a filter with an eps of {wiener_eps} and a window of {wiener_window}: they are to be at "
                             f"least {SMALLEST_EPS} and 1")
        if sample_rate is not None and sample_rate not in RATES:
            raise UsageError(f"a network at {sample_rate} Hz: it is to work at {RATES[0]} to {RATES[-1]} Hz")
        super().__init__(targets, chunk_seconds, overlap, engine, precision)
        self.files = find_weights(model, targets)
        if umx_only and len(self.files[0].sources) > 1:
            raise UsageError(f"--umx-infer: {model} is X-UMX; leave the flag out, or name weights of UMX")
        self.network, self.sample_rate = self.files[0].network, sample_rate or self.files[0].sample_rate
        self.sources = tuple(source for file in self.files for source in file.sources)
        self.targets = tuple(targets or self.sources)
        self.niter, self.softmask, self.alpha, self.residual = niter, softmask, alpha, residual
        self.wiener_eps, self.wiener_window = wiener_eps, wiener_window
        # UMX estimates only the targets; without a model of the rest the filter would share it out among them.
        single = len(self.targets) == 1
        self._model_rest = residual or (single and len(self.sources) == 1)
        extra = (ACCOMPANIMENT,) if single else (RESIDUAL,) if residual else ()
        self.stems = self.targets + extra
        self._networks = Graphs(KEPT)    # by (frames, batch)
        with self._scope():
            for file in self.files:
                with nn.parameter_scope(file.sources[0]):
                    file.load(parameter_shapes(lambda file=file: file.network.masks(self._magnitude(1, 1))))

    @property
    def complete(self) -> bool:
        return self.stems[-1] == ACCOMPANIMENT or set(self.targets) == set(self.sources)

    @property
    def adds_up(self) -> bool:
        return self.complete and self.niter > 0 and self.wiener_eps <= EPS    # a larger one leaves more than rounding

    def settings(self) -> dict[str, Any]:
        weights = [sha256_of(file.path) for file in self.files]
        return super().settings() | {"weights": weights, "niter": self.niter, "softmask": self.softmask,
                                     "alpha": self.alpha, "residual": self.residual,
                                     "wiener_eps": self.wiener_eps, "wiener_window": self.wiener_window,
                                     "sample_rate": self.sample_rate}

    def _magnitude(self, frames: int, batch: int) -> nn.Variable:
        sizes = self.network.sizes
        return nn.Variable((frames, batch, sizes.nb_channels, sizes.max_bin))

    def process(self, chunks: np.ndarray) -> np.ndarray:
        n_fft, hop_length = self.network.sizes.n_fft, self.network.hop_length
        spectra = stft(chunks.swapaxes(1, 2), n_fft, hop_length)    # (batch, 2, bins, frames)
        magnitudes = np.abs(spectra)
        masks = self._masks(magnitudes)
        out = np.empty((len(chunks), len(self.stems), *chunks.shape[1:]), np.float32)
        for item, spectrum in enumerate(spectra):
            stems = self._filter(masks[item] * magnitudes[item], spectrum)
            out[item] = istft(stems, hop_length, length=chunks.shape[1]).swapaxes(1, 2)
        return out

    @property
    def _chunk_frames(self) -> int | None:
        """Frames of a chunk that is not shortened."""
        length = chunk_length(self)
        return None if length is None else num_frames(length, self.network.sizes.n_fft, self.network.hop_length)

    def _masks(self, magnitudes: np.ndarray) -> np.ndarray:
        """Masks (batch, sources, 2 or 1, bins, frames) for magnitudes (batch, 2, bins, frames)."""
        sizes = self.network.sizes
        batch, _, _, frames = magnitudes.shape
        if sizes.nb_channels == 1:
            magnitudes = magnitudes.mean(1, keepdims=True)
        x = magnitudes[:, :, :sizes.max_bin].transpose(3, 0, 1, 2)
        # The last chunks of a signal rarely fill a batch: zeros beside them cost less than another compiled network.
        missing = max(0, self.batch_size - batch) if frames == self._chunk_frames else 0
        x = np.ascontiguousarray(np.pad(x, [(0, 0), (0, missing), (0, 0), (0, 0)]))
        network = self._networks.get((frames, batch + missing), lambda: compile_network(
            self.build_masks, [x.shape], self.engine, self.precision))
        masks, = network(x)
        masks = masks[:, :batch].reshape(frames, batch, len(self.sources), sizes.nb_channels, sizes.bins)
        return masks.transpose(1, 2, 3, 4, 0)

    def build_masks(self, magnitude: nn.Variable) -> nn.Variable:
        """Build the graph of the networks, in test mode.

        Parameters
        ----------
        magnitude : nn.Variable (frames, batch, channels, max_bin)

        Returns
        -------
        nn.Variable (frames, batch, sources channels, bins)
            The masks of `sources`, or those with axes that are reshaped to this.
        """
        masks = []
        with self._scope():
            for file in self.files:
                with nn.parameter_scope(file.sources[0]):
                    masks.append(file.network.masks(magnitude))
        return F.concatenate(*masks, axis=2) if len(masks) > 1 else masks[0]

    def _filter(self, estimates: np.ndarray, spectrum: np.ndarray) -> np.ndarray:
        """Refine magnitudes (sources, 2, bins, frames) to the spectra of the stems, (stems, 2, bins, frames)."""
        alpha = self.alpha if self.softmask else 1.0
        if alpha != 1:
            estimates = estimates.astype(np.float64) ** alpha    # loud music to the power of 15 is beyond float32
        if self._model_rest:
            estimates = residual_model(estimates, spectrum, alpha)
        refined = multichannel_wiener(estimates, spectrum, self.niter, self.softmask, eps=self.wiener_eps,
                                      window=self.wiener_window)
        if self.stems == self.sources:
            return refined
        index = [self.sources.index(target) for target in self.targets]
        if len(self.stems) == len(index):
            return refined[index]
        if self.stems[-1] == RESIDUAL:
            return refined[[*index, -1]]
        rest = refined[[k for k in range(len(refined)) if k not in index]].sum(0, keepdims=True)
        return np.concatenate([refined[index], rest])
