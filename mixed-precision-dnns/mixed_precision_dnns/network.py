"""A network with its loss and memory, and one training step on it (sections 3 and 4 of the paper)."""
import attrs
import nnabla as nn
import nnabla.functions as F
import nnabla.solvers as S
import numpy as np

from common.console.progress import progress
from common.machine.distributed import world
from common.quantizers import QUANTIZERS
from common.quantizers.layers import LIMIT_MARGIN
from mixed_precision_dnns.network_size import activation_kbytes, quantized_tensors, weight_kbytes
from mixed_precision_dnns.resnet_cifar import resnet_cifar10

LOSSES = ("loss", "loss1", "loss2", "loss3")    # all together; cross entropy, weights and activations over budget


@attrs.frozen
class Network:
    """The variables of a graph that training and evaluation read and write; all but the first three have shape ().

    `loss` is `loss_ce + lambda2 loss_weights + lambda3 loss_activations`.
    """

    image: nn.Variable    # (batch, channels, height, width), in [-1, 1]
    label: nn.Variable    # (batch, 1)
    logits: nn.Variable    # (batch, classes)
    loss: nn.Variable
    loss_ce: nn.Variable
    loss_weights: nn.Variable
    loss_activations: nn.Variable
    weight_kbytes: nn.Variable
    activation_kbytes: nn.Variable

    def values(self):
        """Values of the four losses by the columns of the published log, and the share of wrong answers."""
        losses = (self.loss, self.loss_ce, self.loss_weights, self.loss_activations)
        return {"error": self.wrong().mean(), **{name: float(v.d) for name, v in zip(LOSSES, losses, strict=True)}}

    def wrong(self):
        """Whether the largest logit of each image is another than its label's, after a forward pass; bool (batch,)."""
        return self.logits.d.argmax(1) != self.label.d[:, 0]

    def predict(self, image):
        """Logits float32 (n, classes) of images (n, channels, height, width), n up to the batch size."""
        num = len(image)
        self.image.d[:num] = image
        self.logits.forward(clear_buffer=True)
        return self.logits.d[:num]

    def sizes(self):
        """Compute the size of weights and of activations, in kB."""
        nn.forward_all([self.weight_kbytes, self.activation_kbytes])
        return float(self.weight_kbytes.d), float(self.activation_kbytes.d)


def build_network(cfg, batch_size, train, image_shape=(3, 32, 32), num_classes=10, model=resnet_cifar10):
    """Build the graph of `cfg` on the parameters of the current scope, which are made where they are missing.

    Parameters
    ----------
    cfg : mixed_precision_dnns.config.QuantizationConfig
    batch_size : int
    train : bool
        Normalize by the statistics of the batch instead of the running ones.
    image_shape : tuple of int
        (channels, height, width).
    num_classes : int
    model : callable
        `model(image, num_classes, cfg, test)` builds the logits.

    Returns
    -------
    Network
    """
    image, label = nn.Variable((batch_size, *image_shape)), nn.Variable((batch_size, 1))
    logits = model(image, num_classes, cfg, test=not train)
    loss_ce = F.mean(F.softmax_cross_entropy(logits, label))
    kb_w, kb_a = weight_kbytes(cfg), activation_kbytes(cfg)
    loss_w, loss_a = _excess(kb_w, cfg.target_weight_kbytes), _excess(kb_a, cfg.target_activation_kbytes)
    loss = loss_ce + cfg.initial_cost_lambda2 * loss_w + cfg.initial_cost_lambda3 * loss_a
    # The scalars below the loss are read after backward has cleared what it no longer needs.
    for variable in (logits, loss_ce, loss_w, loss_a, loss, kb_w, kb_a):
        variable.persistent = True
    return Network(image, label, logits, loss, loss_ce, loss_w, loss_a, kb_w, kb_a)


def _excess(kbytes, target):
    """Squared hinge of the memory over its budget (equation 10); 0 where there is none."""
    return F.relu(kbytes - target) ** 2 if target > 0 else F.constant(0, ())


def make_solver(cfg):
    """Make the solver of `cfg` for all trainable parameters of the current scope."""
    learning_rate = cfg.initial_learning_rate
    solver = S.Adam(learning_rate) if cfg.optimizer == "adam" else S.Momentum(learning_rate, momentum=0.9)
    solver.set_parameters(nn.get_parameters())
    return solver


def within_budget(cfg, weight_kb, activation_kb):
    """Whether sizes in kB meet every budget that `cfg` sets."""
    return all(target <= 0 or size <= target for size, target in (
        (weight_kb, cfg.target_weight_kbytes), (activation_kb, cfg.target_activation_kbytes)))


def has_budget(cfg):
    """Whether `cfg` limits any size."""
    return cfg.target_weight_kbytes > 0 or cfg.target_activation_kbytes > 0


def learned_tensors(cfg):
    """Quantized tensors of the current scope whose scalars are learned."""
    return [tensor for tensor in quantized_tensors(cfg) if tensor.scalars]


def is_quantizer_parameter(name):
    """Whether a parameter belongs to quantizers, or scales the output: a network to start from may lack or have it."""
    return any(scope in name for scope in ("/Wquant/", "/bquant/", "/Aquant/")) or name.endswith(
        ("/W_q", "/b_q", "/scale_layer"))


def clip_gradients(tensors):
    """Keep a step from changing a range by more than its smallest value, d or xmin.

    For the parametrizations by a range alone; the others have bounded bit widths.
    """
    for tensor in tensors:
        if QUANTIZERS[tensor.spec.quantizer].is_range:
            smallest, xmax = tensor.scalars.values()
            bound = np.abs(smallest.d)
            for scalar in (smallest, xmax):
                scalar.g = np.clip(scalar.g, -bound, bound)


def clip_values(tensors):
    """Keep ranges in order and all scalars strictly inside of their limits, which the solver does not know."""
    for tensor in tensors:
        if QUANTIZERS[tensor.spec.quantizer].is_range:
            smallest, xmax = tensor.scalars.values()
            low, high = float(smallest.d), float(xmax.d)
            smallest.d, xmax.d = min(low, high - LIMIT_MARGIN), max(high, low + LIMIT_MARGIN)
        for name, scalar in tensor.scalars.items():
            lowest, highest = tensor.spec.limits[name]
            scalar.d = min(max(float(scalar.d), lowest + LIMIT_MARGIN), highest - LIMIT_MARGIN)


def train_step(network, solver, tensors, cfg, image, label):
    """Update the parameters once.

    Parameters
    ----------
    network : Network
    solver : nnabla solver
    tensors : list of QuantizedTensor
        From `learned_tensors`.
    cfg : mixed_precision_dnns.config.Config
    image : float32 (batch, channels, height, width)
    label : int32 (batch, 1)

    Returns
    -------
    dict
        Losses and error before the update.
    """
    network.image.d, network.label.d = image, label
    network.loss.forward(clear_no_need_grad=True)
    solver.zero_grad()
    world().backward(network.loss, solver)
    solver.weight_decay(cfg.weight_decay)
    if has_budget(cfg):
        clip_gradients(tensors)
    solver.update()
    clip_values(tensors)
    return network.values()


def evaluate(network, batches):
    """Share of wrong answers over a data set.

    Parameters
    ----------
    network : Network
        Built for testing, for batches as large as these or larger.
    batches : common.datasets.batches.Batches

    Returns
    -------
    float
        0 to 1.
    """
    return top_errors(network.predict, batches, (1,))[0]


def top_errors(predict, batches, tops):
    """Shares of images whose class is not among the k best answers.

    Parameters
    ----------
    predict : callable
        From images (batch, channels, height, width) to logits (batch, classes).
    batches : common.datasets.batches.Batches
    tops : sequence of int
        Each k.

    Returns
    -------
    list of float
        0 to 1.
    """
    ranks = [ranks_of_labels(predict(image), label[:, 0])
             for image, label in progress(batches, total=len(batches), desc="evaluating")]
    ranks = np.concatenate(ranks)
    return [float(np.mean(ranks >= k)) for k in tops]


def ranks_of_labels(logits, label):
    """Number of classes that come before the right one: larger logits, equal ones before it, and NaN.

    Parameters
    ----------
    logits : float32 (batch, classes)
    label : int (batch,)

    Returns
    -------
    int64 (batch,)
    """
    own = logits[np.arange(len(label)), label][:, np.newaxis]
    earlier = (logits == own) & (np.arange(logits.shape[1]) < label[:, np.newaxis])
    return (~(logits <= own) | earlier).sum(1)
