"""The export as ONNX: stems and classes by numpy and onnxruntime alone, in a process that has no nnabla."""
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile

from common.datasets.cityscapes import read_image
from common.datasets.synthetic_scenes import make_scene
from common.machine.errors import UsageError
from common.pictures.image_files import encode_png
from common.workbench.testing import run_without_nnabla, signal_to_error, tones_and_noise
from d3net import export
from d3net.music.onnx_separator import OnnxSeparator
from d3net.music.separator import Separator
from d3net.scenes.onnx_segmenter import OnnxSegmenter
from d3net.scenes.overlay import colour_map
from d3net.scenes.segmenter import Segmenter

RATE = 44100
SMALL = {"fft_size": 256, "hop_size": 64, "valid_signal_idx": 96, "band_split_idxs": (32,), "patch_length": 16,
         "test_patch_len": 16, "out_shift": 8}
BASS = {"test_patch_len": 24, "out_shift": 12}
README = Path(__file__).parents[1] / "README.md"
pytestmark = pytest.mark.usefixtures("own_folder")


# Music ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory, small_mss, save_mss):
    """A folder of four targets."""
    folder = tmp_path_factory.mktemp("model")
    for target, changes in {"vocals": {}, "drums": {}, "bass": BASS, "other": {"mask": True}}.items():
        save_mss(folder, target, small_mss(**SMALL | changes))
    return folder


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """Folder of the networks in float32."""
    folder = tmp_path_factory.mktemp("exported")
    export.main(["mss", "--model", str(model), "-o", str(folder)])
    return folder


@pytest.mark.parametrize("targets", [None, ["vocals"], ["bass", "drums"]], ids=str)
@pytest.mark.parametrize("samples", [100, 1024, 20_001])
def test_stems_are_those_of_the_separator(targets, samples, model, exported):
    wanted = Separator(model, targets, engine="nnabla").separate(tones_and_noise(samples), RATE)
    found = OnnxSeparator(exported, targets).separate(tones_and_noise(samples))
    assert list(found) == list(wanted)
    assert signal_to_error(wanted, found) > 115


@pytest.mark.parametrize("song, tolerance", [
    (np.repeat(tones_and_noise(3000)[:, :1], 2, axis=1), 1e-5), (tones_and_noise(3000) * [1, 0], 1e-5),
    (tones_and_noise(1), 1e-3),    # in one frame no source is told from the others: the filter amplifies rounding
    (np.zeros((3000, 2)), 0)], ids=["mono", "one side", "one sample", "silence"])
def test_stems_of_songs_at_the_edge(song, tolerance, model, exported):
    wanted = Separator(model, engine="nnabla").separate(song.astype(np.float32), RATE)
    for name, stem in OnnxSeparator(exported).separate(song).items():
        assert stem.dtype == np.float32 and stem.shape == song.shape
        np.testing.assert_allclose(stem, wanted[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", [(0, 2), (100, 1), (100,), (100, 6)])
def test_audio_that_is_not_stereo_is_refused(shape, exported):
    with pytest.raises(ValueError, match=re.escape(f"audio of shape {shape}")):
        OnnxSeparator(exported).separate(np.ones(shape))


def test_other_networks_in_the_folder_are_left_alone(exported, scenes, own_folder):
    for path in (exported / "other.onnx", exported / "vocals.onnx", scenes):
        shutil.copy(path, own_folder)
    assert OnnxSeparator(own_folder).stems == ["vocals", "other", "residual"]
    for name in ("other", "vocals"):
        Path(f"{name}.onnx").unlink()
    with pytest.raises(FileNotFoundError, match="no TARGET.onnx of export.py mss"):
        OnnxSeparator(own_folder)


def test_networks_and_names_of_another_kind_are_told(exported, scenes):
    with pytest.raises(ValueError, match=r"targets 'bass': a list of names is wanted, as \['bass'\]"):
        OnnxSeparator(exported, "bass")
    with pytest.raises(ValueError, match="bass.onnx: not a network of d3net/export.py segmentation: .* lack mean, std"):
        OnnxSegmenter(exported / "bass.onnx")


def test_without_flip_stems_are_those_of_the_separator_without(model, exported):
    wanted = Separator(model, engine="nnabla", flip=False).separate(tones_and_noise(3000), RATE)
    assert signal_to_error(wanted, OnnxSeparator(exported).separate(tones_and_noise(3000), flip=False)) > 100


def test_stems_of_the_weights_that_ship():
    export.main(["mss", "--model", "d3net-small", "-o", "small"])
    wanted = Separator("d3net-small", engine="nnabla").separate(tones_and_noise(3 * RATE), RATE)
    assert signal_to_error(wanted, OnnxSeparator("small").separate(tones_and_noise(3 * RATE))) > 115


@pytest.mark.parametrize("precision, least, most", [("float16", 50, 100), ("int8", 20, 60)])
def test_fewer_bits_of_music_are_measured(precision, least, most, capsys):
    for name in ("float32", precision):
        export.main(["mss", "--model", "d3net-small", "--targets", "vocals", "-o", name, "--precision", name])
    said = re.search(rf"{precision}: vocals of a generated song are (\d+\.\d) dB from those in float32",
                     capsys.readouterr().out)
    assert said and least < float(said[1]) < most
    one, two = (OnnxSeparator(name).separate(tones_and_noise(2 * RATE)) for name in ("float32", precision))
    assert least < signal_to_error(one, two) < most
    assert Path(precision, "vocals.onnx").stat().st_size < 0.8 * Path("float32", "vocals.onnx").stat().st_size


def test_the_file_of_a_target_says_what_its_input_is(exported):
    described, shape = described_by(exported / "bass.onnx")
    assert shape == ["patches", 24, 2, 129]
    assert {key: described[key] for key in ("target", "sample_rate", "n_fft", "hop_length", "patch_length",
                                            "patch_shift", "estimated_bins")} == {
        "target": "bass", "sample_rate": "44100", "n_fft": "256", "hop_length": "64", "patch_length": "24",
        "patch_shift": "12", "estimated_bins": "96"}
    assert described["input"].startswith("magnitude, float32 (patches, 24 frames, 2 channels, 129 bins)")


def described_by(path):
    """Metadata of an exported file, and the shape of its input."""
    network = onnx.load(path)
    onnx.checker.check_model(network)
    dims = network.graph.input[0].type.tensor_type.shape.dim
    described = {entry.key: entry.value for entry in network.metadata_props}
    return described, [dim.dim_param or dim.dim_value for dim in dims]


def test_the_example_for_music_runs_without_nnabla(model):
    export.main(["mss", "--model", str(model), "-o", "."])
    soundfile.write("song.wav", tones_and_noise(20_000), RATE, subtype="FLOAT")
    run_without_nnabla(README, "import soundfile")
    wanted = Separator(model, engine="nnabla").separate(tones_and_noise(20_000), RATE)
    found = {name: soundfile.read(f"{name}.wav", dtype="float32")[0] for name in wanted}
    assert signal_to_error(wanted, found) > 115


# Scenes ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(segmentation_weights, tmp_path_factory):
    """The exported network in float32."""
    path = tmp_path_factory.mktemp("scenes") / "tiny.onnx"
    export.main(["segmentation", "--model", str(segmentation_weights), "--config", "tiny", "-o", str(path)])
    return path


@pytest.fixture(scope="module")
def segmenter(segmentation_weights):
    return Segmenter(segmentation_weights, "tiny", engine="nnabla")


@pytest.mark.parametrize("height, width", [(1, 1), (5, 300), (29, 31), (33, 47), (64, 128), (131, 203)])
def test_classes_are_those_of_the_segmenter(height, width, segmenter, scenes):
    image = np.ascontiguousarray(make_scene("val", 0)[0][100:100 + height, 100:100 + width])
    wanted, found = segmenter.probabilities(image), OnnxSegmenter(scenes).probabilities(image)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    labels = OnnxSegmenter(scenes).segment(image)
    assert labels.dtype == np.uint8 and labels.shape == (height, width)
    np.testing.assert_array_equal(labels, segmenter.segment(image))


@pytest.mark.parametrize("precision, least", [("float16", 0.99), ("int8", 0.7)])
def test_fewer_bits_of_scenes_are_measured(precision, least, segmentation_weights, scenes, capsys):
    export.main(["segmentation", "--model", str(segmentation_weights), "--config", "tiny", "-o", "x.onnx",
                 "--precision", precision])
    said = re.search(rf"{precision}: (\d+\.\d\d)% of the pixels of generated scenes have", capsys.readouterr().out)
    assert said and 100 * least < float(said[1]) <= 100
    image, _ = make_scene("val", 5)
    assert least < np.mean(OnnxSegmenter("x.onnx").segment(image) == OnnxSegmenter(scenes).segment(image)) <= 1
    assert Path("x.onnx").stat().st_size < 0.9 * scenes.stat().st_size


def test_the_file_of_scenes_says_what_its_input_is(scenes, segmenter):
    described, shape = described_by(scenes)
    assert shape == ["images", 3, "height", "width"]
    assert described["input"].startswith("image, float32 (images, 3 channels, height, width), RGB")
    assert OnnxSegmenter(scenes).classes[:3] == ["road", "sidewalk", "building"]
    np.testing.assert_array_equal(OnnxSegmenter(scenes).palette, segmenter.hparams.palette)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)),
                                   np.zeros((0, 4, 3), np.uint8)], ids=["grey", "alpha", "float", "empty"])
def test_what_is_no_image_is_refused(image, scenes):
    with pytest.raises(ValueError, match=re.escape(f"image of {image.dtype} {image.shape}")):
        OnnxSegmenter(scenes).segment(image)


def test_an_image_may_be_any_array(scenes):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    segmenter = OnnxSegmenter(scenes)
    for same in (np.asfortranarray(image), np.repeat(image, 2, axis=1)[:, ::2], memoryview(image)):
        np.testing.assert_array_equal(segmenter.segment(same), segmenter.segment(image))


def test_the_example_for_scenes_runs_without_nnabla(segmentation_weights, segmenter):
    export.main(["segmentation", "--model", str(segmentation_weights), "--config", "tiny", "-o", "D3Net-S.onnx"])
    image, _ = make_scene("val", 1)
    Path("street.jpg").write_bytes(encode_png(image))    # without loss, whatever its name
    run_without_nnabla(README, "import numpy as np\n    from onnx_segmenter import OnnxSegmenter")
    wanted = colour_map(segmenter.segment(image), segmenter.hparams.palette)
    np.testing.assert_array_equal(read_image("classes.png"), wanted)


@pytest.mark.parametrize("argv, error", [
    (["mss", "--model", "none.h5"], "no such"), (["mss", "-o", "file"], "not a folder"),
    (["mss", "--model", "d3net-small", "--targets", "bass"], "bass"),
    (["segmentation", "-o", "x.txt"], "end in .onnx"), (["segmentation", "-o", "no/x.onnx"], "folder that")])
def test_wrong_usage_is_one_line(argv, error):
    Path("file").touch()
    with pytest.raises(UsageError, match=error):
        export.main(argv)
    assert [path.name for path in Path().iterdir()] == ["file"]
