"""A network with learned bit widths, from images to logits, and its memory (section 3 of the paper)."""
import attrs
import nnabla as nn
import numpy as np

from common.machine.threads import NNABLA
from mixed_precision_dnns.config import Experiment, ImageNetConfig
from mixed_precision_dnns.imagenet_models import MODELS
from mixed_precision_dnns.network_size import activation_kbytes, weight_kbytes
from mixed_precision_dnns.resnet_cifar import resnet_cifar10

SMALL_IMAGES = (3, 32, 32)    # channels, height, width


@attrs.frozen
class QuantizedNetwork:
    """The variables of a graph that its users read and write; the two sizes have shape ()."""

    image: nn.Variable    # (batch, channels, height, width), in [-1, 1]
    logits: nn.Variable    # (batch, classes)
    weight_kbytes: nn.Variable
    activation_kbytes: nn.Variable

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Logits float32 (n, classes) of images (n, channels, height, width), n up to the batch size.

        Threads may share the network.
        """
        num = len(image)
        with NNABLA:
            self.image.d[:num] = image
            self.logits.forward(clear_buffer=True)
            return self.logits.d[:num].copy()

    def sizes(self) -> tuple[float, float]:
        """Compute the size of weights and of activations, in kB."""
        nn.forward_all([self.weight_kbytes, self.activation_kbytes])
        return float(self.weight_kbytes.d), float(self.activation_kbytes.d)


@nn.auto_forward(False)    # to compute with what is in `image` now would move running statistics
def build_network(cfg: Experiment, batch_size: int, train: bool,
                  image_shape: tuple[int, ...] = SMALL_IMAGES, num_classes: int = 10) -> QuantizedNetwork:
    """Build the network of `cfg` on the parameters of the current scope, which are made where they are missing.

    `image_shape` is (channels, height, width). `train` normalizes by the statistics of the batch instead of the running
    ones.
    """
    image = nn.Variable((batch_size, *image_shape))
    network = QuantizedNetwork(image, build_logits(image, num_classes, cfg, test=not train),
                               weight_kbytes(cfg), activation_kbytes(cfg))
    # These are read after a backward pass has cleared what it no longer needs.
    for variable in (network.logits, network.weight_kbytes, network.activation_kbytes):
        variable.persistent = True
    return network


def build_logits(image: nn.Variable, num_classes: int, cfg: Experiment, test: bool) -> nn.Variable:
    """Build the network that `cfg` names, as `resnet_cifar10` and the functions of `imagenet_models.MODELS` do."""
    if isinstance(cfg, ImageNetConfig):
        return MODELS[cfg.model](image, num_classes, cfg, test)
    return resnet_cifar10(image, num_classes, cfg, test)
