"""Features of a pretrained network in an ONNX file, and a linear classifier of them."""
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from common.machine.errors import UsageError, UserError
from common.workbench.testing import rows_of
from data_cleansing import cleanse
from data_cleansing.config import Config
from data_cleansing.data.features import MEAN_SQUARE, with_features
from data_cleansing.data.images import Images
from data_cleansing.results.score_files import influence_path, read_influence


@pytest.fixture
def write_network(tmp_path):
    """Write a network of the mean and the deviations of colours, (batch, 3) numbers; returns its file."""
    def write(batch="batch", side="side", channels=3):
        shape = [batch, channels, side, side]
        weights = numpy_helper.from_array(np.eye(3, dtype=np.float32)[:, :, np.newaxis, np.newaxis], "weights")
        nodes = [helper.make_node("Conv", ["image", "weights"], ["h"]),
                 helper.make_node("GlobalAveragePool", ["h"], ["features"])]
        graph = helper.make_graph(nodes, "colours", [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
                                  [helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, 3, 1, 1])],
                                  [weights])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.save(model, tmp_path / "network.onnx")
        return tmp_path / "network.onnx"
    return write


@pytest.fixture
def pictures(tmp_path):
    """A folder with three classes of 20 photographs, as it were, of 10x12 pixels, each class of a colour."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("apple", "plum", "pear")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for k in range(20):
            pixels = rng.integers(0, 120, (12, 10, 3))
            pixels[..., number] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "pictures" / name / f"{k:02d}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize("batch", ["batch", 4])
@pytest.mark.parametrize("values, mean, deviation", [
    ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ("unit", 0, 1), ("bytes", 0, 1 / 255)])
def test_features_are_what_the_network_says(write_network, batch, values, mean, deviation):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (21, 3, 8, 8)).astype(np.uint8)
    train, valid = (Images(part, np.arange(len(part)) % 2, "ab") for part in (pixels[:15], pixels[15:]))
    found = with_features((train, valid), write_network(batch), values)
    raw = (pixels.mean((2, 3)) / 255 - mean) / deviation
    centred = raw - raw[:15].mean(0)
    expected = centred * np.sqrt(MEAN_SQUARE / (centred[:15] ** 2).sum(1).mean())
    for images, rows in zip(found, (slice(0, 15), slice(15, 21)), strict=True):
        np.testing.assert_allclose(images.inputs(np.arange(len(images)))[:, :, 0, 0], expected[rows], rtol=0, atol=1e-3)
        assert images.shape == (3, 1, 1)
    np.testing.assert_array_equal(found[0].subset([3, 1]).features, found[0].features[[3, 1]])


def test_wrong_labels_of_a_folder_are_found_by_the_users_own_network(write_network, pictures, tmp_path):
    network = str(write_network())
    cleanse.main(["--data-dir", str(pictures), "-o", str(tmp_path / "run"), "--features", network, "--side", "8",
                  "--augment", "false", "--flip-labels", "0.1", "-nt", "1", "-r", "4", "--methods", "final",
                  "-c", "cpu"])
    labels = rows_of(tmp_path / "run" / "cleaned" / "cleaned_0.csv")
    scores = read_influence(influence_path(tmp_path / "run", "final", 0), len(labels))
    classes = {"apple", "plum", "pear"}
    wrong = np.array([not {row["y:label"]} & set(row["x:image"].split("/")) & classes for row in labels])
    assert wrong.sum() == 4
    assert set(np.argsort(scores)[:4]) == set(np.flatnonzero(wrong))
    assert (tmp_path / "run" / "report.html").exists()


def test_networks_that_do_not_fit_are_told(write_network, tmp_path):
    images = Images(np.zeros((4, 3, 8, 8), np.uint8), [0, 1, 0, 1], "ab")
    with pytest.raises(UsageError, match="no such ONNX file"):
        with_features([images], tmp_path / "none.onnx", "unit")
    with pytest.raises(UserError, match="takes images of 16 x 16 pixels, not 8 x 8: set side"):
        with_features([images], write_network(side=16), "unit")
    with pytest.raises(UserError, match="features of all training images are equal"):
        with_features([images], write_network(), "unit")
    path = write_network()
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(UserError, match="network.onnx: cannot be read as an ONNX model"):
        with_features([images], path, "unit")


def test_weights_in_other_files_are_refused(write_network):
    path = write_network()
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    images = Images(np.zeros((4, 3, 8, 8), np.uint8), [0, 1, 0, 1], "ab")
    with pytest.raises(UserError, match="weights are in other files"):
        with_features([images], path, "unit")


def test_features_are_not_augmented():
    with pytest.raises(ValueError, match="augment = false"):
        Config(dataset="files", data_dir="pictures", features="network.onnx")
