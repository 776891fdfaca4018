"""What the host does while a GPU trains: it makes no array beyond single elements."""
import pytest

from common.machine.context import native_functions, use_context
from common.workbench.testing import host_arrays
from out_of_core_training import models
from out_of_core_training.networks.deeplab import BACKBONES

SETTINGS = [(name, {}) for name in models.NETWORKS] + [("deeplabv3plus", {"backbone": backbone})
                                                       for backbone in BACKBONES]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name, options", SETTINGS)
def test_the_host_makes_no_arrays(name, options, train):
    use_context("cpu")
    size = models.NETWORKS[name].smallest
    with native_functions():
        network = models.build(name, 2, size, train, width=0.125, **options)
    assert host_arrays(network.output, *(loss for loss, _ in network.steps)) == []
