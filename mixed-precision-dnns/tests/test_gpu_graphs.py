"""What the host does while a GPU trains: it makes no array beyond single elements."""
import nnabla as nn
import nnabla.functions as F
import pytest

from common.machine.context import native_functions, use_context
from common.quantizers import QUANTIZER_NAMES
from common.workbench.testing import host_arrays
from mixed_precision_dnns.config import RELU, Config, ImageNetConfig
from mixed_precision_dnns.imagenet_models import MODELS
from mixed_precision_dnns.quantized_network import build_network
from mixed_precision_dnns.train_resnet import build_loss

SHAPE, CLASSES = (3, 32, 32), 5


@pytest.fixture(autouse=True)
def cpu():
    use_context("cpu")


def quantized(quantizer):
    """Settings of a network with a budget whose weights and activations are quantized."""
    if quantizer is None:
        return {}
    return {"w_quantize": quantizer, "a_quantize": quantizer + RELU, "target_weight_kbytes": 10.0,
            "target_activation_kbytes": 10.0}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("quantizer", [None, *QUANTIZER_NAMES])
def test_the_host_makes_no_arrays_for_resnets_of_small_images(quantizer, train):
    cfg = Config(**quantized(quantizer))
    with native_functions():
        network = build_network(cfg, 2, train, SHAPE, CLASSES)
        graph = build_loss(cfg, network)
    assert host_arrays(graph.loss, network.weight_kbytes, network.activation_kbytes) == []


@pytest.mark.parametrize("quantizer", [None, "parametric_fp_d_xmax", "parametric_pow2_xmin_xmax"])
@pytest.mark.parametrize("model", MODELS)
def test_the_host_makes_no_arrays_for_networks_of_imagenet(model, quantizer):
    cfg = ImageNetConfig(model=model, **quantized(quantizer))
    with native_functions():
        graphs = [build_loss(cfg, build_network(cfg, 1, train, SHAPE, CLASSES)) for train in (True, False)]
    assert host_arrays(*(graph.loss for graph in graphs)) == []


def test_arrays_of_the_host_are_found():
    x = nn.Variable((2, 3))
    assert host_arrays(x + F.constant(0, (1, 1))) == []
    assert host_arrays(F.relu(x + F.constant(0, (2, 3)))) == [("Constant", (2, 3))]
    network = build_network(Config(), 2, True, SHAPE, CLASSES)    # of functions in Python
    assert {"ReLU", "BatchNormalization"} <= {name for name, _ in host_arrays(network.logits)}
