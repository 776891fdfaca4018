"""What the host does while a GPU trains or scores images: it makes no array beyond single elements."""
import nnabla as nn
import pytest

from common.machine.context import native_functions
from common.workbench.testing import host_arrays
from data_cleansing.influence.gradients import NORMALIZATIONS, DirectionalLoss
from data_cleansing.model import cifarnet
from data_cleansing.training.losses import Loss
from data_cleansing.training.parameters import Layout

SHAPE = (3, 8, 8)


def network(image, train):
    return cifarnet(image, train, maps=(2, 3, 2))


def make_layout():
    network(nn.Variable((1, *SHAPE)), True)
    return Layout()


@pytest.mark.parametrize("train", [True, False])
def test_the_host_makes_no_arrays_in_training(train):
    with native_functions():
        loss = Loss(network, 2, SHAPE, train)
    assert host_arrays(loss.total) == []


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_the_host_makes_no_arrays_for_scores(normalization):
    layout = make_layout()
    with native_functions():
        loss = DirectionalLoss(network, 2, SHAPE, normalization, layout)
    assert host_arrays(loss.mean) == []
