"""What the host does while a GPU trains, separates or segments: it makes no array beyond single elements."""
import attrs
import pytest

from common.machine.context import native_functions, use_context
from common.workbench.testing import host_arrays
from d3net.hyperparameters import load_segmentation
from d3net.mss_model import D3NetMSS
from d3net.music.training import build_graph
from d3net.scenes.training import build_loss


@pytest.fixture(autouse=True)
def cpu():
    use_context("cpu")


@pytest.mark.parametrize("test", [True, False])
def test_the_host_makes_no_arrays_for_music(small_mss, test):
    hparams = small_mss()
    with native_functions():
        graph = build_graph(D3NetMSS(hparams, "vocals"), test, 0, 2, 40 * hparams.hop_size)
    assert host_arrays(graph.loss) == []


@pytest.mark.parametrize("recompute", [True, False])
def test_the_host_makes_no_arrays_for_scenes(recompute):
    hparams = attrs.evolve(load_segmentation("tiny"), batch_size=2, image_height=64, image_width=64)
    with native_functions():
        *_, loss = build_loss(hparams, recompute)
    assert host_arrays(loss) == []
