"""The convolutional network of the published experiments, and a linear classifier of features."""
from collections.abc import Sequence

import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF

MAPS = (32, 64, 128)


def cifarnet(image: nn.Variable, train: bool, num_classes: int = 10, maps: Sequence[int] = MAPS) -> nn.Variable:
    """Classify images by blocks of two 3x3 convolutions, the first one normalized, and max pooling.

    Parameters
    ----------
    image : nn.Variable (batch, channels, height, width)
        Height and width at least 2 ** len(maps).
    train : bool
        Normalize by the statistics of the batch, otherwise by the running ones.
    maps : sequence of int
        Maps of each block.

    Returns
    -------
    nn.Variable (batch, num_classes)
        Logits.

    References
    ----------
    `sgd_influence/model.py` of the published code; S. Hara et al., arXiv 1906.08473.
    """
    h = image
    for block, num_maps in enumerate(maps, start=1):
        with nn.parameter_scope(f"block{block}"):
            with nn.parameter_scope("conv1"):
                h = PF.convolution(h, num_maps, (3, 3), pad=(1, 1))
                h = F.relu(PF.batch_normalization(h, decay_rate=0.9, eps=1e-5, batch_stat=train))
            with nn.parameter_scope("conv2"):
                h = F.relu(PF.convolution(h, num_maps, (3, 3), pad=(1, 1)))
            h = F.max_pooling(h, (2, 2))
    return PF.affine(h, num_classes)


def linear_classifier(features: nn.Variable, train: bool, num_classes: int = 10) -> nn.Variable:
    """Classify by one affine layer; returns logits, (batch, num_classes). `train` changes nothing."""
    return PF.affine(features, num_classes)
