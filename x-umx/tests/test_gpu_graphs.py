"""What the host does while a GPU trains or separates: it makes no array beyond single elements."""
import nnabla as nn
import pytest

from common.audio.stft_functions import inverse_by_product
from common.machine.context import native_functions, use_context
from common.workbench.testing import host_arrays
from x_umx.config import Config
from x_umx.network import build_graph


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kind", [{}, {"umx_train": True}, {"nb_channels": 1}], ids=["X-UMX", "UMX", "mono"])
def test_the_host_makes_no_arrays(kind, train):
    use_context("cpu")
    cfg = Config(hidden_size=8, nfft=64, nhop=16, **kind)
    with native_functions():
        graph = build_graph(cfg, train, 2, 44100)
    assert host_arrays(graph.loss) == []


def test_the_host_makes_no_arrays_for_the_inverse_transform():
    use_context("cpu")
    masks, real, imag = (nn.Variable((7, 2, channels, 9)) for channels in (8, 2, 2))
    assert host_arrays(inverse_by_product(masks, real, imag, 4)) == []
