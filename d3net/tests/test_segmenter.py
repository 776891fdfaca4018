"""The Python interface of segmentation, with a small network."""
from pathlib import Path

import nnabla as nn
import numpy as np
import pytest

from common.datasets.synthetic_scenes import make_scene
from common.machine.errors import UsageError, UserError
from common.runs.checkpoint import load_parameters, parameter_shapes, save_parameters
from d3net.hyperparameters import load_segmentation, save_hyper_parameters
from d3net.scenes.overlay import overlay
from d3net.scenes.segmenter import KEPT_NETWORKS, Segmenter
from d3net.scenes.standardization import standardize
from d3net.segmentation_model import d3net_segmentation

FAST = {"engine": "nnabla"}    # to compile takes longer than to run here
REFERENCE = np.load(Path(__file__).parent / "data" / "seg_visualize.npz")
IMAGE = make_scene("val", 0, 64, 96)[0]


@pytest.fixture
def model(tmp_path, fill):
    """Weight file of the network 'tiny' of the reference case."""
    d3net_segmentation(nn.Variable((1, 3, 64, 64)), load_segmentation("tiny"))
    fill(5)
    save_parameters(tmp_path / "tiny.h5")
    nn.clear_parameters()
    return tmp_path / "tiny.h5"


def test_a_picture_as_published(model):
    segmenter = Segmenter(model, "tiny")
    probabilities = segmenter.probabilities(REFERENCE["picture"])
    np.testing.assert_allclose(probabilities[None, :, ::2, ::2], REFERENCE["picture_prob"], rtol=0, atol=2e-6)
    labels = segmenter.segment(REFERENCE["picture"])
    assert labels.dtype == np.uint8 and (labels == REFERENCE["picture_argmax"]).mean() >= 0.995
    same = labels == REFERENCE["picture_argmax"]
    np.testing.assert_array_equal(overlay(REFERENCE["picture"], labels)[same], REFERENCE["picture_overlay"][same])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_agree(model, engine):
    if engine == "openvino":
        pytest.importorskip("openvino")
    segmenters = [Segmenter(model, "tiny", engine=name) for name in ("nnabla", engine)]
    for size in ((64, 96), (45, 83)):
        image = make_scene("val", 1, *size)[0]
        expected, found = (segmenter.probabilities(image) for segmenter in segmenters)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_any_size(model):
    segmenter = Segmenter(model, "tiny", **FAST)
    for size in ((1, 1), (3, 70), (31, 32), (33, 47), (65, 40)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        probabilities = segmenter.probabilities(image)
        assert probabilities.shape == (19, *size) and np.isfinite(probabilities).all()
        np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize("size", [(29, 29), (30, 47), (64, 31)])
def test_what_the_network_can_take_is_not_padded(size, model):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    x = nn.Variable.from_numpy_array(standardize(image)[None])
    load_parameters(model, parameter_shapes(lambda: d3net_segmentation(x, load_segmentation("tiny"))))
    probabilities = d3net_segmentation(x, load_segmentation("tiny"))
    probabilities.forward()
    np.testing.assert_allclose(Segmenter(model, "tiny", **FAST).probabilities(image), probabilities.d[0], atol=1e-6)


def test_networks_are_compiled_once_for_a_size_and_few_are_kept(model, monkeypatch):
    from d3net.scenes import segmenter as module
    shapes, compile_network = [], module.compile_network
    monkeypatch.setattr(module, "compile_network", lambda build, of, *args: shapes.append(of[0][2:]) or
                        compile_network(build, of, *args))
    segmenter = Segmenter(model, "tiny", **FAST)
    sizes = [(32, 32), (32, 40), (32, 32), (40, 32), (32, 32), (32, 40)]
    expected = [segmenter.segment(IMAGE[:height, :width]) for height, width in sizes]
    assert shapes == [(32, 32), (32, 40), (40, 32), (32, 40)] and len(segmenter._networks) == KEPT_NETWORKS
    np.testing.assert_array_equal(expected[0], expected[4])
    np.testing.assert_array_equal(expected[1], expected[5])


def test_two_segmenters_do_not_disturb_each_other(model, tmp_path, fill):
    first = Segmenter(model, "tiny", **FAST)
    d3net_segmentation(nn.Variable((1, 3, 64, 64)), load_segmentation("tiny"))
    fill(6)
    save_parameters(tmp_path / "other.h5")
    expected = Segmenter(model, "tiny", **FAST).probabilities(IMAGE)
    assert np.abs(Segmenter(tmp_path / "other.h5", "tiny", **FAST).probabilities(IMAGE) - expected).max() > 0.01
    np.testing.assert_array_equal(first.probabilities(IMAGE), expected)


def test_a_run_of_training_brings_its_hyper_parameters(model):
    run = model.parent / "run"
    run.mkdir()
    model.rename(run / "params_best.h5")
    save_hyper_parameters(run / "hparams.yaml", load_segmentation("tiny"))
    assert Segmenter(run, **FAST).segment(IMAGE).shape == IMAGE.shape[:2]


def test_what_is_no_image_is_refused(model):
    segmenter = Segmenter(model, "tiny", **FAST)
    for image in (IMAGE.astype(np.float32), IMAGE[..., 0], IMAGE[..., :2], IMAGE[:0]):
        with pytest.raises(ValueError, match="is wanted"):
            segmenter.segment(image)


def test_weights_of_another_network_are_refused(model):
    with pytest.raises(UserError, match=r"tiny\.h5.*weights of another network"):
        Segmenter(model, "D3Net_S")
    with pytest.raises(UsageError, match="no such"):
        Segmenter(model.parent / "nothing.h5", "tiny")
    with pytest.raises(UsageError, match="engine"):
        Segmenter(model, "tiny", engine="fast")
