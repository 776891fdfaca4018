"""The graph of a training: mixture and targets in, loss out."""
import nnabla as nn

from common.audio.stft_functions import spectrum
from common.separation.training import LossGraph
from x_umx.config import Config
from x_umx.loss import IGNORED, mse_combination_loss, sdr_combination_loss
from x_umx.model import CrossNetOpenUnmix


def build_graph(cfg: Config, train: bool, batch_size: int, num_samples: int) -> LossGraph:
    """Build the graph of a network and its loss, on the parameters of the current scope.

    UMX is trained on frames that are not centred, as published, and validated on centred ones. A network of one channel
    gets the mean of the magnitudes of both, as in separation.
    """
    mixture = nn.Variable((batch_size, 2, num_samples))
    targets = nn.Variable((batch_size, 2 * len(cfg.targets), num_samples))
    network, center = cfg.network, not (train and cfg.umx_train)
    wanted = network.merge_channels(spectrum(targets, cfg.nfft, cfg.nhop, center)[2], len(cfg.targets))
    if not isinstance(network, CrossNetOpenUnmix):
        magnitude, masks = network(mixture, train, center)
        return LossGraph(mixture, targets, mse_combination_loss(magnitude, masks, wanted))
    magnitude, masks, estimates = network(mixture, train)
    loss = mse_combination_loss(magnitude, masks, wanted, cfg.combination)
    if cfg.mcoef:
        loss = cfg.mcoef * sdr_combination_loss(mixture, estimates, targets, cfg.combination) + loss
    return LossGraph(mixture, targets, loss)


def shortest_excerpt(cfg: Config) -> int:
    """Fewest samples that the loss can be computed of."""
    if cfg.umx_train:
        return cfg.nfft
    return (2 * IGNORED // cfg.nhop + 1) * cfg.nhop    # the waveforms that come back are whole hops
