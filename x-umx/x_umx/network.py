"""Graphs of a training: mixtures and targets in, loss out."""
import attrs
import nnabla as nn
import numpy as np

from common.audio.stft_functions import spectrum
from common.machine.distributed import world
from x_umx.loss import IGNORED, mse_combination_loss, sdr_combination_loss


@attrs.frozen
class Graph:
    """A built graph.

    Parameters
    ----------
    mixture : nn.Variable (batch, nb_channels, samples)
    target : nn.Variable (batch, targets nb_channels, samples)
        Waveforms of the sources that are separated, one after the other.
    loss : nn.Variable ()
    """

    mixture = attrs.field()
    target = attrs.field()
    loss = attrs.field()

    def fill(self, mixture, targets):
        """Set the inputs.

        Parameters
        ----------
        mixture : array (batch, 2, samples)
        targets : array (batch, sources, 2, samples)
        """
        if self.mixture.shape[1] == 1:
            mixture, targets = mixture.mean(-2, keepdims=True), targets.mean(-2, keepdims=True)
        self.mixture.d = mixture
        self.target.d = targets.reshape(self.target.shape)


def build_graph(cfg, batch_size, num_samples, train):
    """Build the graph of a network and its loss, on the parameters of the current scope.

    UMX is trained on frames that are not centred, as published, and validated on centred ones.

    Parameters
    ----------
    cfg : Config
    batch_size, num_samples : int
    train : bool

    Returns
    -------
    Graph
    """
    channels = cfg.nb_channels
    mixture = nn.Variable((batch_size, channels, num_samples))
    target = nn.Variable((batch_size, len(cfg.targets) * channels, num_samples))
    if cfg.umx_train:
        magnitude, masks = cfg.network(mixture, train, center=not train)
        wanted = spectrum(target, cfg.nfft, cfg.nhop, center=not train)[2]
        return Graph(mixture, target, mse_combination_loss(magnitude, masks, wanted))
    magnitude, masks, estimates = cfg.network(mixture, train)
    wanted = spectrum(target, cfg.nfft, cfg.nhop)[2]
    loss = mse_combination_loss(magnitude, masks, wanted, cfg.combination)
    if cfg.mcoef:
        loss = cfg.mcoef * sdr_combination_loss(mixture, estimates, target, cfg.combination) + loss
    return Graph(mixture, target, loss)


class Graphs:
    """The graphs of a network, each built once: lengths differ in validation, and where whole songs are trained on.

    Parameters
    ----------
    cfg : Config
    train : bool
    """

    def __init__(self, cfg, train):
        self.cfg, self.train, self.graphs = cfg, train, {}

    def loss(self, mixture, targets):
        """Return the loss, not computed yet, of mixtures (batch, 2, samples) and targets (batch, targets, 2, samples).

        Returns
        -------
        nn.Variable ()
        """
        batch_size, _, num_samples = mixture.shape
        if (batch_size, num_samples) not in self.graphs:
            self.graphs[batch_size, num_samples] = build_graph(self.cfg, batch_size, num_samples, self.train)
        graph = self.graphs[batch_size, num_samples]
        graph.fill(mixture, targets)
        return graph.loss


def shortest_excerpt(cfg):
    """Fewest samples that the loss can be computed of."""
    if cfg.umx_train:
        return cfg.nfft
    return (2 * IGNORED // cfg.nhop + 1) * cfg.nhop    # the waveforms that come back are whole hops


def validate(graphs, songs):
    """Mean loss over the songs of all ranks of the mean over their pieces.

    Parameters
    ----------
    graphs : Graphs
    songs : iterable of iterable of (mixture, targets)
        Those of this rank.

    Returns
    -------
    float
    """
    def loss(piece):
        value = graphs.loss(*piece)
        value.forward(clear_buffer=True)
        return float(value.d)

    losses = [np.mean([loss(piece) for piece in song]) for song in songs]
    total, count = world().sum([sum(losses), len(losses)])
    return float(total / count)
