import contextlib

import attrs
import nnabla as nn
import pytest

from common.machine.context import native_functions
from common.runs.checkpoint import save_parameters
from common.workbench.testing import fill_parameters
from d3net.hyperparameters import load_mss, load_segmentation, save_hyper_parameters
from d3net.mss_model import TARGETS, D3NetMSS
from d3net.segmentation_model import d3net_segmentation

# A layer or two wherever the network for one source has any, of 2 bands.
FEW_LAYERS = {
    "num_init_features": (3, 2), "num_layer_blocks": ((2, 1, 1), (1, 1, 1)), "dens_k": ((2, 3, 2), (1, 1, 1)),
    "b_n_blocks": ((2, 1, 1), (1, 1, 1)), "comp_rates": ((1.0, 1.0), (1.0, 1.0)), "f_num_init_features": 2,
    "f_num_layer_block": (1, 2, 1), "f_dens_k": (2, 2, 2), "f_n_blocks": (1, 2, 1), "f_comp_rates": (1.0, 1.0),
    "ttl_num_layer_block": 2, "ttl_dens_k": 2}


@pytest.fixture(params=["compiled", "native"])
def functions(request):
    """Both ways to compute: loops on the CPU, and nnabla's functions, which a GPU runs."""
    with native_functions() if request.param == "native" else contextlib.nullcontext():
        yield request.param


@pytest.fixture
def fill():
    """Set all parameters to those of a reference case, which follow from their names and a seed, and return them."""
    return lambda seed: fill_parameters(nn.get_parameters(grad_only=False), seed)


@pytest.fixture
def gradients(fill):
    """Gradients {name: array} of a loss at parameters of a reference case, with memory freed as training does."""
    def gradients(loss):
        for parameter in fill(0).values():
            parameter.grad.zero()
        loss.forward(clear_no_need_grad=True)
        loss.backward(clear_buffer=True)
        return {name: parameter.g.copy() for name, parameter in nn.get_parameters().items()}
    return gradients


@pytest.fixture(scope="session")
def small_mss():
    """Make hyper-parameters of a small network for one source; its spectra have the sizes that are given."""
    return lambda **sizes: attrs.evolve(load_mss("tiny"), **FEW_LAYERS | sizes)


@pytest.fixture(scope="session")
def save_mss():
    """Write <target>.h5 and <target>.yaml of a random network."""
    def save(folder, target, hparams):
        nn.clear_parameters()
        nn.random.seed(TARGETS.index(target))
        D3NetMSS(hparams, target)(nn.Variable((1, hparams.frame_multiple, hparams.n_channels, hparams.bins)))
        for name, parameter in nn.get_parameters(grad_only=False).items():
            if name.endswith("/var"):    # of networks that were never trained it is 0
                parameter.d = 1
            if name.endswith("/in_scale"):    # estimates change with the input, and are above 0
                parameter.d = 5
        save_parameters(folder / f"{target}.h5")
        save_hyper_parameters(folder / f"{target}.yaml", hparams)
        nn.clear_parameters()
    return save


@pytest.fixture(scope="session")
def segmentation_weights(tmp_path_factory):
    """Weight file of a random network 'tiny' for segmentation."""
    path = tmp_path_factory.mktemp("weights") / "tiny.h5"
    nn.clear_parameters()
    nn.random.seed(3)
    d3net_segmentation(nn.Variable((1, 3, 64, 64)), load_segmentation("tiny"))
    nn.get_parameters()["decode_head/conv_seg/conv/W"].d *= 30    # else all pixels get one class
    save_parameters(path)
    nn.clear_parameters()
    return path
