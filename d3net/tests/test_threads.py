"""Threads that share a separator or a segmenter, or make several: each gets the bits that it would get alone."""
import functools

import nnabla as nn
import numpy as np
import pytest

from common.datasets.synthetic_scenes import make_scene
from common.runs.checkpoint import save_parameters
from common.workbench.testing import assert_forks_are_refused, assert_threads_make, assert_threads_share
from d3net.hyperparameters import load_segmentation
from d3net.music.separator import Separator
from d3net.scenes.segmenter import Segmenter
from d3net.segmentation_model import d3net_segmentation

RATE = 44100
SMALL = {"fft_size": 256, "hop_size": 64, "valid_signal_idx": 96, "band_split_idxs": (32,), "patch_length": 16,
         "test_patch_len": 16, "out_shift": 8}
LENGTHS = (300, 1500, 600, 900)    # samples
SIZES = ((64, 96), (32, 40), (33, 32))    # pixels
engines = pytest.mark.parametrize("engine", ["nnabla", "onnxruntime", "openvino"])
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(autouse=True)
def installed(request):
    if "openvino" in request.node.name:
        pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def models(tmp_path_factory, small_mss, save_mss):
    """Folders music0 to music3 of one target, and files scenes0.h5 to scenes3.h5, with different weights."""
    folder = tmp_path_factory.mktemp("models")
    for number in range(4):
        (folder / f"music{number}").mkdir()
        save_mss(folder / f"music{number}", "vocals", small_mss(**SMALL, ttl_dens_k=2 + number))
        nn.random.seed(number)
        d3net_segmentation(nn.Variable((1, 3, 64, 64)), load_segmentation("tiny"))
        nn.get_parameters()["decode_head/conv_seg/conv/W"].d *= 30    # else all pixels get one class
        save_parameters(folder / f"scenes{number}.h5")
        nn.clear_parameters()
    return folder


@functools.cache
def music(samples):
    return (0.1 * np.random.default_rng(samples).standard_normal((samples, 2))).astype(np.float32)


def stems_of(separator, samples):
    return separator.separate(music(samples), RATE)


def probabilities_of(segmenter, size):
    return {"probabilities": segmenter.probabilities(make_scene("val", 0, *size)[0])}


@pytest.mark.parametrize("engine", ["nnabla", "openvino", "winograd"])
def test_threads_share_a_separator(models, engine):
    assert_threads_share(lambda: Separator(models / "music0", ["vocals"], engine=engine), stems_of, LENGTHS)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "winograd"])
def test_threads_make_their_own_separators(models, engine):
    assert_threads_make([lambda k=k: stems_of(Separator(models / f"music{k}", ["vocals"], engine=engine), LENGTHS[k])
                         for k in range(4)])


@engines
def test_threads_share_a_segmenter(models, engine):
    assert_threads_share(lambda: Segmenter(models / "scenes0.h5", "tiny", engine=engine), probabilities_of, SIZES)


def test_threads_make_their_own_segmenters(models):
    assert_threads_make([lambda k=k: probabilities_of(Segmenter(models / f"scenes{k}.h5", "tiny", engine="nnabla"),
                                                      SIZES[k % 3]) for k in range(4)])


@engines
def test_a_fork_does_not_hang(models, engine):
    separator = Separator(models / "music0", ["vocals"], engine=engine)
    segmenter = Segmenter(models / "scenes0.h5", "tiny", engine=engine)
    stems_of(separator, 900)
    assert_forks_are_refused([lambda: stems_of(separator, 900), lambda: probabilities_of(segmenter, SIZES[0])], engine)
