"""UMX and X-UMX: networks that estimate masks of sources on the magnitude spectrogram of a mixture.

UMX has one network per source. X-UMX runs those of all sources together and averages across them twice ("crossing"),
which needs no parameters. Spectrograms are (frames, batch, channels, bins).
"""
import itertools
import math
import re
from collections.abc import Mapping, Sequence

import attrs
import nnabla as nn
import nnabla.functions as F
import numpy as np
from nnabla.initializer import ConstantInitializer
from nnabla.parameter import get_parameter_or_create

from common.audio.stft_functions import masked_inverse, spectrum
from common.layers import affine, average, feature_normalization, relu, scale_shift, tanh
from common.layers.recurrent import lstm
from common.machine.errors import UserError
from common.machine.reshaping import reshape
from common.runs.config import flag, integer, number

SOURCES = ("bass", "drums", "vocals", "other")    # the order in which X-UMX stacks them
SAMPLE_RATE = 44100


def max_bin(sample_rate: int, n_fft: int, bandwidth: float) -> int:
    """Number of bins whose frequency is at most `bandwidth`, of n_fft / 2 + 1 from 0 to half the rate; all in Hz."""
    return int(np.sum(np.linspace(0, sample_rate / 2, n_fft // 2 + 1) <= bandwidth))


@attrs.frozen(kw_only=True)
class Sizes:
    """What determines the shapes of the parameters.

    The published ones are the defaults: bins up to 16 kHz enter, all are estimated. `hidden_size` counts both
    directions of an LSTM; with `unidirectional` there is one.

    Raises
    ------
    ValueError
        There is no network of these sizes.
    """

    n_fft: int = integer(4096, at_least=16, at_most=1 << 20)
    nb_channels: int = integer(2, at_least=1, at_most=2)
    hidden_size: int = integer(512, at_least=1, at_most=1 << 14)
    nb_layers: int = integer(3, at_least=1, at_most=64)
    max_bin: int = integer(1487, at_least=1)
    unidirectional: bool = flag(False)

    def __attrs_post_init__(self) -> None:
        if self.n_fft % 2:
            raise ValueError(f"n_fft = {self.n_fft} must be even")
        if self.max_bin > self.bins:
            raise ValueError(f"max_bin = {self.max_bin}: a spectrum with n_fft = {self.n_fft} has {self.bins} bins")
        if self.hidden_size % 2 and not self.unidirectional:
            raise ValueError(f"hidden_size = {self.hidden_size} must be even: half of it is for each direction")

    @property
    def bins(self) -> int:
        """Number of bins of a spectrum."""
        return self.n_fft // 2 + 1

    @property
    def lstm_size(self) -> int:
        """Hidden size of a direction."""
        return self.hidden_size if self.unidirectional else self.hidden_size // 2


def sizes_from_shapes(shapes: Mapping[str, tuple[int, ...]], source: str | None = None) -> Sizes:
    """Infer the sizes of a network from the shapes of its parameters.

    Parameters
    ----------
    shapes
    source
        A source of X-UMX; None for UMX, whose names have no suffix.

    Raises
    ------
    UserError
        These are not the parameters of such a network.
    """
    suffix = f"_{source}" if source else ""
    try:
        (rows, hidden), (bins,) = shapes[f"fc1{suffix}/affine/W"], shapes[f"output_mean{suffix}"]
        (used,), (layers, directions, _, _) = shapes[f"input_mean{suffix}"], shapes[f"lstm{suffix}/lstm/bias"]
    except (KeyError, ValueError) as error:
        raise UserError("weights of another network: no fc1, input_mean, output_mean and lstm of "
                        f"{'the source ' + source if source else 'UMX'} in it") from error
    if not 0 < used <= bins or rows % used:
        raise UserError(f"weights of another network: fc1 takes {rows} values, input_mean has {used}")
    try:
        sizes = Sizes(n_fft=2 * (bins - 1), nb_channels=rows // used, hidden_size=hidden, nb_layers=layers,
                      max_bin=used, unidirectional=directions == 1)
    except ValueError as error:
        raise UserError(f"weights of another network: {error}") from error
    needed = hidden * (2 * hidden + sizes.nb_channels * bins) + layers * 4 * sizes.lstm_size * hidden
    present = sum(map(math.prod, shapes.values()))
    if 4 * present < needed:    # to build it, and then to say which are missing, would take more memory than there is
        raise UserError(f"weights of another network: {present} numbers, and one of these sizes has {needed} or more")
    return sizes


@attrs.frozen
class OpenUnmix:
    """The network of one source.

    Parameters
    ----------
    sizes
    hop_length
        Distance of frames in samples.
    dropout
        Share of what the LSTM passes between layers that is dropped in training.

    Raises
    ------
    ValueError
        A value is not allowed.
    """

    sizes: Sizes = attrs.field(factory=Sizes, validator=attrs.validators.instance_of(Sizes))
    hop_length: int = integer(1024, at_least=1, at_most=1 << 20)
    dropout: float = number(0.4, at_least=0, at_most=0.9)

    def __call__(self, mixture: nn.Variable, train: bool = False,
                 center: bool = True) -> tuple[nn.Variable, nn.Variable]:
        """Build the graph for waveforms.

        Parameters
        ----------
        mixture : nn.Variable (batch, channels, samples)
        train : bool
            Normalize by the statistics of the batch, and drop.
        center : bool
            Whether frames are centred on multiples of the hop length. Published: not for training.

        Returns
        -------
        magnitude, mask : nn.Variable (frames, batch, nb_channels, bins)
            Of the mixture; with one channel, the mean of the magnitudes of all channels. The estimate is their product.
        """
        _, _, magnitude = spectrum(mixture, self.sizes.n_fft, self.hop_length, center)
        magnitude = self.merge_channels(magnitude)
        return magnitude, self.masks(magnitude, train)

    def merge_channels(self, magnitude: nn.Variable, num_signals: int = 1) -> nn.Variable:
        """Average the magnitudes of all channels of each of several signals, if the network has only one channel.

        Parameters
        ----------
        magnitude : nn.Variable (frames, batch, num_signals channels, bins)
        num_signals : int

        Returns
        -------
        nn.Variable (frames, batch, num_signals nb_channels, bins)
        """
        frames, batch, stacked, bins = magnitude.shape
        channels = stacked // num_signals
        if self.sizes.nb_channels == channels:
            return magnitude
        if self.sizes.nb_channels != 1:
            raise ValueError(f"a network of {self.sizes.nb_channels} channels, audio of {channels}")
        return F.mean(reshape(magnitude, (frames, batch, num_signals, channels, bins)), axis=3)

    def masks(self, magnitude: nn.Variable, train: bool = False) -> nn.Variable:
        """Build the graph from magnitudes to the mask (frames, batch, nb_channels, bins), >= 0.

        Of the magnitudes (frames, batch, nb_channels, n) only the first `max_bin` bins are read.
        """
        squeezed = _encode(magnitude, self.sizes, train, "")
        states = _recurrent(squeezed, self, train, "")
        return _decode(F.concatenate(squeezed, states, axis=2), magnitude.shape[:3], self.sizes, train, "")


def _names(sources: Sequence[str]) -> tuple[str, ...]:
    if isinstance(sources, str):
        raise ValueError(f"sources {sources!r}: a list of names is wanted, as [{sources!r}]")
    found = tuple(sources)
    # A name is part of the names of parameters and of files.
    if not found or len(set(found)) < len(found) or not all(
            isinstance(name, str) and re.fullmatch(r"[^\s/\\.][^\s/\\]*", name) for name in found):
        raise ValueError(f"sources {found!r}: different names without blanks and slashes are wanted")
    return found


@attrs.frozen
class CrossNetOpenUnmix(OpenUnmix):
    """The networks of all sources, bridged.

    Parameters
    ----------
    sizes, hop_length, dropout
        As for `OpenUnmix`.
    sources
        Their order is that of the masks.
    crossing
        Average across the networks. Without, they stay apart, as those of UMX.
    """

    sources: tuple[str, ...] = attrs.field(default=SOURCES, converter=_names)
    crossing: bool = flag(True)

    def __call__(    # pyright: ignore[reportIncompatibleMethodOverride] - waveforms come out as well
            self, mixture: nn.Variable, train: bool = False) -> tuple[nn.Variable, nn.Variable, nn.Variable]:
        """Build the graph for waveforms; frames are always centred.

        Parameters
        ----------
        mixture : nn.Variable (batch, channels, samples)
        train : bool

        Returns
        -------
        magnitude : nn.Variable (frames, batch, nb_channels, bins)
            Of the mixture, as of `OpenUnmix`.
        masks : nn.Variable (frames, batch, sources nb_channels, bins)
            The sources one after the other.
        estimates : nn.Variable (sources, batch, channels, (frames - 1) hop_length)
            Waveforms: masked magnitudes with the phase of the mixture. The mask of one channel is that of all.

        References
        ----------
        arXiv 2010.04228, figure 2.
        """
        real, imag, magnitude = spectrum(mixture, self.sizes.n_fft, self.hop_length)
        magnitude = self.merge_channels(magnitude)
        masks = self.masks(magnitude, train)
        by_channel = self._for_channels(masks, mixture.shape[1])
        return magnitude, masks, masked_inverse(by_channel, real, imag, self.hop_length)

    def masks(self, magnitude: nn.Variable, train: bool = False) -> nn.Variable:
        """Build the graph from magnitudes, as for `OpenUnmix`, to the masks of all sources, stacked as channels."""
        suffixes = [f"_{source}" for source in self.sources]
        squeezed = self._bridge([_encode(magnitude, self.sizes, train, suffix) for suffix in suffixes])
        states = self._bridge([_recurrent(h, self, train, suffix)
                               for h, suffix in zip(itertools.cycle(squeezed), suffixes)])
        # The mean of concatenations is the concatenation of the means.
        joined = [F.concatenate(*pair, axis=2) for pair in zip(squeezed, states, strict=True)]
        masks = [_decode(h, magnitude.shape[:3], self.sizes, train, suffix)
                 for h, suffix in zip(itertools.cycle(joined), suffixes)]
        return F.concatenate(*masks, axis=2) if len(masks) > 1 else masks[0]

    def _for_channels(self, masks: nn.Variable, channels: int) -> nn.Variable:
        """Repeat masks of one channel for each channel of the audio: (frames, batch, sources channels, bins)."""
        if channels == self.sizes.nb_channels:
            return masks
        frames, batch, sources, bins = masks.shape
        repeated = F.broadcast(reshape(masks, (frames, batch, sources, 1, bins)),
                               (frames, batch, sources, channels, bins))
        return reshape(repeated, (frames, batch, sources * channels, bins))

    def _bridge(self, hs: list[nn.Variable]) -> list[nn.Variable]:
        """What goes on in the networks: with crossing, the mean for all of them."""
        return [average(*hs)] if self.crossing else hs


def initialize_statistics(sizes: Sizes, mean: np.ndarray, std: np.ndarray,
                          sources: Sequence[str | None] = (None,)) -> None:
    """Create the first scaling of the input: each bin is to have mean 0 and standard deviation 1.

    To be called before a graph is built: parameters that exist stay as they are.

    Parameters
    ----------
    sizes
    mean, std : array (bins,)
        Of the magnitudes of the training mixtures.
    sources
        The sources of X-UMX; (None,) for UMX.
    """
    for source in sources:
        suffix = f"_{source}" if source else ""
        _vector(f"input_mean{suffix}", -mean[:sizes.max_bin])
        _vector(f"input_scale{suffix}", 1 / std[:sizes.max_bin])


def _vector(name: str, values: np.ndarray) -> nn.Variable:
    return get_parameter_or_create(name, values.shape, np.asarray(values, np.float32))


def _encode(magnitude: nn.Variable, sizes: Sizes, train: bool, suffix: str) -> nn.Variable:
    """Squeeze every frame into `hidden_size` features in [-1, 1]: (frames, batch, hidden_size)."""
    frames, batch = magnitude.shape[:2]
    mean = get_parameter_or_create(f"input_mean{suffix}", (sizes.max_bin,), ConstantInitializer(0))
    scale = get_parameter_or_create(f"input_scale{suffix}", (sizes.max_bin,), ConstantInitializer(1))
    h = scale_shift(magnitude, scale, mean * scale)    # (x + mean) scale, of the first max_bin bins
    h = reshape(h, (frames, batch, sizes.nb_channels * sizes.max_bin))
    with nn.parameter_scope(f"fc1{suffix}"):
        return tanh(feature_normalization(affine(h, sizes.hidden_size), train))


def _recurrent(h: nn.Variable, network: OpenUnmix, train: bool, suffix: str) -> nn.Variable:
    """Run the LSTM of a source: (frames, batch, hidden_size)."""
    sizes = network.sizes
    with nn.parameter_scope(f"lstm{suffix}"):
        return lstm(h, sizes.lstm_size, sizes.nb_layers, not sizes.unidirectional, network.dropout, train)


def _decode(h: nn.Variable, shape: tuple[int, ...], sizes: Sizes, train: bool, suffix: str) -> nn.Variable:
    """Turn features into the mask of a source, (*shape, bins), where `shape` is (frames, batch, channels)."""
    with nn.parameter_scope(f"fc2{suffix}"):
        h = relu(feature_normalization(affine(h, sizes.hidden_size), train))
    with nn.parameter_scope(f"fc3{suffix}"):
        h = feature_normalization(affine(h, shape[2] * sizes.bins), train)
    scale, mean = (get_parameter_or_create(f"{name}{suffix}", (sizes.bins,), ConstantInitializer(1))
                   for name in ("output_scale", "output_mean"))
    return scale_shift(reshape(h, (*shape, sizes.bins)), scale, mean, rectify=True)
