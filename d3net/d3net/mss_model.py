"""The music network: magnitudes of a mixture in, magnitudes of one source out.

Spectrograms are (batch, frames, channels, bins); inside, (batch, channels, frames, bins).
"""
import attrs
import nnabla as nn
import nnabla.functions as F
import numpy as np
from nnabla.initializer import ConstantInitializer
from nnabla.parameter import get_parameter_or_create

from d3net.blocks import Style, convolution, d2_block, multi_scale, normal_weights, normalize
from d3net.hyperparameters import MSSHyperParameters, MultiScale

TARGETS = ("vocals", "drums", "bass", "other")


@attrs.frozen
class D3NetMSS:
    """The network of one target, whose parameters stand in a scope of its name.

    Parameters
    ----------
    hparams
    target
    """

    hparams: MSSHyperParameters
    target: str

    def __call__(self, magnitude: nn.Variable, test: bool = True) -> nn.Variable:
        """Build the graph.

        Bins from `hparams.valid_signal_idx` on are copied from the mixture.

        Parameters
        ----------
        magnitude : nn.Variable (batch, frames, hparams.n_channels, hparams.bins)
            Of the mixture; frames are a multiple of `hparams.frame_multiple`.
        test : bool
            Normalize by the running statistics instead of those of the batch.

        Returns
        -------
        nn.Variable, shape of `magnitude`, >= 0 for magnitudes >= 0
        """
        _, frames, *shape = magnitude.shape
        hparams = self.hparams
        if shape != [hparams.n_channels, hparams.bins] or frames % hparams.frame_multiple:
            raise ValueError(f"a spectrogram of shape {magnitude.shape} for {hparams.n_channels} channels, "
                             f"{hparams.bins} bins and multiples of {hparams.frame_multiple} frames")
        style = Style("bottleneck", train=not test, weights=normal_weights)
        with nn.parameter_scope(self.target):
            x = F.transpose(magnitude, (0, 2, 1, 3))
            h = _gate(_features(self._standardize(x), hparams, style), hparams.n_channels, style)
            scale, bias = (_by_bin(name, hparams.valid_signal_idx, 1) for name in ("decode_scale", "decode_bias"))
            estimate = F.relu(h * scale + bias)
        if hparams.mask:
            estimate = estimate * x[:, :, :, :hparams.valid_signal_idx]
        estimate = F.concatenate(estimate, x[:, :, :, hparams.valid_signal_idx:], axis=3)
        return F.transpose(estimate, (0, 2, 1, 3))

    def set_statistics(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Let the input be standardized, from graphs that exist on as well.

        Parameters
        ----------
        mean, std : array (bins,)
            Of the magnitudes of the training mixtures.
        """
        with nn.parameter_scope(self.target):
            for parameter, values in zip(self._statistics(), (mean, std), strict=True):
                parameter.d = np.reshape(values, parameter.shape)

    def _statistics(self) -> tuple[nn.Variable, nn.Variable]:
        return _by_bin("in_offset", self.hparams.bins, 0), _by_bin("in_scale", self.hparams.bins, 1)

    def _standardize(self, x: nn.Variable) -> nn.Variable:
        offset, scale = self._statistics()
        return (x - offset) / scale


def _by_bin(name: str, bins: int, value: int) -> nn.Variable:
    return get_parameter_or_create(name, (1, 1, 1, bins), ConstantInitializer(value))


def _features(x: nn.Variable, hparams: MSSHyperParameters, style: Style) -> nn.Variable:
    """Join the networks of the bands and of all bins: (batch, ttl_dens_k, frames, valid_signal_idx)."""
    outputs = max(band.dens_k[-1] for band in hparams.bands)
    bands = [_match(_network(x, band, f"features_init/{k}", f"dense_band/{k}", style), outputs, k, style)
             for k, band in enumerate(hparams.bands)]
    full = _network(x, hparams.full, "features_init_full", "dense_full", style)
    joined = F.concatenate(*bands, axis=3) if len(bands) > 1 else bands[0]
    h = F.concatenate(joined, full, axis=1)
    with nn.parameter_scope("final_dense"):
        return d2_block(h, hparams.ttl_dens_k, hparams.ttl_num_layer_block, style)


def _network(x: nn.Variable, scales: MultiScale, first: str, name: str, style: Style) -> nn.Variable:
    """Apply a convolution and a multi-scale network to the bins of a band."""
    h = convolution(x[:, :, :, slice(*scales.bins)], scales.num_features, 3, style, first)
    with nn.parameter_scope(name):
        return multi_scale(h, scales, style)


def _match(x: nn.Variable, outputs: int, index: int, style: Style) -> nn.Variable:
    """Give band number `index` as many channels as the others have."""
    if x.shape[1] == outputs:
        return x
    with nn.parameter_scope(f"match_fm_conv/{index}"):
        return convolution(normalize(x, style, "norm"), outputs, 1, style, "conv")


def _gate(x: nn.Variable, outputs: int, style: Style) -> nn.Variable:
    with nn.parameter_scope("out_gate"):
        h = normalize(x, style, "bn")
        gate, filtered = (convolution(h, outputs, 1, style, f"{name}/conv") for name in ("conv_gate", "conv_filt"))
    return F.sigmoid(gate) * filtered
