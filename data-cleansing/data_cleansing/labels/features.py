"""What a network makes of images: its logits, and the features that its last layer reads."""
import nnabla as nn
import nnabla.functions as F
import numpy as np

from data_cleansing.data.images import Images
from data_cleansing.graphs import rewriting
from data_cleansing.graphs.rewriting import Network
from data_cleansing.training.losses import batches_of
from data_cleansing.training.trainer import EVALUATION_BATCH


def logits_and_features(network: Network, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Compute logits and features of images, normalized by the running statistics.

    Parameters
    ----------
    network : callable
        `network(image, train)` returns logits; its parameters are those of the current scope.

    Returns
    -------
    (logits, features) : float32 (n, classes), float32 (n, maps)
        Features are the input of the last layer, averaged over positions where it has any, and of length 1.
    """
    graphs, logits, features = {}, [], []
    for rows in batches_of(len(images), EVALUATION_BATCH):
        if len(rows) not in graphs:
            graphs[len(rows)] = _graph(network, (len(rows), *images.shape))
        image, logit, feature, both = graphs[len(rows)]
        image.d = images.inputs(rows)
        both.forward(clear_buffer=True)
        logits.append(logit.d.copy())
        features.append(feature.d.copy())
    return np.concatenate(logits), _unit_length(np.concatenate(features))


def _graph(network, shape):
    """Build a graph; returns its input, logits (batch, classes), features (batch, maps), and what computes both."""
    image = nn.Variable(shape)
    logits, _ = rewriting.build(network, image, False)
    last = logits.parent.inputs[0]
    feature = F.mean(last, axis=tuple(range(2, last.ndim))) if last.ndim > 2 else F.identity(last)
    for variable in (logits, feature):
        variable.persistent = True
    return image, logits, feature, F.sink(logits, feature)


def _unit_length(features):
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(lengths, np.finfo(np.float32).tiny)
